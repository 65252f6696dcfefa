//! Requests and pings of callers, and where their results go.

use core::time::Duration;
use std::io;

use bytes::Bytes;
use falco_core::{ConnectionError, Fate, RequestError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::Error;

/// What a client is doing until a connection is established, for error messages.
pub(super) const HANDSHAKE: &str = "handshake";

/// The time limit of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// What the caller has set.
    pub(super) all: Duration,
    /// What was left of it when the request was submitted.
    pub(super) left: Duration,
}

/// The caller of a request.
pub(super) struct Waiter {
    to: oneshot::Sender<Result<Bytes, Error>>,
    pub(super) limit: Option<Limit>,
    /// When the limit passes. It counts from when the task takes the request.
    pub(super) expires_at: Option<Instant>,
}

impl Waiter {
    /// The task takes the request at `now`. An overflowing limit means no limit.
    pub(super) fn start(&mut self, now: Instant) {
        self.expires_at = self.limit.and_then(|limit| now.checked_add(limit.left));
    }

    pub(super) const fn new(to: oneshot::Sender<Result<Bytes, Error>>, limit: Option<Limit>) -> Self {
        Self {
            to,
            limit,
            expires_at: None,
        }
    }
}

/// Where the result of a ping goes.
pub(super) type PingTo = oneshot::Sender<Result<Option<Duration>, Error>>;

/// A request until it completes.
pub(super) type Call = falco_core::mux::Call<Bytes, Waiter>;

/// A ping until it completes, with the time at which its connection has accepted it.
pub(super) type Ping = falco_core::mux::Call<(), (Instant, PingTo)>;

/// Requests and pings that go from one connection to another.
#[derive(Default)]
pub(super) struct Returned {
    pub(super) calls: Vec<Call>,
    pub(super) pings: Vec<Ping>,
}

/// Sends a caller the error of its request.
pub(super) fn fail(waiter: Waiter, error: RequestError) {
    answer(waiter, Err(Error::Request(error)));
}

/// Sends a caller the result of its request. The caller may no longer wait.
pub(super) fn answer(waiter: Waiter, result: Result<Bytes, Error>) {
    let _ = waiter.to.send(result);
}

/// The error of a request whose connection has ended with `end`. `doing` is what the client was
/// doing, and `fate` the fate of the request.
pub(super) fn error_of(end: &io::Result<ConnectionError>, doing: &'static str, fate: Fate) -> Error {
    match end {
        Ok(end) => Error::connection(*end, fate),
        Err(error) => {
            let source = io::Error::new(error.kind(), error.to_string());
            Error::io(doing, source, fate)
        }
    }
}
