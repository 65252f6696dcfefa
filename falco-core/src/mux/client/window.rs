//! How many bytes of requests are in flight: fewer after the server was busy, more again with each
//! answer.

use crate::message::RequestId;

/// With no more bytes in flight than this, a server that is busy is so for another reason.
const LEAST: usize = 1 << 20;

/// The bound on the bytes in flight on one connection.
#[derive(Debug)]
pub(super) struct Window {
    bytes: usize,
    most: usize,
    /// The request that began last before the window was made smaller. What began before says
    /// nothing of the window that is in force.
    last_before: u32,
}

impl Window {
    pub(super) const fn new(most: usize) -> Self {
        Self {
            bytes: most,
            most,
            last_before: 0,
        }
    }

    /// Whether a request of `length` bytes may begin, with `held` bytes in flight. One that is
    /// larger than the window goes beside small ones alone, which may be in flight for long.
    pub(super) const fn admits(&self, held: usize, length: usize) -> bool {
        held == 0 || held.saturating_add(length) <= self.bytes || (length > self.bytes && held <= self.bytes / 4)
    }

    /// Whether as many bytes may be in flight as the owner allows.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes >= self.most
    }

    /// The server was busy for request `id` of `length` bytes, with `held` bytes in flight, the
    /// latest of which is `last`. `peer_max` is the largest message that the server reads: it has
    /// room for one. Says whether the bytes may have been the reason; then fewer are in flight
    /// from now on.
    pub(super) fn shrink(&mut self, id: RequestId, length: usize, held: usize, last: u32, peer_max: usize) -> bool {
        let floor = LEAST.min(peer_max);
        if held <= floor || held <= length {
            return false;
        }
        if id.number() > self.last_before {
            self.bytes = (self.bytes.min(held) / 2).max(floor);
            self.last_before = last;
        }
        true
    }

    /// Request `id` of `length` bytes was answered: a whole window of answers makes room for one
    /// more such request.
    pub(super) fn grow(&mut self, id: RequestId, length: usize) {
        if !self.is_full() && id.number() > self.last_before {
            let share = length.saturating_mul(length) / self.bytes.max(1);
            self.bytes = self.bytes.saturating_add(share.clamp(1, length.max(1))).min(self.most);
        }
    }
}
