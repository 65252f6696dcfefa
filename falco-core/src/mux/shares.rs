//! How much each key has taken of something that all keys share.

use alloc::collections::BTreeMap;

use crate::message::KeyId;

/// A key may hold at most this many times what is left for the others.
const TIMES: usize = 8;

/// Whether a key that has `taken` leaves enough for the others if it takes `amount` more, after
/// which `left` remains. If it has nothing, it may take all.
pub(super) const fn leaves_enough(taken: usize, amount: usize, left: usize) -> bool {
    taken == 0 || taken.saturating_add(amount) <= left.saturating_mul(TIMES)
}

/// How much each key has taken of something that a server has for all of its clients. If the server
/// has [several](Self::divide) keys, a key may take at most eight ninths of what the others have
/// not taken, so that a ninth of that is left for them. A key that has nothing may take all that is
/// left.
#[derive(Clone, Debug, Default)]
pub struct KeyShares {
    /// Only keys that have something, so no more than a server has keys.
    taken: BTreeMap<Option<KeyId>, usize>,
    divides: bool,
}

impl KeyShares {
    /// The server has several keys. Before that, one may take all.
    pub const fn divide(&mut self) {
        self.divides = true;
    }

    /// Whether a key may take `amount`, which leaves `left`.
    #[must_use]
    pub fn has_room(&self, key: Option<KeyId>, amount: usize, left: usize) -> bool {
        let taken = self.taken.get(&key).filter(|_| self.divides);
        leaves_enough(taken.copied().unwrap_or(0), amount, left)
    }

    /// A key takes `amount`.
    pub fn take(&mut self, key: Option<KeyId>, amount: usize) {
        *self.taken.entry(key).or_default() += amount;
    }

    /// A key gives back `amount`.
    pub fn give_back(&mut self, key: Option<KeyId>, amount: usize) {
        if let Some(taken) = self.taken.get_mut(&key) {
            *taken = taken.saturating_sub(amount);
            if *taken == 0 {
                self.taken.remove(&key);
            }
        }
    }
}
