//! Panics of the user's code: of a stream, a connect function or a waker. One ends a connection or
//! an attempt at most, and the slot goes on. What has panicked is not used again, except to be
//! dropped.

use std::io;

/// The error of a connection or an attempt that has panicked.
pub(super) fn panicked() -> io::Error {
    io::Error::other("the stream panicked")
}
