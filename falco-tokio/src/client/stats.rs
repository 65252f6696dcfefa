//! Counters of a client.

use falco_core::Fate;
use falco_core::mux::AttemptEnd;

use super::servers::Servers;
use crate::metrics::{self, Gauge, Histogram};
use crate::stats::Counter;

#[derive(Debug)]
pub(super) struct Counters {
    servers: Box<[ServerCounters]>,
    pub(super) requests: Counter,
    pub(super) answers: Counter,
    pub(super) errors: Counter,
    pub(super) not_processed: metrics::Counter,
    pub(super) maybe_processed: metrics::Counter,
    pub(super) time: Histogram,
    pub(super) in_backoff: Gauge,
}

/// The counters for one server.
#[derive(Debug)]
pub(super) struct ServerCounters {
    pub(super) attempts: Counter,
    pub(super) connected: Counter,
    pub(super) connections: Gauge,
    pub(super) received: metrics::Counter,
    pub(super) sent: metrics::Counter,
    /// The name of the server in metrics.
    name: String,
}

/// Causes of failed attempts whose counters exist from the beginning: a rate does not show the
/// first increment of a counter that did not exist before.
const CAUSES: [&str; 4] = ["stream", "slow", "refused", "handshake_timeout"];

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
    /// Creates the counters of a client of these servers. The label `server` of the metrics of
    /// requests names all of them.
    pub(super) fn new(servers: &Servers) -> Self {
        let all = servers.to_string();
        let labels = [("server", all.as_str())];
        let counter = |name, what| Counter::with_metric(name, what, &labels);
        let ended = "falco_client_requests_ended_total";
        let what = "Requests that have ended, by outcome";
        let failed = |outcome| metrics::Counter::new(ended, what, &[labels[0], ("outcome", outcome)]);
        Self {
            servers: servers.names().map(ServerCounters::new).collect(),
            requests: counter("falco_client_requests_total", "Requests of callers"),
            answers: Counter::with_metric(ended, what, &[labels[0], ("outcome", "answered")]),
            // Metrics count failed requests by their fate.
            errors: Counter::default(),
            not_processed: failed("not_processed"),
            maybe_processed: failed("maybe_processed"),
            time: Histogram::seconds("falco_client_request_seconds", "From the call of a request to its end"),
            in_backoff: Gauge::new(
                "falco_client_connections_in_backoff",
                "Connections whose last attempt failed, and which wait or try again",
                &labels,
            ),
        }
    }

    /// The counters for `server`.
    pub(super) fn of(&self, server: usize) -> Option<&ServerCounters> {
        self.servers.get(server)
    }

    /// A request has failed.
    pub(super) fn failed(&self, fate: Fate) {
        self.errors.add(1);
        match fate {
            Fate::NotProcessed => self.not_processed.add(1),
            Fate::MaybeProcessed | _ => self.maybe_processed.add(1),
        }
    }

    pub(super) fn read(&self, outstanding: usize) -> ClientStats {
        ClientStats {
            outstanding: u64::try_from(outstanding).unwrap_or(u64::MAX),
            attempts: self.sum(|server| &server.attempts),
            connected: self.sum(|server| &server.connected),
            requests: self.requests.get(),
            answers: self.answers.get(),
            errors: self.errors.get(),
        }
    }

    /// The sum of a counter over all servers.
    fn sum(&self, counter: impl Fn(&ServerCounters) -> &Counter) -> u64 {
        self.servers.iter().map(|server| counter(server).get()).sum()
    }
}

impl ServerCounters {
    fn new(name: String) -> Self {
        let labels = [("server", name.as_str())];
        let counter = |name, what| Counter::with_metric(name, what, &labels);
        let bytes = |name, what| metrics::Counter::new(name, what, &labels);
        for cause in CAUSES {
            failed_attempts(&name, cause);
        }
        Self {
            attempts: counter("falco_client_attempts_total", "Attempts to connect"),
            connected: counter("falco_client_connected_total", "Handshakes that completed"),
            connections: Gauge::new("falco_client_connections", "Established connections", &labels),
            received: bytes(
                "falco_client_received_bytes_total",
                "Bytes that were received, with all overhead",
            ),
            sent: bytes(
                "falco_client_sent_bytes_total",
                "Bytes that were sent, with all overhead",
            ),
            name,
        }
    }

    /// An attempt to connect has failed.
    pub(super) fn attempt_failed(&self, end: AttemptEnd) {
        let cause = match end {
            AttemptEnd::Connection(end) => metrics::name_of(end),
            AttemptEnd::Stream => "stream",
            AttemptEnd::Unusable => "unusable",
        };
        self.attempt_failed_by(cause);
    }

    /// An attempt to connect was abandoned, because a later one at another server was faster.
    pub(super) fn attempt_was_slow(&self) {
        self.attempt_failed_by("slow");
    }

    fn attempt_failed_by(&self, cause: &str) {
        failed_attempts(&self.name, cause).add(1);
    }
}

/// The counter of attempts to connect to `server` that failed because of `cause`.
fn failed_attempts(server: &str, cause: &str) -> metrics::Counter {
    let what = "Attempts to connect that failed, by cause";
    let labels = [("server", server), ("cause", cause)];
    metrics::Counter::new("falco_client_attempts_failed_total", what, &labels)
}
