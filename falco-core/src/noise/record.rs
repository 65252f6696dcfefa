//! One direction of records after the handshake: its key, its counter, its rekeying.

use zeroize::Zeroizing;

use crate::crypto::{Aead, AeadError, Crypto, NONCE_LENGTH, Nonce, Tag};
use crate::wipe::with_stack_wiped;

/// After how many records a direction's key is replaced: 2^20, and another number only in tests.
#[derive(Clone, Copy)]
pub(super) struct RekeyPeriod {
    #[cfg(feature = "testing")]
    records: u64,
}

impl RekeyPeriod {
    const RECORDS: u64 = 1 << 20;

    /// What the wire specifies.
    pub(super) const WIRE: Self = Self {
        #[cfg(feature = "testing")]
        records: Self::RECORDS,
    };

    /// What the wire specifies, unless a test has set another number for its whole process.
    pub(super) fn initial() -> Self {
        #[cfg(feature = "testing")]
        match PROCESS_WIDE.load(core::sync::atomic::Ordering::Relaxed) {
            0 => Self::WIRE,
            records => Self::of(records),
        }
        #[cfg(not(feature = "testing"))]
        Self::WIRE
    }

    #[cfg(feature = "testing")]
    pub(super) const fn of(records: u64) -> Self {
        // With a period of zero, no record would be due.
        let records = if records == 0 { 1 } else { records };
        Self { records }
    }

    /// Whether the key changes before record `counter`. Only tests divide by a number that is not a
    /// power of two.
    const fn is_due(self, counter: u64) -> bool {
        #[cfg(feature = "testing")]
        let Self { records } = self;
        #[cfg(not(feature = "testing"))]
        let (Self {}, records) = (self, Self::RECORDS);
        counter.is_multiple_of(records)
    }
}

/// The rekey period of keys that this process makes from now on; 0 means that of the wire.
#[cfg(feature = "testing")]
static PROCESS_WIDE: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

#[cfg(feature = "testing")]
pub(crate) fn set_rekey_period(records: u64) {
    PROCESS_WIDE.store(records, core::sync::atomic::Ordering::Relaxed);
}

/// The nonce that Noise reserves for REKEY (section 11.3).
const REKEY_NONCE: u64 = u64::MAX;

/// One direction of a connection.
pub(super) struct Direction<A> {
    aead: A,
    /// The number of the next record.
    counter: u64,
    period: RekeyPeriod,
}

impl<A: Aead> Direction<A> {
    pub(super) fn new<C: Crypto<Aead = A>>(crypto: &C, key: &[u8; 32], period: RekeyPeriod) -> Self {
        Self {
            aead: with_stack_wiped(|| crypto.aead(key)),
            counter: 0,
            period,
        }
    }

    /// Whether a record has been sealed or opened. The counter never wraps.
    pub(super) const fn has_begun(&self) -> bool {
        self.counter > 0
    }

    /// Seals the next record. `out` holds plaintext, then room for `body`, which is sealed into it,
    /// and for the tag.
    #[inline(never)]
    pub(super) fn seal<C: Crypto<Aead = A>>(
        &mut self,
        crypto: &C,
        out: &mut [u8],
        body: &[u8],
    ) -> Result<(), AeadError> {
        self.aead.seal_with_tag(&nonce(self.counter), &[], out, body)?;
        self.advance(crypto)
    }

    /// Opens the next record in place.
    #[cfg_attr(not(target_os = "none"), inline)]
    #[cfg_attr(target_os = "none", inline(never))]
    pub(super) fn open<C: Crypto<Aead = A>>(
        &mut self,
        crypto: &C,
        text: &mut [u8],
        tag: &Tag,
    ) -> Result<(), AeadError> {
        self.aead.open(&nonce(self.counter), &[], text, tag)?;
        self.advance(crypto)
    }

    /// Counts a record. The key changes at every multiple of the period. The counter continues, and
    /// its last value is never used for a record.
    #[cfg_attr(not(target_os = "none"), inline)]
    #[cfg_attr(target_os = "none", inline(never))]
    fn advance<C: Crypto<Aead = A>>(&mut self, crypto: &C) -> Result<(), AeadError> {
        self.counter = self
            .counter
            .checked_add(1)
            .filter(|next| *next != REKEY_NONCE)
            .ok_or(AeadError::new())?;
        if self.period.is_due(self.counter) {
            return self.rekey(crypto);
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn rekey<C: Crypto<Aead = A>>(&mut self, crypto: &C) -> Result<(), AeadError> {
        with_stack_wiped(|| self.replace_key(crypto))
    }

    fn replace_key<C: Crypto<Aead = A>>(&mut self, crypto: &C) -> Result<(), AeadError> {
        let mut key = Zeroizing::new([0; 32]);
        // REKEY takes the first 32 bytes, without the tag. Encrypted zeros are the keystream: here
        // it is the new key.
        with_stack_wiped(|| self.aead.seal(&nonce(REKEY_NONCE), &[], key.as_mut_slice(), &[]))?;
        self.aead = crypto.aead(&key);
        Ok(())
    }
}

/// A counter as a nonce: four zero bytes, then big-endian (section 12.4).
#[cfg_attr(not(target_os = "none"), inline)]
fn nonce(counter: u64) -> Nonce {
    let mut nonce = [0; NONCE_LENGTH];
    if let Some(place) = nonce.last_chunk_mut() {
        *place = counter.to_be_bytes();
    }
    nonce
}
