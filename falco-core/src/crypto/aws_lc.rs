//! [`AwsLc`]: the traits, implemented by the crate aws-lc-rs.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as AwsNonce, UnboundKey};
use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::{digest, hmac};

use super::provider::AwsLc;
use super::{Aead, AeadError, Crypto, Nonce, TAG_LENGTH, Tag};

/// A key, expanded, on the heap of AWS-LC, which wipes what it frees.
#[allow(
    unnameable_types,
    reason = "it is `<AwsLc as Crypto>::Aead`, and nothing but its trait is of use"
)]
#[allow(missing_debug_implementations, reason = "it is a secret")]
pub struct AwsLcAead(LessSafeKey);

impl Crypto for AwsLc {
    type Aead = AwsLcAead;

    #[allow(clippy::expect_used, reason = "only a key of another length is refused")]
    fn aead(&self, key: &[u8; 32]) -> AwsLcAead {
        let key = UnboundKey::new(&AES_256_GCM, key).expect("the key has 32 bytes");
        AwsLcAead(LessSafeKey::new(key))
    }
}

fn nonce(nonce: &Nonce) -> AwsNonce {
    AwsNonce::assume_unique_for_key(*nonce)
}

impl Aead for AwsLcAead {
    fn seal(&self, by: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<Tag, AeadError> {
        let prefix = out.len().checked_sub(body.len()).ok_or(AeadError)?;
        // The tag has no place behind the body, so the text has to be in one place.
        out.get_mut(prefix..).ok_or(AeadError)?.copy_from_slice(body);
        let sealed = self.0.seal_in_place_separate_tag(nonce(by), Aad::from(associated), out);
        let tag = sealed.map_err(|_| AeadError)?;
        tag.as_ref().try_into().map_err(|_| AeadError)
    }

    fn seal_with_tag(&self, by: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<(), AeadError> {
        let behind = out.len().checked_sub(body.len() + TAG_LENGTH).ok_or(AeadError)?;
        let (prefix, rest) = out.split_at_mut_checked(behind).ok_or(AeadError)?;
        let key = &self.0;
        key.seal_in_place_scatter(nonce(by), Aad::from(associated), prefix, body, rest)
            .map_err(|_| AeadError)
    }

    fn open(&self, by: &Nonce, associated: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), AeadError> {
        let key = &self.0;
        let opened = key.open_in_place_separate_tag(nonce(by), Aad::from(associated), tag, text);
        opened.map(drop).map_err(|_| AeadError)
    }
}

/// A private key with its public key, which AWS-LC computes with every private key that it makes.
/// It is on the heap of AWS-LC.
#[cfg(feature = "noise")]
#[allow(
    unnameable_types,
    reason = "it is `<AwsLc as NoiseCrypto>::PrivateKey`, and nothing but its trait is of use"
)]
#[allow(missing_debug_implementations, reason = "it is a secret")]
pub struct AwsLcPrivateKey(PrivateKey);

#[cfg(feature = "noise")]
impl super::NoiseCrypto for AwsLc {
    type PrivateKey = AwsLcPrivateKey;

    #[allow(clippy::expect_used, reason = "every 32 bytes are a private key of X25519")]
    fn private_key(&self, bytes: &[u8; 32]) -> AwsLcPrivateKey {
        AwsLcPrivateKey(PrivateKey::from_private_key(&X25519, bytes).expect("32 bytes are a private key"))
    }

    #[allow(
        clippy::expect_used,
        reason = "every private key of X25519 has a public key of 32 bytes"
    )]
    fn x25519_public(&self, AwsLcPrivateKey(private): &AwsLcPrivateKey) -> [u8; 32] {
        let public = private.compute_public_key().expect("a private key has a public key");
        public.as_ref().try_into().expect("a public key has 32 bytes")
    }

    fn x25519(&self, AwsLcPrivateKey(private): &AwsLcPrivateKey, public: &[u8; 32]) -> [u8; 32] {
        // AWS-LC refuses public keys of low order, for which the shared secret is zero.
        let shared = agree(private, UnparsedPublicKey::new(&X25519, public), (), |shared| {
            shared.try_into().map_err(|_| ())
        });
        shared.unwrap_or_default()
    }

    #[allow(clippy::expect_used, reason = "SHA-256 has 32 bytes")]
    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in parts {
            hash.update(part);
        }
        hash.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }

    #[allow(clippy::expect_used, reason = "SHA-256 has 32 bytes")]
    fn hmac_sha256(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
        for part in parts {
            mac.update(part);
        }
        mac.sign().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}
