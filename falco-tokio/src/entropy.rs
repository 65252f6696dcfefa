//! Where random numbers come from: the operating system, unless a test or a simulation says otherwise.

use core::fmt;
use std::sync::Arc;

use falco_core::EntropyError;
use getrandom::SysRng;
use rand_core::{TryCryptoRng, TryRng};

type Fill = dyn Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync;

/// A source of random numbers that connections share.
#[derive(Clone)]
pub(crate) struct Entropy(Arc<Fill>);

impl Entropy {
    pub(crate) fn system() -> Self {
        Self::new(|bytes| SysRng.try_fill_bytes(bytes).map_err(|_| EntropyError::new()))
    }

    pub(crate) fn new(fill: impl Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    /// A number below `bound`, or 0 where the source fails: what is drawn here spreads load and protects nothing.
    pub(crate) fn below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        match (self.0)(&mut bytes) {
            Ok(()) => u64::from_le_bytes(bytes) % bound.max(1),
            Err(_) => 0,
        }
    }
}

impl TryRng for Entropy {
    type Error = EntropyError;

    fn try_next_u32(&mut self) -> Result<u32, EntropyError> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, EntropyError> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), EntropyError> {
        (self.0)(bytes)
    }
}

impl TryCryptoRng for Entropy {}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entropy(..)")
    }
}
