//! Random numbers from the operating system, the default of the builders.

use falco_core::EntropyError;
use falco_core::keys::Entropy;

pub(crate) fn system() -> Entropy {
    Entropy::new(|bytes| getrandom::fill(bytes).map_err(|_| EntropyError::new()))
}
