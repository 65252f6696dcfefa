//! Which requests have a pending CREDIT.

/// How many requests a fixed list has. The table is searched for the others.
pub(super) const FIXED: usize = 8;

/// The requests that have a pending CREDIT, or had one.
#[allow(unnameable_types, reason = "this seals the trait")]
pub trait Due: Default {
    /// Adds a request, or leaves it to a search.
    fn note(&mut self, id: u32);

    /// Calls `write` for each request until that returns `false`. Returns whether it never did.
    fn each(&mut self, write: impl FnMut(u32) -> bool) -> bool;

    /// Removes all requests. Call it when no CREDIT is pending, because those of dropped ones stay.
    fn clear(&mut self);
}

/// 0 is none.
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

    /// The places are free again after the next `each`. Until then the table is searched.
    fn clear(&mut self) {}
}

/// Has all of them, so that nothing is searched.
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

    /// Keeps room for a few.
    fn clear(&mut self) {
        self.truncate(0);
        self.shrink_to(FIXED);
    }
}
