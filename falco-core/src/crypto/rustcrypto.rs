//! [`RustCrypto`]: the traits, implemented by crates of the RustCrypto project.

use super::Crypto;
#[cfg(feature = "aes-gcm")]
use super::aes_gcm::Aes256Gcm;
#[cfg(not(feature = "aes-gcm"))]
use super::gcm::Aes256Gcm;
use super::provider::RustCrypto;

impl Crypto for RustCrypto {
    type Aead = Aes256Gcm;

    fn aead(&self, key: &[u8; 32]) -> Aes256Gcm {
        Aes256Gcm::new(key)
    }
}

#[cfg(feature = "noise")]
impl super::NoiseCrypto for RustCrypto {
    type PrivateKey = zeroize::Zeroizing<[u8; 32]>;

    fn private_key(&self, bytes: &[u8; 32]) -> Self::PrivateKey {
        zeroize::Zeroizing::new(*bytes)
    }

    fn x25519_public(&self, private: &Self::PrivateKey) -> [u8; 32] {
        if cfg!(target_os = "none") {
            // The Montgomery ladder is linked in any case. The faster way would cost another 4 KiB
            // of flash and 2 KiB of stack.
            return x25519_dalek::x25519(**private, x25519_dalek::X25519_BASEPOINT_BYTES);
        }
        let private = x25519_dalek::StaticSecret::from(**private);
        x25519_dalek::PublicKey::from(&private).to_bytes()
    }

    fn x25519(&self, private: &Self::PrivateKey, public: &[u8; 32]) -> [u8; 32] {
        let private = x25519_dalek::StaticSecret::from(**private);
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
        // HMAC pads a shorter key with zeros to a block of the hash.
        let mut block = zeroize::Zeroizing::new([0; 64]);
        block.split_at_mut(32).0.copy_from_slice(key);
        let mut mac = hmac::Hmac::<sha2::Sha256>::new((&*block).into());
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}
