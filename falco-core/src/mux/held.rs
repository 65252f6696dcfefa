//! The bytes of memory that the requests of one connection hold, by request.

use alloc::vec::Vec;

use crate::message::RequestId;

/// How many rows of released requests may stay besides as many as there are requests.
const SPARE: usize = 8;

/// However many requests there are, a peer cannot make it slow: a request is found by its number,
/// and the row of a released one stays until enough of them can be removed together.
#[derive(Debug)]
pub(super) struct Held {
    /// Sorted by number.
    rows: Vec<Row>,
    /// Rows of requests that are not released.
    count: u32,
    /// Bytes of all requests.
    bytes: u32,
    max_bytes: u32,
}

#[derive(Debug)]
struct Row {
    number: u32,
    bytes: u32,
    is_released: bool,
}

impl Held {
    /// No requests. Together they may hold `max_bytes`.
    pub(super) const fn new(max_bytes: u32) -> Self {
        Self {
            rows: Vec::new(),
            count: 0,
            bytes: 0,
            max_bytes,
        }
    }

    /// How many requests there are.
    pub(super) fn len(&self) -> usize {
        usize::try_from(self.count).unwrap_or(usize::MAX)
    }

    /// Bytes of all requests.
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.bytes).unwrap_or(usize::MAX)
    }

    pub(super) fn contains(&self, id: RequestId) -> bool {
        self.find(id).is_some()
    }

    fn find(&self, id: RequestId) -> Option<usize> {
        // Numbers mostly follow one another, so the distance from the first is tried before a
        // search.
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
        let room = u32::try_from(bytes)
            .ok()
            .and_then(|bytes| Some((bytes, self.bytes.checked_add(bytes)?)));
        let Some((bytes, total)) = room.filter(|(_, total)| *total <= self.max_bytes) else {
            return false;
        };
        let at = self.find(id);
        if let Some(row) = at.and_then(|at| self.rows.get_mut(at)) {
            row.bytes += bytes;
        } else {
            self.rows.push(Row {
                number: id.number(),
                bytes,
                is_released: false,
            });
            self.count += 1;
        }
        self.bytes = total;
        true
    }

    /// Removes a request, and returns the bytes that it held.
    pub(super) fn release(&mut self, id: RequestId) -> Option<usize> {
        let at = self.find(id)?;
        let row = self.rows.get_mut(at)?;
        row.is_released = true;
        let bytes = row.bytes;
        self.bytes -= bytes;
        self.count -= 1;
        self.remove_released();
        usize::try_from(bytes).ok()
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
