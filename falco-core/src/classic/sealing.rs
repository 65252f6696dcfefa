//! The classic key, the nonces of a connection, sealing and opening.

use core::fmt;

use rand_core::TryCryptoRng;

#[cfg(feature = "rustcrypto")]
use crate::RustCrypto;
use crate::crypto::{Aead, Crypto, NONCE_LENGTH, Nonce, TAG_LENGTH};
use crate::error::{ConnectionError, EntropyError};
use crate::key::Key;
use crate::replay_cache::ReplayCache;

macro_rules! classic_key {
    ($($crypto:tt)*) => {
        /// A key of the classic wire, expanded once, with its replay cache. All connections under
        /// the key share it, by a reference, an `Rc` or an `Arc`.
        ///
        /// Its constructors take the [`Key`] by value, so that one key has one replay cache.
        pub struct ClassicKey<L, $($crypto)*> {
            aead: C::Aead,
            replay_cache: L,
        }
    };
}

// `C` has a default only with the feature `rustcrypto`.
#[cfg(feature = "rustcrypto")]
classic_key!(C: Crypto = RustCrypto);
#[cfg(not(feature = "rustcrypto"))]
classic_key!(C: Crypto);

#[cfg(feature = "rustcrypto")]
impl<L: ReplayCache> ClassicKey<L> {
    /// Expands `key` with [`RustCrypto`].
    #[must_use]
    pub fn new(key: Key, replay_cache: L) -> Self {
        Self::with_crypto(key, replay_cache, &RustCrypto)
    }
}

impl<L: ReplayCache, C: Crypto> ClassicKey<L, C> {
    /// Expands `key` with `crypto`.
    #[must_use]
    #[expect(
        clippy::needless_pass_by_value,
        reason = "it consumes the key, so that one key has one replay cache"
    )]
    pub fn with_crypto(key: Key, replay_cache: L, crypto: &C) -> Self {
        Self {
            aead: crypto.aead(key.secret()),
            replay_cache,
        }
    }

    /// The replay cache.
    pub const fn replay_cache(&self) -> &L {
        &self.replay_cache
    }

    /// Seals `body` into `sealed`, whose length is exactly that of nonce, text and tag.
    pub(super) fn seal(&self, nonces: &mut Nonces, body: &[u8], sealed: &mut [u8]) -> Result<(), ConnectionError> {
        // A slice of another length would be a bug in this crate. Nothing is sealed then.
        let (nonce, rest) = sealed
            .split_first_chunk_mut::<NONCE_LENGTH>()
            .ok_or(ConnectionError::KeyExhausted)?;
        let fresh = nonces.peek();
        self.replay_cache
            .check_seal(&fresh)
            .map_err(|_| ConnectionError::KeyExhausted)?;
        nonces.advance();
        *nonce = fresh;
        self.aead
            .seal_with_tag(&fresh, &[], rest, body)
            .map_err(|_| ConnectionError::KeyExhausted)
    }

    /// Opens `sealed` (nonce, text, tag) in place, checks it for replay and reflection, and returns
    /// the text.
    pub(super) fn open<'s>(&self, own: &Nonces, sealed: &'s mut [u8]) -> Result<&'s [u8], OpenError> {
        let (nonce, rest) = sealed
            .split_first_chunk_mut::<NONCE_LENGTH>()
            .ok_or(OpenError::Inauthentic)?;
        let (text, tag) = rest
            .split_last_chunk_mut::<TAG_LENGTH>()
            .ok_or(OpenError::Inauthentic)?;
        self.aead
            .open(nonce, &[], text, tag)
            .map_err(|_| OpenError::Inauthentic)?;
        // Only nonces of authentic texts enter the replay cache. Forged texts could otherwise evict
        // them.
        if own.has_used(nonce) {
            return Err(OpenError::Seen);
        }
        self.replay_cache.check_open(nonce).map_err(|_| OpenError::Seen)?;
        Ok(text)
    }
}

impl<L, C: Crypto> fmt::Debug for ClassicKey<L, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClassicKey(..)")
    }
}

/// Why a sealed text was rejected.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum OpenError {
    Inauthentic,
    /// A replay or a reflection.
    Seen,
}

/// The nonces of one connection: 12 random bytes, plus 1 for each seal (NIST SP 800-38D, section
/// 8.2.2).
#[derive(Debug)]
pub(super) struct Nonces {
    first: Nonce,
    used: u64,
}

impl Nonces {
    pub(super) fn draw<R: TryCryptoRng + ?Sized>(rng: &mut R) -> Result<Self, EntropyError> {
        let mut first = [0; NONCE_LENGTH];
        rng.try_fill_bytes(&mut first).map_err(|_| EntropyError::new())?;
        Ok(Self { first, used: 0 })
    }

    fn peek(&self) -> Nonce {
        let number = as_number(&self.first).wrapping_add(u128::from(self.used));
        let [_, _, _, _, nonce @ ..] = number.to_be_bytes();
        nonce
    }

    fn advance(&mut self) {
        // It does not overflow: a key refuses after 2^32 seals.
        self.used = self.used.saturating_add(1);
    }

    /// Whether this connection has sealed with `nonce`.
    fn has_used(&self, nonce: &Nonce) -> bool {
        const MASK: u128 = (1 << 96) - 1;
        as_number(nonce).wrapping_sub(as_number(&self.first)) & MASK < u128::from(self.used)
    }
}

fn as_number(nonce: &Nonce) -> u128 {
    nonce.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}
