//! The counters of a server, and what [`Server::serve`](crate::Server::serve) returns.

use falco_core::mux::AdmissionLimits;
use falco_core::{Refusal, RequestError};

use crate::stats::Counter;

#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) accepted: Counter,
    pub(super) rejected: Counter,
    pub(super) half_open_dropped: Counter,
    pub(super) established: Counter,
    pub(super) unauthenticated: Counter,
    pub(super) accept_errors: Counter,
    pub(super) over_key_limit: Counter,
    pub(super) revoked: Counter,
    pub(super) requests: Counter,
    pub(super) answers: Counter,
    refusals: Counter,
    cancelled: Counter,
    failed: Counter,
    pub(super) busy: Counter,
}

/// Counters of a server since it was created, and gauges, for a metrics library to read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Gauge: connections.
    pub connections: u64,
    /// Gauge: connections that have not completed their handshake.
    pub half_open: u64,
    /// Gauge: the limit of connections in force. It is less than
    /// [`ServerBuilder::max_connections`](crate::ServerBuilder::max_connections) if the process may
    /// not open as many files.
    pub max_connections: u64,
    /// Gauge: the limit of half-open connections in force. It may be less than configured for the
    /// same reason.
    pub max_half_open: u64,
    /// Accepted sockets.
    pub accepted: u64,
    /// Sockets that were closed at once, because the limit of connections or the limit of one
    /// source was reached.
    pub rejected: u64,
    /// Half-open connections that were dropped, to free places or because the system lacked file
    /// descriptors or memory.
    pub half_open_dropped: u64,
    /// Completed handshakes.
    pub established: u64,
    /// Connections that ended before their handshake was completed, for example because the client
    /// has another key, or sent nothing. Dropped connections and errors of the stream do not count.
    pub unauthenticated: u64,
    /// Errors when accepting a socket, for example because no file descriptors were left.
    pub accept_errors: u64,
    /// Connections that were closed after their handshake, because the limit of their key was
    /// reached
    /// ([`ServerBuilder::max_connections_per_key`](crate::ServerBuilder::max_connections_per_key))
    /// or that of the classic wire
    /// ([`ServerBuilder::max_classic_connections`](crate::ServerBuilder::max_classic_connections)).
    pub over_key_limit: u64,
    /// Connections that were ended because their key was revoked
    /// ([`Handle::revoke_key`](crate::Handle::revoke_key)).
    pub revoked: u64,
    /// Requests for which the handler was called.
    pub requests: u64,
    /// Of these, requests that were answered.
    pub answers: u64,
    /// Of these, requests that were refused, by the handler or because the answer was too large.
    pub refusals: u64,
    /// Of these, requests that were cancelled or whose connection ended.
    pub cancelled: u64,
    /// Of the refused, requests whose handler failed or panicked.
    pub failed: u64,
    /// Requests that were refused as busy without a call of the handler: no worker was free in
    /// time, or there was no room for their bytes
    /// ([`ServerBuilder::max_held`](crate::ServerBuilder::max_held),
    /// [`Settings::with_max_held`](crate::Settings::with_max_held)).
    pub busy: u64,
}

/// The counters of a server at the end of its shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// The server's counters.
    pub stats: ServerStats,
    /// Connections that were ended because the time limit of the shutdown had passed, or that ended
    /// during the shutdown with requests unanswered.
    pub cut_connections: u64,
    /// The unanswered requests of these connections.
    pub cut_requests: u64,
}

impl Counters {
    /// Counts the result of a handler, as [`ServerMux::complete`] returns it.
    ///
    /// [`ServerMux::complete`]: falco_core::mux::ServerMux::complete
    pub(super) fn handled(&self, handled: Result<bool, RequestError>) {
        match handled {
            Ok(true) => self.answers.add(1),
            Ok(false) => self.cancelled.add(1),
            Err(error) => {
                self.refusals.add(1);
                self.failed
                    .add(u64::from(error == RequestError::Refused(Refusal::Failed)));
            }
        }
    }

    pub(super) fn read(&self, connections: usize, half_open: usize, limits: &AdmissionLimits) -> ServerStats {
        ServerStats {
            connections: gauge(connections),
            half_open: gauge(half_open),
            max_connections: gauge(limits.max_connections),
            max_half_open: gauge(limits.max_half_open),
            accepted: self.accepted.get(),
            rejected: self.rejected.get(),
            half_open_dropped: self.half_open_dropped.get(),
            established: self.established.get(),
            unauthenticated: self.unauthenticated.get(),
            accept_errors: self.accept_errors.get(),
            over_key_limit: self.over_key_limit.get(),
            revoked: self.revoked.get(),
            requests: self.requests.get(),
            answers: self.answers.get(),
            refusals: self.refusals.get(),
            cancelled: self.cancelled.get(),
            failed: self.failed.get(),
            busy: self.busy.get(),
        }
    }
}

/// `count` as the value of a gauge.
pub(super) fn gauge(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
