//! The key as connections share it: expanded once, with one ledger of its seals and nonces. How it is used is the core's.

use std::sync::{Arc, Mutex, PoisonError};

use falco_core::{ClassicKey, EntropyError, Key, NonceLedger, NonceSlot};
use getrandom::SysRng;

/// A key with the memory of its nonces, for threads to share.
pub(crate) type WireKey = ClassicKey<Mutex<NonceLedger<Box<[NonceSlot]>>>>;

/// A key that becomes a [`WireKey`] when it is first needed, so that all that is made from one builder shares one ledger.
#[derive(Debug)]
pub(crate) struct KeySource(Mutex<State>);

#[derive(Debug)]
struct State {
    /// Present until `made` is.
    fresh: Option<Key>,
    made: Option<Arc<WireKey>>,
}

impl KeySource {
    pub(crate) fn new(key: Key) -> Self {
        Self(Mutex::new(State {
            fresh: Some(key),
            made: None,
        }))
    }

    /// The shared key; made at the first call, with a ledger that remembers `nonces`.
    pub(crate) fn get(&self, nonces: usize) -> Result<Arc<WireKey>, EntropyError> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &state.made {
            return Ok(Arc::clone(made));
        }
        let slots = vec![NonceSlot::EMPTY; nonces].into_boxed_slice();
        let ledger = Mutex::new(NonceLedger::new(slots, &mut SysRng)?);
        let key = state
            .fresh
            .take()
            .expect("the fresh key is taken only here, and then the made one is there");
        let made = Arc::new(WireKey::new(key, ledger));
        state.made = Some(Arc::clone(&made));
        Ok(made)
    }
}
