//! Bounds that connections on several threads share, and what each key has taken of them.

use alloc::collections::BTreeMap;
use alloc::sync::{Arc, Weak};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Budget;
use crate::message::KeyId;
use crate::mux::shares::leaves_enough;

/// Bounds for connections on several threads. All clones share them.
///
/// If the server has [several](Self::share_by_key) keys, one key may take at most eight ninths of
/// the bytes that the other keys leave of a bound. A ninth stays free for them. A key that has
/// taken nothing yet may take all bytes that are left.
#[derive(Clone, Debug)]
pub struct SharedBudget(Arc<OfKey>);

/// What the clients of one key have taken. Their connections share it, so that a request takes no
/// lock and does not search for its key.
#[derive(Debug)]
struct OfKey {
    /// `None` on the classic wire, and for connections that are not established: these take
    /// nothing.
    key: Option<KeyId>,
    taken: Taken,
    all: Arc<All>,
}

/// Bytes that are taken.
#[derive(Debug, Default)]
struct Taken {
    /// By requests, windows included.
    requests: AtomicUsize,
    windows: AtomicUsize,
    answers: AtomicUsize,
}

#[derive(Debug)]
struct All {
    taken: Taken,
    max: usize,
    max_answers: usize,
    /// The server has several keys, so each leaves room for the others.
    divides: AtomicBool,
    /// Only keys that have connections or handlers.
    keys: Mutex<BTreeMap<Option<KeyId>, Weak<OfKey>>>,
}

impl SharedBudget {
    /// How much unused memory an answer of `length` bytes, or a chunk of one, may keep: its length
    /// and 1 KiB. Only the length of an answer counts, so free unused memory beyond this before you
    /// queue the answer.
    #[must_use]
    pub const fn most_unused(length: usize) -> usize {
        length.saturating_add(1 << 10)
    }

    /// The default bound for requests of a server, in bytes: 1 GiB.
    pub const DEFAULT_BYTES: usize = 1 << 30;

    /// The default bound for answers, in bytes: 2 GiB.
    pub const DEFAULT_MAX_ANSWERS: usize = 1 << 31;

    /// A bound of this many bytes for requests. Each request counts 1 KiB besides its body. The
    /// windows of open requests take at most three quarters of it.
    ///
    /// While answers have more than `bytes`, a connection that has more than 16 KiB of them passes
    /// no request to a handler. Handlers that already run still answer. So all answers together may
    /// have twice `bytes`, or [`DEFAULT_MAX_ANSWERS`](Self::DEFAULT_MAX_ANSWERS) if that is more.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self::with_max_answers(bytes, bytes.saturating_mul(2).max(Self::DEFAULT_MAX_ANSWERS))
    }

    /// As [`new`](Self::new), but the answers may have at most `max_answers` bytes. One connection
    /// takes at most half of them: an answer is queued only if afterwards at least as many bytes
    /// are free as its connection has taken.
    #[must_use]
    pub fn with_max_answers(bytes: usize, max_answers: usize) -> Self {
        let all = All {
            taken: Taken::default(),
            max: bytes,
            max_answers,
            divides: AtomicBool::new(false),
            keys: Mutex::default(),
        };
        Self(Arc::new(OfKey {
            key: None,
            taken: Taken::default(),
            all: Arc::new(all),
        }))
    }

    /// Call it when the server has several keys. From then on one key leaves room for the others.
    /// Before, one key may take all bytes.
    pub fn share_by_key(&self) {
        self.0.all.divides.store(true, Ordering::Relaxed);
    }

    /// How many more bytes requests may take. For a gauge of the memory that a service holds for
    /// its clients.
    #[must_use]
    pub fn left(&self) -> usize {
        let all = &*self.0.all;
        all.max.saturating_sub(all.taken.requests.load(Ordering::Relaxed))
    }

    /// Bytes of queued answers. For each connection the number may be wrong by 16 KiB.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.0.all.taken.answers.load(Ordering::Relaxed)
    }

    /// Adds `bytes` to the count that `of` selects, if the sum is at most `most`, at least `least`
    /// bytes stay free, and enough is left for other keys. Returns whether it did.
    fn take_of(&self, of: impl Fn(&Taken) -> &AtomicUsize, most: usize, bytes: usize, least: usize) -> bool {
        let OfKey { taken, all, .. } = &*self.0;
        let (own, all_taken) = (of(taken), of(&all.taken));
        let divides = all.divides.load(Ordering::Relaxed);
        // Counted before the check. If two threads do this at the same time, at least one of them
        // sees the bytes of both.
        own.fetch_add(bytes, Ordering::Relaxed);
        let enough = |left| {
            let before = || own.load(Ordering::Relaxed).saturating_sub(bytes);
            least <= left && (!divides || leaves_enough(before(), bytes, left))
        };
        let result = all_taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
            let taken = taken.checked_add(bytes)?;
            let left = most.checked_sub(taken)?;
            enough(left).then_some(taken)
        });
        if result.is_err() {
            own.fetch_sub(bytes, Ordering::Relaxed);
        }
        result.is_ok()
    }

    fn give_back_of(&self, of: impl Fn(&Taken) -> &AtomicUsize, bytes: usize) {
        of(&self.0.all.taken).fetch_sub(bytes, Ordering::Relaxed);
        of(&self.0.taken).fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Budget for SharedBudget {
    fn set_key(&mut self, key: Option<KeyId>) {
        *self = Self(All::of_key(&self.0.all, key));
    }

    fn take(&self, bytes: usize) -> bool {
        self.take_of(|taken| &taken.requests, self.0.all.max, bytes, 0)
    }

    fn give_back(&self, bytes: usize) {
        self.give_back_of(|taken| &taken.requests, bytes);
    }

    /// Leaves a quarter of the bound to requests that are whole.
    fn take_open(&self, bytes: usize) -> bool {
        let for_windows = self.0.all.max - self.0.all.max / 4;
        if !self.take_of(|taken| &taken.windows, for_windows, bytes, 0) {
            return false;
        }
        let taken = self.take(bytes);
        if !taken {
            self.give_back_of(|taken| &taken.windows, bytes);
        }
        taken
    }

    fn give_back_open(&self, bytes: usize) {
        self.give_back(bytes);
        self.give_back_of(|taken| &taken.windows, bytes);
    }

    fn take_answers(&self, bytes: usize, queued: usize) -> bool {
        self.take_of(|taken| &taken.answers, self.0.all.max_answers, bytes, queued)
    }

    fn add_answers(&self, bytes: usize) {
        self.0.all.taken.answers.fetch_add(bytes, Ordering::Relaxed);
        self.0.taken.answers.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove_answers(&self, bytes: usize) {
        self.give_back_of(|taken| &taken.answers, bytes);
    }

    fn is_over(&self) -> bool {
        self.answers() > self.0.all.max
    }
}

impl All {
    fn of_key(this: &Arc<Self>, key: Option<KeyId>) -> Arc<OfKey> {
        let mut keys = this.keys();
        if let Some(of_key) = keys.get(&key).and_then(Weak::upgrade) {
            return of_key;
        }
        let of_key = Arc::new(OfKey {
            key,
            taken: Taken::default(),
            all: Arc::clone(this),
        });
        keys.insert(key, Arc::downgrade(&of_key));
        of_key
    }

    fn keys(&self) -> MutexGuard<'_, BTreeMap<Option<KeyId>, Weak<OfKey>>> {
        // Nothing panics while the lock is held.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OfKey {
    fn drop(&mut self) {
        let mut keys = self.all.keys();
        // Another connection of the key may have created a new entry.
        if keys.get(&self.key).is_some_and(|of_key| of_key.strong_count() == 0) {
            keys.remove(&self.key);
        }
    }
}
