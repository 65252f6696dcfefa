//! The keys of the noise wire: the pre-shared key and the key id, derived from a secret; a client's
//! key; a server's key ring.

use core::cell::RefCell;
use core::fmt;
use core::marker::PhantomData;

use rand_core::TryCryptoRng;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::layout::{CLEAR, KEY_ID, WIRE};
use super::record::RekeyPeriod;
use crate::crypto::NoiseCrypto;
use crate::key::{Key, Secret};
use crate::message::KeyId;
use crate::settings::SettingsError;
use crate::wipe::with_stack_wiped;

/// What the noise wire derives from a [`Key`]: the pre-shared key of the handshake, and the key id.
/// Wiped when dropped. With the feature `alloc`, moving it leaves no copy behind.
pub struct NoiseSecret {
    psk: Secret,
    id: KeyId,
}

#[cfg(feature = "rustcrypto")]
impl Key {
    /// The id by which a server on the noise wire selects the key, and by which you retire it. It
    /// is not secret: it reveals nothing about the key.
    ///
    /// ```
    /// let key = falco_core::Key::from_bytes([7; 32])?;
    /// assert_eq!(key.id().to_string().len(), 16);
    /// # Ok::<(), falco_core::KeyError>(())
    /// ```
    #[must_use]
    pub fn id(&self) -> KeyId {
        NoiseSecret::id_of(self, &crate::RustCrypto)
    }
}

impl NoiseSecret {
    /// The id of `key`.
    pub fn id_of<C: NoiseCrypto>(key: &Key, crypto: &C) -> KeyId {
        with_stack_wiped(|| Self::derive_id(key, crypto))
    }

    fn derive_id<C: NoiseCrypto>(key: &Key, crypto: &C) -> KeyId {
        let mac = crypto.hmac_sha256(key.secret(), &[b"FalcoTCP-noise/1 key id"]);
        let mut id = [0; KEY_ID];
        id.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
        KeyId::from_bytes(id)
    }

    /// Derives the pre-shared key and the key id of `key`. It consumes the key, because a key is
    /// for one wire.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "it consumes the key: a key is for one wire"
    )]
    pub fn derive<C: NoiseCrypto>(key: Key, crypto: &C) -> Self {
        let mut psk = Secret::zeros();
        let id = with_stack_wiped(|| {
            *psk = crypto.hmac_sha256(key.secret(), &[b"FalcoTCP-noise/1 psk"]);
            Self::derive_id(&key, crypto)
        });
        Self { psk, id }
    }

    /// The key's id.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    pub(crate) fn psk(&self) -> &[u8; 32] {
        &self.psk
    }
}

impl Zeroize for NoiseSecret {
    fn zeroize(&mut self) {
        self.psk.as_mut_slice().zeroize();
    }
}

impl ZeroizeOnDrop for NoiseSecret {}

impl fmt::Debug for NoiseSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoiseSecret({})", self.id)
    }
}

/// The keys that a server accepts, by key id.
///
/// [`KeyRing`] implements it: by itself, for keys that do not change; inside a `RefCell`; and with
/// the feature `std` inside a `Mutex` or an `RwLock`. For many keys, use `keys::ServerKeys`.
pub trait Ring {
    /// Copies the pre-shared key of this id to `psk` and returns `true`. If there is none, copies a
    /// random one that nobody has, and returns `false`. Except for the search for the id, both
    /// cases take the same time. So do the handshakes that follow.
    fn select(&self, id: KeyId, psk: &mut [u8; 32]) -> bool;
}

/// Why a key was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RingError {
    /// The storage has no free place.
    Full,
    /// The ring has a key with this id: the same secret, or, with a probability of 2^-64, another.
    Duplicate(KeyId),
    /// The random number generator failed.
    Entropy,
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the key ring is full"),
            Self::Entropy => f.write_str("the random number generator failed"),
            Self::Duplicate(id) => write!(f, "the key ring already has a key with the id {id}"),
        }
    }
}

impl core::error::Error for RingError {}

/// A small key ring, over storage that you choose, such as `[const { None }; 4]` or a
/// `Vec<Option<NoiseSecret>>`.
///
/// Each lookup compares all ids, and [`new`](Self::new) compares each with each: for thousands of
/// keys, use `keys::ServerKeys`.
pub struct KeyRing<S> {
    places: S,
    /// Used for a hello with an unknown id.
    dummy: Secret,
}

impl<S: AsRef<[Option<NoiseSecret>]> + AsMut<[Option<NoiseSecret>]>> KeyRing<S> {
    /// A ring with the keys in `places`. Its capacity is the number of places.
    ///
    /// `rng` generates the key that is used for a hello with an unknown id.
    ///
    /// # Errors
    /// [`RingError::Duplicate`] if two keys have the same id, [`RingError::Entropy`] if the
    /// generator fails.
    pub fn new<G: TryCryptoRng + ?Sized>(places: S, rng: &mut G) -> Result<Self, RingError> {
        let keys = || places.as_ref().iter().flatten();
        for (number, key) in keys().enumerate() {
            if keys().skip(number + 1).any(|other| other.id == key.id) {
                return Err(RingError::Duplicate(key.id));
            }
        }
        let mut dummy = Secret::zeros();
        rng.try_fill_bytes(dummy.as_mut_slice())
            .map_err(|_| RingError::Entropy)?;
        Ok(Self { places, dummy })
    }

    /// Adds a key.
    ///
    /// # Errors
    /// [`RingError`]; then the ring is unchanged.
    pub fn add(&mut self, secret: NoiseSecret) -> Result<KeyId, RingError> {
        let id = secret.id;
        if self.places.as_ref().iter().flatten().any(|known| known.id == id) {
            return Err(RingError::Duplicate(id));
        }
        let free = self
            .places
            .as_mut()
            .iter_mut()
            .find(|place| place.is_none())
            .ok_or(RingError::Full)?;
        *free = Some(secret);
        Ok(id)
    }

    /// Removes a key and wipes it. Returns whether the ring had it. Hellos with its id are refused
    /// afterwards. Close its connections with
    /// [`CloseReason::KeyRetired`](crate::CloseReason::KeyRetired).
    pub fn retire(&mut self, id: KeyId) -> bool {
        for place in self.places.as_mut() {
            if let Some(secret) = place.as_mut().filter(|known| known.id == id) {
                // Wipes the secret in its place, before the assignment drops it.
                secret.zeroize();
                *place = None;
                return true;
            }
        }
        false
    }

    /// Whether the ring has a key with this id.
    #[must_use]
    pub fn contains(&self, id: KeyId) -> bool {
        self.places.as_ref().iter().flatten().any(|known| known.id == id)
    }

    fn select(&self, id: KeyId, psk: &mut [u8; 32]) -> bool {
        // All places are compared, so that the time depends neither on where the key is nor on
        // whether there is one.
        let (mut found, mut chosen) = (false, self.dummy.as_slice());
        for secret in self.places.as_ref().iter().flatten().filter(|secret| secret.id == id) {
            (found, chosen) = (true, secret.psk.as_slice());
        }
        psk.copy_from_slice(chosen);
        found
    }
}

impl<S> fmt::Debug for KeyRing<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyRing(..)")
    }
}

impl<S: AsRef<[Option<NoiseSecret>]> + AsMut<[Option<NoiseSecret>]>> Ring for KeyRing<S> {
    fn select(&self, id: KeyId, psk: &mut [u8; 32]) -> bool {
        Self::select(self, id, psk)
    }
}

impl<S: AsRef<[Option<NoiseSecret>]> + AsMut<[Option<NoiseSecret>]>> Ring for RefCell<KeyRing<S>> {
    fn select(&self, id: KeyId, psk: &mut [u8; 32]) -> bool {
        self.borrow().select(id, psk)
    }
}

#[cfg(feature = "std")]
impl<S: AsRef<[Option<NoiseSecret>]> + AsMut<[Option<NoiseSecret>]>> Ring for std::sync::Mutex<KeyRing<S>> {
    fn select(&self, id: KeyId, psk: &mut [u8; 32]) -> bool {
        self.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .select(id, psk)
    }
}

#[cfg(feature = "std")]
impl<S: AsRef<[Option<NoiseSecret>]> + AsMut<[Option<NoiseSecret>]>> Ring for std::sync::RwLock<KeyRing<S>> {
    fn select(&self, id: KeyId, psk: &mut [u8; 32]) -> bool {
        self.read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .select(id, psk)
    }
}

/// What both handshake messages authenticate besides the key: the name of the protocol, the clear
/// part of the hello, the context.
pub(super) fn prologue<'p>(clear: &'p [u8; CLEAR], length: &'p [u8; 2], context: &'p [u8]) -> [&'p [u8]; 4] {
    [b"FalcoTCP-noise/1", clear, length, context]
}

/// The clear part of a hello with this key id.
pub(super) fn clear(id: KeyId) -> [u8; CLEAR] {
    let mut clear = [0; CLEAR];
    clear
        .iter_mut()
        .zip(WIRE.iter().chain(id.as_bytes()))
        .for_each(|(to, from)| *to = *from);
    clear
}

/// A client's key on the noise wire, with the context of the service that it calls. `T` is the type
/// of each connection's request table: [`FixedTable`](super::FixedTable) or `HeapTable`. `X` is the
/// storage of the context.
pub struct NoiseClient<T, C, X = &'static [u8]> {
    pub(super) crypto: C,
    pub(super) secret: NoiseSecret,
    pub(super) context: X,
    context_length: u16,
    pub(super) rekey_period: RekeyPeriod,
    #[cfg(feature = "testing")]
    pub(super) requests_begun: u32,
    table: PhantomData<fn() -> T>,
}

/// A server's keys on the noise wire, with the context of the service. `T` is the type of each
/// connection's request table, `R` the key ring.
pub struct NoiseServer<T, R, C, X = &'static [u8]> {
    pub(super) crypto: C,
    pub(super) ring: R,
    pub(super) context: X,
    context_length: u16,
    pub(super) rekey_period: RekeyPeriod,
    table: PhantomData<fn() -> T>,
}

fn context_length(context: &[u8]) -> Result<u16, SettingsError> {
    u16::try_from(context.len()).map_err(|_| SettingsError::Context(context.len()))
}

impl<T, C: NoiseCrypto, X: AsRef<[u8]>> NoiseClient<T, C, X> {
    /// A client with this key and context. Pass an empty context if the service has none.
    ///
    /// # Errors
    /// [`SettingsError::Context`] if the context is longer than 65,535 bytes.
    pub fn new(key: Key, context: X, crypto: C) -> Result<Self, SettingsError> {
        let context_length = context_length(context.as_ref())?;
        Ok(Self {
            secret: NoiseSecret::derive(key, &crypto),
            crypto,
            context,
            context_length,
            rekey_period: RekeyPeriod::initial(),
            #[cfg(feature = "testing")]
            requests_begun: 0,
            table: PhantomData,
        })
    }

    /// The id of the key.
    #[must_use]
    pub const fn key_id(&self) -> KeyId {
        self.secret.id
    }

    /// Replaces keys after this many records instead of 2^20, for tests. Both sides must have the
    /// same number.
    #[cfg(feature = "testing")]
    #[must_use]
    pub const fn with_rekey_period(mut self, records: u64) -> Self {
        self.rekey_period = RekeyPeriod::of(records);
        self
    }

    /// Numbers requests from `number` + 1 on instead of from 1, for tests of a connection that runs
    /// out of request ids.
    #[cfg(feature = "testing")]
    #[must_use]
    pub const fn with_requests_begun(mut self, number: u32) -> Self {
        self.requests_begun = number;
        self
    }

    pub(super) fn context_length(&self) -> [u8; 2] {
        self.context_length.to_be_bytes()
    }

    /// The context.
    #[cfg(all(feature = "std", feature = "rustcrypto"))]
    pub(crate) const fn context(&self) -> &X {
        &self.context
    }
}

impl<T, R: Ring, C: NoiseCrypto, X: AsRef<[u8]>> NoiseServer<T, R, C, X> {
    /// A server with these keys and this context. Pass an empty context if the service has none.
    ///
    /// # Errors
    /// [`SettingsError::Context`] if the context is longer than 65,535 bytes.
    pub fn new(ring: R, context: X, crypto: C) -> Result<Self, SettingsError> {
        let context_length = context_length(context.as_ref())?;
        Ok(Self {
            ring,
            crypto,
            context,
            context_length,
            rekey_period: RekeyPeriod::initial(),
            table: PhantomData,
        })
    }

    /// Replaces keys after this many records instead of 2^20, for tests. Both sides must have the
    /// same number.
    #[cfg(feature = "testing")]
    #[must_use]
    pub const fn with_rekey_period(mut self, records: u64) -> Self {
        self.rekey_period = RekeyPeriod::of(records);
        self
    }

    /// The key ring, to add and to retire keys.
    pub const fn ring(&self) -> &R {
        &self.ring
    }

    pub(super) fn context_length(&self) -> [u8; 2] {
        self.context_length.to_be_bytes()
    }
}

impl<T, C, X> fmt::Debug for NoiseClient<T, C, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoiseClient({})", self.secret.id)
    }
}

impl<T, R, C, X> fmt::Debug for NoiseServer<T, R, C, X> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoiseServer(..)")
    }
}
