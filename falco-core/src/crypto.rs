//! The cryptography that the wires need, as traits. [`RustCrypto`](crate::RustCrypto) implements
//! them.

#[cfg(all(feature = "rustcrypto", feature = "aes-gcm"))]
mod aes_gcm;
#[cfg(feature = "aws-lc-rs")]
mod aws_lc;
#[cfg(all(feature = "rustcrypto", not(feature = "aes-gcm")))]
mod gcm;
pub(crate) mod provider;
#[cfg(feature = "rustcrypto")]
mod rustcrypto;

use core::fmt;

/// Bytes in a nonce of AES-256-GCM.
pub(crate) const NONCE_LENGTH: usize = 12;
/// Bytes in a tag of AES-256-GCM.
pub(crate) const TAG_LENGTH: usize = 16;

/// A nonce of AES-256-GCM.
pub type Nonce = [u8; NONCE_LENGTH];
/// A tag of AES-256-GCM.
pub type Tag = [u8; TAG_LENGTH];

/// A provider of cryptography. Dispatch is static: a connection is generic over it through its key.
///
/// It is a value, so that the provider of a hardware engine can hold a handle to it.
pub trait Crypto {
    /// AES-256-GCM with one expanded key.
    type Aead: Aead;

    /// Expands `key`.
    fn aead(&self, key: &[u8; 32]) -> Self::Aead;
}

/// What the noise wire needs besides the AEAD. The caller wipes the results that are secret.
#[cfg(feature = "noise")]
pub trait NoiseCrypto: Crypto {
    /// A private key of X25519, in the form with which the provider computes. It is wiped when
    /// dropped.
    type PrivateKey;

    /// The private key of 32 random bytes. A handshake calls this once, and then the two methods
    /// below with its result.
    fn private_key(&self, bytes: &[u8; 32]) -> Self::PrivateKey;

    /// The X25519 public key of `private`.
    fn x25519_public(&self, private: &Self::PrivateKey) -> [u8; 32];

    /// The X25519 shared secret of `private` and `public`. For a public key of low order it is
    /// zero, which the wire refuses.
    fn x25519(&self, private: &Self::PrivateKey, public: &[u8; 32]) -> [u8; 32];

    /// SHA-256 of the concatenated `parts`.
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32];

    /// HMAC-SHA256 of the concatenated `parts`, under `key`.
    fn hmac_sha256(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32];
}

/// AES-256-GCM with one key, 12-byte nonces and detached 16-byte tags.
///
/// An implementation wipes its key schedule when dropped, and its keystream after each text.
pub trait Aead {
    /// Seals one text from two places, and returns its tag.
    ///
    /// The text is a prefix, which the front of `out` contains, and then `body`. The prefix is
    /// encrypted in place. The last `body.len()` bytes of `out` receive the encrypted body, so the
    /// caller need not copy the body to `out` first.
    ///
    /// # Errors
    /// [`AeadError`] if `body` is longer than `out`, or the text longer than the algorithm allows.
    fn seal(&self, nonce: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<Tag, AeadError>;

    /// As [`seal`](Self::seal), with the tag after the text: the last 16 bytes of `out` receive it.
    /// An implementation that writes both at once overrides this.
    ///
    /// # Errors
    /// As [`seal`](Self::seal).
    #[inline]
    fn seal_with_tag(&self, nonce: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<(), AeadError> {
        let (out, tag) = out.split_last_chunk_mut::<TAG_LENGTH>().ok_or(AeadError)?;
        *tag = self.seal(nonce, associated, out, body)?;
        Ok(())
    }

    /// Checks `tag`, then decrypts `text` in place.
    ///
    /// # Errors
    /// [`AeadError`] if the tag is wrong. `text` may have changed then, and must not be used.
    fn open(&self, nonce: &Nonce, associated: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), AeadError>;
}

/// The AEAD refused a text. It has no details, because they would help an attacker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AeadError;

impl AeadError {
    /// For implementations of [`Aead`].
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Default for AeadError {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for AeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the AEAD refused")
    }
}

impl core::error::Error for AeadError {}
