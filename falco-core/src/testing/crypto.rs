//! Cryptography without security, so that a fuzzer can produce valid tags.

use crate::crypto::{Aead, AeadError, Crypto, NoiseCrypto, Nonce, Tag};

/// Does not encrypt. A tag is a checksum of one byte, repeated to sixteen. It detects most changes,
/// and everybody can compute it.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "callers use it as a value")]
pub struct NoSecurity;

/// The AEAD of [`NoSecurity`].
#[derive(Clone, Copy, Debug)]
pub struct NoSecurityAead {
    key: u8,
}

impl NoSecurityAead {
    /// The tag of `text` under `nonce`.
    #[must_use]
    pub fn tag(self, nonce: &Nonce, associated: &[u8], text: &[u8]) -> Tag {
        let all = nonce.iter().chain(associated).chain(text);
        [all.fold(self.key, |sum, byte| sum.rotate_left(1) ^ byte); 16]
    }
}

impl Crypto for NoSecurity {
    type Aead = NoSecurityAead;

    fn aead(&self, key: &[u8; 32]) -> NoSecurityAead {
        NoSecurityAead {
            key: key
                .iter()
                .fold(1_u8, |sum, byte| (sum ^ byte).wrapping_mul(31).rotate_left(3)),
        }
    }
}

impl Aead for NoSecurityAead {
    fn seal(&self, nonce: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<Tag, AeadError> {
        let prefix = out.len().checked_sub(body.len()).ok_or(AeadError::new())?;
        out.split_at_mut(prefix).1.copy_from_slice(body);
        Ok(self.tag(nonce, associated, out))
    }

    fn open(&self, nonce: &Nonce, associated: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), AeadError> {
        if self.tag(nonce, associated, text) == *tag {
            Ok(())
        } else {
            Err(AeadError::new())
        }
    }
}

/// Both sides compute the same shared secret, and it is not zero. These functions have no other
/// property of a Diffie-Hellman function or a hash.
impl NoiseCrypto for NoSecurity {
    type PrivateKey = [u8; 32];

    fn private_key(&self, bytes: &[u8; 32]) -> [u8; 32] {
        *bytes
    }

    fn x25519_public(&self, private: &[u8; 32]) -> [u8; 32] {
        private.map(|byte| byte.rotate_left(3) ^ 0xA5)
    }

    fn x25519(&self, private: &[u8; 32], public: &[u8; 32]) -> [u8; 32] {
        let mut shared = self.x25519_public(private);
        shared.iter_mut().zip(public).for_each(|(to, from)| *to ^= from);
        // Not zero, whatever the two public keys are.
        if let Some(last) = shared.last_mut() {
            *last |= 1;
        }
        shared
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        toy_hash(parts.iter().copied().flatten())
    }

    fn hmac_sha256(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        toy_hash(key.iter().chain(parts.iter().copied().flatten()).chain(key))
    }
}

/// A checksum (FNV-1a), extended to the length of a hash.
fn toy_hash<'b>(bytes: impl Iterator<Item = &'b u8>) -> [u8; 32] {
    const PRIME: u64 = 0x0100_0000_01B3;
    let mut sum = bytes.fold(0xCBF2_9CE4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(PRIME)
    });
    [0; 32].map(|_: u8| {
        sum = (sum ^ (sum >> 29)).wrapping_mul(PRIME).wrapping_add(1);
        let [first, ..] = sum.to_be_bytes();
        first
    })
}
