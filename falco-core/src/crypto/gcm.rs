//! AES-256-GCM (NIST SP 800-38D), put together from the block cipher of the crate aes, the counter
//! mode of ctr and the hash of ghash as the crate aes-gcm does it.
//!
//! Two things are done otherwise, for their cost. A text in two places becomes one without being
//! copied. A short text takes the cipher once, for its tag and all of its blocks, and the hash in
//! groups as it takes them.

use aes::cipher::{BlockCipherEncrypt, InOutBuf, InnerIvInit, KeyInit, StreamCipherCore};
use aes::{Aes256Enc, Block};
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Aead, AeadError, Nonce, Tag};

const BLOCK: usize = 16;
/// Blocks in the first batch: AES of the counters from 1 on. The first one masks the tag, the
/// others are keystream.
const BATCH: usize = 8;
/// Bytes of text for which the first batch is enough.
const FIRST: usize = (BATCH - 1) * BLOCK;
/// Bytes in the longest text: the counters from 2 on are a block each.
const MAX: u64 = (1 << 36) - 32;

type Ctr<'c> = ctr::CtrCore<&'c Aes256Enc, ctr::flavors::Ctr32BE>;

/// One key, expanded. Its parts wipe themselves.
#[allow(
    unnameable_types,
    reason = "it is `<RustCrypto as Crypto>::Aead`, and nothing but its trait is of use"
)]
#[allow(missing_debug_implementations, reason = "it is a secret")]
pub struct Aes256Gcm {
    cipher: Aes256Enc,
    /// With nothing hashed yet.
    hash: GHash,
}

impl ZeroizeOnDrop for Aes256Gcm {}

#[allow(
    clippy::inline_always,
    reason = "what is known of the lengths where a text is sealed takes a tenth off a short one; where flash is short, one copy of each has to do"
)]
impl Aes256Gcm {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let cipher = Aes256Enc::new(key.into());
        let mut hash_key = Block::default();
        cipher.encrypt_block(&mut hash_key);
        let hash = GHash::new(&hash_key);
        hash_key.zeroize();
        Self { cipher, hash }
    }

    /// Fills the first batch as far as a text of `length` bytes needs it.
    #[cfg_attr(not(target_os = "none"), inline(always))]
    fn first(&self, nonce: &Nonce, length: usize, batch: &mut [Block; BATCH]) -> Result<(), AeadError> {
        if u64::try_from(length).is_ok_and(|length| length > MAX) {
            return Err(AeadError);
        }
        for (block, counter) in batch.iter_mut().zip(1..) {
            *block = counter_block(nonce, counter);
        }
        let needed = batch.get_mut(..BATCH.min(1 + length.div_ceil(BLOCK)));
        self.cipher.encrypt_blocks(needed.ok_or(AeadError)?);
        Ok(())
    }

    /// Encrypts or decrypts what the first batch is not enough for.
    #[cfg_attr(not(target_os = "none"), inline)]
    fn rest(&self, nonce: &Nonce, text: InOutBuf<'_, '_, u8>) -> Result<(), AeadError> {
        if text.is_empty() {
            return Ok(());
        }
        Ctr::inner_iv_init(&self.cipher, &counter_block(nonce, 9))
            .try_apply_keystream_partial(text)
            .map_err(|_| AeadError)
    }

    /// Encrypts or decrypts a text where it lies. `stream` is the keystream of the first batch.
    #[cfg_attr(not(target_os = "none"), inline(always))]
    fn apply(&self, nonce: &Nonce, stream: &[Block; BATCH - 1], text: &mut [u8]) -> Result<(), AeadError> {
        let (text, longer) = text.split_at_mut_checked(FIRST.min(text.len())).ok_or(AeadError)?;
        let (blocks, end) = text.as_chunks_mut::<BLOCK>();
        let mut stream = stream.iter();
        for (block, with) in blocks.iter_mut().zip(&mut stream) {
            for (byte, with) in block.iter_mut().zip(with) {
                *byte ^= with;
            }
        }
        if let Some(with) = stream.next() {
            for (byte, with) in end.iter_mut().zip(with) {
                *byte ^= with;
            }
        }
        self.rest(nonce, longer.into())
    }

    #[cfg_attr(not(target_os = "none"), inline(always))]
    fn tag(&self, mask: &Block, associated: &[u8], text: &[u8]) -> Result<Tag, AeadError> {
        let mut hash = self.hash.clone();
        let mut blocks = [Block::default(); BATCH];
        let [begin @ .., lengths] = &mut blocks;
        *lengths = ((u128::from(bits(associated)) << 64) | u128::from(bits(text)))
            .to_be_bytes()
            .into();
        if associated.is_empty() && text.len() <= FIRST {
            // The hash takes four blocks at once. Zeros before all else do not change it, so the
            // lengths are made the last of a group.
            let at = BATCH - 1 - text.len().div_ceil(BLOCK);
            let place = Block::slice_as_flattened_mut(begin).get_mut(at * BLOCK..);
            let place = place.and_then(|place| place.get_mut(..text.len()));
            place.ok_or(AeadError)?.copy_from_slice(text);
            let groups = blocks.get(at / 4 * 4..).ok_or(AeadError)?;
            hash.update(groups);
        } else {
            hash.update_padded(associated);
            hash.update_padded(text);
            hash.update(core::slice::from_ref(lengths));
        }
        let tag: Tag = hash.finalize().into();
        Ok((u128::from_ne_bytes(tag) ^ u128::from_ne_bytes(mask.0)).to_ne_bytes())
    }
}

// In a debug build a copy elsewhere would be one that nobody optimizes.
impl Aead for Aes256Gcm {
    #[cfg_attr(not(any(debug_assertions, target_os = "none")), inline)]
    #[cfg_attr(target_os = "none", inline(never))]
    fn seal(&self, nonce: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<Tag, AeadError> {
        let prefix = out.len().checked_sub(body.len()).ok_or(AeadError)?;
        let mut batch = [Block::default(); BATCH];
        self.first(nonce, out.len(), &mut batch)?;
        let [mask, stream @ ..] = &batch;
        // Of the body, what the first batch covers is copied behind the prefix; more only where the
        // prefix alone is longer than that.
        let length = out.len();
        let here = if prefix > FIRST { length } else { FIRST.min(length) };
        let (text, out_rest) = out.split_at_mut_checked(here).ok_or(AeadError)?;
        let (copied, body_rest) = body.split_at_checked(here - prefix).ok_or(AeadError)?;
        let place = text.get_mut(prefix..).and_then(|place| place.get_mut(..copied.len()));
        place.ok_or(AeadError)?.copy_from_slice(copied);
        self.apply(nonce, stream, text)?;
        self.rest(nonce, InOutBuf::new(body_rest, out_rest).map_err(|_| AeadError)?)?;
        self.tag(mask, associated, out)
    }

    #[cfg_attr(not(any(debug_assertions, target_os = "none")), inline)]
    #[cfg_attr(target_os = "none", inline(never))]
    fn open(&self, nonce: &Nonce, associated: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), AeadError> {
        let mut batch = [Block::default(); BATCH];
        self.first(nonce, text.len(), &mut batch)?;
        let [mask, stream @ ..] = &batch;
        let expected = self.tag(mask, associated, text)?;
        // All bytes are compared, whatever the first ones say.
        if !bool::from(expected.ct_eq(tag)) {
            return Err(AeadError);
        }
        self.apply(nonce, stream, text)
    }
}

#[cfg_attr(not(target_os = "none"), inline)]
fn counter_block(nonce: &Nonce, counter: u32) -> Block {
    let mut block = Block::default();
    let (start, end) = block.split_at_mut(nonce.len());
    start.copy_from_slice(nonce);
    end.copy_from_slice(&counter.to_be_bytes());
    block
}

/// Bits in `bytes`.
#[cfg_attr(not(target_os = "none"), inline)]
fn bits(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX).saturating_mul(8)
}
