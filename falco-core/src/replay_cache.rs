//! The replay cache and the seal counter of one classic key, which all its connections share. The
//! classic wire decides how nonces are made and what a replay does to a connection.

use core::cell::RefCell;
use core::fmt;

use rand_core::TryCryptoRng;

use crate::crypto::Nonce;
use crate::error::EntropyError;

/// Remembers the nonces of one classic key and counts its seals.
///
/// All connections under the key share it, so the methods take `&self`. [`FixedReplayCache`] holds
/// its nonces in place, for one thread; [`HeapReplayCache`] holds them on the heap, for any number
/// of threads.
pub trait ReplayCache {
    /// Checks whether `nonce` may be used to seal. If so, counts the seal and remembers the nonce.
    ///
    /// # Errors
    /// [`NonceRefused`]. Then nothing may be sealed with this nonce.
    fn check_seal(&self, nonce: &Nonce) -> Result<(), NonceRefused>;

    /// Remembers the nonce of a message that was authentic.
    ///
    /// # Errors
    /// [`NonceRefused::Seen`] if the nonce is already remembered, from a received message or from
    /// one that this side sealed. The message is then a replay or a reflection.
    fn check_open(&self, nonce: &Nonce) -> Result<(), NonceRefused>;
}

impl<C: ReplayCache + ?Sized> ReplayCache for &C {
    fn check_seal(&self, nonce: &Nonce) -> Result<(), NonceRefused> {
        (**self).check_seal(nonce)
    }

    fn check_open(&self, nonce: &Nonce) -> Result<(), NonceRefused> {
        (**self).check_open(nonce)
    }
}

/// Why a replay cache refuses a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NonceRefused {
    /// The key has sealed [`SEALS_PER_KEY`](Self::SEALS_PER_KEY) times.
    Exhausted,
    /// The cache remembers the nonce. A message with it is a replay or a reflection. To seal under
    /// it would reveal the keystream; a fresh nonce is refused so only if the random number
    /// generator repeats itself.
    Seen,
}

impl NonceRefused {
    /// How often a classic key seals before it refuses, 2^32: the limit of NIST SP 800-38D, section
    /// 8.3, for random nonces.
    pub const SEALS_PER_KEY: u64 = 1 << 32;
}

/// A replay cache of the last `N` nonces, in place: 20 bytes each. For one thread.
///
/// Each request and each answer takes one place. When all are taken, the oldest nonce is forgotten.
/// The time of a check does not depend on `N`. If `N` is 0, seals are counted and no nonce is
/// remembered. If the stack is small, keep the cache in a static and give a
/// [`ClassicKey`](crate::ClassicKey) a reference to it.
///
/// ```
/// use falco_core::{FixedReplayCache, ReplayCache};
///
/// # fn rng() -> falco_core::testing::CountingRng { falco_core::testing::CountingRng::new(1) }
/// let cache = FixedReplayCache::<32>::new(&mut rng())?;
/// assert!(cache.check_open(&[7; 12]).is_ok());
/// assert!(cache.check_open(&[7; 12]).is_err());
/// # Ok::<(), falco_core::EntropyError>(())
/// ```
pub struct FixedReplayCache<const N: usize> {
    nonces: RefCell<Nonces<[Slot; N]>>,
}

impl<const N: usize> FixedReplayCache<N> {
    /// An empty cache.
    ///
    /// # Errors
    /// [`EntropyError`] if the random number generator fails. It generates the key of the cache's
    /// hash.
    // Inlined, so that a caller that moves it to a static can build it there.
    #[inline]
    pub fn new<R: TryCryptoRng + ?Sized>(rng: &mut R) -> Result<Self, EntropyError> {
        let hash_key = draw_hash_key(rng)?;
        Ok(Self {
            nonces: RefCell::new(Nonces::new([Slot::EMPTY; N], hash_key)),
        })
    }

    /// The seal counter: how often the key has sealed.
    #[must_use]
    pub fn seals(&self) -> u64 {
        self.nonces
            .try_borrow()
            .map_or(NonceRefused::SEALS_PER_KEY, |nonces| nonces.seals)
    }

    /// Adds `seals` to the seal counter, for a key that was used in an earlier run.
    pub fn add_seals(&self, seals: u64) {
        if let Ok(mut nonces) = self.nonces.try_borrow_mut() {
            nonces.add_seals(seals);
        }
    }
}

impl<const N: usize> ReplayCache for FixedReplayCache<N> {
    fn check_seal(&self, nonce: &Nonce) -> Result<(), NonceRefused> {
        // No borrow outlives a method of this type, so this does not fail.
        let mut nonces = self.nonces.try_borrow_mut().map_err(|_| NonceRefused::Exhausted)?;
        nonces.seal(nonce)
    }

    fn check_open(&self, nonce: &Nonce) -> Result<(), NonceRefused> {
        self.nonces
            .try_borrow_mut()
            .map_err(|_| NonceRefused::Seen)?
            .remember(nonce)
    }
}

impl<const N: usize> fmt::Debug for FixedReplayCache<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FixedReplayCache").field(&self.nonces).finish()
    }
}

/// A replay cache on the heap, 20 bytes for each nonce, for any number of threads.
///
/// Each request and each answer takes one place. When all are taken, the oldest nonce is forgotten.
/// The time of a check does not depend on the size. A cache of size 0 counts seals and remembers no
/// nonce.
#[cfg(feature = "std")]
pub struct HeapReplayCache {
    nonces: std::sync::Mutex<Nonces<alloc::boxed::Box<[Slot]>>>,
}

#[cfg(feature = "std")]
impl HeapReplayCache {
    /// An empty cache for the last `nonces` nonces, at most 2^32 - 2. All memory is allocated here.
    ///
    /// # Errors
    /// [`EntropyError`] if the random number generator fails. It generates the key of the cache's
    /// hash.
    pub fn new<R: TryCryptoRng + ?Sized>(nonces: usize, rng: &mut R) -> Result<Self, EntropyError> {
        let slots = alloc::vec![Slot::EMPTY; nonces.min(place(u32::MAX))].into_boxed_slice();
        Ok(Self {
            nonces: std::sync::Mutex::new(Nonces::new(slots, draw_hash_key(rng)?)),
        })
    }

    /// How many nonces it remembers at most.
    #[cfg(all(feature = "noise", feature = "rustcrypto"))]
    pub(crate) fn capacity(&self) -> usize {
        self.nonces().slots.len()
    }

    /// The seal counter: how often the key has sealed.
    #[must_use]
    pub fn seals(&self) -> u64 {
        self.nonces().seals
    }

    /// Adds `seals` to the seal counter, for a key that was used in an earlier run.
    pub fn add_seals(&self, seals: u64) {
        self.nonces().add_seals(seals);
    }

    fn nonces(&self) -> std::sync::MutexGuard<'_, Nonces<alloc::boxed::Box<[Slot]>>> {
        // Nothing panics while it holds the lock.
        self.nonces.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(feature = "std")]
impl ReplayCache for HeapReplayCache {
    fn check_seal(&self, nonce: &Nonce) -> Result<(), NonceRefused> {
        self.nonces().seal(nonce)
    }

    fn check_open(&self, nonce: &Nonce) -> Result<(), NonceRefused> {
        self.nonces().remember(nonce)
    }
}

#[cfg(feature = "std")]
impl fmt::Debug for HeapReplayCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeapReplayCache").field(&self.nonces).finish()
    }
}

#[inline(never)]
fn draw_hash_key<R: TryCryptoRng + ?Sized>(rng: &mut R) -> Result<[u64; 3], EntropyError> {
    let mut draw = || rng.try_next_u64().map_err(|_| EntropyError::new());
    Ok([draw()?, draw()? | 1, draw()? | 1])
}

/// One remembered nonce. A link is the position of another slot plus 1, or 0 for none, so that
/// empty slots are all zeros.
#[derive(Clone, Copy)]
struct Slot {
    nonce: Nonce,
    /// Links to the next slot whose nonce is in the same bucket.
    next: u32,
    /// Links to the first slot of the bucket that has this slot's position.
    head: u32,
}

impl Slot {
    const EMPTY: Self = Self {
        nonce: [0; 12],
        next: 0,
        head: 0,
    };
}

/// The last nonces in the order of their arrival, with an index by hash, and the seal counter.
struct Nonces<S> {
    slots: S,
    /// The position for the next nonce. Once all slots are filled, the oldest nonce is there.
    cursor: usize,
    /// How many slots hold a nonce.
    filled: usize,
    seals: u64,
    /// The secret key of the hash, so that a peer cannot choose nonces that share a bucket.
    hash_key: [u64; 3],
}

impl<S> Nonces<S> {
    /// `slots` are empty.
    #[inline]
    const fn new(slots: S, hash_key: [u64; 3]) -> Self {
        Self {
            slots,
            cursor: 0,
            filled: 0,
            seals: 0,
            hash_key,
        }
    }
}

impl<S: AsMut<[Slot]>> Nonces<S> {
    fn seal(&mut self, nonce: &Nonce) -> Result<(), NonceRefused> {
        if self.seals >= NonceRefused::SEALS_PER_KEY {
            return Err(NonceRefused::Exhausted);
        }
        self.remember(nonce)?;
        self.seals += 1;
        Ok(())
    }

    fn add_seals(&mut self, seals: u64) {
        self.seals = self.seals.saturating_add(seals);
    }

    fn remember(&mut self, nonce: &Nonce) -> Result<(), NonceRefused> {
        let hash_key = self.hash_key;
        let slots = self.slots.as_mut();
        let size = slots.len().min(place(u32::MAX));
        let slots = slots.get_mut(..size).unwrap_or_default();
        let Some(bucket) = bucket(nonce, hash_key, size) else {
            return Ok(());
        };
        let mut link = slots.get(bucket).map_or(0, |slot| slot.head);
        while let Some(slot) = slots.get(place(link)) {
            if slot.nonce == *nonce {
                return Err(NonceRefused::Seen);
            }
            link = slot.next;
        }
        if self.filled == size {
            forget(slots, self.cursor, hash_key, size);
        } else {
            self.filled += 1;
        }
        let link = u32::try_from(self.cursor + 1).unwrap_or(0);
        let first = slots
            .get_mut(bucket)
            .map_or(0, |slot| core::mem::replace(&mut slot.head, link));
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
fn forget(slots: &mut [Slot], oldest: usize, hash_key: [u64; 3], size: usize) {
    let Some(Slot { nonce, next: after, .. }) = slots.get(oldest).copied() else {
        return;
    };
    let Some(bucket) = bucket(&nonce, hash_key, size) else {
        return;
    };
    let Some(head) = slots.get_mut(bucket).map(|slot| &mut slot.head) else {
        return;
    };
    if place(*head) == oldest {
        *head = after;
        return;
    }
    let mut at = place(*head);
    while let Some(slot) = slots.get_mut(at) {
        if place(slot.next) == oldest {
            slot.next = after;
            return;
        }
        at = place(slot.next);
    }
}

/// The bucket of `nonce` among `size` buckets, or `None` if `size` is 0.
///
/// Both words of the nonce go through a multiplication with a secret word, so that even a peer that
/// has the key cannot choose nonces that share a bucket.
fn bucket(nonce: &Nonce, [first, second, third]: [u64; 3], size: usize) -> Option<usize> {
    let high = u64::from_be_bytes(*nonce.first_chunk()?);
    let low = u64::from(u32::from_be_bytes(*nonce.last_chunk()?));
    let mixed = fold(fold(high ^ first, second) ^ low, third);
    if size == 0 {
        return None;
    }
    // The upper half of the product is below `size`. This needs no division.
    let scaled = u128::from(mixed) * u128::from(u64::try_from(size).ok()?);
    usize::try_from(scaled >> 64).ok()
}

/// The exclusive or of both halves of the product of two words.
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    let [high, low] = [product >> 64, product & u128::from(u64::MAX)].map(|half| u64::try_from(half).unwrap_or(0));
    high ^ low
}

/// The position to which `link` points. For an empty link it is past the end of the slots.
fn place(link: u32) -> usize {
    usize::try_from(link.wrapping_sub(1)).unwrap_or(usize::MAX)
}

impl<S> fmt::Debug for Nonces<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nonces")
            .field("filled", &self.filled)
            .field("seals", &self.seals)
            .finish_non_exhaustive()
    }
}
