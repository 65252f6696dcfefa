//! Panics of the user's code.

use core::panic::AssertUnwindSafe;
use std::io;
use std::panic::catch_unwind;

/// Runs code of the user's stream, connect function or waker. A panic there ends one connection or
/// one attempt at most: the slot goes on.
pub(super) fn catch_panic<T>(run: impl FnOnce() -> T) -> io::Result<T> {
    // What has panicked is not used again, except to be dropped.
    catch_unwind(AssertUnwindSafe(run)).map_err(|_| io::Error::other("the stream panicked"))
}
