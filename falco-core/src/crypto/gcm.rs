//! AES-256-GCM (NIST SP 800-38D), assembled like the crate aes-gcm from the block cipher of aes,
//! the counter mode of ctr and the hash of ghash. With the feature `aes-gcm`, that crate is used
//! instead.
//!
//! It differs from aes-gcm in three ways. It wipes the keystream. It encrypts a text that lies in
//! two places without joining it first. For a short text it encrypts the tag mask and the whole
//! keystream in one call of the cipher, and hashes in groups of the fastest size.

use aes::cipher::{BlockCipherEncrypt, InOutBuf, InnerIvInit, KeyInit, StreamCipherCore};
use aes::{Aes256Enc, Block};
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::{Aead, AeadError, Nonce, Tag};

const BLOCK: usize = 16;
/// Blocks in the first batch: AES of the counters from 1 on. The first block masks the tag, the
/// others are keystream.
const BATCH: usize = 8;
/// The longest text for which the first batch is enough.
const FIRST: usize = (BATCH - 1) * BLOCK;
/// The longest text: one block for each counter from 2 on.
const MAX: u64 = (1 << 36) - 32;

/// Bytes of stack that the counter mode uses at most.
#[cfg(not(target_os = "none"))]
const CTR_STACK: usize = if cfg!(debug_assertions) { 8192 } else { 1024 };

type Ctr<'c> = ctr::CtrCore<&'c Aes256Enc, ctr::flavors::Ctr32BE>;

/// A key, expanded. Its parts are wiped when dropped.
#[allow(
    unnameable_types,
    reason = "it is `<RustCrypto as Crypto>::Aead`, and nothing but its trait is of use"
)]
#[allow(missing_debug_implementations, reason = "it is a secret")]
pub struct Aes256Gcm {
    cipher: Aes256Enc,
    /// The hash with its key, before any text.
    hash: GHash,
}

/// The first batch. It is wiped when dropped, because the keystream decrypts the text.
struct Batch([Block; BATCH]);

impl Batch {
    /// The counters, not encrypted yet.
    #[cfg_attr(not(target_os = "none"), inline)]
    fn counters(nonce: &Nonce) -> Self {
        let mut batch = [Block::default(); BATCH];
        for (block, counter) in batch.iter_mut().zip(1..) {
            *block = counter_block(nonce, counter);
        }
        Self(batch)
    }
}

impl Drop for Batch {
    #[cfg_attr(not(target_os = "none"), inline)]
    fn drop(&mut self) {
        Block::slice_as_flattened_mut(&mut self.0).zeroize();
    }
}

impl ZeroizeOnDrop for Aes256Gcm {}

#[allow(
    clippy::inline_always,
    reason = "where it is inlined, the compiler knows some of the lengths, and a short text takes a tenth less time; a device has one copy of each function, to save flash"
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

    /// Encrypts the counters of the first batch that a text of `length` bytes needs.
    #[cfg_attr(not(target_os = "none"), inline(always))]
    fn first(&self, length: usize, Batch(batch): &mut Batch) -> Result<(), AeadError> {
        if u64::try_from(length).is_ok_and(|length| length > MAX) {
            return Err(AeadError);
        }
        let needed = batch.get_mut(..BATCH.min(1 + length.div_ceil(BLOCK)));
        self.cipher.encrypt_blocks(needed.ok_or(AeadError)?);
        Ok(())
    }

    /// Encrypts or decrypts the part of a text after the first batch.
    #[cfg_attr(not(target_os = "none"), inline)]
    fn rest(&self, nonce: &Nonce, text: InOutBuf<'_, '_, u8>) -> Result<(), AeadError> {
        if text.is_empty() {
            return Ok(());
        }
        // The crates ctr and aes leave keystream and round keys on the stack.
        #[cfg(not(target_os = "none"))]
        return crate::wipe::with_stack_wiped_to::<CTR_STACK, _>(|| self.counter_mode(nonce, text));
        // On a device this would take too much stack.
        #[cfg(target_os = "none")]
        return self.counter_mode(nonce, text);
    }

    #[inline]
    fn counter_mode(&self, nonce: &Nonce, text: InOutBuf<'_, '_, u8>) -> Result<(), AeadError> {
        Ctr::inner_iv_init(&self.cipher, &counter_block(nonce, 9))
            .try_apply_keystream_partial(text)
            .map_err(|_| AeadError)
    }

    /// Encrypts or decrypts a text in place. `stream` is the keystream of the first batch.
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
            // Four bytes at once save time and take flash, so a device does without.
            let size = if cfg!(target_os = "none") { 0 } else { end.len() / 4 * 4 };
            let (fours, end) = end.split_at_mut_checked(size).ok_or(AeadError)?;
            let rest = with.iter().skip(size);
            for (four, with) in fours.as_chunks_mut().0.iter_mut().zip(with.as_chunks().0) {
                *four = (u32::from_ne_bytes(*four) ^ u32::from_ne_bytes(*with)).to_ne_bytes();
            }
            for (byte, with) in end.iter_mut().zip(rest) {
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
            // The hash processes four blocks at once. Leading zeros do not change it, so the block
            // of the lengths can be the last one of a group.
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

// Not inlined in a debug build: the caller's crate would compile it without optimization.
impl Aead for Aes256Gcm {
    #[cfg_attr(not(any(debug_assertions, target_os = "none")), inline)]
    #[cfg_attr(target_os = "none", inline(never))]
    fn seal(&self, nonce: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<Tag, AeadError> {
        let prefix = out.len().checked_sub(body.len()).ok_or(AeadError)?;
        let mut batch = Batch::counters(nonce);
        self.first(out.len(), &mut batch)?;
        let [mask, stream @ ..] = &batch.0;
        // The part of the body that the first batch covers is copied behind the prefix. If the
        // prefix alone is longer than the first batch, the whole body is copied.
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
        let mut batch = Batch::counters(nonce);
        self.first(text.len(), &mut batch)?;
        let [mask, stream @ ..] = &batch.0;
        let expected = self.tag(mask, associated, text)?;
        // Compares in constant time, as one number instead of byte by byte.
        if !bool::from(u128::from_ne_bytes(expected).ct_eq(&u128::from_ne_bytes(*tag))) {
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
