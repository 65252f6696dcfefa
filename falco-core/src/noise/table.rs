//! The requests of one connection that are in flight, in place or on the heap. Each side decides
//! what their states mean.

/// One request in flight, 20 bytes.
#[derive(Clone, Copy, Debug)]
#[allow(unnameable_types, reason = "the tables of this crate alone hold it")]
pub struct RequestSlot {
    pub(super) id: u32,
    /// Bytes in the message that is being received.
    pub(super) total: u32,
    /// Bytes of it that have come.
    pub(super) received: u32,
    /// When the last of them came, in milliseconds on the connection's clock, cut to 32 bits.
    pub(super) touched: u32,
    pub(super) state: State,
    pub(super) cancel: Cancel,
}

/// Where a request is, on the side that keeps the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// A client's: no byte of the answer has come. A server's: the handler has it.
    Waiting,
    /// A message is half received: a client's answer, a server's request.
    Receiving,
    /// A server's: the answer has begun and not ended.
    Answering,
    /// A client's: the server closed before it; the client has not been told.
    Lost,
}

/// How far a cancellation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cancel {
    No,
    /// A client's: CANCEL is owed.
    Owed,
    /// CANCEL is on its way, or has come.
    Told,
}

impl RequestSlot {
    pub(super) const EMPTY: Self = Self {
        id: 0,
        total: 0,
        received: 0,
        touched: 0,
        state: State::Waiting,
        cancel: Cancel::No,
    };
}

/// Holds the requests of one connection. Sealed: [`FixedTable`] and [`HeapTable`] implement it.
#[allow(unnameable_types, reason = "this seals the trait")]
pub trait RequestTable {
    /// A table with nothing in it.
    fn empty() -> Self;

    /// The slots in use, in the order in which they were added.
    fn slots(&self) -> &[RequestSlot];

    /// The slots in use, to be changed.
    fn slots_mut(&mut self) -> &mut [RequestSlot];

    /// Adds a slot at the end; says whether there was room.
    #[must_use]
    fn push(&mut self, slot: RequestSlot) -> bool;

    /// Takes the slot at `index` out, the others keeping their order.
    fn remove(&mut self, index: usize);

    /// How many slots there can be.
    fn capacity() -> usize;
}

/// Holds the requests of one connection in place, 20 bytes each, and at most `N` of them: for
/// [`NoiseClient`](super::NoiseClient) and [`NoiseServer`](super::NoiseServer).
#[derive(Clone, Debug)]
pub struct FixedTable<const N: usize> {
    slots: [RequestSlot; N],
    used: usize,
}

impl<const N: usize> RequestTable for FixedTable<N> {
    fn empty() -> Self {
        Self {
            slots: [RequestSlot::EMPTY; N],
            used: 0,
        }
    }

    #[inline]
    fn slots(&self) -> &[RequestSlot] {
        self.slots.get(..self.used).unwrap_or_default()
    }

    #[inline]
    fn slots_mut(&mut self) -> &mut [RequestSlot] {
        self.slots.get_mut(..self.used).unwrap_or_default()
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
    fn remove(&mut self, index: usize) {
        let Some(mut behind) = self.slots.get_mut(index..self.used).filter(|behind| !behind.is_empty()) else {
            return;
        };
        // Each moves up by one.
        while let [place, rest @ ..] = behind {
            if let Some(next) = rest.first() {
                *place = *next;
            }
            behind = rest;
        }
        self.used -= 1;
    }

    fn capacity() -> usize {
        N
    }
}

/// Holds the requests of one connection on the heap, 20 bytes each: for
/// [`NoiseClient`](super::NoiseClient) and [`NoiseServer`](super::NoiseServer). It allocates when
/// requests begin, and nothing before.
#[cfg(feature = "alloc")]
#[derive(Clone, Debug)]
pub struct HeapTable {
    slots: alloc::vec::Vec<RequestSlot>,
}

#[cfg(feature = "alloc")]
impl RequestTable for HeapTable {
    fn empty() -> Self {
        Self {
            slots: alloc::vec::Vec::new(),
        }
    }

    #[inline]
    fn slots(&self) -> &[RequestSlot] {
        &self.slots
    }

    #[inline]
    fn slots_mut(&mut self) -> &mut [RequestSlot] {
        &mut self.slots
    }

    #[inline]
    fn push(&mut self, slot: RequestSlot) -> bool {
        self.slots.push(slot);
        true
    }

    #[inline]
    fn remove(&mut self, index: usize) {
        if index < self.slots.len() {
            self.slots.remove(index);
        }
        // An idle connection holds no more than it did before it was busy.
        if self.slots.is_empty() && self.slots.capacity() > 16 {
            self.slots = alloc::vec::Vec::new();
        }
    }

    fn capacity() -> usize {
        usize::MAX
    }
}

/// Finds requests by their number. Numbers go up, so the slots are sorted by them.
#[inline]
pub(super) fn position<T: RequestTable>(table: &T, id: u32) -> Option<usize> {
    table.slots().binary_search_by_key(&id, |slot| slot.id).ok()
}

/// The request of this number, if it has begun and not ended.
#[inline]
pub(super) fn find<T: RequestTable>(table: &mut T, id: u32) -> Option<&mut RequestSlot> {
    let position = position(table, id)?;
    table.slots_mut().get_mut(position)
}

/// Ends the request of this number, if it has begun.
pub(super) fn end<T: RequestTable>(table: &mut T, id: u32) {
    if let Some(position) = position(table, id) {
        table.remove(position);
    }
}
