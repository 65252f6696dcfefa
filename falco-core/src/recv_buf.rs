//! A buffer for unread bytes, over storage that the caller chooses. It does not depend on the
//! protocol, and connections do not depend on it.

use core::fmt;

use crate::counted::bytes;
use crate::unread::Unread;

/// Memory for a [`RecvBuf`]. It is implemented for `[u8; N]` and `&mut [u8]`, for `Vec<u8>` with
/// the feature `alloc`, and for `heapless::Vec<u8, N>` with the feature `heapless`.
pub trait Storage {
    /// All bytes, at their present length.
    fn bytes(&mut self) -> &mut [u8];

    /// Grows to at least `total` bytes. Existing bytes keep their position and value. Storage of a
    /// fixed size does nothing.
    fn grow(&mut self, total: usize);

    /// How many bytes fit without growing.
    fn reserved(&mut self) -> usize {
        self.bytes().len()
    }

    /// Grows to `total` bytes, and writes `part` behind the first `at`. Bytes behind that may be
    /// lost. Returns whether there was room.
    fn put(&mut self, at: usize, part: &[u8], total: usize) -> bool {
        if self.bytes().len() < total {
            self.grow(total);
        }
        let place = self.bytes().get_mut(at..).and_then(|rest| rest.get_mut(..part.len()));
        place.map(|place| place.copy_from_slice(part)).is_some()
    }

    /// Frees memory, if the storage can. The bytes may be lost.
    fn release(&mut self) {}

    /// Frees the memory of all bytes but the first `total`, if the storage can.
    fn shrink(&mut self, total: usize) {
        let _ = total;
    }

    /// The largest size of the storage in bytes: `usize::MAX` if it has no limit of its own.
    fn limit(&self) -> usize {
        usize::MAX
    }
}

impl<const N: usize> Storage for [u8; N] {
    fn bytes(&mut self) -> &mut [u8] {
        self
    }

    fn limit(&self) -> usize {
        N
    }

    fn grow(&mut self, _total: usize) {}
}

impl Storage for &mut [u8] {
    fn bytes(&mut self) -> &mut [u8] {
        self
    }

    fn limit(&self) -> usize {
        self.len()
    }

    fn grow(&mut self, _total: usize) {}
}

#[cfg(feature = "alloc")]
impl Storage for alloc::vec::Vec<u8> {
    fn bytes(&mut self) -> &mut [u8] {
        self
    }

    fn grow(&mut self, total: usize) {
        if total > self.len() {
            // Exactly: the caller decides by how much to grow.
            self.reserve_exact(total - self.len());
            self.resize(total, 0);
        }
    }

    fn reserved(&mut self) -> usize {
        self.capacity()
    }

    /// Does not fill the new memory with zeros.
    fn put(&mut self, at: usize, part: &[u8], total: usize) -> bool {
        self.truncate(at);
        self.reserve_exact(total.saturating_sub(self.len()));
        self.extend_from_slice(part);
        true
    }

    fn release(&mut self) {
        *self = Self::new();
    }

    fn shrink(&mut self, total: usize) {
        self.truncate(total);
        self.shrink_to_fit();
    }
}

#[cfg(feature = "heapless")]
impl<const N: usize> Storage for heapless::Vec<u8, N> {
    fn bytes(&mut self) -> &mut [u8] {
        self
    }

    fn limit(&self) -> usize {
        N
    }

    fn grow(&mut self, total: usize) {
        if total > self.len() {
            // Cannot fail: the length is at most the capacity.
            let _ = self.resize_default(total.min(N));
        }
    }

    fn release(&mut self) {
        self.clear();
    }
}

/// A buffer for unread bytes over a [`Storage`].
///
/// ```
/// use falco_core::RecvBuf;
///
/// let mut inbox = RecvBuf::new([0; 8]);
/// inbox.space(3)?[..3].copy_from_slice(b"abc"); // what a socket would write there
/// inbox.filled(3);
/// assert_eq!(*inbox.unread(), *b"abc");
/// inbox.consume(2);
/// assert_eq!(*inbox.unread(), *b"c");
/// assert!(inbox.space(9).is_err());
/// # Ok::<(), falco_core::StorageFull>(())
/// ```
#[derive(Default)]
pub struct RecvBuf<S> {
    storage: S,
    /// `start <= end <= storage.bytes().len()`.
    start: usize,
    end: usize,
    read_ahead: usize,
}

impl<S: Storage> RecvBuf<S> {
    /// An empty buffer over `storage`. What `storage` contains does not matter.
    pub const fn new(storage: S) -> Self {
        Self {
            storage,
            start: 0,
            end: 0,
            read_ahead: 0,
        }
    }

    /// A buffer whose first `count` bytes are unread, or all if there are fewer.
    ///
    /// ```
    /// use falco_core::RecvBuf;
    ///
    /// let mut inbox = RecvBuf::with_unread(*b"abcd", 2);
    /// assert_eq!(*inbox.unread(), *b"ab");
    /// assert_eq!(inbox.into_storage(), *b"abcd");
    /// ```
    pub fn with_unread(storage: S, count: usize) -> Self {
        let mut buffer = Self::new(storage);
        buffer.filled(count);
        buffer
    }

    /// Returns the storage with its bytes.
    pub fn into_storage(self) -> S {
        self.storage
    }

    /// Sets the minimum size to which the storage grows, so that one read can return many small
    /// messages. It is 0 at first, so that a connection in its handshake holds little memory.
    pub fn set_read_ahead(&mut self, bytes: usize) {
        self.read_ahead = bytes;
    }

    /// How many bytes are unread.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.end - self.start
    }

    /// Whether nothing is unread.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The unread bytes. [`recv`](crate::Connection::recv) takes them, and discards what it
    /// consumes.
    pub fn unread(&mut self) -> Unread<'_, '_> {
        let buffer = self.storage.bytes().get_mut(..self.end).unwrap_or_default();
        Unread::new(buffer, &mut self.start)
    }

    /// Discards the first `count` unread bytes, or all if there are fewer.
    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }

    /// Free space behind the unread bytes to read into. It is not empty. Call
    /// [`filled`](Self::filled) with the number of bytes that were read.
    ///
    /// `total` is how many unread bytes are needed in all, as in
    /// [`NeedMore`](crate::Received::NeedMore). The storage grows towards it by doubling what has
    /// arrived, so that a length that a peer announces takes no memory by itself.
    ///
    /// # Errors
    /// [`StorageFull`] if storage of a fixed size cannot hold `total` bytes, or has no space left.
    /// No state changed.
    pub fn space(&mut self, total: usize) -> Result<&mut [u8], StorageFull> {
        self.reuse_front();
        let unread = self.len();
        let wanted = total.max(unread.saturating_add(1));
        let target = wanted
            .min(unread.saturating_mul(2).max(FIRST_STEP))
            .max(self.read_ahead);
        if self.storage.bytes().len() < target {
            self.storage.grow(target);
        }
        let capacity = self.storage.bytes().len();
        if capacity < target.min(wanted) || capacity <= unread {
            return Err(StorageFull::new(wanted, capacity));
        }
        // The unread bytes move to the front only if there is too little space behind them.
        if self.start > 0 && capacity - self.start < target.min(capacity) {
            self.move_to_front();
        }
        Ok(self.storage.bytes().get_mut(self.end..).unwrap_or_default())
    }

    /// Starts over at the front of the storage if nothing is unread.
    const fn reuse_front(&mut self) {
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        }
    }

    fn move_to_front(&mut self) {
        let (unread, start) = (self.len(), self.start);
        let bytes = self.storage.bytes();
        if let Some(used) = bytes.get_mut(..self.end).filter(|used| start <= used.len()) {
            used.copy_within(start.., 0);
        }
        self.start = 0;
        self.end = unread;
    }

    /// Adds the first `count` bytes of [`space`](Self::space) to the unread bytes, or all of it if
    /// it is shorter.
    pub fn filled(&mut self, count: usize) {
        self.end = self.end.saturating_add(count).min(self.storage.bytes().len());
    }

    /// Frees the memory of the storage, if nothing is unread and the storage supports that, so that
    /// an idle connection holds none.
    pub fn release(&mut self) {
        self.reuse_front();
        if self.is_empty() {
            self.storage.release();
        }
    }

    /// Frees most of the storage, if it supports that, has more than 128 KiB, and fewer than half
    /// of them are unread. Call it after [`consume`](Self::consume), so that a long message which
    /// is consumed does not leave its memory with the connection. The time for it is in proportion
    /// to the bytes by which the storage has grown before.
    ///
    /// ```
    /// use falco_core::RecvBuf;
    ///
    /// let mut inbox = RecvBuf::with_unread(vec![7; 1 << 20], 1 << 20);
    /// inbox.consume((1 << 20) - 3);
    /// inbox.shrink();
    /// assert_eq!(*inbox.unread(), [7, 7, 7]);
    /// assert_eq!(inbox.into_storage().len(), 64 << 10);
    /// ```
    pub fn shrink(&mut self) {
        let kept = self.len().max(SHRUNK);
        if self.storage.bytes().len() / 2 > kept {
            self.move_to_front();
            self.storage.shrink(kept);
        }
    }
}

impl<S> fmt::Debug for RecvBuf<S> {
    /// Shows how many bytes there are, and none of them: they may be decrypted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvBuf")
            .field("unread", &(self.end - self.start))
            .finish_non_exhaustive()
    }
}

/// How far the storage may grow in one step, however few bytes have arrived: enough for a hello.
const FIRST_STEP: usize = 160;

/// [`RecvBuf::shrink`] reduces the storage to this size, if fewer bytes are unread.
const SHRUNK: usize = 64 << 10;

/// The storage cannot hold a record or message that the settings allow. Make the storage larger, or
/// lower the limits in the settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageFull {
    /// Bytes that are needed at once.
    pub needed: usize,
    /// Bytes that the storage can hold.
    pub capacity: usize,
}

impl StorageFull {
    pub(crate) const fn new(needed: usize, capacity: usize) -> Self {
        Self { needed, capacity }
    }
}

impl fmt::Display for StorageFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the storage has {} and needs {} at once",
            bytes(self.capacity),
            self.needed
        )
    }
}

impl core::error::Error for StorageFull {}
