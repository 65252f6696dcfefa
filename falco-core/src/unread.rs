//! The unread bytes of a stream, as a connection takes them.

use core::fmt;
use core::ops::{Deref, DerefMut, Range};

/// The unread bytes of a stream. [`recv`](crate::Connection::recv) decrypts them in place, lends
/// the body of an event from them, and discards what it consumed. What it did not consume is unread
/// at the next call.
///
/// A [`RecvBuf`](crate::RecvBuf) lends it. With a buffer of your own, keep the position of the
/// first unread byte:
///
/// ```
/// use falco_core::Unread;
///
/// let mut buffer = *b"consumed, unread";
/// let mut start = 10;
/// let unread = Unread::new(&mut buffer, &mut start); // pass this to `recv`, which moves `start`
/// assert_eq!(*unread, *b"unread");
/// ```
pub struct Unread<'u, 's> {
    bytes: &'u mut [u8],
    start: &'s mut usize,
}

impl<'u, 's> Unread<'u, 's> {
    /// The bytes of `buffer` from `start` on, or none if it is shorter. `start` moves on by each
    /// byte that is consumed, so it is never beyond the end of `buffer`.
    #[cfg_attr(not(target_os = "none"), inline)]
    #[must_use]
    pub fn new(buffer: &'u mut [u8], start: &'s mut usize) -> Self {
        Self {
            bytes: buffer.get_mut(*start..).unwrap_or_default(),
            start,
        }
    }

    /// Consumes the first `count` bytes, which there are.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(crate) const fn consume(self, count: usize) {
        *self.start += count;
    }

    /// Consumes the bytes up to the end of `place`, and lends those within it. `None`, and nothing
    /// is consumed, if they have not all arrived.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(crate) fn lend(self, place: Range<usize>) -> Option<&'u mut [u8]> {
        let end = place.end;
        let lent = self.bytes.get_mut(place)?;
        *self.start += end;
        Some(lent)
    }

    /// The bytes for as long as the buffer is borrowed, and the position that moves past those that
    /// are consumed.
    #[cfg(feature = "noise")]
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(crate) const fn into_parts(self) -> (&'u mut [u8], &'s mut usize) {
        (self.bytes, self.start)
    }
}

impl Deref for Unread<'_, '_> {
    type Target = [u8];

    #[cfg_attr(not(target_os = "none"), inline)]
    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl DerefMut for Unread<'_, '_> {
    #[cfg_attr(not(target_os = "none"), inline)]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

impl fmt::Debug for Unread<'_, '_> {
    /// Shows how many bytes there are, and none of them: they may be decrypted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unread")
            .field("bytes", &self.bytes.len())
            .finish_non_exhaustive()
    }
}
