//! The replay cache and the seal counter of one classic key, across all its connections. How nonces
//! are made, and what a replay does to a connection, is decided elsewhere.

use core::cell::RefCell;
use core::fmt;

use rand_core::TryCryptoRng;

use crate::crypto::Nonce;
use crate::error::EntropyError;

/// Seals after which a key refuses to seal, 2^32: the limit that NIST SP 800-38D, section 8.3, sets
/// where nonces are random.
pub const SEALS_PER_KEY: u64 = 1 << 32;

/// What all connections under one classic key share. The methods take `&self`, so that connections
/// on several threads may share one: [`NonceLedger`] is a ledger inside a `RefCell`, and with the
/// feature `std` inside a `Mutex`.
pub trait Ledger {
    /// Asks for leave to seal with `nonce`: counts the seal and remembers the nonce as one's own.
    ///
    /// # Errors
    /// [`SealRefused`]; then nothing may be sealed with it.
    fn seal(&self, nonce: &Nonce) -> Result<(), SealRefused>;

    /// Reports that a text under `nonce` proved authentic.
    ///
    /// # Errors
    /// [`NonceSeen`] where that nonce is remembered, as a peer's or as one's own: the text is a
    /// replay or a reflection.
    fn open(&self, nonce: &Nonce) -> Result<(), NonceSeen>;
}

/// A nonce that the ledger remembers came again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NonceSeen;

impl NonceSeen {
    /// For implementations of [`Ledger`].
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Default for NonceSeen {
    fn default() -> Self {
        Self::new()
    }
}

/// Why a ledger forbids a seal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealRefused {
    /// The key has sealed [`SEALS_PER_KEY`] times.
    Exhausted,
    /// The nonce is remembered. A second seal under it would give the key stream away; the random
    /// number generator repeats itself.
    NonceUsed,
}

/// One entry of a [`NonceLedger`]'s storage, 20 bytes.
#[derive(Clone, Copy, Debug)]
pub struct NonceSlot {
    nonce: Nonce,
    /// The next slot whose nonce falls into the same bucket.
    next: u32,
    /// The first slot of the bucket that has this slot's index.
    head: u32,
}

/// Ends a chain, and stands for an empty bucket.
const NONE: u32 = u32::MAX;

impl NonceSlot {
    /// A slot with nothing in it, to build storage from.
    pub const EMPTY: Self = Self {
        nonce: [0; 12],
        next: NONE,
        head: NONE,
    };
}

/// An exact memory of the last nonces, as many as its storage has slots, and the count of seals.
///
/// The oldest nonce is forgotten when the storage is full, and each check takes a time that does
/// not depend on the storage's size. Every request and every answer takes one slot. Storage without
/// slots counts seals and remembers nothing.
///
/// ```
/// use core::cell::RefCell;
/// use falco_core::{Ledger, NonceLedger, NonceSlot};
///
/// # fn rng() -> falco_core::testing::CountingRng { falco_core::testing::CountingRng::new(1) }
/// let ledger = RefCell::new(NonceLedger::new([NonceSlot::EMPTY; 32], &mut rng())?);
/// assert!(ledger.open(&[7; 12]).is_ok());
/// assert!(ledger.open(&[7; 12]).is_err());
/// # Ok::<(), falco_core::EntropyError>(())
/// ```
pub struct NonceLedger<S> {
    slots: S,
    /// Where the next nonce goes; once round, the oldest is there.
    cursor: usize,
    /// How many slots hold a nonce.
    filled: usize,
    seals: u64,
    /// Secret, so that nobody can choose nonces that fall into one bucket.
    hash_key: [u64; 3],
}

impl<S: AsMut<[NonceSlot]>> NonceLedger<S> {
    /// An empty ledger over `slots`; slots from the 2^32nd on stay unused.
    ///
    /// # Errors
    /// [`EntropyError`] where the generator, which keys the ledger's hash, fails.
    pub fn new<R: TryCryptoRng + ?Sized>(mut slots: S, rng: &mut R) -> Result<Self, EntropyError> {
        let mut draw = || rng.try_next_u64().map_err(|_| EntropyError::new());
        let hash_key = [draw()?, draw()? | 1, draw()? | 1];
        slots.as_mut().fill(NonceSlot::EMPTY);
        Ok(Self {
            slots,
            cursor: 0,
            filled: 0,
            seals: 0,
            hash_key,
        })
    }

    /// How often the key has sealed.
    #[must_use]
    pub const fn seals(&self) -> u64 {
        self.seals
    }

    /// See [`Ledger::seal`].
    ///
    /// # Errors
    /// [`SealRefused`].
    pub fn seal(&mut self, nonce: &Nonce) -> Result<(), SealRefused> {
        if self.seals >= SEALS_PER_KEY {
            return Err(SealRefused::Exhausted);
        }
        self.remember(nonce).map_err(|NonceSeen| SealRefused::NonceUsed)?;
        self.seals += 1;
        Ok(())
    }

    /// See [`Ledger::open`].
    ///
    /// # Errors
    /// [`NonceSeen`].
    pub fn open(&mut self, nonce: &Nonce) -> Result<(), NonceSeen> {
        self.remember(nonce)
    }

    /// Counts `seals` as done before: for a key whose use goes on from an earlier run, and for
    /// tests of the limit.
    pub fn add_seals(&mut self, seals: u64) {
        self.seals = self.seals.saturating_add(seals);
    }

    fn remember(&mut self, nonce: &Nonce) -> Result<(), NonceSeen> {
        let hash_key = self.hash_key;
        let slots = self.slots.as_mut();
        let size = slots.len().min(index(NONE));
        let Some(bucket) = bucket(nonce, hash_key, size) else {
            return Ok(());
        };
        let mut at = slots.get(bucket).map_or(NONE, |slot| slot.head);
        while let Some(slot) = slots.get(index(at)) {
            if slot.nonce == *nonce {
                return Err(NonceSeen);
            }
            at = slot.next;
        }
        if self.filled == size {
            forget(slots, self.cursor, hash_key, size);
        } else {
            self.filled += 1;
        }
        let position = u32::try_from(self.cursor).unwrap_or(NONE);
        let first = slots
            .get_mut(bucket)
            .map_or(NONE, |slot| core::mem::replace(&mut slot.head, position));
        if let Some(slot) = slots.get_mut(self.cursor) {
            slot.nonce = *nonce;
            slot.next = first;
        }
        let next = self.cursor + 1;
        self.cursor = if next < size { next } else { 0 };
        Ok(())
    }
}

/// Takes the nonce in slot `oldest` out of its bucket's chain.
fn forget(slots: &mut [NonceSlot], oldest: usize, hash_key: [u64; 3], size: usize) {
    let Some(NonceSlot { nonce, next: after, .. }) = slots.get(oldest).copied() else {
        return;
    };
    let Some(bucket) = bucket(&nonce, hash_key, size) else {
        return;
    };
    let Some(head) = slots.get_mut(bucket).map(|slot| &mut slot.head) else {
        return;
    };
    if index(*head) == oldest {
        *head = after;
        return;
    }
    let mut at = index(*head);
    while let Some(slot) = slots.get_mut(at) {
        if index(slot.next) == oldest {
            slot.next = after;
            return;
        }
        at = index(slot.next);
    }
}

/// The bucket of `nonce` among `size`; none where there are none.
///
/// Every word of the nonce meets a secret word before it meets another, so that not even who holds
/// the key can choose nonces that share a bucket.
fn bucket(nonce: &Nonce, [first, second, third]: [u64; 3], size: usize) -> Option<usize> {
    let high = u64::from_be_bytes(*nonce.first_chunk()?);
    let low = u64::from(u32::from_be_bytes(*nonce.last_chunk()?));
    let mixed = fold(fold(high ^ first, second) ^ low, third);
    if size == 0 {
        return None;
    }
    // The upper half of the product is below `size`, and costs no division.
    let scaled = u128::from(mixed) * u128::from(u64::try_from(size).ok()?);
    usize::try_from(scaled >> 64).ok()
}

/// Both halves of the product of two words, one upon the other.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let [high, low] = [product >> 64, product & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
    high ^ low
}

/// A slot's number as an index; on a 16-bit target a number too large finds no slot.
fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

impl<S> fmt::Debug for NonceLedger<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NonceLedger")
            .field("filled", &self.filled)
            .field("seals", &self.seals)
            .finish_non_exhaustive()
    }
}

impl<S: AsMut<[NonceSlot]>> Ledger for RefCell<NonceLedger<S>> {
    fn seal(&self, nonce: &Nonce) -> Result<(), SealRefused> {
        // Nobody else can hold it, as a ledger calls no one; who cannot ask is refused.
        let mut ledger = self.try_borrow_mut().map_err(|_| SealRefused::Exhausted)?;
        ledger.seal(nonce)
    }

    fn open(&self, nonce: &Nonce) -> Result<(), NonceSeen> {
        self.try_borrow_mut().map_err(|_| NonceSeen)?.open(nonce)
    }
}

#[cfg(feature = "std")]
impl<S: AsMut<[NonceSlot]>> Ledger for std::sync::Mutex<NonceLedger<S>> {
    fn seal(&self, nonce: &Nonce) -> Result<(), SealRefused> {
        // A ledger is whole between any two of its steps that can panic, of which it has none.
        self.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .seal(nonce)
    }

    fn open(&self, nonce: &Nonce) -> Result<(), NonceSeen> {
        self.lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .open(nonce)
    }
}
