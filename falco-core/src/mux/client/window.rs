//! How many bytes of requests may be in flight. A busy server reduces the number, and each answer
//! increases it again.

use crate::message::RequestId;

/// With at most this many bytes in flight, the client assumes another reason for a busy server.
const LEAST: usize = 1 << 20;

/// The bound on the bytes in flight on one connection.
#[derive(Debug)]
pub(super) struct Window {
    bytes: usize,
    most: usize,
    /// The last request that had begun when the window shrank. Requests up to this one were sent
    /// with a larger window, so their answers and refusals do not change the present one.
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

    /// Whether a request of `length` bytes may begin, with `held` bytes in flight. A request that
    /// is larger than the window may begin beside small ones, which may be in flight for long.
    pub(super) const fn admits(&self, held: usize, length: usize) -> bool {
        held == 0 || held.saturating_add(length) <= self.bytes || (length > self.bytes && held <= self.bytes / 4)
    }

    /// Whether the window has its full size.
    pub(super) const fn is_full(&self) -> bool {
        self.bytes >= self.most
    }

    /// The server refused request `id` of `length` bytes as busy, with `held` bytes in flight.
    /// `last` is the last request that has begun. `peer_max` is the largest message that the server
    /// reads; it always has room for one of them. Returns whether the bytes in flight of this
    /// client or of others may be the reason. If those of this client may be, shrinks the window.
    pub(super) fn shrink(&mut self, id: RequestId, length: usize, held: usize, last: u32, peer_max: usize) -> bool {
        let floor = LEAST.min(peer_max);
        if held <= floor || held <= length {
            // This client's bytes are not the reason. If it has shrunk its window before, other
            // clients probably do so as well, and a large request may fit later. A small one is
            // refused for another reason.
            return !self.is_full() && length >= floor / 2;
        }
        if id.number() > self.last_before {
            self.bytes = (self.bytes.min(held) / 2).max(floor);
            self.last_before = last;
        }
        true
    }

    /// Request `id` of `length` bytes was answered. After a whole window of such answers, the
    /// window has grown by one such request.
    pub(super) fn grow(&mut self, id: RequestId, length: usize) {
        if !self.is_full() && id.number() > self.last_before {
            let share = length.saturating_mul(length) / self.bytes.max(1);
            self.bytes = self.bytes.saturating_add(share.clamp(1, length.max(1))).min(self.most);
        }
    }
}
