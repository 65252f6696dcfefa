//! The bound on the bytes that requests hold over all connections of a server.

#[cfg(feature = "std")]
use alloc::sync::Arc;
#[cfg(feature = "std")]
use core::sync::atomic::{AtomicUsize, Ordering};

/// The bound on the bytes that requests hold over all connections.
pub trait Budget {
    /// Takes so many bytes; says whether there were as many.
    #[must_use]
    fn take(&self, bytes: usize) -> bool;

    /// Gives bytes back that were taken.
    fn give_back(&self, bytes: usize);
}

/// No bound but those of each connection.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "there is nothing to it")]
pub struct Unbounded;

impl Budget for Unbounded {
    fn take(&self, _bytes: usize) -> bool {
        true
    }

    fn give_back(&self, _bytes: usize) {}
}

/// A bound for connections on several threads. Clones share it.
#[cfg(feature = "std")]
#[derive(Clone, Debug)]
pub struct SharedBudget(Arc<AtomicUsize>);

#[cfg(feature = "std")]
impl SharedBudget {
    /// So many bytes in all.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// How many bytes nobody holds.
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
