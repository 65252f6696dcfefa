//! Counters of a client.

use crate::stats::Counter;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) attempts: Counter,
    pub(super) connected: Counter,
    pub(super) requests: Counter,
    pub(super) answers: Counter,
    pub(super) errors: Counter,
}

/// Counters and gauges of a client since it was created, for a metrics library to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Gauge: requests that were submitted and have not completed.
    pub outstanding: u64,
    /// Attempts to connect.
    pub attempts: u64,
    /// Handshakes that completed.
    pub connected: u64,
    /// Requests of callers.
    pub requests: u64,
    /// Of these, requests that were answered.
    pub answers: u64,
    /// Of these, requests that failed. The others were dropped, or have not completed.
    pub errors: u64,
}

impl Counters {
    pub(super) fn read(&self, outstanding: usize) -> ClientStats {
        ClientStats {
            outstanding: u64::try_from(outstanding).unwrap_or(u64::MAX),
            attempts: self.attempts.get(),
            connected: self.connected.get(),
            requests: self.requests.get(),
            answers: self.answers.get(),
            errors: self.errors.get(),
        }
    }
}
