//! The requests of one connection that wait for a worker, in the order in which they arrived.

use std::collections::BTreeMap;

use falco_core::Instant;

/// The position of a request in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position(u64);

#[derive(Debug)]
pub(super) struct Queue<I> {
    requests: BTreeMap<Position, (I, Instant)>,
    next: u64,
    /// The connection is in the pool's queue, or a worker is about to take a request from it.
    scheduled: bool,
}

impl<I> Queue<I> {
    pub(super) const fn new() -> Self {
        Self {
            requests: BTreeMap::new(),
            next: 0,
            scheduled: false,
        }
    }

    /// Adds a request at the end. Returns whether to add the connection to the pool's queue. The
    /// connection is in that queue at most once, so a client that sends and cancels requests
    /// without end does not lengthen it.
    pub(super) fn push(&mut self, id: I, now: Instant) -> (Position, bool) {
        let position = Position(self.next);
        self.next += 1;
        self.requests.insert(position, (id, now));
        (position, !core::mem::replace(&mut self.scheduled, true))
    }

    /// Takes the first request, and returns whether there are more.
    pub(super) fn pop(&mut self) -> (Option<I>, bool) {
        let first = self.pop_first();
        self.scheduled = !self.requests.is_empty();
        (first, self.scheduled)
    }

    /// No worker may take a request now.
    pub(super) fn unschedule(&mut self) {
        self.scheduled = false;
    }

    /// Workers may take requests again. Returns whether to add the connection to the pool's queue.
    pub(super) fn reschedule(&mut self) -> bool {
        !self.requests.is_empty() && !core::mem::replace(&mut self.scheduled, true)
    }

    /// Takes the first request, without a change to whether the connection is scheduled.
    pub(super) fn pop_first(&mut self) -> Option<I> {
        self.requests.pop_first().map(|(_, (id, _))| id)
    }

    pub(super) fn remove(&mut self, position: Position) {
        self.requests.remove(&position);
    }

    /// When the first request was added.
    pub(super) fn since(&self) -> Option<Instant> {
        self.requests.first_key_value().map(|(_, (_, since))| *since)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.requests = BTreeMap::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_scheduled_once_however_many_requests_come_and_are_cancelled() {
        let mut queue = Queue::new();
        let scheduled = (0..10_000).filter(|id| {
            let (position, schedule) = queue.push(*id, Instant::ZERO);
            queue.remove(position);
            schedule
        });
        assert_eq!(scheduled.count(), 1);
        assert!(queue.is_empty());
        assert_eq!(queue.pop(), (None, false), "the worker finds no request");
        // From then on the next request schedules the connection again.
        let pushed = [1, 2, 3].map(|id| queue.push(id, Instant::ZERO));
        assert_eq!(pushed.map(|(_, schedule)| schedule), [true, false, false]);
        queue.remove(pushed[1].0);
        assert_eq!(queue.pop(), (Some(1), true));
        assert!(!queue.push(4, Instant::ZERO).1, "it is still scheduled");
        assert_eq!([(); 2].map(|()| queue.pop()), [(Some(3), true), (Some(4), false)]);
        assert!(queue.push(5, Instant::ZERO).1);
    }
}
