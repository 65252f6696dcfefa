//! Counts the bytes of one long frame that has arrived in part. They are in the adapter's buffer.

use super::Budget;
use super::held::{Held, bytes};

/// A whole record of the noise wire, with its length. Unread bytes and output up to this length do
/// not count.
pub(super) const RECORD: usize = 2 + 65_535;

/// How many bytes count towards the shared bound. Zero on the noise wire, where no record is longer
/// than `RECORD`.
#[derive(Debug, Default)]
pub(super) struct Partial(u32);

impl Partial {
    /// `arrived` of `total` bytes of a frame have arrived. Counts what a buffer that doubles
    /// reserves for them. Returns whether there is room, beside the requests of the connection.
    pub(super) fn hold<G: Budget>(&mut self, arrived: usize, total: usize, held: &Held, budget: &G) -> bool {
        let reserved = arrived.saturating_mul(2).min(total).saturating_sub(RECORD);
        let Ok(counted) = u32::try_from(reserved) else {
            return false;
        };
        if counted <= self.0 {
            return true;
        }
        if !held.has_room(reserved) || !budget.take(bytes(counted - self.0)) {
            return false;
        }
        self.0 = counted;
        true
    }

    /// The frame is complete, or the connection has ended.
    pub(super) fn release<G: Budget>(&mut self, budget: &G) {
        if self.0 > 0 {
            budget.give_back(bytes(core::mem::take(&mut self.0)));
        }
    }
}
