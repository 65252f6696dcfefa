//! What a server counts.

use crate::stats::Counter;

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: Counter,
    pub(crate) turned_away: Counter,
    pub(crate) half_open_dropped: Counter,
    pub(crate) established: Counter,
    pub(crate) unauthenticated: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) requests: Counter,
    pub(crate) answers: Counter,
    pub(crate) refusals: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) failed: Counter,
    pub(crate) busy: Counter,
}

/// What has happened at a server since it was made, for a metrics library to read. Counters only go
/// up; gauges say how it is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Gauge: connections that there are.
    pub connections: u64,
    /// Gauge: those of them that have not finished their handshake.
    pub half_open: u64,
    /// Sockets that were accepted.
    pub accepted: u64,
    /// Sockets that were closed at once, because there were as many connections as there may be.
    pub turned_away: u64,
    /// Connections that were late in their handshake and dropped to make room for others.
    pub half_open_dropped: u64,
    /// Handshakes that succeeded.
    pub established: u64,
    /// Handshakes that did not: another key, other bytes, silence.
    pub unauthenticated: u64,
    /// Errors of accepting, such as no file descriptors left.
    pub accept_errors: u64,
    /// Requests that were handed to the handler.
    pub requests: u64,
    /// Of these, requests that were answered.
    pub answers: u64,
    /// Of these, requests that were refused by the handler or because of its answer's size.
    pub refusals: u64,
    /// Of these, requests whose clients cancelled them or went away.
    pub cancelled: u64,
    /// Of the refused, requests whose handler failed or panicked.
    pub failed: u64,
    /// Requests that were refused as busy before any handler saw them, because all connections
    /// together held as much as they may
    /// ([`ServerBuilder::max_held`](crate::ServerBuilder::max_held)).
    pub busy: u64,
}

impl Counters {
    pub(crate) fn read(&self, connections: usize, half_open: usize) -> ServerStats {
        let gauge = |count| u64::try_from(count).unwrap_or(u64::MAX);
        ServerStats {
            connections: gauge(connections),
            half_open: gauge(half_open),
            accepted: self.accepted.get(),
            turned_away: self.turned_away.get(),
            half_open_dropped: self.half_open_dropped.get(),
            established: self.established.get(),
            unauthenticated: self.unauthenticated.get(),
            accept_errors: self.accept_errors.get(),
            requests: self.requests.get(),
            answers: self.answers.get(),
            refusals: self.refusals.get(),
            cancelled: self.cancelled.get(),
            failed: self.failed.get(),
            busy: self.busy.get(),
        }
    }
}
