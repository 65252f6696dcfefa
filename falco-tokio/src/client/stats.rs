//! What a client counts.

use crate::stats::Counter;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) attempts: Counter,
    pub(super) connected: Counter,
    pub(super) requests: Counter,
    pub(super) answers: Counter,
    pub(super) errors: Counter,
}

/// What has happened at a client since it was made, for a metrics library to read. Counters only go
/// up; gauges say how it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Gauge: requests that have been handed over and have had no end.
    pub outstanding: u64,
    /// Attempts to connect.
    pub attempts: u64,
    /// Handshakes that succeeded.
    pub connected: u64,
    /// Requests that were made.
    pub requests: u64,
    /// Of these, requests that were answered.
    pub answers: u64,
    /// Of these, requests that ended with an error. The others were dropped, or are under way.
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
