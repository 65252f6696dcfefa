//! What a server counts.

use falco_core::ConnectionError;
use falco_core::mux::AdmissionLimits;

use crate::metrics::{self, Gauge, Histogram};
use crate::stats::Counter;

#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) accepted: Counter,
    pub(crate) rejected: Counter,
    pub(crate) half_open_dropped: Counter,
    pub(crate) established: Counter,
    pub(crate) unauthenticated: Counter,
    pub(crate) accept_errors: Counter,
    pub(crate) over_key_limit: Counter,
    pub(crate) revoked: Counter,
    pub(crate) requests: Counter,
    pub(crate) answers: Counter,
    pub(crate) refusals: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) failed: Counter,
    pub(crate) busy: Counter,
    pub(crate) metrics: Metrics,
}

/// Causes of failed handshakes whose counters exist from the beginning: a rate does not show the
/// first increment of a counter that did not exist before.
const CAUSES: [&str; 4] = ["unauthenticated", "replayed", "unknown_wire", "handshake_timeout"];

/// What is measured besides, if the feature `metrics` is on.
#[derive(Debug)]
pub(crate) struct Metrics {
    pub(crate) connections: Gauge,
    pub(crate) half_open: Gauge,
    pub(crate) handler_time: Histogram,
    pub(crate) request_length: Histogram,
    pub(crate) answer_length: Histogram,
    pub(crate) received: metrics::Counter,
    pub(crate) sent: metrics::Counter,
}

impl Metrics {
    fn new() -> Self {
        for cause in CAUSES {
            Self::refused(cause);
        }
        Self {
            connections: Gauge::new("falco_server_connections", "Open connections", &[]),
            half_open: Gauge::new(
                "falco_server_half_open_connections",
                "Open connections that have not completed their handshake",
                &[],
            ),
            handler_time: Histogram::seconds(
                "falco_server_handler_seconds",
                "From the call of the handler to its end",
            ),
            request_length: Histogram::bytes("falco_server_request_bytes", "Bodies of requests"),
            answer_length: Histogram::bytes("falco_server_answer_bytes", "Bodies of answers"),
            received: metrics::Counter::new(
                "falco_server_received_bytes_total",
                "Bytes that were received, with all overhead",
                &[],
            ),
            sent: metrics::Counter::new(
                "falco_server_sent_bytes_total",
                "Bytes that were sent, with all overhead",
                &[],
            ),
        }
    }

    /// The counter of handshakes that failed because of `cause`.
    fn refused(cause: &str) -> metrics::Counter {
        let what = "Handshakes that failed, by cause";
        metrics::Counter::new("falco_server_handshakes_refused_total", what, &[("cause", cause)])
    }

    /// A connection has ended. `established` is whether it had completed its handshake.
    pub(crate) fn ended(&self, end: ConnectionError, established: bool) {
        let _ = self;
        let name = metrics::name_of(end);
        if established {
            let what = "Connections that have ended, by their end";
            metrics::Counter::new("falco_server_connections_ended_total", what, &[("end", name)]).add(1);
        } else {
            Self::refused(name).add(1);
        }
    }
}

/// Counters and gauges of a server since it was built, for a metrics library. Counters only go up;
/// gauges are the current values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Gauge: open connections.
    pub connections: u64,
    /// Gauge: open connections that have not completed their handshake.
    pub half_open: u64,
    /// Gauge: the limit on connections in force. It is less than
    /// [`ServerBuilder::max_connections`](crate::ServerBuilder::max_connections) if the process may
    /// not open as many files.
    pub max_connections: u64,
    /// Gauge: the limit on half-open connections in force, likewise.
    pub max_half_open: u64,
    /// Sockets that were accepted.
    pub accepted: u64,
    /// Sockets that were closed at once, because the limit on connections was reached, or their
    /// source had too many half-open connections.
    pub rejected: u64,
    /// Half-open connections that were dropped, to free places or because the system lacked file
    /// descriptors or memory.
    pub half_open_dropped: u64,
    /// Handshakes that succeeded.
    pub established: u64,
    /// Handshakes that failed: another key, other bytes, the handshake timeout. Dropped connections
    /// do not count.
    pub unauthenticated: u64,
    /// Errors while accepting, such as no file descriptors left.
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
    /// Requests that were passed to the handler.
    pub requests: u64,
    /// Of these, requests that were answered.
    pub answers: u64,
    /// Of these, requests that were refused by the handler or because of its answer's size.
    pub refusals: u64,
    /// Of these, requests that were cancelled, or whose connection ended.
    pub cancelled: u64,
    /// Of the refused, requests whose handler failed or panicked.
    pub failed: u64,
    /// Requests that were refused as busy without a call of the handler, because there was no room
    /// for their bytes ([`ServerBuilder::max_held`](crate::ServerBuilder::max_held),
    /// [`Settings::with_max_held`](crate::Settings::with_max_held)).
    pub busy: u64,
}

impl Counters {
    pub(crate) fn new() -> Self {
        let counter = |name, what| Counter::with_metric(name, what, &[]);
        let ended = |outcome| {
            Counter::with_metric(
                "falco_server_requests_ended_total",
                "Requests that have ended, by outcome",
                &[("outcome", outcome)],
            )
        };
        Self {
            accepted: counter("falco_server_accepted_total", "Sockets that were accepted"),
            rejected: counter(
                "falco_server_rejected_total",
                "Sockets that were closed at once for lack of a place",
            ),
            half_open_dropped: counter(
                "falco_server_half_open_dropped_total",
                "Half-open connections that were dropped for others",
            ),
            established: counter("falco_server_established_total", "Handshakes that succeeded"),
            // By cause in another metric.
            unauthenticated: Counter::default(),
            accept_errors: counter("falco_server_accept_errors_total", "Errors while accepting"),
            over_key_limit: counter(
                "falco_server_over_key_limit_total",
                "Connections that were closed because their key has too many",
            ),
            revoked: counter(
                "falco_server_revoked_total",
                "Connections that were ended because their key was revoked",
            ),
            requests: counter(
                "falco_server_requests_total",
                "Requests that were passed to the handler",
            ),
            answers: ended("answered"),
            refusals: ended("refused"),
            cancelled: ended("cancelled"),
            failed: counter("falco_server_handlers_failed_total", "Handlers that failed or panicked"),
            busy: counter(
                "falco_server_busy_total",
                "Requests that were refused as busy without a call of the handler",
            ),
            metrics: Metrics::new(),
        }
    }

    pub(crate) fn read(&self, connections: usize, half_open: usize, limits: &AdmissionLimits) -> ServerStats {
        let gauge = |count| u64::try_from(count).unwrap_or(u64::MAX);
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
