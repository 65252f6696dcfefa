//! AES-256-GCM of the crate aes-gcm, an alternative to the implementation in this crate. It is
//! slower for short texts; docs/speed.md has figures.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, KeyInit};
use zeroize::ZeroizeOnDrop;

use super::{Aead, AeadError, Nonce, Tag};

/// Bytes of stack that aes-gcm uses at most.
const STACK: usize = if cfg!(debug_assertions) { 8192 } else { 1024 };

/// A key, expanded. Its parts are wiped when dropped.
#[allow(
    unnameable_types,
    reason = "it is `<RustCrypto as Crypto>::Aead`, and nothing but its trait is of use"
)]
#[allow(missing_debug_implementations, reason = "it is a secret")]
pub struct Aes256Gcm(aes_gcm::Aes256Gcm);

impl ZeroizeOnDrop for Aes256Gcm {}

impl Aes256Gcm {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(aes_gcm::Aes256Gcm::new(key.into()))
    }

    #[inline(never)]
    fn encrypt(&self, nonce: &Nonce, associated: &[u8], text: &mut [u8]) -> Result<Tag, AeadError> {
        let sealed = self
            .0
            .encrypt_inout_detached(nonce.into(), associated, InOutBuf::from(text));
        sealed.map(Into::into).map_err(|_| AeadError)
    }

    #[inline(never)]
    fn decrypt(&self, nonce: &Nonce, associated: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), AeadError> {
        let opened = self
            .0
            .decrypt_inout_detached(nonce.into(), associated, InOutBuf::from(text), tag.into());
        opened.map_err(|_| AeadError)
    }
}

// aes-gcm leaves the keystream on the stack.
impl Aead for Aes256Gcm {
    fn seal(&self, nonce: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<Tag, AeadError> {
        let prefix = out.len().checked_sub(body.len()).ok_or(AeadError)?;
        // aes-gcm requires the whole text in one place.
        out.get_mut(prefix..).ok_or(AeadError)?.copy_from_slice(body);
        let sealed = self.encrypt(nonce, associated, out);
        zeroize::zeroize_stack::<STACK>();
        sealed
    }

    fn open(&self, nonce: &Nonce, associated: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), AeadError> {
        let opened = self.decrypt(nonce, associated, text, tag);
        zeroize::zeroize_stack::<STACK>();
        opened
    }
}
