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

#[cfg(feature = "noise")]
impl super::NoiseCrypto for RustCrypto {
    fn x25519_public(&self, private: &[u8; 32]) -> [u8; 32] {
        if cfg!(target_os = "none") {
            // The ladder is there anyway. What is quicker elsewhere costs 4 KiB of flash and 2 KiB of stack more.
            return x25519_dalek::x25519(*private, x25519_dalek::X25519_BASEPOINT_BYTES);
        }
        let private = x25519_dalek::StaticSecret::from(*private);
        x25519_dalek::PublicKey::from(&private).to_bytes()
    }

    fn x25519(&self, private: &[u8; 32], public: &[u8; 32]) -> [u8; 32] {
        let private = x25519_dalek::StaticSecret::from(*private);
        private
            .diffie_hellman(&x25519_dalek::PublicKey::from(*public))
            .to_bytes()
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        use sha2::Digest;
        let mut hash = sha2::Sha256::new();
        for part in parts {
            hash.update(part);
        }
        hash.finalize().into()
    }

    fn hmac_sha256(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        use hmac::{KeyInit, Mac};
        // A block of the hash, padded with zeros, is what HMAC makes of any shorter key.
        let mut block = zeroize::Zeroizing::new([0; 64]);
        block.split_at_mut(32).0.copy_from_slice(key);
        let mut mac = hmac::Hmac::<sha2::Sha256>::new((&*block).into());
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

impl Aead for Aes256Gcm {
    fn seal(&self, nonce: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<Tag, AeadError> {
        let prefix = out.len().checked_sub(body.len()).ok_or(AeadError)?;
        let text = if prefix == 0 {
            InOutBuf::new(body, out).map_err(|_| AeadError)?
        } else {
            // The crate takes one piece, so a body behind a prefix is copied up to it first: about 3 % of the sealing. Going over the two pieces with the
            // cipher and the hash by hand was measured too, and is no faster.
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
