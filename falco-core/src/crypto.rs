//! The seam to cryptography: what the wires need of it, and nothing about how it is done.

#[cfg(feature = "rustcrypto")]
mod gcm;
#[cfg(feature = "rustcrypto")]
mod rustcrypto;

use core::fmt;

/// Bytes in a nonce of AES-256-GCM.
pub const NONCE_LENGTH: usize = 12;
/// Bytes in a tag of AES-256-GCM.
pub const TAG_LENGTH: usize = 16;

/// A nonce of AES-256-GCM.
pub type Nonce = [u8; NONCE_LENGTH];
/// A tag of AES-256-GCM.
pub type Tag = [u8; TAG_LENGTH];

/// A choice of cryptography. Dispatch is static: a machine is generic over it through its key.
///
/// It is a value, so that one that drives a hardware engine can hold what it needs for that.
pub trait Crypto {
    /// AES-256-GCM with one key, expanded once.
    type Aead: Aead;

    /// Expands `key`.
    fn aead(&self, key: &[u8; 32]) -> Self::Aead;
}

/// What the noise wire needs besides the AEAD. What is secret among the results is the caller's to
/// wipe.
#[cfg(feature = "noise")]
pub trait NoiseCrypto: Crypto {
    /// The X25519 public key of `private`.
    fn x25519_public(&self, private: &[u8; 32]) -> [u8; 32];

    /// The X25519 shared secret of `private` and `public`. All zeros for a public key of low order;
    /// the wire refuses that.
    fn x25519(&self, private: &[u8; 32], public: &[u8; 32]) -> [u8; 32];

    /// SHA-256 of `parts`, end to end.
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32];

    /// HMAC-SHA256 of `parts`, end to end, under `key`.
    fn hmac_sha256(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32];
}

/// AES-256-GCM under one key: 12-byte nonces, 16-byte tags kept apart from the text.
///
/// An implementation wipes its key schedule when dropped.
pub trait Aead {
    /// Seals one text that lies in two places, as one, and returns its tag.
    ///
    /// The last `body.len()` bytes of `out` receive `body` encrypted; the bytes of `out` before
    /// them already hold the plaintext that stands before `body`, and are encrypted where they lie.
    /// So a body goes to the output in one pass, uncopied.
    ///
    /// # Errors
    /// [`AeadError`] where `body` is longer than `out`, or the text longer than the algorithm
    /// allows.
    fn seal(&self, nonce: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<Tag, AeadError>;

    /// Checks `tag`, then decrypts `text` where it lies.
    ///
    /// # Errors
    /// [`AeadError`] where the tag is not that of `text`; then `text` is left as it was.
    fn open(&self, nonce: &Nonce, associated: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), AeadError>;
}

/// The AEAD refused. It says no more, because more would be an oracle.
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

/// Cryptography in Rust, by the RustCrypto project: portable, without an allocator, with AES
/// instructions where the processor has them. The default. It implements [`Crypto`] with the
/// feature `rustcrypto`.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "callers write it as a value")]
pub struct RustCrypto;
