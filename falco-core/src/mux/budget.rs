//! The bound on the bytes that requests hold over all connections of a server.

#[cfg(feature = "std")]
use alloc::sync::Arc;
#[cfg(feature = "std")]
use core::sync::atomic::{AtomicUsize, Ordering};

/// A bound on the bytes that the requests of all connections hold.
pub trait Budget {
    /// Takes this many bytes. Returns `false`, and takes none, if fewer are left.
    #[must_use]
    fn take(&self, bytes: usize) -> bool;

    /// Gives back bytes that were taken.
    fn give_back(&self, bytes: usize);
}

/// No bound besides those of each connection.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "it has no fields")]
pub struct Unbounded;

impl Budget for Unbounded {
    fn take(&self, _bytes: usize) -> bool {
        true
    }

    fn give_back(&self, _bytes: usize) {}
}

/// A bound for connections on several threads. All clones share it.
#[cfg(feature = "std")]
#[derive(Clone, Debug)]
pub struct SharedBudget(Arc<AtomicUsize>);

#[cfg(feature = "std")]
impl SharedBudget {
    /// A bound of this many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Bytes that are left, for a gauge of the memory that a service holds for its clients.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

#[cfg(feature = "std")]
impl Budget for SharedBudget {
    fn take(&self, bytes: usize) -> bool {
        self.0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes))
            .is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}
