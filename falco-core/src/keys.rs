//! Keys that all connections of a client or of a server share, for the noise wire, the classic
//! wire, or both. [`Secrets`] is the configuration; [`ClientKeys`] and [`ServerKeys`] are made from
//! it. Adapters use this module. A device with one wire and one key uses [`NoiseClient`] or
//! [`ClassicKey`] directly.
//!
//! All secrets are created on the heap, stay in one place, and are wiped there.

mod entropy;
mod ring;
mod source;
mod wires;

use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;

use rand_core::TryCryptoRng;

#[cfg(feature = "aws-lc-rs")]
use crate::AwsLc as Provider;
use crate::ClassicKey;
#[cfg(not(feature = "aws-lc-rs"))]
use crate::RustCrypto as Provider;
use crate::error::EntropyError;
use crate::key::Key;
use crate::message::KeyId;
use crate::noise::{HeapTable, NoiseClient, NoiseSecret, NoiseServer};
use crate::replay_cache::HeapReplayCache;
use crate::settings::SettingsError;
use crate::wipe::with_stack_wiped;

pub use entropy::Entropy;
use ring::ServerRing;
pub use source::ClientKeySource;
pub use wires::Keys;
use wires::{Classic, Wires};

/// What a client's connections share.
pub type ClientKeys = Keys<NoiseClient<HeapTable, Provider, Vec<u8>>>;
/// What a server's connections share.
pub type ServerKeys = Keys<NoiseServer<HeapTable, ServerRing, Provider, Vec<u8>>>;

impl ClientKeys {
    /// Whether the server may send something that is not a reply and that the client must process
    /// soon, such as a CLOSE. If not, a client needs no thread that reads while no request is in
    /// flight.
    #[must_use]
    pub const fn receives_unasked(&self) -> bool {
        self.noise().is_some()
    }

    /// Expands another key for the same wire, with the same context or capacity of the replay
    /// cache.
    ///
    /// # Errors
    /// [`SetupError::Entropy`].
    pub fn with_key<G: TryCryptoRng + ?Sized>(&self, key: Key, rng: &mut G) -> Result<Self, SetupError> {
        Ok(Self(match &self.0 {
            Wires::Noise(noise) | Wires::Both(noise, _) => {
                Wires::Noise(NoiseClient::new(key, noise.context().clone(), Provider)?)
            }
            Wires::Classic(old) => Wires::Classic(classic(key, old.replay_cache().capacity(), rng)?),
        }))
    }
}

impl ServerKeys {
    /// The key ring of the noise wire; `None` if the server does not use that wire.
    #[cfg(feature = "testing")]
    #[must_use]
    pub fn test_ring(&self) -> Option<&impl crate::noise::Ring> {
        self.ring()
    }

    fn ring(&self) -> Option<&ServerRing> {
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

    /// The keys of the noise wire with their labels, in no particular order.
    #[must_use]
    pub fn labels(&self) -> Vec<(KeyId, Option<Arc<str>>)> {
        self.ring().map(ServerRing::labels).unwrap_or_default()
    }

    /// Removes a key of the noise wire and wipes it. Returns whether there was such a key.
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
    /// The default for the [nonces](Self::nonces) of a client: 20 KiB, at 20 bytes each. Each
    /// request and each answer takes one.
    pub const DEFAULT_CLIENT_NONCES: usize = 1024;
    /// The default for the [nonces](Self::nonces) of a server: 1.25 MiB, at 20 bytes each. Each
    /// request and each answer takes one.
    pub const DEFAULT_SERVER_NONCES: usize = 65_536;

    /// Whether a server with these keys has more than one key. Each key must then leave room for
    /// the others.
    #[must_use]
    pub const fn has_several(&self) -> bool {
        self.noise.len() > 1 || self.has_both_wires()
    }

    /// Whether a server with these keys accepts both wires.
    pub(crate) const fn has_both_wires(&self) -> bool {
        self.classic.is_some() && !self.noise.is_empty()
    }

    /// The one key of a client.
    ///
    /// # Errors
    /// [`SetupError::NoKey`], [`SetupError::Context`] or [`SetupError::Entropy`].
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
    /// Every [`SetupError`] except [`NoRing`](SetupError::NoRing).
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
    Context(SettingsError),
    /// The random number generator failed.
    Entropy,
}

impl From<SettingsError> for SetupError {
    fn from(error: SettingsError) -> Self {
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
