//! One connection of a server: the thread that reads, and what a worker does for a request. The
//! state that they share is in `state`.

#[cfg(all(test, unix))]
mod half_open_tests;

use core::net::SocketAddr;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::io;
use std::panic::catch_unwind;
use std::sync::{Arc, Weak};
use std::thread;

use falco_core::mux::{MustLeave, NoAnswer, ServerStep};
use falco_core::{ConnectionError, Instant, RequestError, ServerConnection, wipe_stack};

use super::Service;
use super::admission::{Permit, Place};
use super::handler::{HandlerError, Request};
use super::pool::JobSource;
use super::state::{Conn, Job, State, Work};
use super::streams::{Handlers, StreamRequest};
use crate::line::{Filled, Line};
use crate::open::without_unused;
use crate::shared::{Locked, Shared, handles};
use crate::stream::BoxedStream;

/// How often a thread that no other can wake checks whether the connection is to end.
const STOP_POLL: Duration = Duration::from_millis(250);

/// A connection that has not read yet, and the handle to read with. `streams` says whether there is
/// a handler for open requests. Over a stream that does not split, requests go one after another,
/// so that none can be open.
pub(super) fn prepare(service: &Service, stream: BoxedStream, streams: bool) -> io::Result<(Arc<Conn>, BoxedStream)> {
    let clock = service.clock;
    let mut entropy = service.entropy.clone();
    let ([input, output, control], splits) = handles(stream)?;
    let streams = streams && splits;
    let settings = if streams {
        service.settings
    } else {
        service.settings.with_streams(0, 0)
    };
    let machine = ServerConnection::new(Arc::clone(&service.keys), &settings, clock.now(), &mut entropy);
    let state = State::new(
        machine.map_err(io::Error::other)?,
        service.budget.clone(),
        &settings,
        (service.queue_timeout, streams.then(|| service.open_places.clone())),
    );
    let conn = Shared::new(state, clock, [output, control], splits)?;
    let own = Arc::downgrade(&conn);
    conn.lock().state.set_linger_timer(Arc::clone(&service.linger), own);
    Ok((conn, input))
}

struct Reader<'a, H> {
    conn: &'a Arc<Conn>,
    line: Line<BoxedStream>,
    service: &'a Arc<Service>,
    permit: &'a Permit,
    requests: Arc<Requests<H>>,
    /// The client sends nothing more.
    input_ended: bool,
}

/// Serves a connection until it has ended. Returns what ended it.
pub(super) fn serve<H>(
    service: &Arc<Service>,
    permit: &Permit,
    stream: BoxedStream,
    peer: Option<SocketAddr>,
    handlers: &Arc<Handlers<H>>,
) -> io::Result<ConnectionError>
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    let conn = permit.conn();
    // Shutting a socket down wakes a thread that reads it, on Unix.
    let wakes = cfg!(unix) && conn.splits();
    let longest_wait = if wakes { None } else { Some(STOP_POLL) };
    let requests = Arc::new(Requests {
        conn: Arc::downgrade(conn),
        peer,
        handlers: Arc::clone(handlers),
        place: Arc::clone(permit.place()),
    });
    let (pool, source) = (Arc::clone(&service.pool), Arc::clone(&requests));
    let submit = move || pool.submit(Arc::clone(&source));
    let mut locked = conn.lock();
    locked.state.set_submit(Arc::new(submit));
    locked.state.all_stream = handlers.all_stream();
    drop(locked);
    let mut reader = Reader {
        conn,
        line: Line::new(stream, service.clock, longest_wait),
        service,
        permit,
        requests,
        input_ended: false,
    };
    let ended = reader.run();
    wipe_stack();
    reader.end(&ended);
    ended
}

impl<H> Reader<'_, H>
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    /// Reads until the connection has ended. It is not inlined, because its caller overwrites its
    /// stack frame afterwards.
    #[inline(never)]
    fn run(&mut self) -> io::Result<ConnectionError> {
        loop {
            self.conn.flush();
            let mut locked = self.conn.lock();
            if let Some(ended) = locked.state.end.take() {
                return ended;
            }
            if locked.state.cut || locked.state.revoked {
                return Ok(ConnectionError::Closed);
            }
            let (now, seen) = (self.conn.now(), locked.changes());
            let refused = locked.state.refuse_overdue(now);
            if refused > 0 {
                drop(locked);
                self.service.admission.counters().busy.add(refused);
                continue;
            }
            match locked.state.mux.recv(now, self.line.unread()) {
                Err(end) => return Ok(end),
                Ok(ServerStep::Request { consumed, id, body }) => {
                    let body = body.into_vec();
                    self.line.consume(consumed);
                    let schedule = locked.state.push(now, id, body);
                    drop(locked);
                    if schedule {
                        self.service.pool.submit(Arc::clone(&self.requests));
                    }
                    if !self.conn.splits() {
                        wipe_stack();
                        self.wait_for_handler();
                    }
                }
                Ok(ServerStep::Opened { consumed, id, body }) => {
                    let body = body.into_vec();
                    self.line.consume(consumed);
                    let schedule = locked.state.push_open(now, id, &body);
                    self.count_busy(&mut locked);
                    drop(locked);
                    if schedule {
                        self.service.pool.submit(Arc::clone(&self.requests));
                    }
                }
                Ok(ServerStep::Part { consumed, id, body }) => {
                    if let Some(pipe) = locked.state.opens.pipe(id) {
                        pipe.arrive(body);
                    }
                    self.line.consume(consumed);
                }
                Ok(ServerStep::Ended { consumed, id }) => {
                    locked.state.end_body(id);
                    self.line.consume(consumed);
                }
                Ok(ServerStep::Cancelled { consumed, id }) => {
                    locked.state.cancel(id);
                    self.line.consume(consumed);
                }
                Ok(ServerStep::Established { consumed }) => {
                    drop(locked);
                    self.line.consume(consumed);
                    self.establish();
                }
                Ok(ServerStep::Hello { consumed, fingerprint }) => {
                    drop(locked);
                    self.line.consume(consumed);
                    self.permit.hello(fingerprint);
                }
                Ok(ServerStep::Skip { consumed } | ServerStep::Closing { consumed, .. }) => {
                    self.line.consume(consumed);
                    self.count_busy(&mut locked);
                }
                Ok(ServerStep::NeedMore { total }) => {
                    locked.state.mux.set_reading(now, true);
                    drop(locked);
                    wipe_stack();
                    if self.input_ended {
                        self.wait_for_change(seen);
                    } else {
                        self.fill(total, now)?;
                    }
                }
                // Back-pressure. The lifetime is paused meanwhile.
                Ok(ServerStep::TransmitFirst | ServerStep::AnswerFirst | _) => {
                    self.count_busy(&mut locked);
                    locked.state.mux.set_reading(now, false);
                    drop(locked);
                    wipe_stack();
                    self.conn.flush();
                    self.wait_for_change(seen);
                }
            }
        }
    }

    /// Counts the requests for which there was no room.
    fn count_busy(&self, locked: &mut Locked<State>) {
        self.service.admission.counters().busy.add(locked.state.mux.take_busy());
    }

    /// The client has proved that it has a key. The key may have been retired since the hello.
    fn establish(&mut self) {
        self.line.set_authenticated();
        let mut locked = self.conn.lock();
        let key = locked.state.mux.connection().key_id();
        locked.state.label = self.service.keys.label(key);
        if let Some(age) = self.service.max_connection_age {
            let (mux, entropy) = (&mut locked.state.mux, &self.service.entropy);
            mux.drain_after(self.conn.now(), age, |bound| entropy.below(bound));
        }
        drop(locked);
        // From here on `Handle::retire_key` finds the connection by its key.
        let retired = self.service.keys.is_retired(key);
        let Some(why) = self.permit.establish(key, retired) else {
            return;
        };
        if why == MustLeave::OverLimit {
            self.service.admission.counters().over_key_limit.add(1);
        }
        self.conn.lock().state.mux.leave(self.conn.now(), why);
    }

    /// Waits until the request has completed. A stream that does not split cannot be read while a
    /// worker writes to it.
    fn wait_for_handler(&self) {
        loop {
            let now = self.conn.now();
            let mut locked = self.conn.lock();
            let refused = locked.state.refuse_overdue(now);
            if refused > 0 {
                self.service.admission.counters().busy.add(refused);
            }
            if !locked.state.is_busy() || locked.state.cut || locked.state.revoked {
                return;
            }
            let overdue_at = locked.state.overdue_at();
            let wait = overdue_at.map_or(STOP_POLL, |at| at.since(now).min(STOP_POLL));
            drop(self.conn.wait(locked, Some(wait.max(Duration::from_millis(1)))));
        }
    }

    /// Waits for a change since `seen`, for progress of a write, or for a deadline.
    fn wait_for_change(&self, seen: u64) {
        let now = self.conn.now();
        let mut locked = self.conn.lock();
        if locked.changes() != seen || locked.state.has_ended() || !locked.state.handle_timeout(now) {
            return;
        }
        let until = locked.state.poll_timeout(now);
        let wait = until.map_or(STOP_POLL, |until| until.since(now).min(STOP_POLL));
        drop(self.conn.wait(locked, Some(wait.max(Duration::from_millis(1)))));
    }

    /// Waits for bytes, from `now` on.
    fn fill(&mut self, total: usize, mut now: Instant) -> io::Result<()> {
        let locked = self.conn.lock();
        if locked.state.has_ended() {
            return Ok(());
        }
        let until = locked.state.poll_timeout(now);
        let half_open = !locked.state.mux.is_established();
        drop(locked);
        if half_open {
            let limit = until.map(|until| until.since(now));
            if !self.permit.wait_readable(limit) {
                self.conn.cut();
                return Ok(());
            }
            now = self.conn.now();
        }
        let filled = self.line.fill(total, now, until)?;
        if self.line.is_idle() {
            self.conn.free_buffer();
        }
        let now = self.conn.now();
        let state = &mut self.conn.lock().state;
        match filled {
            // This side has shut the stream down, so the result says nothing about the client.
            _ if state.revoked => {}
            Filled::Bytes => {}
            Filled::Nothing => _ = state.handle_timeout(now),
            Filled::EndOfStream => {
                self.input_ended = true;
                // `recv` returns the error.
                _ = state.mux.end_of_stream(now, self.line.unread());
            }
        }
        Ok(())
    }

    fn end(&mut self, ended: &io::Result<ConnectionError>) {
        self.service.pool.withdraw(&self.requests);
        // The core no longer counts unread bytes after `cancel_all`.
        self.line.drop_unread();
        let mut locked = self.conn.lock();
        let unanswered = locked.state.mux.unanswered();
        locked.state.fail_opens(ended);
        locked.state.cancel_all();
        locked.state.end_stream(self.conn.now());
        let (established, cut) = (locked.state.mux.is_established(), locked.state.cut);
        drop(locked);
        if !cut {
            self.permit.count_unanswered(unanswered);
        }
        if !established && !cut && ended.is_ok() {
            self.service.admission.counters().unauthenticated.add(1);
        }
        if ended.is_ok() && !(cut && established) {
            self.conn.end_stream(&mut self.line);
        } else {
            self.line.abort();
        }
    }
}

/// The requests of one connection, for workers.
struct Requests<H> {
    /// Weak, so that a handler that runs does not keep the stream of a connection that has ended.
    conn: Weak<Conn>,
    peer: Option<SocketAddr>,
    handlers: Arc<Handlers<H>>,
    /// Taken until the last handler has returned.
    place: Arc<Place>,
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
        let Some(Job {
            id,
            key,
            work,
            cancelled,
            held,
        }) = job
        else {
            return;
        };
        let counters = self.place.admission().counters();
        counters.requests.add(1);
        // A handler shares no state of this crate, so its panic cannot leave any state
        // inconsistent.
        match work {
            Work::Whole(body) => {
                let request = Request::received(body, self.peer, key, cancelled);
                let result = catch_unwind(AssertUnwindSafe(|| (self.handlers.handler)(request)));
                let result = result.map(|result| result.map(without_unused));
                counters.handled(self.complete(result, |state, result| state.answer(id, result)));
            }
            Work::Open(pipe, place) => {
                let request = Request::received(Vec::new(), self.peer, key, cancelled);
                let request = StreamRequest::new(&pipe, request, Weak::clone(&self.conn));
                let result = catch_unwind(AssertUnwindSafe(|| self.handlers.open(request)));
                let handled = self.complete(result, |state, result| state.end_open(id, result));
                // The connection may have ended after the answer was sent.
                let answered = handled == Ok(false) && pipe.update(|halves| halves.is_answered());
                counters.handled(if answered { Ok(true) } else { handled });
                drop(place);
            }
        }
        // The request's body is gone, and its answer counts from now on.
        drop(held);
        let Some(conn) = self.conn.upgrade() else { return };
        conn.flush();
        conn.lock().state.job_done();
        conn.notify();
    }
}

impl<H> Requests<H> {
    /// Hands the result of a handler to the connection with `submit`. Returns what became of the
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
