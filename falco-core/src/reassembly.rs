//! Joins messages that arrive in parts, over storage that the caller chooses. The connection has
//! already checked the parts: their sum is the total, and no limit is exceeded.

use core::fmt;

use crate::message::RequestId;
use crate::recv_buf::{Storage, StorageFull};

/// A place for one message that has arrived in part, for a [`Reassembly`] in fixed memory.
pub struct Partial<B> {
    id: Option<RequestId>,
    total: usize,
    filled: usize,
    storage: B,
}

impl<B> Partial<B> {
    /// A free place over `storage`.
    pub const fn new(storage: B) -> Self {
        Self {
            id: None,
            total: 0,
            filled: 0,
            storage,
        }
    }
}

impl<B: Storage> Partial<B> {
    /// The size of the storage after `length` more bytes of the message, or `None` if they exceed
    /// its total.
    ///
    /// It doubles, so that the cost of growing is linear in the bytes that arrive. It never exceeds
    /// the total.
    fn grown(&self, reserved: usize, length: usize) -> Option<usize> {
        let end = self.filled.checked_add(length).filter(|end| *end <= self.total)?;
        Some(if reserved < end {
            end.max(self.filled.saturating_mul(2)).min(self.total)
        } else {
            reserved
        })
    }

    /// Appends a part. Returns whether there was room.
    fn append(&mut self, bytes: &[u8]) -> bool {
        let reserved = self.storage.reserved();
        let Some(grown) = self.grown(reserved, bytes.len()) else {
            return false;
        };
        if !self.storage.put(self.filled, bytes, grown) {
            return false;
        }
        self.filled += bytes.len();
        true
    }
}

/// The places of a [`Reassembly`]: an array of [`Partial`], or with the feature `alloc`
/// [`HeapPartials`].
#[allow(unnameable_types, reason = "this seals the trait")]
pub trait Places {
    type Body: Storage;

    fn find(&mut self, id: RequestId) -> Option<&mut Partial<Self::Body>>;

    /// Gives a free place to the message `id`, if there is one.
    fn add(&mut self, id: RequestId) -> Option<&mut Partial<Self::Body>>;

    /// Frees the place of `id`, and its memory if the storage can.
    fn forget(&mut self, id: RequestId);

    /// Frees the place of `id`, and returns its storage.
    fn take(&mut self, id: RequestId) -> Option<Self::Body>
    where
        Self::Body: Default;
}

impl<B: Storage, const N: usize> Places for [Partial<B>; N] {
    type Body = B;

    fn find(&mut self, id: RequestId) -> Option<&mut Partial<B>> {
        self.iter_mut().find(|place| place.id == Some(id))
    }

    fn add(&mut self, id: RequestId) -> Option<&mut Partial<B>> {
        let place = self.iter_mut().find(|place| place.id.is_none())?;
        place.id = Some(id);
        Some(place)
    }

    fn forget(&mut self, id: RequestId) {
        if let Some(place) = self.find(id) {
            place.id = None;
            place.storage.release();
        }
    }

    fn take(&mut self, id: RequestId) -> Option<B>
    where
        B: Default,
    {
        let place = self.find(id)?;
        place.id = None;
        Some(core::mem::take(&mut place.storage))
    }
}

/// Messages in parts on the heap, for a [`Reassembly`] of any number of them. It allocates nothing
/// while there are none. The time to add a part hardly depends on their number.
#[cfg(feature = "alloc")]
#[derive(Debug, Default)]
pub struct HeapPartials {
    messages: alloc::collections::BTreeMap<u64, Partial<alloc::vec::Vec<u8>>>,
}

#[cfg(feature = "alloc")]
impl HeapPartials {
    fn remove(&mut self, id: RequestId) -> Option<alloc::vec::Vec<u8>> {
        let removed = self.messages.remove(&id.key())?;
        if self.messages.is_empty() {
            // An empty map may keep memory.
            self.messages = alloc::collections::BTreeMap::new();
        }
        Some(removed.storage)
    }
}

#[cfg(feature = "alloc")]
impl Places for HeapPartials {
    type Body = alloc::vec::Vec<u8>;

    fn find(&mut self, id: RequestId) -> Option<&mut Partial<Self::Body>> {
        self.messages.get_mut(&id.key())
    }

    fn add(&mut self, id: RequestId) -> Option<&mut Partial<Self::Body>> {
        let mut place = Partial::new(alloc::vec::Vec::new());
        place.id = Some(id);
        self.messages.insert(id.key(), place);
        self.messages.get_mut(&id.key())
    }

    fn forget(&mut self, id: RequestId) {
        self.remove(id);
    }

    fn take(&mut self, id: RequestId) -> Option<Self::Body> {
        self.remove(id)
    }
}

/// Joins messages that arrive in parts. Pass it the `Begin` and `Part` events of a connection, and
/// take the message with its last part.
///
/// `P` holds the messages: an array of [`Partial`], or [`HeapPartials`]. Storage that can grow
/// doubles with what has arrived and never exceeds the message's total. A total that a peer
/// announces reserves nothing by itself.
#[derive(Default)]
pub struct Reassembly<P> {
    places: P,
}

impl<P: Places> Reassembly<P> {
    /// No messages yet.
    pub const fn new(places: P) -> Self {
        Self { places }
    }

    /// Adds a message of `total` bytes with its first part.
    ///
    /// # Errors
    /// [`StorageFull`] if the free place is too small, or none is free: then `capacity` is 0.
    /// Nothing of the message is kept, and its further parts are refused too. A server refuses such
    /// a request; a client cannot receive such an answer.
    // The rest is in functions with small results, to save flash on a device.
    #[inline]
    pub fn begin(&mut self, id: RequestId, total: u32, first: &[u8]) -> Result<(), StorageFull> {
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        self.add_first(id, total, first)
            .map_err(|capacity| StorageFull::new(total, capacity))
    }

    /// The error is the capacity of the place, if that is too small, or 0.
    fn add_first(&mut self, id: RequestId, total: usize, first: &[u8]) -> Result<(), usize> {
        let place = self.places.add(id).ok_or(0_usize)?;
        place.total = total;
        place.filled = 0;
        let capacity = place.storage.limit();
        if total > capacity {
            self.places.forget(id);
            return Err(capacity);
        }
        self.add_part(id, first).map_err(|_| 0)
    }

    /// Adds the next part of a message.
    ///
    /// # Errors
    /// [`StorageFull`] if the storage could not grow, or there is no message with this id: then
    /// `needed` is 0. Nothing of the message is kept, so `capacity` is 0.
    #[inline]
    pub fn part(&mut self, id: RequestId, bytes: &[u8]) -> Result<(), StorageFull> {
        self.add_part(id, bytes).map_err(|total| StorageFull::new(total, 0))
    }

    /// Returns the length of a message that is dropped, or 0 if there is none.
    fn add_part(&mut self, id: RequestId, bytes: &[u8]) -> Result<(), usize> {
        let place = self.places.find(id).ok_or(0_usize)?;
        let total = place.total;
        if place.append(bytes) {
            Ok(())
        } else {
            self.places.forget(id);
            Err(total)
        }
    }

    /// The message, if it is complete.
    pub fn whole(&mut self, id: RequestId) -> Option<&mut [u8]> {
        let place = self.places.find(id).filter(|place| place.filled == place.total)?;
        place.storage.bytes().get_mut(..place.total)
    }

    /// Drops a message, complete or not.
    pub fn forget(&mut self, id: RequestId) {
        self.places.forget(id);
    }
}

impl<P: Places<Body: Default>> Reassembly<P> {
    /// Takes the storage of a complete message, and its length.
    pub fn take(&mut self, id: RequestId) -> Option<(P::Body, usize)> {
        let place = self.places.find(id).filter(|place| place.filled == place.total)?;
        let total = place.total;
        Some((self.places.take(id)?, total))
    }
}

#[cfg(feature = "alloc")]
impl Reassembly<HeapPartials> {
    /// How many messages there are.
    pub(crate) fn len(&self) -> usize {
        self.places.messages.len()
    }

    /// How many bytes of memory a further part of `length` bytes would allocate, so that callers
    /// can limit memory. 0 if the message has not begun: its first part allocates its own length.
    pub(crate) fn growth(&self, id: RequestId, length: usize) -> usize {
        self.places.messages.get(&id.key()).map_or(0, |place| {
            let reserved = place.storage.capacity();
            place.grown(reserved, length).map_or(0, |grown| grown - reserved)
        })
    }
}

impl<B> fmt::Debug for Partial<B> {
    /// Shows how many bytes there are, and none of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut partial = f.debug_struct("Partial");
        partial
            .field("id", &self.id)
            .field("filled", &self.filled)
            .field("total", &self.total)
            .finish_non_exhaustive()
    }
}

impl<P> fmt::Debug for Reassembly<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reassembly(..)")
    }
}
