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

/// Counts a request as outstanding until this is dropped, even if a stream panics.
pub(super) struct Outstanding<'c>(&'c Counters);

impl<'c> Outstanding<'c> {
    pub(super) fn new(counters: &'c Counters) -> Self {
        counters.outstanding.fetch_add(1, Ordering::Relaxed);
        Self(counters)
    }
}

impl Drop for Outstanding<'_> {
    fn drop(&mut self) {
        self.0.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}
