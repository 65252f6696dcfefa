//! Requests and pings of callers, and where their results go.

use core::time::Duration;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use falco_core::{ConnectionError, Fate, RequestError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::error::Error;
use crate::stream::Pipe;

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

/// Where the result of a request goes.
enum To {
    Caller(oneshot::Sender<Result<Bytes, Error>>),
    Stream(Stream),
}

/// The halves of an open request. If this is dropped before the request has ended, they fail.
struct Stream(Arc<Pipe>);

impl Drop for Stream {
    fn drop(&mut self) {
        // Without effect if the request has ended.
        self.0
            .fail(Error::connection(ConnectionError::Closed, Fate::MaybeProcessed));
    }
}

/// The caller of a request.
pub(super) struct Waiter {
    to: To,
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
            to: To::Caller(to),
            limit,
            expires_at: None,
        }
    }
}

impl Waiter {
    /// The caller of an open request, with which the halves share `pipe`. Its time limit is that of
    /// its caller.
    pub(super) const fn stream(pipe: Arc<Pipe>) -> Self {
        Self {
            to: To::Stream(Stream(pipe)),
            limit: None,
            expires_at: None,
        }
    }

    /// What the halves of an open request share.
    pub(super) const fn pipe(&self) -> Option<&Arc<Pipe>> {
        match &self.to {
            To::Stream(stream) => Some(&stream.0),
            To::Caller(_) => None,
        }
    }
}

/// Where the result of a ping goes.
pub(super) type PingTo = oneshot::Sender<Result<Option<Duration>, Error>>;

/// A request until it completes.
pub(super) type Call = falco_core::mux::Call<Bytes, Waiter>;

/// An open request until it completes.
pub(super) type OpenCall = falco_core::mux::OpenCall<Bytes, Waiter>;

/// A ping until it completes, with the time at which its connection has accepted it.
pub(super) type Ping = falco_core::mux::Call<(), (Instant, PingTo)>;

/// Requests and pings that go from one connection to another.
#[derive(Default)]
pub(super) struct Returned {
    pub(super) calls: Vec<Call>,
    pub(super) opens: Vec<OpenCall>,
    pub(super) pings: Vec<Ping>,
}

/// Sends a caller the error of its request.
pub(super) fn fail(waiter: Waiter, error: RequestError) {
    answer(waiter, Err(Error::Request(error)));
}

/// Sends a caller the result of its request. The caller may no longer wait.
pub(super) fn answer(waiter: Waiter, result: Result<Bytes, Error>) {
    match waiter.to {
        To::Caller(to) => _ = to.send(result),
        To::Stream(Stream(ref pipe)) => match result {
            Ok(body) => {
                pipe.arrive_whole(body);
                end(pipe);
            }
            Err(error) => pipe.fail(error),
        },
    }
}

/// An open request has completed: its answer is whole.
pub(super) fn end(pipe: &Pipe) {
    pipe.end_input();
    pipe.end_output(Error::Stopped);
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
