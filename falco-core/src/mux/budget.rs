//! The bounds on the bytes of requests and of answers over all connections of a server.

#[cfg(feature = "std")]
use alloc::sync::Arc;
#[cfg(feature = "std")]
use core::sync::atomic::{AtomicUsize, Ordering};
#[cfg(feature = "std")]
use std::sync::{Mutex, MutexGuard, PoisonError};

#[cfg(feature = "std")]
use super::KeyShares;
use crate::message::KeyId;

/// A bound on the bytes that the requests of all connections hold, and one on the bytes of their
/// queued answers.
pub trait Budget {
    /// Takes this many bytes for a request. Returns `false`, and takes none, if fewer are left.
    #[must_use]
    fn take(&self, bytes: usize) -> bool;

    /// Gives back bytes that were taken.
    fn give_back(&self, bytes: usize);

    /// As [`take`](Self::take), for the window of an open request of a client that has this key. It
    /// may not use it for a long time.
    #[must_use]
    fn take_open(&self, bytes: usize, key: Option<KeyId>) -> bool {
        let _ = key;
        self.take(bytes)
    }

    /// Gives back a window.
    fn give_back_open(&self, bytes: usize, key: Option<KeyId>) {
        let _ = key;
        self.give_back(bytes);
    }

    /// Counts bytes of an answer that is about to be queued. With them its connection has `queued`
    /// bytes of answers. Returns `false`, and counts none, if there is no room for them.
    #[must_use]
    fn take_answers(&self, bytes: usize, queued: usize) -> bool {
        let _ = queued;
        self.add_answers(bytes);
        true
    }

    /// Counts bytes of answers that are queued already.
    fn add_answers(&self, bytes: usize) {
        let _ = bytes;
    }

    /// Subtracts bytes of answers that are no longer queued.
    fn remove_answers(&self, bytes: usize) {
        let _ = bytes;
    }

    /// Whether the answers exceed their bound. If so, a connection that has many bytes of them
    /// passes no request to a handler.
    fn is_over(&self) -> bool {
        false
    }
}

/// No bound besides those of each connection.
impl Budget for () {
    fn take(&self, _bytes: usize) -> bool {
        true
    }

    fn give_back(&self, _bytes: usize) {}
}

/// Bounds for connections on several threads. All clones share them.
#[cfg(feature = "std")]
#[derive(Clone, Debug)]
pub struct SharedBudget(Arc<Bytes>);

#[cfg(feature = "std")]
#[derive(Debug)]
struct Bytes {
    /// How many more bytes requests may take.
    left: AtomicUsize,
    /// How many bytes answers take.
    answers: AtomicUsize,
    max: usize,
    max_answers: usize,
    /// What each key has taken for windows.
    windows: Mutex<KeyShares>,
}

#[cfg(feature = "std")]
impl SharedBudget {
    /// The default of a server, in bytes.
    pub const DEFAULT_BYTES: usize = 1 << 30;

    /// The default of how many bytes the answers may have: 2 GiB.
    pub const DEFAULT_MAX_ANSWERS: usize = 1 << 31;

    /// A bound of this many bytes for requests, and the same for answers. Each request counts 1 KiB
    /// besides its body. The windows of open requests take at most three quarters of the one for
    /// requests.
    ///
    /// Answers of handlers that are running when their bound is reached exceed it. They may have
    /// twice as many bytes in all, and [`DEFAULT_MAX_ANSWERS`](Self::DEFAULT_MAX_ANSWERS) at least.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self::with_max_answers(bytes, bytes.saturating_mul(2).max(Self::DEFAULT_MAX_ANSWERS))
    }

    /// As [`new`](Self::new), but the answers may have at most `max_answers` bytes. An answer is
    /// queued only if its connection then has no more bytes of answers than are left for all
    /// others, so that one connection takes at most half and always leaves room for another.
    #[must_use]
    pub fn with_max_answers(bytes: usize, max_answers: usize) -> Self {
        Self(Arc::new(Bytes {
            left: AtomicUsize::new(bytes),
            answers: AtomicUsize::new(0),
            max: bytes,
            max_answers,
            windows: Mutex::default(),
        }))
    }

    /// The server has several keys: from now on the windows that one of them takes leave room for
    /// the others, as [`KeyShares`] says.
    pub fn share_by_key(&self) {
        self.windows().divide();
    }

    fn windows(&self) -> MutexGuard<'_, KeyShares> {
        // Nothing panics while the lock is held.
        self.0.windows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more bytes requests may take. For a gauge of the memory that a service holds for
    /// its clients.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.left.load(Ordering::Relaxed)
    }

    /// Bytes of queued answers. For each connection the number may be wrong by 16 KiB.
    #[must_use]
    pub fn answers(&self) -> usize {
        self.0.answers.load(Ordering::Relaxed)
    }
}

#[cfg(feature = "std")]
impl Budget for SharedBudget {
    fn take(&self, bytes: usize) -> bool {
        self.0
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes))
            .is_ok()
    }

    /// Leaves a quarter of the bound to requests that are whole.
    fn take_open(&self, bytes: usize, key: Option<KeyId>) -> bool {
        let (kept, mut windows) = (self.0.max / 4, self.windows());
        let taken = self
            .0
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                let left = left.checked_sub(bytes)?;
                let for_windows = left.checked_sub(kept)?;
                windows.has_room(key, bytes, for_windows).then_some(left)
            })
            .is_ok();
        if taken {
            windows.take(key, bytes);
        }
        taken
    }

    fn give_back_open(&self, bytes: usize, key: Option<KeyId>) {
        self.windows().give_back(key, bytes);
        self.give_back(bytes);
    }

    fn give_back(&self, bytes: usize) {
        self.0.left.fetch_add(bytes, Ordering::Relaxed);
    }

    fn take_answers(&self, bytes: usize, queued: usize) -> bool {
        let max = self.0.max_answers;
        self.0
            .answers
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |answers| {
                let answers = answers.checked_add(bytes)?;
                max.checked_sub(answers).filter(|left| queued <= *left).map(|_| answers)
            })
            .is_ok()
    }

    fn add_answers(&self, bytes: usize) {
        self.0.answers.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove_answers(&self, bytes: usize) {
        self.0.answers.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn is_over(&self) -> bool {
        self.answers() > self.0.max
    }
}
