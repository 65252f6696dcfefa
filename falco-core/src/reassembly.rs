//! Messages that came in parts, put together over storage that the caller chooses. The machines
//! have judged the parts: totals hold, limits are kept, nothing comes twice. Here they are only
//! kept.

use core::fmt;

use crate::message::RequestId;
use crate::recv_buf::Storage;

/// One message of which not all has come.
#[derive(Default)]
pub struct Partial<B> {
    id: Option<RequestId>,
    total: usize,
    filled: usize,
    storage: B,
}

impl<B> Partial<B> {
    /// A place that is free, over `storage`.
    pub const fn new(storage: B) -> Self {
        Self {
            id: None,
            total: 0,
            filled: 0,
            storage,
        }
    }
}

/// Places for partial messages: an array of a fixed number, or with the feature `alloc` a vector
/// that grows with their number.
pub trait Partials {
    /// The storage of each message.
    type Body: Storage;

    /// All places.
    fn places(&mut self) -> &mut [Partial<Self::Body>];

    /// Makes one more place; says whether there is one more.
    #[must_use]
    fn add(&mut self) -> bool {
        false
    }

    /// Gives free places back, where they can be.
    fn trim(&mut self) {}
}

impl<B: Storage, const N: usize> Partials for [Partial<B>; N] {
    type Body = B;

    fn places(&mut self) -> &mut [Partial<B>] {
        self
    }
}

#[cfg(feature = "alloc")]
impl<B: Storage + Default> Partials for alloc::vec::Vec<Partial<B>> {
    type Body = B;

    fn places(&mut self) -> &mut [Partial<B>] {
        self
    }

    fn add(&mut self) -> bool {
        self.push(Partial::default());
        true
    }

    fn trim(&mut self) {
        self.retain(|place| place.id.is_some());
        if self.is_empty() {
            *self = Self::new();
        }
    }
}

/// No place is free, or none is large enough. A server refuses such a request as busy; a client
/// cannot take such an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NoRoom {
    /// Bytes in the message.
    pub total: usize,
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there is no room for a message of {} bytes in parts", self.total)
    }
}

impl core::error::Error for NoRoom {}

/// Messages in parts. Hand it the `Begin` and `Part` events of a connection, and take the message
/// out with the last part.
///
/// Storage that grows does so by doubling what has come, never because of a total that was
/// promised.
#[derive(Default)]
pub struct Reassembly<P> {
    partials: P,
}

impl<P: Partials> Reassembly<P> {
    /// Nothing in parts yet.
    pub const fn new(partials: P) -> Self {
        Self { partials }
    }

    /// The first part of a message of `total` bytes.
    ///
    /// # Errors
    /// [`NoRoom`]; then nothing of it is kept, and further parts of it are refused too.
    pub fn begin(&mut self, id: RequestId, total: u32, first: &[u8]) -> Result<(), NoRoom> {
        let total = usize::try_from(total).unwrap_or(usize::MAX);
        if self.partials.places().iter().all(|place| place.id.is_some()) && !self.partials.add() {
            return Err(NoRoom { total });
        }
        let place = self
            .partials
            .places()
            .iter_mut()
            .find(|place| place.id.is_none())
            .ok_or(NoRoom { total })?;
        if total > place.storage.limit() {
            return Err(NoRoom { total });
        }
        place.id = Some(id);
        place.total = total;
        place.filled = 0;
        self.part(id, first)
    }

    /// The next part of a message that has begun.
    ///
    /// # Errors
    /// [`NoRoom`]; then nothing of it is kept.
    pub fn part(&mut self, id: RequestId, bytes: &[u8]) -> Result<(), NoRoom> {
        let Some(place) = self.find(id) else {
            return Err(NoRoom { total: 0 });
        };
        let total = place.total;
        let filled = place.filled;
        let Some(end) = filled.checked_add(bytes.len()).filter(|end| *end <= total) else {
            self.forget(id);
            return Err(NoRoom { total });
        };
        if place.storage.bytes().len() < end {
            place.storage.grow(end.max(filled.saturating_mul(2)).min(total));
        }
        let Some(to) = place.storage.bytes().get_mut(filled..end) else {
            self.forget(id);
            return Err(NoRoom { total });
        };
        to.copy_from_slice(bytes);
        place.filled = end;
        Ok(())
    }

    /// The message, if all of it has come.
    pub fn whole(&mut self, id: RequestId) -> Option<&mut [u8]> {
        let place = self.find(id).filter(|place| place.filled == place.total)?;
        place.storage.bytes().get_mut(..place.total)
    }

    /// Forgets a message, whole or not.
    pub fn forget(&mut self, id: RequestId) {
        if let Some(place) = self.find(id) {
            place.id = None;
            place.storage.release();
        }
        self.partials.trim();
    }

    fn find(&mut self, id: RequestId) -> Option<&mut Partial<P::Body>> {
        self.partials.places().iter_mut().find(|place| place.id == Some(id))
    }
}

#[cfg(feature = "alloc")]
impl<B> Reassembly<alloc::vec::Vec<Partial<B>>> {
    /// How many messages have begun and were neither taken nor forgotten.
    pub(crate) fn len(&self) -> usize {
        self.partials.iter().filter(|place| place.id.is_some()).count()
    }
}

impl<P: Partials<Body: Default>> Reassembly<P> {
    /// Takes the message out with its storage, if all of it has come, and how long it is.
    pub fn take(&mut self, id: RequestId) -> Option<(P::Body, usize)> {
        let place = self.find(id).filter(|place| place.filled == place.total)?;
        let taken = (core::mem::take(&mut place.storage), place.total);
        place.id = None;
        self.partials.trim();
        Some(taken)
    }
}

impl<B> fmt::Debug for Partial<B> {
    /// How much there is, and none of it.
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
