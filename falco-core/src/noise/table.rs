//! The requests in flight of one connection, in place or on the heap. Ids ascend, so both tables
//! are sorted by id.

/// One request in flight, 20 bytes, or 24 with the feature `streams`.
#[derive(Clone, Copy, Debug)]
#[allow(unnameable_types, reason = "only the tables of this crate hold it")]
pub struct RequestSlot {
    pub(super) id: u32,
    /// Bytes in the message that is being received. Of an open body: `streams` has its meaning.
    pub(super) total: u32,
    /// Bytes of it that have arrived. At a server, of a request that began open: the window that is
    /// reserved for it.
    pub(super) received: u32,
    /// When the last of them arrived, in milliseconds on the connection's clock, modulo 2^32. Of an
    /// open body: `streams` has its meaning.
    pub(super) touched: u32,
    /// How much may still be sent of the open body that this side writes.
    #[cfg(feature = "streams")]
    pub(super) credit: u32,
    pub(super) state: State,
    pub(super) cancel: Cancel,
    /// See `streams::flag`.
    #[cfg(feature = "streams")]
    pub(super) flags: u8,
}

const _: () = {
    let bytes = if cfg!(feature = "streams") { 24 } else { 20 };
    assert!(size_of::<RequestSlot>() == bytes, "documentation names this size");
};

/// The state of a request on the side that has the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Client: no byte of the answer has arrived. Server: the request has arrived, and no byte of
    /// its answer is sealed.
    Waiting,
    /// Client: the answer has arrived in part. Server: the request has arrived in part.
    Receiving,
    /// Server: the answer is sealed in part.
    Answering,
    /// The request will not be processed, and its event is pending. Client: the server's CLOSE has
    /// a smaller last id. Server: the rest of it did not arrive.
    Lost,
    /// The request has completed, and the slot is waiting for removal. Only [`HeapTable`] has such
    /// slots, and it hides them.
    #[cfg(feature = "alloc")]
    Completed,
}

/// The state of a cancellation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancel {
    No,
    /// Client: a CANCEL is pending.
    Pending,
    /// Client: the CANCEL is sealed. Server: it has arrived.
    Done,
}

impl RequestSlot {
    pub(super) const EMPTY: Self = Self {
        id: 0,
        total: 0,
        received: 0,
        touched: 0,
        #[cfg(feature = "streams")]
        credit: 0,
        state: State::Waiting,
        cancel: Cancel::No,
        #[cfg(feature = "streams")]
        flags: 0,
    };

    /// Whether an event is pending that reports the request as lost (client), or its open body as
    /// cut off (server).
    #[inline]
    const fn is_lost(&self) -> bool {
        #[cfg(feature = "streams")]
        if self.is_cut() {
            return true;
        }
        matches!(self.state, State::Lost)
    }
}

/// Holds the requests of one connection. Sealed: [`FixedTable`] and [`HeapTable`] implement it.
///
/// A place is valid until the next call of `push` or `remove`.
#[allow(unnameable_types, reason = "this seals the trait")]
pub trait RequestTable {
    #[cfg(feature = "streams")]
    type Due: Due;

    fn empty() -> Self;

    /// How many requests there can be.
    fn capacity() -> u16;

    /// How many requests there are.
    fn len(&self) -> usize;

    /// The place of the request `id`.
    fn find(&self, id: u32) -> Option<usize>;

    fn get(&self, place: usize) -> Option<&RequestSlot>;

    fn get_mut(&mut self, place: usize) -> Option<&mut RequestSlot>;

    /// All requests, in the order of their ids.
    fn iter_mut<'t>(&'t mut self) -> impl Iterator<Item = &'t mut RequestSlot>
    where
        RequestSlot: 't;

    /// Adds a request, whose id is greater than all before. Returns whether there was room.
    #[must_use]
    fn push(&mut self, slot: RequestSlot) -> bool;

    fn remove(&mut self, place: usize);

    /// Releases memory that is not needed if there are no requests.
    fn shrink(&mut self);

    /// Notes that requests from `id` on may be [lost](RequestSlot::is_lost).
    fn note_lost(&mut self, id: u32);

    /// The first request that is [lost](RequestSlot::is_lost).
    fn next_lost(&mut self) -> Option<u32>;
}

/// Holds the requests of one connection in place, 20 bytes each (24 with the feature `streams`),
/// and at most `N` of them: for [`NoiseClient`](super::NoiseClient) and
/// [`NoiseServer`](super::NoiseServer).
#[derive(Clone, Debug)]
pub struct FixedTable<const N: usize> {
    slots: [RequestSlot; N],
    used: usize,
}

impl<const N: usize> FixedTable<N> {
    #[inline]
    fn slots(&self) -> &[RequestSlot] {
        self.slots.get(..self.used).unwrap_or_default()
    }

    #[inline]
    fn slots_mut(&mut self) -> &mut [RequestSlot] {
        self.slots.get_mut(..self.used).unwrap_or_default()
    }
}

impl<const N: usize> RequestTable for FixedTable<N> {
    #[cfg(feature = "streams")]
    type Due = [u32; due::FIXED];

    fn empty() -> Self {
        Self {
            slots: [RequestSlot::EMPTY; N],
            used: 0,
        }
    }

    fn capacity() -> u16 {
        u16::try_from(N).unwrap_or(u16::MAX)
    }

    #[inline]
    fn len(&self) -> usize {
        self.used
    }

    #[inline]
    fn find(&self, id: u32) -> Option<usize> {
        self.slots().binary_search_by_key(&id, |slot| slot.id).ok()
    }

    #[inline]
    fn get(&self, place: usize) -> Option<&RequestSlot> {
        self.slots().get(place)
    }

    #[inline]
    fn get_mut(&mut self, place: usize) -> Option<&mut RequestSlot> {
        self.slots_mut().get_mut(place)
    }

    #[inline]
    fn iter_mut<'t>(&'t mut self) -> impl Iterator<Item = &'t mut RequestSlot>
    where
        RequestSlot: 't,
    {
        self.slots_mut().iter_mut()
    }

    #[inline]
    fn push(&mut self, slot: RequestSlot) -> bool {
        let Some(place) = self.slots.get_mut(self.used) else {
            return false;
        };
        *place = slot;
        self.used += 1;
        true
    }

    #[inline]
    fn remove(&mut self, place: usize) {
        let Some(mut behind) = self.slots.get_mut(place..self.used).filter(|behind| !behind.is_empty()) else {
            return;
        };
        // Each later slot moves one place to the front.
        while let [place, rest @ ..] = behind {
            if let Some(next) = rest.first() {
                *place = *next;
            }
            behind = rest;
        }
        self.used -= 1;
    }

    #[inline]
    fn shrink(&mut self) {}

    #[inline]
    fn note_lost(&mut self, _id: u32) {}

    fn next_lost(&mut self) -> Option<u32> {
        let lost = |slot: &&RequestSlot| slot.is_lost();
        self.slots().iter().find(lost).map(|slot| slot.id)
    }
}

/// How many slots of completed requests may remain, in addition to one for each request in flight.
#[cfg(feature = "alloc")]
const SPARE: usize = 8;
/// Memory for this many slots is kept while there is a request, and from one burst of requests to
/// the next.
#[cfg(feature = "alloc")]
const KEPT: usize = 128;

/// An idle connection keeps room for this many requests.
#[cfg(feature = "alloc")]
const IDLE: usize = 16;

/// Holds the requests of one connection on the heap, 20 bytes each (24 with the feature `streams`):
/// for [`NoiseClient`](super::NoiseClient) and [`NoiseServer`](super::NoiseServer). It allocates
/// when requests begin, and nothing before. After up to 128 requests at once it keeps its memory
/// until a PING is exchanged while none is in flight.
///
/// A peer cannot make it slow by having many requests in flight: a request is found by its id
/// without reading all slots, and the slots of completed requests are removed together once there
/// are enough of them.
#[cfg(feature = "alloc")]
#[derive(Clone, Debug)]
pub struct HeapTable {
    /// Sorted by id.
    slots: alloc::vec::Vec<RequestSlot>,
    /// How many slots have a request that has not completed.
    count: u32,
    /// No request with a smaller id is [lost](RequestSlot::is_lost).
    lost_from: u32,
}

#[cfg(feature = "alloc")]
impl HeapTable {
    #[inline]
    fn is_completed(slot: &RequestSlot) -> bool {
        slot.state == State::Completed
    }

    #[inline]
    fn remove_completed(&mut self) {
        if self.count == 0 {
            self.slots.clear();
            if self.slots.capacity() > KEPT {
                self.slots = alloc::vec::Vec::new();
            }
            return;
        }
        while self.slots.last().is_some_and(Self::is_completed) {
            self.slots.pop();
        }
        // Each sweep removes at least as many as it keeps.
        if self.slots.len() > 2 * self.len() + SPARE {
            self.slots.retain(|slot| !Self::is_completed(slot));
        }
        // A request that lasts does not keep the memory of many others.
        if self.slots.capacity() > 8 * self.slots.len() + KEPT {
            self.slots.shrink_to(2 * self.slots.len());
        }
    }
}

#[cfg(feature = "alloc")]
impl RequestTable for HeapTable {
    #[cfg(feature = "streams")]
    type Due = alloc::vec::Vec<u32>;

    fn empty() -> Self {
        Self {
            slots: alloc::vec::Vec::new(),
            count: 0,
            lost_from: u32::MAX,
        }
    }

    fn capacity() -> u16 {
        u16::MAX
    }

    #[inline]
    fn len(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }

    #[inline]
    fn find(&self, id: u32) -> Option<usize> {
        // Ids are mostly consecutive, so the distance from the first id is tried before a search.
        let distance = id.checked_sub(self.slots.first()?.id)?;
        let guess = usize::try_from(distance).ok()?;
        let place = if self.slots.get(guess).is_some_and(|slot| slot.id == id) {
            guess
        } else {
            self.slots.binary_search_by_key(&id, |slot| slot.id).ok()?
        };
        self.get(place).map(|_| place)
    }

    #[inline]
    fn get(&self, place: usize) -> Option<&RequestSlot> {
        self.slots.get(place).filter(|slot| !Self::is_completed(slot))
    }

    #[inline]
    fn get_mut(&mut self, place: usize) -> Option<&mut RequestSlot> {
        self.slots.get_mut(place).filter(|slot| !Self::is_completed(slot))
    }

    #[inline]
    fn iter_mut<'t>(&'t mut self) -> impl Iterator<Item = &'t mut RequestSlot>
    where
        RequestSlot: 't,
    {
        self.slots.iter_mut().filter(|slot| !Self::is_completed(slot))
    }

    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a request takes fewer instructions")]
    fn push(&mut self, slot: RequestSlot) -> bool {
        // Most connections have one request in flight at a time, and keep this memory while idle.
        if self.slots.capacity() == 0 {
            self.slots.reserve_exact(1);
        }
        self.slots.push(slot);
        self.count += 1;
        true
    }

    #[inline]
    fn remove(&mut self, place: usize) {
        if let Some(slot) = self.get_mut(place) {
            slot.state = State::Completed;
            self.count -= 1;
            self.remove_completed();
        }
    }

    fn shrink(&mut self) {
        if self.count == 0 && self.slots.capacity() > IDLE {
            self.slots = alloc::vec::Vec::new();
        }
    }

    fn note_lost(&mut self, id: u32) {
        self.lost_from = self.lost_from.min(id);
    }

    fn next_lost(&mut self) -> Option<u32> {
        let from = self.slots.partition_point(|slot| slot.id < self.lost_from);
        let lost = |slot: &&RequestSlot| slot.is_lost() && !Self::is_completed(slot);
        let next = self.slots.get(from..)?.iter().find(lost).map(|slot| slot.id);
        self.lost_from = next.unwrap_or(u32::MAX);
        next
    }
}

#[cfg(feature = "streams")]
mod due;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests;

#[cfg(feature = "streams")]
pub(super) use due::Due;

/// The request `id`, if it is in flight.
#[inline]
pub(super) fn find<T: RequestTable>(table: &mut T, id: u32) -> Option<&mut RequestSlot> {
    let place = table.find(id)?;
    table.get_mut(place)
}
