//! The counters of a client.

use core::sync::atomic::{AtomicU64, Ordering};

use crate::stats::Counter;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) outstanding: AtomicU64,
    pub(super) attempts: Counter,
    pub(super) connected: Counter,
    pub(super) requests: Counter,
    pub(super) answers: Counter,
    pub(super) errors: Counter,
}

/// Counters of a client since it was created, and gauges, for a metrics library to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Gauge: requests that callers have submitted and that have not completed.
    pub outstanding: u64,
    /// Attempts to connect.
    pub attempts: u64,
    /// Completed handshakes.
    pub connected: u64,
    /// Requests that callers have submitted.
    pub requests: u64,
    /// Requests that were answered.
    pub answers: u64,
    /// Requests that failed.
    pub errors: u64,
}

impl Counters {
    pub(super) fn read(&self) -> ClientStats {
        ClientStats {
            outstanding: self.outstanding.load(Ordering::Relaxed),
            attempts: self.attempts.get(),
            connected: self.connected.get(),
            requests: self.requests.get(),
            answers: self.answers.get(),
            errors: self.errors.get(),
        }
    }
}

/// What has counters.
pub(super) trait Counts {
    fn counters(&self) -> &Counters;
}

impl Counts for &Counters {
    fn counters(&self) -> &Counters {
        self
    }
}

/// Counts a request as outstanding until this is dropped, even if a stream panics.
pub(super) struct Outstanding<C: Counts>(C);

impl<C: Counts> Outstanding<C> {
    pub(super) fn new(counts: C) -> Self {
        counts.counters().outstanding.fetch_add(1, Ordering::Relaxed);
        Self(counts)
    }
}

impl<C: Counts> Drop for Outstanding<C> {
    fn drop(&mut self) {
        self.0.counters().outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}
