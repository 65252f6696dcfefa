//! A client's key in the builder of an adapter. The first client makes the keys that all clients of
//! that builder and its clones share.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand_core::TryCryptoRng;

use super::{ClientKeys, Secrets, SetupError};
use crate::key::Key;

/// A client's key with its options and, from the first client on, the keys that all clients share.
/// Clones share all of that: on the classic wire all clients with one key must share its replay
/// cache and its seal counter.
#[derive(Clone)]
pub struct ClientKeySource(Arc<Mutex<State>>);

struct State {
    classic: bool,
    context: Vec<u8>,
    nonces: usize,
    key: Stage,
}

enum Stage {
    Fresh(Key),
    Made(Result<Arc<ClientKeys>, SetupError>),
}

impl ClientKeySource {
    /// A key for the noise wire.
    #[must_use]
    pub fn noise(key: Key) -> Self {
        Self::new(key, false, 0)
    }

    /// A key for the classic wire, with a replay cache for this many nonces.
    #[must_use]
    pub fn classic(key: Key, nonces: usize) -> Self {
        Self::new(key, true, nonces)
    }

    fn new(key: Key, classic: bool, nonces: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            classic,
            context: Vec::new(),
            nonces,
            key: Stage::Fresh(key),
        })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the context. Without effect once the keys are made.
    pub fn set_context(&self, context: Vec<u8>) {
        let mut state = self.lock();
        if matches!(state.key, Stage::Fresh(_)) {
            state.context = context;
        }
    }

    /// Sets the capacity of the replay cache, in nonces. Without effect once the keys are made.
    pub fn set_nonces(&self, nonces: usize) {
        let mut state = self.lock();
        if matches!(state.key, Stage::Fresh(_)) {
            state.nonces = nonces;
        }
    }

    /// The shared keys, which the first call makes.
    ///
    /// # Errors
    /// [`SetupError`]; every later call returns the same one, because the key is consumed.
    pub fn keys<G: TryCryptoRng + ?Sized>(&self, rng: &mut G) -> Result<Arc<ClientKeys>, SetupError> {
        let mut state = self.lock();
        // The placeholder is replaced below.
        let made = match core::mem::replace(&mut state.key, Stage::Made(Err(SetupError::NoKey))) {
            Stage::Fresh(key) => state.make(key, rng).map(Arc::new),
            Stage::Made(made) => made,
        };
        state.key = Stage::Made(made.clone());
        made
    }
}

impl State {
    fn make<G: TryCryptoRng + ?Sized>(&self, key: Key, rng: &mut G) -> Result<ClientKeys, SetupError> {
        let (noise, classic) = if self.classic {
            (Vec::new(), Some(key))
        } else {
            (vec![key], None)
        };
        let secrets = Secrets {
            noise,
            classic,
            context: self.context.clone(),
            labels: Vec::new(),
            nonces: self.nonces,
        };
        secrets.into_client(rng)
    }
}

impl fmt::Debug for ClientKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("ClientKeySource")
            .field("classic", &state.classic)
            .field("context", &state.context)
            .field("nonces", &state.nonces)
            .finish_non_exhaustive()
    }
}
