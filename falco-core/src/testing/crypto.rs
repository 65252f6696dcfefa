//! Cryptography that is none, so that a fuzzer gets past the tag.

use crate::crypto::{Aead, AeadError, Crypto, Nonce, Tag};

/// Leaves texts as they are. Its tags are sixteen bytes of one checksum: whoever knows that can forge them, a mistake cannot.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "callers write it as a value")]
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
