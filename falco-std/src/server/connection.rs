//! One connection of a server: the thread that reads. What it and workers do for a request is in
//! `requests`, how it runs a handler itself in `handling`, and the state that they share is in
//! `state`.

#[cfg(all(test, unix))]
mod half_open_tests;
mod handling;
mod requests;

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use falco_core::mux::{MustClose, ServerStep};
use falco_core::{ConnectionError, Instant, ServerConnection, wipe_stack};

use self::handling::Parked;
use self::requests::Requests;
use super::Service;
use super::admission::Permit;
use super::handler::{HandlerError, Request};
use super::state::{Conn, Job, State};
use super::streams::Handlers;
use crate::line::{Filled, Line};
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
    let settings = service.settings.with_stream_handler(streams);
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

/// The thread of a connection, with the state that moves to another thread which takes over.
struct Reader<H> {
    conn: Arc<Conn>,
    line: Line<BoxedStream>,
    service: Arc<Service>,
    requests: Arc<Requests<H>>,
    /// Where this is while the thread runs a handler. `None` if it runs none.
    parked: Option<Arc<Parked<H>>>,
    /// The client sends nothing more.
    input_ended: bool,
    /// Dropped last, so that the descriptor is free when the place is.
    permit: Permit,
}

/// Why a thread stops reading.
enum Step {
    Ended(ConnectionError),
    /// The thread runs this handler before it reads on.
    Handle(Job),
}

/// Serves an accepted connection until it has ended or another thread has taken it over.
pub(super) fn serve<H>(
    service: Arc<Service>,
    permit: Permit,
    stream: BoxedStream,
    peer: Option<SocketAddr>,
    handlers: Arc<Handlers<H>>,
) where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    let mut reader = Reader::new(service, permit, stream, peer, handlers);
    reader.parked = Some(Arc::default());
    // The result, what ended the connection, has no receiver here.
    let _ = reader.serve();
}

/// Serves a guest until it has ended, on this thread alone: its stream is of the user. Returns what
/// ended it.
pub(super) fn serve_guest<H>(
    service: &Arc<Service>,
    permit: Permit,
    stream: BoxedStream,
    handlers: &Arc<Handlers<H>>,
) -> io::Result<ConnectionError>
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    let reader = Reader::new(Arc::clone(service), permit, stream, None, Arc::clone(handlers));
    reader.serve().unwrap_or(Ok(ConnectionError::Closed))
}

impl<H> Reader<H>
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    fn new(
        service: Arc<Service>,
        permit: Permit,
        stream: BoxedStream,
        peer: Option<SocketAddr>,
        handlers: Arc<Handlers<H>>,
    ) -> Box<Self> {
        let conn = Arc::clone(permit.conn());
        // Shutting a socket down wakes a thread that reads it, on Unix.
        let wakes = cfg!(unix) && conn.splits();
        let longest_wait = if wakes { None } else { Some(STOP_POLL) };
        let place = Arc::clone(permit.place());
        let all_stream = handlers.all_stream();
        let requests = Arc::new(Requests::new(Arc::downgrade(&conn), peer, handlers, place));
        let (pool, source) = (Arc::clone(&service.pool), Arc::clone(&requests));
        let submit = move || pool.submit(Arc::clone(&source));
        let mut locked = conn.lock();
        locked.state.set_submit(Arc::new(submit));
        locked.state.all_stream = all_stream;
        drop(locked);
        Box::new(Self {
            conn,
            line: Line::new(stream, service.clock, longest_wait),
            service,
            requests,
            parked: None,
            input_ended: false,
            permit,
        })
    }

    /// Serves the connection until it has ended, and returns what ended it. Returns `None` if
    /// another thread has taken over.
    fn serve(mut self: Box<Self>) -> Option<io::Result<ConnectionError>> {
        loop {
            let step = self.run();
            wipe_stack();
            let ended = match step {
                Ok(Step::Handle(job)) => {
                    self = self.handle(job)?;
                    continue;
                }
                Ok(Step::Ended(end)) => Ok(end),
                Err(error) => Err(error),
            };
            self.end(&ended);
            return Some(ended);
        }
    }

    /// Reads until the connection has ended, or until this thread is to run a handler. It is not
    /// inlined, because its caller overwrites its stack frame afterwards.
    #[inline(never)]
    fn run(&mut self) -> io::Result<Step> {
        let mut now = self.conn.now();
        loop {
            self.line.free_consumed();
            now = self.conn.flush_at(now);
            let mut locked = self.conn.lock();
            if let Some(ended) = locked.state.end.take() {
                return ended.map(Step::Ended);
            }
            if locked.state.cut || locked.state.revoked {
                return Ok(Step::Ended(ConnectionError::Closed));
            }
            let seen = locked.changes();
            let refused = locked.state.refuse_overdue(now);
            if refused > 0 {
                drop(locked);
                self.service.admission.counters().busy.add(refused);
                continue;
            }
            match locked.state.mux.recv(now, self.line.unread()) {
                Err(end) => return Ok(Step::Ended(end)),
                Ok(ServerStep::Request { id, body }) => {
                    let body = body.into_vec();
                    self.line.free_consumed();
                    if self.line.unread().is_empty() && self.may_handle(&locked.state) {
                        return Ok(Step::Handle(locked.state.begin(id, body)));
                    }
                    let schedule = locked.state.push(now, id, body);
                    drop(locked);
                    if schedule {
                        self.service.pool.submit(Arc::clone(&self.requests));
                    }
                    if !self.conn.splits() {
                        wipe_stack();
                        self.wait_for_handler();
                        now = self.conn.now();
                    }
                }
                Ok(ServerStep::Opened { id, body }) => {
                    let body = body.into_vec();
                    let schedule = locked.state.push_open(now, id, &body);
                    self.count_busy(&mut locked);
                    drop(locked);
                    if schedule {
                        self.service.pool.submit(Arc::clone(&self.requests));
                    }
                }
                Ok(ServerStep::Part { id, body }) => {
                    if let Some(pipe) = locked.state.opens.pipe(id) {
                        pipe.arrive(body);
                    }
                }
                Ok(ServerStep::Ended { id }) => {
                    locked.state.end_body(id);
                }
                Ok(ServerStep::Cancelled { id }) => {
                    locked.state.cancel(id);
                }
                Ok(ServerStep::Established) => {
                    drop(locked);
                    self.establish();
                }
                Ok(ServerStep::Hello { fingerprint }) => {
                    drop(locked);
                    self.permit.hello(fingerprint);
                }
                Ok(ServerStep::Skip | ServerStep::Closing { .. }) => {
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
                    now = self.conn.now();
                }
                // Back-pressure. The lifetime is paused meanwhile.
                Ok(ServerStep::TransmitFirst | ServerStep::AnswerFirst | _) => {
                    self.count_busy(&mut locked);
                    locked.state.mux.set_reading(now, false);
                    drop(locked);
                    wipe_stack();
                    self.conn.flush();
                    self.wait_for_change(seen);
                    now = self.conn.now();
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
        if why == MustClose::OverLimit {
            self.service.admission.counters().over_key_limit.add(1);
        }
        self.conn.lock().state.mux.close_for(self.conn.now(), why);
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
        if filled == Filled::Bytes {
            return Ok(());
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
                _ = state.mux.end_of_stream(now, &self.line.unread());
            }
        }
        Ok(())
    }

    fn end(&mut self, ended: &io::Result<ConnectionError>) {
        self.service.pool.withdraw(&*self.requests);
        // The core no longer counts unread bytes after `cancel_all`.
        self.line.drop_unread();
        let mut locked = self.conn.lock();
        let unanswered = locked.state.mux.unanswered();
        locked.state.fail_opens(ended);
        locked.state.cancel_all();
        locked.state.end_stream(self.conn.now());
        let (established, cut) = (locked.state.mux.is_established(), locked.state.cut);
        let answered = core::mem::take(&mut locked.state.answered);
        drop(locked);
        // Before the report of a shutdown, which does not wait for handlers.
        self.service.admission.counters().answers.add(answered);
        if !cut {
            self.permit.count_unanswered(unanswered);
        }
        if !established && !cut && ended.is_ok() {
            self.service.admission.counters().unauthenticated.add(1);
        }
        if ended.is_ok() {
            self.conn.end_stream(&mut self.line);
        } else {
            self.line.abort();
        }
    }
}
