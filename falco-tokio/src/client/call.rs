//! Requests and pings of callers, and where their results go.

use core::time::Duration;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use falco_core::mux::Halves;
use falco_core::{ConnectionError, Fate, LostRequest, RequestError};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::callers::{Answer, Answers, CallerId};
use super::env::Env;
use crate::error::Error;
use crate::stream::{HalfError, Pipe};

/// What a client is doing until a connection is established, for error messages.
pub(super) const HANDSHAKE: &str = "handshake";

/// The time limit of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    /// The duration that the caller has set.
    pub(super) all: Duration,
    /// When the limit passes. `None` until it starts, at the latest when the task takes the
    /// request. Also `None` if the time would overflow.
    at: Option<Instant>,
}

impl Limit {
    pub(super) const fn new(all: Duration) -> Self {
        Self { all, at: None }
    }

    /// Starts the limit at `now`, unless it has started. An overflowing limit means no limit.
    pub(super) fn start(&mut self, now: Instant) {
        self.at = self.at.or_else(|| now.checked_add(self.all));
    }
}

/// Where the result of a request goes.
enum To {
    Caller(CallerId),
    Stream(Stream),
}

/// The halves of an open request. If this is dropped before the request has ended, they fail.
struct Stream {
    pipe: Arc<Pipe>,
    /// The environment of the client.
    env: Arc<Env>,
}

impl Stream {
    /// The request has completed: its answer is whole.
    fn end(&self) {
        self.env.counters.answers.add(1);
        self.pipe.update(Halves::complete);
    }

    fn fail(&self, error: Error) {
        self.env.counters.failed(error.fate());
        self.pipe.update(|halves| halves.fail(HalfError(error)));
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Without effect if the request has ended.
        self.pipe.update(|halves| halves.lose(LostRequest::DROPPED));
    }
}

/// The caller of a request.
pub(super) struct Waiter {
    to: To,
    pub(super) limit: Option<Limit>,
}

impl Waiter {
    /// The task takes the request at `now`.
    pub(super) fn start(&mut self, now: Instant) {
        if let Some(limit) = &mut self.limit {
            limit.start(now);
        }
    }

    /// When the limit passes.
    pub(super) fn expires_at(&self) -> Option<Instant> {
        self.limit?.at
    }

    pub(super) const fn new(caller: CallerId, limit: Option<Limit>) -> Self {
        Self {
            to: To::Caller(caller),
            limit,
        }
    }
}

impl Waiter {
    /// The caller of an open request whose halves share `pipe`. The limit is for the time until the
    /// request has begun.
    pub(super) const fn stream(pipe: Arc<Pipe>, limit: Option<Limit>, env: Arc<Env>) -> Self {
        Self {
            to: To::Stream(Stream { pipe, env }),
            limit,
        }
    }

    /// What the halves of an open request share.
    pub(super) const fn pipe(&self) -> Option<&Arc<Pipe>> {
        match &self.to {
            To::Stream(stream) => Some(&stream.pipe),
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

impl Answers {
    /// Adds the error of a request for its caller.
    pub(super) fn fail(&mut self, waiter: Waiter, error: RequestError) {
        self.answer(waiter, Err(Error::Request(error)));
    }

    /// Adds the result of a request for its caller, who may no longer wait. An open request
    /// receives it at once.
    pub(super) fn answer(&mut self, waiter: Waiter, result: Answer) {
        match waiter.to {
            To::Caller(caller) => self.push(caller, result),
            To::Stream(stream) => match result {
                Ok(body) => {
                    stream.pipe.arrive_whole(body);
                    stream.end();
                }
                Err(error) => stream.fail(error),
            },
        }
    }
}

/// The open answer to a request is whole.
pub(super) fn end(waiter: &Waiter) {
    if let To::Stream(stream) = &waiter.to {
        stream.end();
    }
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
