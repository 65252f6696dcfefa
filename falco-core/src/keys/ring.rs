//! The key ring of [`ServerKeys`](super::ServerKeys).

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{PoisonError, RwLock};

use rand_core::TryCryptoRng;

use super::{Provider, SetupError};
use crate::error::EntropyError;
use crate::key::{Key, Secret};
use crate::message::KeyId;
use crate::noise::{NoiseSecret, Ring};

/// The keys that a server accepts on the noise wire. Any thread can add and retire keys while the
/// server runs.
///
/// The time of a lookup depends neither on the number of keys nor, apart from the search for the
/// id, on whether the ring has the key.
#[allow(unnameable_types, reason = "the methods of `ServerKeys` change it")]
pub struct ServerRing {
    /// The hash has a random key, so that nobody can choose ids whose hashes collide.
    keys: RwLock<HashMap<KeyId, Accepted>>,
    /// Used for a hello with an unknown id.
    dummy: Secret,
    /// The id that the classic wire's key would have, so that it is not accepted on the noise wire.
    classic: Option<KeyId>,
}

/// A key that the server accepts.
struct Accepted {
    secret: NoiseSecret,
    label: Option<Arc<str>>,
}

impl ServerRing {
    pub(super) fn new<G: TryCryptoRng + ?Sized>(
        capacity: usize,
        classic: Option<KeyId>,
        rng: &mut G,
    ) -> Result<Self, EntropyError> {
        let mut dummy = Secret::zeros();
        rng.try_fill_bytes(dummy.as_mut_slice())
            .map_err(|_| EntropyError::new())?;
        Ok(Self {
            keys: RwLock::new(HashMap::with_capacity(capacity)),
            dummy,
            classic,
        })
    }

    /// Adds a key, with a label for logs and handlers.
    ///
    /// # Errors
    /// [`SetupError::DuplicateKey`], [`SetupError::KeyOnBothWires`]; then the ring is unchanged.
    pub(super) fn add(&self, key: Key, label: Option<Arc<str>>) -> Result<KeyId, SetupError> {
        let secret = NoiseSecret::derive(key, &Provider);
        let id = secret.id();
        if self.classic == Some(id) {
            return Err(SetupError::KeyOnBothWires(id));
        }
        match self.keys.write().unwrap_or_else(PoisonError::into_inner).entry(id) {
            Entry::Occupied(_) => Err(SetupError::DuplicateKey(id)),
            Entry::Vacant(place) => {
                place.insert(Accepted { secret, label });
                Ok(id)
            }
        }
    }

    /// Removes a key and wipes it. Returns whether the ring had it. From now on hellos with its id
    /// are refused; the caller closes its connections.
    pub(super) fn retire(&self, id: KeyId) -> bool {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.remove(&id).is_some()
    }

    /// Changes the label of a key. Returns whether the ring has the key.
    pub(super) fn set_label(&self, id: KeyId, label: Option<Arc<str>>) -> bool {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.get_mut(&id).map(|key| key.label = label).is_some()
    }

    /// The label of a key, if it has one.
    pub(super) fn label(&self, id: KeyId) -> Option<Arc<str>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(&id)?.label.clone()
    }

    /// The keys with their labels, in no order.
    pub(super) fn labels(&self) -> Vec<(KeyId, Option<Arc<str>>)> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().map(|(id, key)| (*id, key.label.clone())).collect()
    }

    /// Whether the ring has a key with this id.
    pub(super) fn contains(&self, id: KeyId) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.contains_key(&id)
    }
}

impl Ring for ServerRing {
    fn select(&self, id: KeyId, psk: &mut [u8; 32]) -> bool {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let known = keys.get(&id);
        psk.copy_from_slice(known.map_or(self.dummy.as_slice(), |known| known.secret.psk()));
        known.is_some()
    }
}

impl fmt::Debug for ServerRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerRing(..)")
    }
}
