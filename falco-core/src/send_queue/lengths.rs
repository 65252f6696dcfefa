//! The lengths of the messages in a queue: their sum, and the longest.

use alloc::collections::BTreeMap;

/// Small messages are sealed together up to this many bytes.
const TOGETHER: usize = 16 << 10;
/// An upper bound of the bytes that a message takes besides its body, on any wire.
const OVERHEAD: usize = 40;

/// The lengths of all messages. Only those over [`TOGETHER`] are stored one by one.
pub(super) struct Lengths {
    /// Bytes of all bodies.
    bodies: usize,
    /// The lengths over [`TOGETHER`], and how many messages have each.
    long: BTreeMap<usize, usize>,
}

impl Lengths {
    pub(super) const fn new() -> Self {
        Self {
            bodies: 0,
            long: BTreeMap::new(),
        }
    }

    pub(super) const fn bodies(&self) -> usize {
        self.bodies
    }

    /// As [`SendQueue::useful_output`](super::SendQueue::useful_output), for `count` messages.
    pub(super) fn useful_output(&self, count: usize) -> usize {
        let total = self.bodies.saturating_add(count.saturating_mul(OVERHEAD));
        let longest = self.long.last_key_value().map_or(TOGETHER, |(length, _)| *length);
        total.min(longest.max(TOGETHER))
    }

    pub(super) fn add(&mut self, length: usize) {
        self.bodies = self.bodies.saturating_add(length);
        if length > TOGETHER {
            *self.long.entry(length).or_default() += 1;
        }
    }

    pub(super) fn remove(&mut self, length: usize) {
        self.bodies = self.bodies.saturating_sub(length);
        if length > TOGETHER
            && let Some(count) = self.long.get_mut(&length)
        {
            *count -= 1;
            if *count == 0 {
                self.long.remove(&length);
            }
        }
    }
}
