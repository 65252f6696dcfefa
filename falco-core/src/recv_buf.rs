//! Bookkeeping of the bytes that a caller has read and a machine has not yet taken, over storage
//! that the caller chooses. Nothing of a protocol is in here; the machines do not know it.

use core::fmt;

/// Memory for a [`RecvBuf`]. It is implemented for `[u8; N]` and `&mut [u8]`, for `Vec<u8>` with
/// the feature `alloc`, and for `heapless::Vec<u8, N>` with the feature `heapless`.
pub trait Storage {
    /// All the bytes that there are now.
    fn bytes(&mut self) -> &mut [u8];

    /// Asks for at least `total` bytes, those there are keeping their place and value. Storage of a
    /// fixed size does nothing.
    fn grow(&mut self, total: usize);

    /// Gives back what can be given back. The bytes may be lost.
    fn release(&mut self) {}

    /// More bytes than this there will never be. Storage that grows without a limit of its own says
    /// `usize::MAX`.
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
            // Exactly: the policy of growth is RecvBuf's.
            self.reserve_exact(total - self.len());
            self.resize(total, 0);
        }
    }

    fn release(&mut self) {
        *self = Self::new();
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
            // Cannot fail: it is cut to the capacity.
            let _ = self.resize_default(total.min(N));
        }
    }

    fn release(&mut self) {
        self.clear();
    }
}

/// Unread bytes, in order, over some [`Storage`].
///
/// ```
/// use falco_core::RecvBuf;
///
/// let mut inbox = RecvBuf::new([0; 8]);
/// inbox.space(3)?[..3].copy_from_slice(b"abc"); // what a socket would write there
/// inbox.filled(3);
/// assert_eq!(inbox.unread(), b"abc");
/// inbox.consume(2);
/// assert_eq!(inbox.unread(), b"c");
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
    /// An empty buffer over `storage`, whose present content does not matter.
    pub const fn new(storage: S) -> Self {
        Self {
            storage,
            start: 0,
            end: 0,
            read_ahead: 0,
        }
    }

    /// A buffer whose first `count` bytes are unread; all of them, where there are fewer.
    ///
    /// ```
    /// use falco_core::RecvBuf;
    ///
    /// let mut inbox = RecvBuf::with_unread(*b"abcd", 2);
    /// assert_eq!(inbox.unread(), b"ab");
    /// assert_eq!(inbox.into_storage(), *b"abcd");
    /// ```
    pub fn with_unread(storage: S, count: usize) -> Self {
        let mut buffer = Self::new(storage);
        buffer.filled(count);
        buffer
    }

    /// The storage, with whatever is in it.
    pub fn into_storage(self) -> S {
        self.storage
    }

    /// From now on, storage that can grow is given at least `bytes`, so that one read may bring
    /// many small messages. 0 at first: a peer that has proved nothing is not worth more than what
    /// it owes.
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

    /// The unread bytes, for a machine to look at, and to decrypt where they lie.
    pub fn unread(&mut self) -> &mut [u8] {
        self.storage.bytes().get_mut(self.start..self.end).unwrap_or_default()
    }

    /// Drops the first `count` unread bytes; all of them, where there are fewer.
    pub fn consume(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
        if self.is_empty() {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Free space behind the unread bytes, never empty, for the caller to read into; say with
    /// [`filled`](Self::filled) how much came.
    ///
    /// `total` is how many unread bytes are wanted in all, as a machine names it. Storage grows
    /// towards it by doubling what has really come, so a length that a peer only promised takes no
    /// memory.
    ///
    /// # Errors
    /// [`StorageFull`] where storage of a fixed size cannot hold `total` bytes, or has no room
    /// left. Nothing has changed.
    pub fn space(&mut self, total: usize) -> Result<&mut [u8], StorageFull> {
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
            return Err(StorageFull {
                needed: wanted,
                capacity,
            });
        }
        // Only where the end of the storage is nearer than what is wanted are the unread bytes
        // moved to its front.
        if self.start > 0 && capacity - self.start < target.min(capacity) {
            let (bytes, start) = (self.storage.bytes(), self.start);
            if let Some(used) = bytes.get_mut(..self.end).filter(|used| start <= used.len()) {
                used.copy_within(start.., 0);
            }
            self.start = 0;
            self.end = unread;
        }
        Ok(self.storage.bytes().get_mut(self.end..).unwrap_or_default())
    }

    /// Counts `count` bytes that were written at the front of [`space`](Self::space); at most all
    /// of it.
    pub fn filled(&mut self, count: usize) {
        self.end = self.end.saturating_add(count).min(self.storage.bytes().len());
    }

    /// Gives the storage's memory back where nothing is unread and the storage can: an idle
    /// connection then holds none.
    pub fn release(&mut self) {
        if self.is_empty() {
            self.storage.release();
        }
    }
}

impl<S> fmt::Debug for RecvBuf<S> {
    /// How much there is, and none of it: the bytes may be decrypted.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvBuf")
            .field("unread", &(self.end - self.start))
            .finish_non_exhaustive()
    }
}

/// The least that growing storage grows to: a hello of either wire fits.
const FIRST_STEP: usize = 160;

/// The storage cannot hold a frame that the settings allow: make it larger, or the settings'
/// largest message smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageFull {
    /// Bytes that were to be held at once.
    pub needed: usize,
    /// Bytes that the storage can hold.
    pub capacity: usize,
}

impl fmt::Display for StorageFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the receive buffer holds {} bytes and {} are needed at once",
            self.capacity, self.needed
        )
    }
}

impl core::error::Error for StorageFull {}
