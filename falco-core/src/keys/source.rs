//! The key of a client as the builder of an adapter holds it: made into keys when they are first
//! needed, and shared by all clients of that builder and its clones.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rand_core::TryCryptoRng;

use super::{ClientKeys, Secrets, SetupError};
use crate::key::Key;

/// What a client uses a key with, whichever key that is: the wire, the context, and how many nonces
/// are remembered.
#[derive(Clone, Debug)]
pub struct KeyOptions {
    classic: bool,
    context: Vec<u8>,
    nonces: usize,
}

impl KeyOptions {
    /// Expands a key for use with these options.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn keys<G: TryCryptoRng + ?Sized>(&self, key: Key, rng: &mut G) -> Result<Arc<ClientKeys>, SetupError> {
        let (noise, classic) = if self.classic {
            (Vec::new(), Some(key))
        } else {
            (vec![key], None)
        };
        let secrets = Secrets {
            noise,
            classic,
            context: self.context.clone(),
            nonces: self.nonces,
        };
        Ok(Arc::new(secrets.into_client(rng)?))
    }
}

/// A client's key with its options, until the first client is made, and from then on the keys that
/// all clients share. Clones share the key and its options. On the classic wire clients under one
/// key have to share its memory of nonces and its count of sealed messages.
#[derive(Clone)]
pub struct ClientKeySource(Arc<Mutex<State>>);

struct State {
    options: KeyOptions,
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

    /// A key for the classic wire, on which `nonces` are remembered.
    #[must_use]
    pub fn classic(key: Key, nonces: usize) -> Self {
        Self::new(key, true, nonces)
    }

    fn new(key: Key, classic: bool, nonces: usize) -> Self {
        let options = KeyOptions {
            classic,
            context: Vec::new(),
            nonces,
        };
        let key = Stage::Fresh(key);
        Self(Arc::new(Mutex::new(State { options, key })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the context, unless the keys have been made.
    pub fn set_context(&self, context: Vec<u8>) {
        let mut state = self.lock();
        if matches!(state.key, Stage::Fresh(_)) {
            state.options.context = context;
        }
    }

    /// Sets how many nonces the classic wire remembers, unless the keys have been made.
    pub fn set_nonces(&self, nonces: usize) {
        let mut state = self.lock();
        if matches!(state.key, Stage::Fresh(_)) {
            state.options.nonces = nonces;
        }
    }

    /// The shared keys, which the first call makes, and what other keys of the same client are to
    /// be used with.
    ///
    /// # Errors
    /// [`SetupError`], and the same one ever after: the key is used up.
    pub fn keys<G: TryCryptoRng + ?Sized>(&self, rng: &mut G) -> Result<(Arc<ClientKeys>, KeyOptions), SetupError> {
        let mut state = self.lock();
        // What stands there meanwhile is replaced below.
        let made = match core::mem::replace(&mut state.key, Stage::Made(Err(SetupError::NoKey))) {
            Stage::Fresh(key) => state.options.keys(key, rng),
            Stage::Made(made) => made,
        };
        state.key = Stage::Made(made.clone());
        Ok((made?, state.options.clone()))
    }
}

impl fmt::Debug for ClientKeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientKeySource")
            .field("options", &self.lock().options)
            .finish_non_exhaustive()
    }
}
