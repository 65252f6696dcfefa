//! The source of a client's or a server's random numbers.

use alloc::sync::Arc;
use core::fmt;

use rand_core::{TryCryptoRng, TryRng};

use crate::error::EntropyError;

type Fill = dyn Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync;

/// A source of random numbers that connections on any thread share. Clones share the source.
///
/// An adapter creates one from the operating system's generator, or from a function that a user
/// provides for tests and simulations.
///
/// ```
/// use falco_core::keys::Entropy;
/// use falco_core::{EntropyError, Key};
///
/// let entropy = Entropy::new(|bytes| getrandom::fill(bytes).map_err(|_| EntropyError::new()));
/// let key = Key::generate(&mut entropy.clone())?;
/// assert!(entropy.below(6) < 6);
/// # Ok::<(), falco_core::KeyError>(())
/// ```
#[derive(Clone)]
pub struct Entropy(Arc<Fill>);

impl Entropy {
    /// A source that fills slices with `fill`.
    pub fn new(fill: impl Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync + 'static) -> Self {
        Self(Arc::new(fill))
    }

    /// A number below `bound`, or 0 if the source fails or `bound` is 0. It is for spreading load,
    /// such as the pauses between attempts to connect, and not for secrets.
    #[must_use]
    pub fn below(&self, bound: u64) -> u64 {
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
