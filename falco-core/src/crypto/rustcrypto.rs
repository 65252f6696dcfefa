//! [`RustCrypto`]: the seam over the crate aes-gcm.

use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};

use super::{Aead, AeadError, Crypto, Nonce, RustCrypto, Tag};

impl Crypto for RustCrypto {
    type Aead = Aes256Gcm;

    fn aead(&self, key: &[u8; 32]) -> Aes256Gcm {
        Aes256Gcm::new(key.into())
    }
}

impl Aead for Aes256Gcm {
    fn seal(&self, nonce: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<Tag, AeadError> {
        let prefix = out.len().checked_sub(body.len()).ok_or(AeadError)?;
        let text = if prefix == 0 {
            InOutBuf::new(body, out).map_err(|_| AeadError)?
        } else {
            // The crate takes one piece: a body behind a prefix is copied up to it first.
            let (_, rest) = out.split_at_mut(prefix);
            rest.copy_from_slice(body);
            InOutBuf::from(out)
        };
        let tag = self
            .encrypt_inout_detached(nonce.into(), associated, text)
            .map_err(|_| AeadError)?;
        Ok(tag.into())
    }

    fn open(&self, nonce: &Nonce, associated: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), AeadError> {
        self.decrypt_inout_detached(nonce.into(), associated, text.into(), tag.into())
            .map_err(|_| AeadError)
    }
}
