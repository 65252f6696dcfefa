//! The bytes of memory that the requests of one connection hold, by request, and the bytes of a
//! request whose handler is running.

use alloc::vec::Vec;
use core::fmt;

use super::Budget;
use crate::message::RequestId;

/// How many bytes of queued answers a connection may have even if all connections together exceed
/// their bound. The shared count may be wrong by this much for each connection. So a small answer
/// that is sealed at once need not change it.
pub(super) const UNCOUNTED: u32 = 16 << 10;

/// The bytes of a request in the bound that all connections share. They are given back when this is
/// dropped. So keep it as long as the handler has the body, even if the request or its connection
/// ends before. [`ServerMux::take_held`](super::ServerMux::take_held) returns it.
pub struct HeldBytes<G: Budget> {
    bytes: usize,
    /// Bytes of the answer.
    answer: usize,
    is_window: bool,
    budget: G,
}

/// Gives bytes of a request back to the shared bound.
pub(super) fn give_back<G: Budget>(budget: &G, bytes: usize, is_window: bool) {
    if is_window {
        budget.give_back_open(bytes);
    } else {
        budget.give_back(bytes);
    }
}

impl<G: Budget> HeldBytes<G> {
    pub(super) const fn new(bytes: usize, is_window: bool, budget: G) -> Self {
        Self {
            bytes,
            answer: 0,
            is_window,
            budget,
        }
    }

    /// Counts an answer of `bytes` that the handler has returned, and that another thread or task
    /// will pass to [`ServerMux::complete`](super::ServerMux::complete). The answer counts until
    /// this value is dropped. `waiting` is the number of bytes of other answers of the same
    /// connection that are still to be passed. Up to 16 KiB of them all together do not count.
    /// Returns `false` if the answers of all connections leave no room. In that case drop the
    /// answer.
    #[must_use]
    pub fn hold_answer(&mut self, bytes: usize, waiting: usize) -> bool {
        let all = waiting.saturating_add(bytes);
        if all <= self::bytes(UNCOUNTED) {
            return true;
        }
        let has_room = self.budget.take_answers(bytes, all);
        if has_room {
            self.answer += bytes;
        }
        has_room
    }
}

impl<G: Budget> Drop for HeldBytes<G> {
    fn drop(&mut self) {
        give_back(&self.budget, self.bytes, self.is_window);
        if self.answer > 0 {
            self.budget.remove_answers(self.answer);
        }
    }
}

impl<G: Budget> fmt::Debug for HeldBytes<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeldBytes({})", self.bytes)
    }
}

/// A number of bytes from a field, which has 32 bits so that a connection is small.
pub(super) fn bytes(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// What a request takes of the shared bound in addition to its body, in bytes. It covers the
/// handler's task or place in a queue, and what the connection stores for the request, but not what
/// the handler allocates. It bounds the number of requests with empty bodies. A window is much
/// larger, so an open request takes no more than its window.
pub(super) const PER_REQUEST: usize = 1 << 10;

/// How many rows of released requests may stay, in addition to one for each request.
const SPARE: usize = 8;

/// The bytes of each request of a connection. Many requests in flight do not make it slow. A
/// request is found by its number without reading all rows, and rows of released requests are
/// removed together once there are enough of them.
#[derive(Debug)]
pub(super) struct Held {
    /// Sorted by number.
    rows: Vec<Row>,
    /// Rows of requests that are not released.
    count: u32,
    /// Bytes of all requests.
    bytes: u32,
    max_bytes: u32,
    /// There is no room for a request, not even an empty one.
    is_closed: bool,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
struct Row {
    number: u32,
    bytes: u32,
    /// A [`HeldBytes`] gives the bytes back to the shared bound.
    is_handed: bool,
    is_released: bool,
    /// Its answer is queued.
    is_answered: bool,
    /// The bytes are a window.
    is_window: bool,
}

impl Row {
    /// What it takes of the shared bound.
    fn shared(&self) -> usize {
        let overhead = if self.is_window { 0 } else { PER_REQUEST };
        bytes(self.bytes).saturating_add(overhead)
    }
}

impl Held {
    /// No requests. Together they may hold `max_bytes`.
    pub(super) const fn new(max_bytes: u32) -> Self {
        Self {
            rows: Vec::new(),
            count: 0,
            bytes: 0,
            max_bytes,
            is_closed: false,
        }
    }

    /// No requests, and no room for any.
    pub(super) const fn closed() -> Self {
        let mut held = Self::new(0);
        held.is_closed = true;
        held
    }

    /// How many requests there are.
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }

    /// The bytes of the shared bound that are taken by requests that were not handed over. The
    /// second number counts only their windows.
    pub(super) fn own_bytes(&self) -> (usize, usize) {
        let own = || self.rows.iter().filter(|row| !row.is_handed && !row.is_released);
        let windows = own().filter(|row| row.is_window).map(Row::shared).sum();
        (own().map(Row::shared).sum(), windows)
    }

    /// Whether `bytes` more fit.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| self.bytes.checked_add(bytes));
        bytes.is_some_and(|bytes| !self.is_closed && bytes <= self.max_bytes)
    }

    pub(super) fn contains(&self, id: RequestId) -> bool {
        self.find(id).is_some()
    }

    fn find(&self, id: RequestId) -> Option<usize> {
        // Numbers are mostly consecutive, so the distance from the first is tried before a search.
        let number = id.number();
        let distance = number.checked_sub(self.rows.first()?.number)?;
        let guess = usize::try_from(distance).ok()?;
        let at = if self.rows.get(guess).is_some_and(|row| row.number == number) {
            guess
        } else {
            self.rows.binary_search_by_key(&number, |row| row.number).ok()?
        };
        self.rows.get(at).filter(|row| !row.is_released).map(|_| at)
    }

    /// Adds bytes to a request, which may be a new one with a number greater than all before.
    /// Returns whether there was room.
    pub(super) fn add(&mut self, id: RequestId, bytes: usize) -> bool {
        let Some(bytes) = u32::try_from(bytes).ok().filter(|_| self.has_room(bytes)) else {
            return false;
        };
        let at = self.find(id);
        if let Some(row) = at.and_then(|at| self.rows.get_mut(at)) {
            row.bytes += bytes;
        } else {
            self.rows.push(Row {
                number: id.number(),
                bytes,
                is_handed: false,
                is_released: false,
                is_answered: false,
                is_window: false,
            });
            self.count += 1;
        }
        self.bytes += bytes;
        true
    }

    /// Removes a request, and returns the bytes to give back to the shared bound and whether they
    /// are a window, or `None` if they were handed over.
    pub(super) fn release(&mut self, id: RequestId) -> Option<(usize, bool)> {
        let at = self.find(id)?;
        let row = self.rows.get_mut(at)?;
        row.is_released = true;
        let own = (!row.is_handed).then(|| (row.shared(), row.is_window));
        self.bytes -= row.bytes;
        self.count -= 1;
        self.remove_released();
        own
    }

    /// Marks the bytes of a request as handed over, and returns how many there are and whether they
    /// are a window. The caller has to give them back to the shared bound. They count towards this
    /// connection until the request is released.
    pub(super) fn hand_over(&mut self, id: RequestId) -> (usize, bool) {
        let at = self.find(id);
        let row = at.and_then(|at| self.rows.get_mut(at)).filter(|row| !row.is_handed);
        let Some(row) = row else { return (0, false) };
        row.is_handed = true;
        (row.shared(), row.is_window)
    }

    /// The bytes of a request are a window.
    #[cfg(feature = "streams")]
    pub(super) fn set_window(&mut self, id: RequestId) {
        let at = self.find(id);
        if let Some(row) = at.and_then(|at| self.rows.get_mut(at)) {
            row.is_window = true;
        }
    }

    /// The answer to a request was queued.
    pub(super) fn set_answered(&mut self, id: RequestId) {
        let at = self.find(id);
        if let Some(row) = at.and_then(|at| self.rows.get_mut(at)) {
            row.is_answered = true;
        }
    }

    /// Whether the answer to a request is queued.
    pub(super) fn is_answered(&self, id: RequestId) -> bool {
        let row = self.find(id).and_then(|at| self.rows.get(at));
        row.is_some_and(|row| row.is_answered)
    }

    fn remove_released(&mut self) {
        if self.count == 0 {
            self.rows.clear();
            return;
        }
        while self.rows.last().is_some_and(|row| row.is_released) {
            self.rows.pop();
        }
        // Each sweep removes at least as many as it keeps.
        if self.rows.len() > 2 * self.len() + SPARE {
            self.rows.retain(|row| !row.is_released);
        }
    }

    /// Frees memory if there are no requests.
    pub(super) fn shrink(&mut self) {
        if self.count == 0 {
            self.rows = Vec::new();
        }
    }
}
