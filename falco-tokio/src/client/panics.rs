//! The error of a panic in the user's code: a stream, a connect function or a waker. The panic ends
//! at most a connection or an attempt to connect, and the slot continues. What has panicked is only
//! dropped, not used again.

use std::io;

/// The error of a connection or an attempt that has panicked.
pub(super) fn panicked() -> io::Error {
    io::Error::other("the stream panicked")
}
