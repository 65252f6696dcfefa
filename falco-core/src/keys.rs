//! Keys that all connections of a client or of a server share, for the noise wire, the classic
//! wire, or both. [`Secrets`] is the configuration; [`ClientKeys`] and [`ServerKeys`] are made from
//! it. Adapters use this module. A device with one wire and one key uses [`NoiseClient`] or
//! [`ClassicKey`] directly.
//!
//! All secrets are created on the heap, stay in one place, and are wiped there.

mod entropy;
mod source;
mod wires;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{PoisonError, RwLock};

use rand_core::TryCryptoRng;

use crate::ClassicKey;
#[cfg(feature = "aws-lc-rs")]
use crate::crypto::AwsLc as Provider;
#[cfg(not(feature = "aws-lc-rs"))]
use crate::crypto::RustCrypto as Provider;
use crate::error::EntropyError;
use crate::key::{Key, Secret};
use crate::message::KeyId;
use crate::noise::{ContextTooLong, HeapTable, NoiseClient, NoiseSecret, NoiseServer, Ring};
use crate::replay_cache::HeapReplayCache;
use crate::wipe::with_stack_wiped;

pub use entropy::Entropy;
pub use source::{ClientKeySource, KeyOptions};
pub use wires::Keys;
use wires::{Classic, Wires};

/// What a client's connections share.
pub type ClientKeys = Keys<NoiseClient<HeapTable, Provider, Vec<u8>>>;
/// What a server's connections share.
pub type ServerKeys = Keys<NoiseServer<HeapTable, ServerRing, Provider, Vec<u8>>>;

impl ClientKeys {
    /// Whether the server may send something that answers nothing, such as a CLOSE. If not, a
    /// client that has one request in flight at a time need not read before it sends the next.
    #[must_use]
    pub const fn receives_unasked(&self) -> bool {
        self.noise().is_some()
    }
}

impl ServerKeys {
    /// The key ring of the noise wire; `None` if the server does not use that wire.
    #[must_use]
    pub fn ring(&self) -> Option<&ServerRing> {
        self.noise().map(NoiseServer::ring)
    }

    /// Adds a key on the noise wire, with a label for logs and handlers.
    ///
    /// # Errors
    /// [`SetupError`]; then nothing has changed. [`SetupError::NoRing`] if the server does not use
    /// that wire.
    pub fn add(&self, key: Key, label: Option<Arc<str>>) -> Result<KeyId, SetupError> {
        self.ring().ok_or(SetupError::NoRing)?.add(key, label)
    }

    /// Changes the label of a key of the noise wire. Connections that are established keep the old
    /// one. Returns whether there was such a key.
    pub fn set_label(&self, id: KeyId, label: Option<Arc<str>>) -> bool {
        self.ring().is_some_and(|ring| ring.set_label(id, label))
    }

    /// The label of a key of the noise wire, if it has one.
    #[must_use]
    pub fn label(&self, key: Option<KeyId>) -> Option<Arc<str>> {
        self.ring()?.label(key?)
    }

    /// The keys of the noise wire with their labels, in no order.
    #[must_use]
    pub fn labels(&self) -> Vec<(KeyId, Option<Arc<str>>)> {
        self.ring().map(ServerRing::labels).unwrap_or_default()
    }

    /// Removes a key of the noise wire as [`ServerRing::retire`] does. Returns whether there was
    /// such a key.
    pub fn retire(&self, id: KeyId) -> bool {
        self.ring().is_some_and(|ring| ring.retire(id))
    }

    /// Whether a key was retired after a client's hello selected it. Then
    /// [close](crate::CloseReason::KeyRetired) the connection as soon as it is established.
    ///
    /// Call this after the connection's key id is visible to the code that retires keys. That code
    /// removes the key from the ring before it looks for the key's connections. So either it finds
    /// this connection, or this returns `true`.
    #[must_use]
    pub fn is_retired(&self, key: Option<KeyId>) -> bool {
        let key = self.ring().zip(key);
        key.is_some_and(|(ring, key)| !ring.contains(key))
    }
}

/// The configuration that keys are made from.
#[derive(Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "adapters fill it in")]
pub struct Secrets {
    /// Keys on the noise wire. A client uses the first.
    pub noise: Vec<Key>,
    /// The labels of these keys. A client ignores them.
    pub labels: Vec<(KeyId, Arc<str>)>,
    /// The key on the classic wire. A client that has one uses that wire.
    pub classic: Option<Key>,
    /// Bytes that must be equal on both sides, such as the name of the service; at most 65,535. The
    /// classic wire has none.
    pub context: Vec<u8>,
    /// The capacity of the classic wire's replay cache, in nonces.
    pub nonces: usize,
}

impl Secrets {
    /// The default for the [nonces](Self::nonces) of a client. Each request and each answer takes
    /// one.
    pub const DEFAULT_CLIENT_NONCES: usize = 1024;
    /// The default for the [nonces](Self::nonces) of a server: 1.25 MiB. Each request and each
    /// answer takes one.
    pub const DEFAULT_SERVER_NONCES: usize = 65_536;

    /// Whether a server with these keys accepts both wires.
    pub(crate) const fn has_both_wires(&self) -> bool {
        self.classic.is_some() && !self.noise.is_empty()
    }

    /// The one key of a client.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn into_client<G: TryCryptoRng + ?Sized>(self, rng: &mut G) -> Result<ClientKeys, SetupError> {
        if let Some(key) = self.classic {
            return Ok(Keys(Wires::Classic(classic(key, self.nonces, rng)?)));
        }
        let key = self.noise.into_iter().next().ok_or(SetupError::NoKey)?;
        Ok(Keys(Wires::Noise(NoiseClient::new(key, self.context, Provider)?)))
    }

    /// The keys of a server.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn into_server<G: TryCryptoRng + ?Sized>(self, rng: &mut G) -> Result<ServerKeys, SetupError> {
        let classic_id = self.classic.as_ref().map(|key| NoiseSecret::id_of(key, &Provider));
        let noise = if self.noise.is_empty() {
            None
        } else {
            let keys = ServerRing::new(self.noise.len(), classic_id, rng)?;
            for key in self.noise {
                keys.add(key, None)?;
            }
            for (id, label) in self.labels {
                keys.set_label(id, Some(label));
            }
            Some(NoiseServer::new(keys, self.context, Provider)?)
        };
        let classic = self.classic.map(|key| classic(key, self.nonces, rng)).transpose()?;
        Ok(Keys(match (noise, classic) {
            (Some(noise), Some(classic)) => Wires::Both(noise, classic),
            (Some(noise), None) => Wires::Noise(noise),
            (None, Some(classic)) => Wires::Classic(classic),
            (None, None) => return Err(SetupError::NoKey),
        }))
    }
}

fn classic<G: TryCryptoRng + ?Sized>(key: Key, nonces: usize, rng: &mut G) -> Result<Box<Classic>, EntropyError> {
    let cache = HeapReplayCache::new(nonces, rng)?;
    Ok(with_stack_wiped(|| {
        Box::new(ClassicKey::with_crypto(key, cache, &Provider))
    }))
}

/// The keys that a server accepts on the noise wire. Any thread can add and retire keys while the
/// server runs.
///
/// The time of a lookup depends neither on the number of keys nor, apart from the search for the
/// id, on whether the ring has the key.
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
    fn new<G: TryCryptoRng + ?Sized>(
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
    pub fn add(&self, key: Key, label: Option<Arc<str>>) -> Result<KeyId, SetupError> {
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
    pub fn retire(&self, id: KeyId) -> bool {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.remove(&id).is_some()
    }

    /// Changes the label of a key. Returns whether the ring has the key.
    pub fn set_label(&self, id: KeyId, label: Option<Arc<str>>) -> bool {
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        keys.get_mut(&id).map(|key| key.label = label).is_some()
    }

    /// The label of a key, if it has one.
    #[must_use]
    pub fn label(&self, id: KeyId) -> Option<Arc<str>> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.get(&id)?.label.clone()
    }

    /// The keys with their labels, in no order.
    #[must_use]
    pub fn labels(&self) -> Vec<(KeyId, Option<Arc<str>>)> {
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        keys.iter().map(|(id, key)| (*id, key.label.clone())).collect()
    }

    /// Whether the ring has a key with this id.
    #[must_use]
    pub fn contains(&self, id: KeyId) -> bool {
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

/// Why a configuration cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetupError {
    /// There is no key.
    NoKey,
    /// The ring already has this key.
    DuplicateKey(KeyId),
    /// The same secret is configured for the noise wire and for the classic wire, which would
    /// weaken the noise wire.
    KeyOnBothWires(KeyId),
    /// The server does not use the noise wire, and the classic wire has no key ring.
    NoRing,
    /// The context is too long.
    Context(ContextTooLong),
    /// The random number generator failed.
    Entropy,
}

impl From<ContextTooLong> for SetupError {
    fn from(error: ContextTooLong) -> Self {
        Self::Context(error)
    }
}

impl From<EntropyError> for SetupError {
    fn from(_: EntropyError) -> Self {
        Self::Entropy
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => f.write_str("there is no key"),
            Self::DuplicateKey(id) => write!(f, "the server already has the key {id}"),
            Self::KeyOnBothWires(id) => write!(
                f,
                "the key {id} is configured for both wires: each needs a key of its own"
            ),
            Self::NoRing => f.write_str("the server uses only the classic wire, which has one key"),
            Self::Context(error) => error.fmt(f),
            Self::Entropy => f.write_str("the random number generator failed"),
        }
    }
}

impl core::error::Error for SetupError {}
