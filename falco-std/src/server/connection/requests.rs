//! The requests of one connection: what a thread does for one of them.

use core::net::SocketAddr;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::panic::catch_unwind;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Instant;

use falco_core::{NoAnswer, RequestError};

use super::super::admission::Place;
use super::super::handler::{HandlerError, Request};
use super::super::pool::{JobSource, Turn};
use super::super::state::{Conn, Job, State, Work};
use super::super::streams::{Handlers, StreamRequest};
use crate::open::without_unused;

/// How long a handler may take so that the thread of the connection runs the next one too.
const SHORT: Duration = Duration::from_micros(200);

/// The requests of one connection, for workers and for the thread of the connection.
pub(super) struct Requests<H> {
    /// Weak, so that a handler that runs does not keep the stream of a connection that has ended.
    conn: Weak<Conn>,
    peer: Option<SocketAddr>,
    handlers: Arc<Handlers<H>>,
    /// Taken until the last handler has returned.
    place: Arc<Place>,
    /// The last handler took longer than [`SHORT`].
    slow: AtomicBool,
    turn: Turn,
}

impl<H> JobSource for Requests<H>
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    /// Runs the handler for the next request, and sends the answer.
    fn run_one(&self, more: &dyn Fn()) {
        let Some(conn) = self.conn.upgrade() else { return };
        let (job, others) = conn.lock().state.pop();
        drop(conn);
        if others {
            more();
        }
        let Some(job) = job else { return };
        self.handle(job);
        self.send();
        let Some(conn) = self.conn.upgrade() else { return };
        conn.lock().state.job_done();
        conn.notify();
    }

    fn turn(&self) -> &Turn {
        &self.turn
    }
}

impl<H> Requests<H>
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError>,
{
    /// Runs the handler for a request, and gives its result to the connection.
    pub(super) fn handle(&self, job: Job) {
        let Job {
            id,
            key,
            work,
            cancelled,
            held,
        } = job;
        let counters = self.place.admission().counters();
        counters.requests.add(1);
        // A handler shares no state of this crate, so its panic cannot leave any state
        // inconsistent.
        match work {
            Work::Whole(body) => {
                let request = Request::received(body, self.peer, key, cancelled);
                let start = Instant::now();
                let result = catch_unwind(AssertUnwindSafe(|| (self.handlers.handler)(request)));
                self.slow.store(start.elapsed() > SHORT, Ordering::Relaxed);
                let result = result.map(|result| result.map(without_unused));
                counters.handled(self.complete(result, |state, result| state.answer(id, result)));
            }
            Work::Open(pipe, place) => {
                let request = Request::received(Vec::new(), self.peer, key, cancelled);
                let request = StreamRequest::new(&pipe, request, Weak::clone(&self.conn));
                let result = catch_unwind(AssertUnwindSafe(|| self.handlers.open(request)));
                let handled = self.complete(result, |state, result| state.end_open(id, result));
                // The connection may have ended after the answer was sent.
                if !pipe.is_counted() {
                    let answered = handled == Ok(false) && pipe.count_answer();
                    counters.handled(if answered { Ok(true) } else { handled });
                }
                drop(place);
            }
        }
        // The request's body was dropped, and its answer counts from now on.
        drop(held);
    }
}

impl<H> Requests<H> {
    pub(super) const fn new(
        conn: Weak<Conn>,
        peer: Option<SocketAddr>,
        handlers: Arc<Handlers<H>>,
        place: Arc<Place>,
    ) -> Self {
        Self {
            conn,
            peer,
            handlers,
            place,
            slow: AtomicBool::new(false),
            turn: Turn::new(),
        }
    }

    /// Sends the answers that the connection has.
    pub(super) fn send(&self) {
        if let Some(conn) = self.conn.upgrade() {
            conn.flush();
        }
    }

    /// Whether the last handler took long.
    pub(super) fn are_slow(&self) -> bool {
        self.slow.load(Ordering::Relaxed)
    }

    /// Hands the result of a handler to the connection with `submit`. Returns the outcome of the
    /// request, as [`State::answer`] does.
    fn complete<T>(
        &self,
        result: thread::Result<Result<T, HandlerError>>,
        submit: impl FnOnce(&mut State, Result<T, NoAnswer<'_>>) -> Result<bool, RequestError>,
    ) -> Result<bool, RequestError> {
        // An error and the payload of a panic are dropped last, because dropping them may run the
        // user's code.
        let (answer, error, _payload) = match result {
            Ok(Ok(answer)) => (Some(answer), None, None),
            Ok(Err(error)) => (None, Some(error), None),
            Err(payload) => (None, None, Some(payload)),
        };
        let Some(conn) = self.conn.upgrade() else {
            return Ok(false);
        };
        let failure = || error.as_deref().map_or(NoAnswer::Panicked, NoAnswer::Failed);
        let handled = submit(&mut conn.lock().state, answer.ok_or_else(failure));
        drop(conn);
        handled
    }
}
