//! Remembers the latest hellos. A hello that arrives again is a replay.

use alloc::collections::BTreeSet;

/// How many fingerprints, of 8 bytes each, a generation has. Two generations are kept.
const GENERATION: usize = 16_384;

/// The fingerprints of the last 16,384 to 32,768 valid hellos.
#[derive(Debug, Default)]
pub(super) struct Recent {
    current: BTreeSet<u64>,
    previous: BTreeSet<u64>,
}

impl Recent {
    /// Adds a fingerprint, and returns whether it is new.
    pub(super) fn insert(&mut self, fingerprint: u64) -> bool {
        if self.previous.contains(&fingerprint) || !self.current.insert(fingerprint) {
            return false;
        }
        if self.current.len() >= GENERATION {
            self.previous = core::mem::take(&mut self.current);
        }
        true
    }
}

/// A fingerprint of the hello on the noise wire at the front of `unread`: the last eight bytes of
/// its tag, which a replay repeats. `None` if `unread` is shorter than a hello.
///
/// Call it before the connection receives these bytes, and use the result only if they decrypt.
pub(crate) fn hello_fingerprint(unread: &[u8]) -> Option<u64> {
    #[cfg(feature = "noise")]
    {
        let hello = unread.first_chunk::<{ crate::noise::HELLO_LENGTH }>()?;
        hello.last_chunk().copied().map(u64::from_be_bytes)
    }
    #[cfg(not(feature = "noise"))]
    {
        let _ = unread;
        None
    }
}
