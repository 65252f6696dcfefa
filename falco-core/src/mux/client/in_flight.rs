//! The requests of a client that have begun and that have not completed.

use alloc::collections::VecDeque;

use super::super::table::{self, remove_empty_rows};
use crate::message::RequestId;

/// Requests in flight, by id. Some may have been cancelled.
///
/// A server can complete them in any order. One that completes in the middle leaves an empty row,
/// so that no other rows move. Many empty rows are removed together.
pub(super) struct InFlight {
    /// Sorted by id. The first and the last are not empty.
    rows: VecDeque<Begun>,
    /// Rows that are not empty.
    count: usize,
}

/// A request that has begun.
#[derive(Clone, Copy)]
pub(super) struct Begun {
    number: u32,
    has_completed: bool,
    pub(super) ticket: u64,
    /// Bytes of its body.
    pub(super) length: usize,
}

impl InFlight {
    pub(super) const fn new() -> Self {
        Self {
            rows: VecDeque::new(),
            count: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.count
    }

    /// Adds a request. Its id must be greater than those of all requests before it.
    pub(super) fn push(&mut self, id: RequestId, ticket: u64, length: usize) {
        self.rows.push_back(Begun {
            number: id.number(),
            has_completed: false,
            ticket,
            length,
        });
        self.count += 1;
    }

    fn position(&self, id: RequestId) -> Option<usize> {
        table::position(&self.rows, id.number().into(), |row| row.number.into()).ok()
    }

    pub(super) fn get(&self, id: RequestId) -> Option<&Begun> {
        self.rows.get(self.position(id)?).filter(|row| !row.has_completed)
    }

    /// The number of the last request, or 0.
    pub(super) fn last(&self) -> u32 {
        self.rows.back().map_or(0, |row| row.number)
    }

    /// Releases memory that these requests do not need.
    pub(super) fn shrink(&mut self) {
        table::shrink(&mut self.rows, self.count, |row| row.has_completed);
    }

    /// Removes a request that has completed.
    pub(super) fn remove(&mut self, id: RequestId) -> Option<Begun> {
        let begun = match self.position(id)? {
            // The first has not completed.
            0 => self.rows.pop_front()?,
            at => {
                let row = self.rows.get_mut(at).filter(|row| !row.has_completed)?;
                row.has_completed = true;
                *row
            }
        };
        self.count -= 1;
        remove_empty_rows(&mut self.rows, self.count, |row| row.has_completed);
        Some(begun)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn id(number: u32) -> RequestId {
        RequestId::new(1, number)
    }

    /// Where the rows of these requests are in memory.
    fn places(requests: &InFlight, numbers: &[u32]) -> Vec<*const Begun> {
        let place = |number: &u32| core::ptr::from_ref(requests.get(id(*number)).unwrap());
        numbers.iter().map(place).collect()
    }

    /// Completes `count` requests from the middle outwards, and returns how many rows moved.
    fn moves(count: u32) -> usize {
        let (mut requests, mut moves) = (InFlight::new(), 0);
        for number in 1..=count {
            requests.push(id(number), number.into(), 7);
        }
        let mut left: Vec<_> = (1..=count).collect();
        while !left.is_empty() {
            let before = places(&requests, &left);
            let at = left.len() / 2;
            let number = left.remove(at);
            assert_eq!(requests.remove(id(number)).unwrap().ticket, u64::from(number));
            assert!(requests.remove(id(number)).is_none() && requests.get(id(number)).is_none());
            assert_eq!(requests.len(), left.len());
            assert_eq!(requests.last(), left.last().copied().unwrap_or(0));
            let before = before
                .iter()
                .enumerate()
                .filter(|(old, _)| *old != at)
                .map(|(_, place)| place);
            let after = places(&requests, &left);
            moves += before.zip(&after).filter(|(before, after)| before != after).count();
        }
        moves
    }

    #[test]
    fn requests_that_complete_in_the_middle_move_no_more_rows_than_there_are_however_many_wait() {
        for count in [8, 100, 2_000] {
            let moves = moves(count);
            assert!(moves <= usize::try_from(count).unwrap(), "{count}: {moves}");
        }
    }
}
