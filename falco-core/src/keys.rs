//! Keys as the connections of a service share them: expanded once, on the noise wire, the classic
//! wire, or both. What an owner sets is [`Secrets`]; what connections take is [`ClientKeys`] or
//! [`ServerKeys`]. Adapters are built on this; a chip with one wire and one key takes
//! [`NoiseClient`] or [`ClassicKey`] as they are.

mod entropy;
mod source;
mod wires;

use alloc::vec::Vec;
use core::fmt;
use std::sync::{PoisonError, RwLock};

use rand_core::TryCryptoRng;

use crate::classic::ClassicKey;
use crate::crypto::RustCrypto;
use crate::error::EntropyError;
use crate::key::Key;
use crate::message::KeyId;
use crate::noise::{ContextTooLong, HeapTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer, Ring, RingError};
use crate::replay_cache::HeapReplayCache;

pub use entropy::Entropy;
pub use source::{ClientKeySource, KeyOptions};
pub use wires::Keys;
use wires::{Classic, Wires};

/// What a client's connections share.
pub type ClientKeys = Keys<NoiseClient<HeapTable, RustCrypto, Vec<u8>>>;
/// What a server's connections share.
pub type ServerKeys = Keys<NoiseServer<HeapTable, ServerRing, RustCrypto, Vec<u8>>>;

impl ClientKeys {
    /// Whether the client speaks the noise wire.
    #[must_use]
    pub const fn speaks_noise(&self) -> bool {
        self.noise().is_some()
    }
}

impl ServerKeys {
    /// The keys on the noise wire, to add to them and to retire them; none where the server does
    /// not speak that wire.
    #[must_use]
    pub fn ring(&self) -> Option<&ServerRing> {
        self.noise().map(NoiseServer::ring)
    }

    /// Whether a key was taken out of service since a client said hello under it. Its connection is
    /// then to be [closed](crate::CloseReason::KeyRetired) as soon as it is established.
    ///
    /// Ask once the key id of the connection is where whoever retires a key looks for it: that one
    /// takes the key out of the ring first and looks for its connections then, so that one of both
    /// sees the other.
    #[must_use]
    pub fn is_retired(&self, key: Option<KeyId>) -> bool {
        let key = self.ring().zip(key);
        key.is_some_and(|(ring, key)| !ring.contains(key))
    }
}

/// What an owner has set, until it is made into keys.
#[derive(Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "adapters fill it in")]
pub struct Secrets {
    /// Keys on the noise wire. A client uses the first.
    pub noise: Vec<Key>,
    /// The key on the classic wire. A client that has one speaks that wire.
    pub classic: Option<Key>,
    /// What both owners have agreed on, such as the name of the service; 65,535 bytes at most. The
    /// classic wire has none.
    pub context: Vec<u8>,
    /// How many nonces the classic wire remembers.
    pub nonces: usize,
}

impl Secrets {
    /// The one key of a client.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn into_client<G: TryCryptoRng + ?Sized>(self, rng: &mut G) -> Result<ClientKeys, SetupError> {
        if let Some(key) = self.classic {
            return Ok(Keys(Wires::Classic(classic(key, self.nonces, rng)?)));
        }
        let key = self.noise.into_iter().next().ok_or(SetupError::NoKey)?;
        Ok(Keys(Wires::Noise(NoiseClient::new(key, self.context, RustCrypto)?)))
    }

    /// The keys of a server.
    ///
    /// # Errors
    /// [`SetupError`].
    pub fn into_server<G: TryCryptoRng + ?Sized>(self, rng: &mut G) -> Result<ServerKeys, SetupError> {
        let never = self.classic.as_ref().map(|key| NoiseSecret::id_of(key, &RustCrypto));
        let noise = if self.noise.is_empty() {
            None
        } else {
            let keys = ServerRing {
                keys: RwLock::new(KeyRing::new(Vec::new(), rng)?),
                never,
            };
            for key in self.noise {
                keys.add(key)?;
            }
            Some(NoiseServer::new(keys, self.context, RustCrypto)?)
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

fn classic<G: TryCryptoRng + ?Sized>(key: Key, nonces: usize, rng: &mut G) -> Result<Classic, EntropyError> {
    Ok(ClassicKey::new(key, HeapReplayCache::new(nonces, rng)?))
}

/// The keys that a server takes on the noise wire, added and retired while it runs, from any
/// thread.
#[derive(Debug)]
pub struct ServerRing {
    keys: RwLock<KeyRing<Vec<Option<NoiseSecret>>>>,
    /// The id that the key of the classic wire would have: a secret serves one wire.
    never: Option<KeyId>,
}

impl ServerRing {
    /// Takes a key into service.
    ///
    /// # Errors
    /// [`SetupError::DuplicateKey`], [`SetupError::KeyOnBothWires`]; then the ring is as it was.
    pub fn add(&self, key: Key) -> Result<KeyId, SetupError> {
        let secret = NoiseSecret::derive(key, &RustCrypto);
        if self.never == Some(secret.id()) {
            return Err(SetupError::KeyOnBothWires(secret.id()));
        }
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        Ok(keys.insert(secret)?)
    }

    /// Takes a key out of service, and says whether it was in it. Hellos under it are refused from
    /// now on; its connections are the caller's to close.
    pub fn retire(&self, id: KeyId) -> bool {
        self.keys.write().unwrap_or_else(PoisonError::into_inner).retire(id)
    }

    /// Whether a key is in service.
    #[must_use]
    pub fn contains(&self, id: KeyId) -> bool {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}

impl Ring for ServerRing {
    fn select(&self, id: KeyId, psk: &mut [u8; 32]) -> bool {
        self.keys.select(id, psk)
    }
}

/// Keys or a context that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetupError {
    /// There is no key.
    NoKey,
    /// The ring has this key already.
    DuplicateKey(KeyId),
    /// The same secret on the noise wire and on the classic wire. The classic wire would give away
    /// what the noise wire protects.
    KeyOnBothWires(KeyId),
    /// The server does not speak the noise wire, which is the only one with a ring.
    NoRing,
    /// The context is too long.
    Context(ContextTooLong),
    /// There were no random numbers.
    Entropy,
}

impl From<RingError> for SetupError {
    fn from(error: RingError) -> Self {
        match error {
            RingError::Duplicate(id) => Self::DuplicateKey(id),
            // A vector makes room for another key.
            RingError::Entropy | RingError::Full => Self::Entropy,
        }
    }
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
            Self::DuplicateKey(id) => write!(f, "the key {id} is there already"),
            Self::KeyOnBothWires(id) => write!(f, "the key {id} is to serve on both wires: each needs one of its own"),
            Self::NoRing => f.write_str("the server speaks the classic wire alone, which has one key"),
            Self::Context(error) => error.fmt(f),
            Self::Entropy => f.write_str("the random number generator failed"),
        }
    }
}

impl core::error::Error for SetupError {}
