//! A list of requests that may have a pending CREDIT.

/// The length of a list without an allocator. If it is full, further requests are not in it: the
/// table is searched for them.
pub(super) const FIXED: usize = 8;

/// The requests that have a pending CREDIT. Some may have had one that was dropped.
#[allow(unnameable_types, reason = "this seals the trait")]
pub trait Due: Default {
    /// Adds a request, if there is room.
    fn note(&mut self, id: u32);

    /// Calls `write` for each request until that returns `false`, and removes those for which it
    /// returned `true`. Returns whether it returned `true` for all.
    fn each(&mut self, write: impl FnMut(u32) -> bool) -> bool;

    /// Removes all requests. Call it when no CREDIT is pending: the list may still have requests
    /// whose CREDIT was dropped.
    fn clear(&mut self);
}

/// 0 is a free place.
impl Due for [u32; FIXED] {
    fn note(&mut self, id: u32) {
        if let Some(place) = self.iter_mut().find(|id| **id == 0) {
            *place = id;
        }
    }

    fn each(&mut self, mut write: impl FnMut(u32) -> bool) -> bool {
        self.iter_mut().all(|id| {
            let done = write(*id);
            if done {
                *id = 0;
            }
            done
        })
    }

    /// Does nothing, to save flash: the next `each` frees the places.
    fn clear(&mut self) {}
}

/// Has room for all requests, so the table is never searched.
#[cfg(feature = "alloc")]
impl Due for alloc::vec::Vec<u32> {
    fn note(&mut self, id: u32) {
        self.push(id);
    }

    fn each(&mut self, write: impl FnMut(u32) -> bool) -> bool {
        let Some(full) = self.iter().copied().map(write).position(|wrote| !wrote) else {
            Due::clear(self);
            return true;
        };
        self.drain(..full);
        false
    }

    /// Keeps memory for [`FIXED`] requests.
    fn clear(&mut self) {
        self.truncate(0);
        self.shrink_to(FIXED);
    }
}
