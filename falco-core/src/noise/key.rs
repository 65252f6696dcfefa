//! What the noise wire makes of a secret: the pre-shared key of the handshake and the id by which a
//! server finds it; one key for a client, a ring for a server.

use core::cell::RefCell;
use core::fmt;
use core::marker::PhantomData;

use rand_core::TryCryptoRng;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::layout::{CLEAR, KEY_ID, WIRE};
use super::record::RekeyPeriod;
use crate::crypto::NoiseCrypto;
use crate::key::Key;
use crate::message::KeyId;

/// A secret as the noise wire uses it. Wiped when dropped.
pub struct NoiseSecret {
    psk: Zeroizing<[u8; 32]>,
    id: KeyId,
}

#[cfg(feature = "rustcrypto")]
impl Key {
    /// The id by which a server on the noise wire finds the key among others, and by which one is
    /// retired. It can be shown and stored: it says nothing of the secret.
    ///
    /// ```
    /// let key = falco_core::Key::from_bytes([7; 32])?;
    /// assert_eq!(key.id().to_string().len(), 16);
    /// # Ok::<(), falco_core::KeyError>(())
    /// ```
    #[must_use]
    pub fn id(&self) -> KeyId {
        NoiseSecret::id_of(self, &crate::crypto::RustCrypto)
    }
}

impl NoiseSecret {
    /// The id of `key`, which is not used up.
    pub fn id_of<C: NoiseCrypto>(key: &Key, crypto: &C) -> KeyId {
        let mac = crypto.hmac_sha256(key.secret(), &[b"FalcoTCP-noise/1 key id"]);
        let mut id = [0; KEY_ID];
        id.iter_mut().zip(mac).for_each(|(to, from)| *to = from);
        KeyId::from_bytes(id)
    }

    /// Derives the pre-shared key and the key id of `key`, which is used up: a secret belongs to
    /// one wire.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "the key is used up: its secret serves no other wire"
    )]
    pub fn derive<C: NoiseCrypto>(key: Key, crypto: &C) -> Self {
        let psk = Zeroizing::new(crypto.hmac_sha256(key.secret(), &[b"FalcoTCP-noise/1 psk"]));
        Self {
            psk,
            id: Self::id_of(&key, crypto),
        }
    }

    /// The key's id.
    #[must_use]
    pub const fn id(&self) -> KeyId {
        self.id
    }

    pub(super) fn psk(&self) -> &[u8; 32] {
        &self.psk
    }
}

impl ZeroizeOnDrop for NoiseSecret {}

impl fmt::Debug for NoiseSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NoiseSecret({})", self.id)
    }
}

/// The keys that a server takes, looked up by the id in a hello.
///
/// The methods take `&self`, so that connections may share one: [`KeyRing`] is one by itself, where
/// its keys stay as they are; inside a `RefCell`, where they change; and with the feature `std`
/// inside a `Mutex` or an `RwLock`, where threads share it.
pub trait Ring {
    /// Copies the pre-shared key of this id to `psk` and says that there is one; or copies a random
    /// one that nobody has, and says that there is none. Both take the same time but for the
    /// comparison of ids.
    fn select(&self, id: KeyId, psk: &mut [u8; 32]) -> bool;
}

/// Why a key was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RingError {
    /// All places of the storage are taken.
    Full,
    /// A key of this id is there: the same secret, or by a chance of 2^-64 another.
    Duplicate(KeyId),
    /// The random number generator failed.
    Entropy,
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("the key ring is full"),
            Self::Entropy => f.write_str("the random number generator failed"),
            Self::Duplicate(id) => write!(f, "the key ring has a key of id {id}"),
        }
    }
}

impl core::error::Error for RingError {}

/// Keys in use, over storage that the caller chooses, such as `[const { None }; 4]` or a
/// `Vec<Option<NoiseSecret>>`.
pub struct KeyRing<S> {
    places: S,
    /// What a hello of an unknown id is tried with.
    dummy: Zeroizing<[u8; 32]>,
}

impl<S: AsRef<[Option<NoiseSecret>]> + AsMut<[Option<NoiseSecret>]>> KeyRing<S> {
    /// A ring of the keys that are in `places`, and room for as many as there are places.
    ///
    /// # Errors
    /// [`RingError::Duplicate`] where two keys have one id, [`RingError::Entropy`] where the
    /// generator fails, which makes the key that nobody has.
    pub fn new<G: TryCryptoRng + ?Sized>(places: S, rng: &mut G) -> Result<Self, RingError> {
        let keys = || places.as_ref().iter().flatten();
        for (number, key) in keys().enumerate() {
            if keys().skip(number + 1).any(|other| other.id == key.id) {
                return Err(RingError::Duplicate(key.id));
            }
        }
        let mut dummy = Zeroizing::new([0; 32]);
        rng.try_fill_bytes(dummy.as_mut_slice())
            .map_err(|_| RingError::Entropy)?;
        Ok(Self { places, dummy })
    }

    /// Takes a key into service.
    ///
    /// # Errors
    /// [`RingError`]; then the ring is as it was.
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

    /// Takes a key out of service, and says whether it was in it. Hellos under it are refused from
    /// now on; its connections are the caller's to close, with
    /// [`CloseReason::KeyRetired`](crate::CloseReason::KeyRetired).
    pub fn retire(&mut self, id: KeyId) -> bool {
        let place = self
            .places
            .as_mut()
            .iter_mut()
            .find(|place| place.as_ref().is_some_and(|known| known.id == id));
        place.is_some_and(|place| place.take().is_some())
    }

    /// Whether a key of this id is in service.
    #[must_use]
    pub fn contains(&self, id: KeyId) -> bool {
        self.places.as_ref().iter().flatten().any(|known| known.id == id)
    }

    fn select(&self, id: KeyId, psk: &mut [u8; 32]) -> bool {
        // Every place is looked at, whichever it is: how long it takes says neither which it was
        // nor whether it was one.
        let (mut found, mut chosen) = (false, self.dummy.as_slice());
        for secret in self.places.as_ref().iter().flatten().filter(|secret| secret.id == id) {
            (found, chosen) = (true, secret.psk.as_slice());
        }
        psk.copy_from_slice(chosen);
        found
    }
}

#[cfg(feature = "alloc")]
impl KeyRing<alloc::vec::Vec<Option<NoiseSecret>>> {
    /// Takes a key into service, making room for it where there is none.
    ///
    /// # Errors
    /// [`RingError::Duplicate`]; then the ring is as it was.
    pub fn insert(&mut self, secret: NoiseSecret) -> Result<KeyId, RingError> {
        if !self.contains(secret.id) && self.places.iter().all(Option::is_some) {
            // A vector that grows by itself would leave the secrets where they were: they are
            // copied, and the old ones wiped.
            let mut places = alloc::vec::Vec::with_capacity(2 * self.places.len() + 4);
            places.extend(self.places.iter().map(|place| {
                place.as_ref().map(|known| NoiseSecret {
                    psk: Zeroizing::new(*known.psk),
                    id: known.id,
                })
            }));
            places.resize_with(2 * self.places.len() + 4, || None);
            self.places = places;
        }
        self.add(secret)
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

/// What the two handshake messages are bound to besides the key: the name of the protocol, the
/// clear part of the hello, the context.
pub(super) fn prologue<'p>(clear: &'p [u8; CLEAR], length: &'p [u8; 2], context: &'p [u8]) -> [&'p [u8]; 4] {
    [b"FalcoTCP-noise/1", clear, length, context]
}

/// The clear part of a hello under the key `id`.
pub(super) fn clear(id: KeyId) -> [u8; CLEAR] {
    let mut clear = [0; CLEAR];
    clear
        .iter_mut()
        .zip(WIRE.iter().chain(id.as_bytes()))
        .for_each(|(to, from)| *to = *from);
    clear
}

/// The context is too long: at most 65535 bytes fit its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContextTooLong {
    /// Bytes in it.
    pub length: usize,
}

impl fmt::Display for ContextTooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a context of {} bytes is over the limit of 65535 bytes", self.length)
    }
}

impl core::error::Error for ContextTooLong {}

/// A client's key on the noise wire, with the context of the service it calls. `T` is the table of
/// each connection's requests, `X` where the context lies.
pub struct NoiseClient<T, C, X = &'static [u8]> {
    pub(super) crypto: C,
    pub(super) secret: NoiseSecret,
    pub(super) context: X,
    context_length: u16,
    pub(super) rekey_period: RekeyPeriod,
    table: PhantomData<fn() -> T>,
}

/// A server's keys on the noise wire, with the context of the service it is. `T` is the table of
/// each connection's requests, `R` the ring.
pub struct NoiseServer<T, R, C, X = &'static [u8]> {
    pub(super) crypto: C,
    pub(super) ring: R,
    pub(super) context: X,
    context_length: u16,
    pub(super) rekey_period: RekeyPeriod,
    table: PhantomData<fn() -> T>,
}

fn context_length(context: &[u8]) -> Result<u16, ContextTooLong> {
    u16::try_from(context.len()).map_err(|_| ContextTooLong { length: context.len() })
}

impl<T, C: NoiseCrypto, X: AsRef<[u8]>> NoiseClient<T, C, X> {
    /// A client under `key`, in `context`: empty, if both owners set none.
    ///
    /// # Errors
    /// [`ContextTooLong`].
    pub fn new(key: Key, context: X, crypto: C) -> Result<Self, ContextTooLong> {
        let context_length = context_length(context.as_ref())?;
        Ok(Self {
            secret: NoiseSecret::derive(key, &crypto),
            crypto,
            context,
            context_length,
            rekey_period: RekeyPeriod::WIRE,
            table: PhantomData,
        })
    }

    /// The id of the key.
    #[must_use]
    pub const fn key_id(&self) -> KeyId {
        self.secret.id
    }

    /// Replaces keys after this many records instead of 2^20, so that a test sees it happen. No
    /// other peer does.
    #[cfg(feature = "testing")]
    #[must_use]
    pub const fn with_rekey_period(mut self, records: u64) -> Self {
        self.rekey_period = RekeyPeriod::of(records);
        self
    }

    pub(super) fn context_length(&self) -> [u8; 2] {
        self.context_length.to_be_bytes()
    }
}

impl<T, R: Ring, C: NoiseCrypto, X: AsRef<[u8]>> NoiseServer<T, R, C, X> {
    /// A server of the keys in `ring`, in `context`: empty, if both owners set none.
    ///
    /// # Errors
    /// [`ContextTooLong`].
    pub fn new(ring: R, context: X, crypto: C) -> Result<Self, ContextTooLong> {
        let context_length = context_length(context.as_ref())?;
        Ok(Self {
            ring,
            crypto,
            context,
            context_length,
            rekey_period: RekeyPeriod::WIRE,
            table: PhantomData,
        })
    }

    /// Replaces keys after this many records instead of 2^20, so that a test sees it happen. No
    /// other peer does.
    #[cfg(feature = "testing")]
    #[must_use]
    pub const fn with_rekey_period(mut self, records: u64) -> Self {
        self.rekey_period = RekeyPeriod::of(records);
        self
    }

    /// The ring, to add keys and to retire them.
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
