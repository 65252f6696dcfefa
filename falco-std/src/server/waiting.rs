//! The requests of one connection that wait for a worker, in the order in which they came.

use std::collections::BTreeMap;

use falco_core::Instant;

/// A place among those that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

#[derive(Debug)]
pub(super) struct Waiting<I> {
    places: BTreeMap<Place, (I, Instant)>,
    next: u64,
    /// The connection was submitted to the pool, which has not found it without work since.
    submitted: bool,
}

impl<I> Waiting<I> {
    pub(super) const fn new() -> Self {
        Self {
            places: BTreeMap::new(),
            next: 0,
            submitted: false,
        }
    }

    /// Puts a request behind all others, and says whether the connection is to be submitted. It is
    /// submitted once for all that wait: whoever asks and cancels for ever makes no longer line.
    pub(super) fn add(&mut self, id: I, now: Instant) -> (Place, bool) {
        let place = Place(self.next);
        self.next += 1;
        self.places.insert(place, (id, now));
        (place, !core::mem::replace(&mut self.submitted, true))
    }

    /// The request whose turn it is, and whether others wait behind it.
    pub(super) fn take(&mut self) -> (Option<I>, bool) {
        let first = self.places.pop_first().map(|(_, (id, _))| id);
        self.submitted = !self.places.is_empty();
        (first, self.submitted)
    }

    pub(super) fn remove(&mut self, place: Place) {
        self.places.remove(&place);
    }

    /// Since when the first of them waits.
    pub(super) fn since(&self) -> Option<Instant> {
        self.places.first_key_value().map(|(_, (_, since))| *since)
    }

    /// Takes the first out, which is not to wait any longer.
    pub(super) fn give_up_first(&mut self) -> Option<I> {
        self.places.pop_first().map(|(_, (id, _))| id)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.places = BTreeMap::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_and_cancels_for_ever_makes_no_line() {
        let mut waiting = Waiting::new();
        let submitted = (0..10_000).filter(|id| {
            let (place, submit) = waiting.add(*id, Instant::ZERO);
            waiting.remove(place);
            submit
        });
        assert_eq!(submitted.count(), 1);
        assert!(waiting.is_empty());
        assert_eq!(waiting.take(), (None, false), "the worker finds nothing to do");
        // From there on it is to be submitted again, once for all that wait.
        let places = [1, 2, 3].map(|id| waiting.add(id, Instant::ZERO));
        assert_eq!(places.map(|(_, submit)| submit), [true, false, false]);
        waiting.remove(places[1].0);
        assert_eq!(waiting.take(), (Some(1), true));
        assert!(!waiting.add(4, Instant::ZERO).1, "its turn comes");
        assert_eq!([(); 2].map(|()| waiting.take()), [(Some(3), true), (Some(4), false)]);
        assert!(waiting.add(5, Instant::ZERO).1);
    }
}
