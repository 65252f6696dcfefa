//! Entropy that both processes can compute: the one that is searched uses it, and the one that
//! searches knows what was drawn.

use core::convert::Infallible;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use falco_core::{EntropyError, Key};
use rand_core::{TryCryptoRng, TryRng};

/// Who draws. Each has its own sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Client = 1,
    Server = 2,
    Keys = 3,
}

/// Fills `bytes` with draw `number`, one byte after the other, so that no part of a secret is
/// anywhere but in its place.
pub(crate) fn draw(who: Who, number: u64, bytes: &mut [u8]) {
    let who = match who {
        Who::Client => 1 << 60,
        Who::Server => 2 << 60,
        Who::Keys => 3 << 60,
    };
    for (byte, at) in bytes.iter_mut().zip(0_u64..) {
        let mixed = (who ^ (number << 16) ^ at).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        [*byte, ..] = (mixed ^ (mixed >> 31)).to_be_bytes();
    }
}

/// A generator of the draws of one side.
pub(crate) struct Draws {
    who: Who,
    next: Arc<AtomicU64>,
}

impl Draws {
    pub(crate) fn of(who: Who) -> Self {
        Self::from(who, 0)
    }

    /// The draws from `number` on.
    pub(crate) fn from(who: Who, number: u64) -> Self {
        Self {
            who,
            next: Arc::new(AtomicU64::new(number)),
        }
    }

    pub(crate) fn fill(&self, bytes: &mut [u8]) {
        draw(self.who, self.next.fetch_add(1, Ordering::Relaxed), bytes);
    }
}

/// The same as the builders of falco-tokio and falco-std take it.
pub(crate) fn entropy(who: Who) -> impl Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync + 'static {
    let draws = Draws::of(who);
    move |bytes: &mut [u8]| {
        draws.fill(bytes);
        Ok(())
    }
}

impl TryRng for Draws {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Draws {}

/// The key whose bytes are draw `number`.
pub(crate) fn key(number: u64) -> Key {
    Key::generate(&mut Draws::from(Who::Keys, number)).expect("the draws never fail and are not zero")
}
