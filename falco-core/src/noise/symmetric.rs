//! The symmetric state of a Noise handshake (Noise specification, revision 34, section 5.2), for
//! SHA-256 and AES-256-GCM.

use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::crypto::{Aead, NONCE_LENGTH, NoiseCrypto, TAG_LENGTH};

/// The name of the handshake. It has the length of a hash, so it is itself the initial hash and
/// chaining key, as section 5.2 prescribes.
const PROTOCOL: &[u8; 32] = b"Noise_NNpsk0_25519_AESGCM_SHA256";

/// A message did not authenticate, or the shared secret was zero.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HandshakeFailed;

/// A key that encrypts one payload of the handshake, with nonce 0.
pub(super) type OneTimeKey = Zeroizing<[u8; 32]>;

/// Chaining key and hash. It keeps no cipher key: no key of this handshake encrypts twice.
pub(super) struct SymmetricState {
    chaining_key: [u8; 32],
    hash: [u8; 32],
}

impl SymmetricState {
    pub(super) fn new<C: NoiseCrypto>(crypto: &C, prologue: [&[u8]; 4]) -> Self {
        let [a, b, c, d] = prologue;
        Self {
            chaining_key: *PROTOCOL,
            hash: crypto.sha256(&[PROTOCOL, a, b, c, d]),
        }
    }

    /// The handshake hash, the same on both sides and different for each handshake.
    pub(super) const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    pub(super) fn mix_hash<C: NoiseCrypto>(&mut self, crypto: &C, data: &[u8]) {
        self.hash = crypto.sha256(&[&self.hash, data]);
    }

    pub(super) fn mix_key<C: NoiseCrypto>(&mut self, crypto: &C, input: &[u8; 32]) -> OneTimeKey {
        let (chaining_key, key) = self.hkdf(crypto, &[input]);
        self.chaining_key = *chaining_key;
        key
    }

    /// `MixKey` of Noise without its second output, the cipher key. Use it if another `MixKey`
    /// follows before anything is encrypted.
    pub(super) fn mix_chaining_key<C: NoiseCrypto>(&mut self, crypto: &C, input: &[u8; 32]) {
        let temporary = Zeroizing::new(crypto.hmac_sha256(&self.chaining_key, &[input]));
        self.chaining_key = crypto.hmac_sha256(&temporary, &[&[1]]);
    }

    pub(super) fn mix_key_and_hash<C: NoiseCrypto>(&mut self, crypto: &C, input: &[u8; 32]) {
        let temporary = Zeroizing::new(crypto.hmac_sha256(&self.chaining_key, &[input]));
        let first = Zeroizing::new(crypto.hmac_sha256(&temporary, &[&[1]]));
        let second = Zeroizing::new(crypto.hmac_sha256(&temporary, &[&*first, &[2]]));
        // This handshake never uses the third output, a cipher key.
        self.chaining_key = *first;
        self.mix_hash(crypto, &*second);
    }

    /// The two transport keys: the initiator's, the responder's.
    pub(super) fn split<C: NoiseCrypto>(&self, crypto: &C) -> (OneTimeKey, OneTimeKey) {
        self.hkdf(crypto, &[])
    }

    /// Encrypts `payload` into `out`, which is 16 bytes longer, and mixes the result in.
    pub(super) fn encrypt_and_hash<C: NoiseCrypto>(
        &mut self,
        crypto: &C,
        key: &OneTimeKey,
        payload: &[u8],
        out: &mut [u8],
    ) -> Result<(), HandshakeFailed> {
        let (text, tag) = out.split_last_chunk_mut::<TAG_LENGTH>().ok_or(HandshakeFailed)?;
        let sealed = crypto.aead(key).seal(&[0; NONCE_LENGTH], &self.hash, text, payload);
        *tag = sealed.map_err(|_| HandshakeFailed)?;
        self.mix_hash(crypto, out);
        Ok(())
    }

    /// Mixes `sealed` in, decrypts it in place and returns the payload.
    pub(super) fn decrypt_and_hash<'s, C: NoiseCrypto>(
        &mut self,
        crypto: &C,
        key: &OneTimeKey,
        sealed: &'s mut [u8],
    ) -> Result<&'s [u8], HandshakeFailed> {
        let next = crypto.sha256(&[&self.hash, sealed]);
        let (text, tag) = sealed.split_last_chunk_mut::<TAG_LENGTH>().ok_or(HandshakeFailed)?;
        let opened = crypto.aead(key).open(&[0; NONCE_LENGTH], &self.hash, text, tag);
        opened.map_err(|_| HandshakeFailed)?;
        self.hash = next;
        Ok(text)
    }

    /// HKDF with two outputs (section 4.3).
    fn hkdf<C: NoiseCrypto>(&self, crypto: &C, input: &[&[u8]]) -> (OneTimeKey, OneTimeKey) {
        let temporary = Zeroizing::new(crypto.hmac_sha256(&self.chaining_key, input));
        let first = Zeroizing::new(crypto.hmac_sha256(&temporary, &[&[1]]));
        let second = Zeroizing::new(crypto.hmac_sha256(&temporary, &[&*first, &[2]]));
        (first, second)
    }
}

impl Zeroize for SymmetricState {
    fn zeroize(&mut self) {
        self.chaining_key.zeroize();
        self.hash.zeroize();
    }
}

impl Drop for SymmetricState {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl ZeroizeOnDrop for SymmetricState {}
