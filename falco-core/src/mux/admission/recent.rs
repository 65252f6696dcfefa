//! Hellos that have come lately: a hello that comes again is a replay.

use alloc::collections::BTreeSet;

/// How many fingerprints a generation has: 128 KiB. Two are kept.
const GENERATION: usize = 16_384;

/// The fingerprints of the last 16,384 to 32,768 valid hellos.
#[derive(Debug, Default)]
pub(super) struct Recent {
    current: BTreeSet<u64>,
    previous: BTreeSet<u64>,
}

impl Recent {
    /// Says whether it is new.
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

/// What tells one hello on the noise wire from another: the end of its tag, which a replay repeats.
/// None where `unread` does not begin with as many bytes as a hello has.
///
/// Take it before the connection receives these bytes, and use it only if they decrypt.
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
