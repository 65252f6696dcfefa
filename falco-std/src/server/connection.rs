//! What happens on one connection of a server: the thread that reads, and the workers that run
//! handlers. What they share is in `state`.

use core::net::SocketAddr;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::io;
use std::panic::catch_unwind;
use std::sync::{Arc, MutexGuard, Weak};

use falco_core::mux::ServerStep;
use falco_core::{CloseReason, ConnectionError, ServerConnection};

use super::Service;
use super::handler::{HandlerError, Request};
use super::pool;
use super::seats::{Seat, Seats};
use super::state::{Conn, Handled, Started, State};
use crate::line::{Desk, Line, handles};
use crate::pipe::{Filled, Pipe};
use crate::stream::BoxedStream;

/// How often a thread that cannot be woken looks whether it is to stop.
const STOP_POLL: Duration = Duration::from_millis(250);

/// A connection that has not read yet, and the handle to read with.
pub(super) fn prepare(service: &Service, stream: BoxedStream) -> io::Result<(Arc<Conn>, BoxedStream)> {
    let clock = service.clock;
    let mut entropy = service.entropy.clone();
    let machine = ServerConnection::new(Arc::clone(&service.keys), &service.settings, clock.now(), &mut entropy);
    let state = State::new(
        machine.map_err(io::Error::other)?,
        service.budget.clone(),
        &service.settings,
        service.queue_timeout,
    );
    let ([reader, writer, ender], splits) = handles(stream)?;
    let conn = Line::new(state, clock, [writer, ender], splits)?;
    let own = Arc::downgrade(&conn);
    conn.lock().source.set_reaper(Arc::clone(&service.reaper), own);
    Ok((conn, reader))
}

struct Reader<'a, H> {
    conn: &'a Arc<Conn>,
    pipe: Pipe<BoxedStream>,
    service: &'a Arc<Service>,
    seat: &'a Seat,
    handling: Arc<Handling<H>>,
    /// The client sends nothing more.
    ended: bool,
    /// The answer to the client's first PING has been handed to the stream.
    greeted: bool,
}

/// Serves a connection from its first byte to its last, and says what ended it.
pub(super) fn serve<H>(
    service: &Arc<Service>,
    seat: &Seat,
    stream: BoxedStream,
    peer: Option<SocketAddr>,
    handler: &Arc<H>,
) -> io::Result<ConnectionError>
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    let conn = seat.conn();
    let wakes = cfg!(unix) && conn.splits();
    let longest_wait = if wakes { None } else { Some(STOP_POLL) };
    let mut reader = Reader {
        conn,
        pipe: Pipe::new(stream, service.clock, longest_wait),
        service,
        seat,
        handling: Arc::new(Handling {
            conn: Arc::downgrade(conn),
            peer,
            handler: Arc::clone(handler),
            seats: Arc::clone(seat.seats()),
        }),
        ended: false,
        greeted: false,
    };
    let ended = reader.converse();
    reader.leave(&ended);
    ended
}

impl<H> Reader<'_, H>
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    fn converse(&mut self) -> io::Result<ConnectionError> {
        loop {
            self.conn.pump();
            let mut desk = self.conn.lock();
            if let Some(trouble) = desk.source.trouble.take() {
                return trouble;
            }
            if desk.source.cut {
                return Ok(ConnectionError::Closed);
            }
            let (now, seen) = (self.conn.now(), desk.changes());
            let late = desk.source.refuse_late(now);
            if late > 0 {
                drop(desk);
                self.service.seats.counters().busy.add(late);
                continue;
            }
            match desk.source.mux.recv(now, self.pipe.unread()) {
                Err(end) => return Ok(end),
                Ok(ServerStep::Request { consumed, id, body }) => {
                    let body = body.into_vec();
                    desk = self.greet(desk);
                    self.pipe.consume(consumed);
                    if desk.source.is_over() {
                        // The client may have heard nothing: then no handler is to run.
                        continue;
                    }
                    let submit = desk.source.take(now, id, body);
                    drop(desk);
                    if submit {
                        self.service.pool.submit(Arc::clone(&self.handling));
                    }
                    if !self.conn.splits() {
                        self.wait_for_handler();
                    }
                }
                Ok(ServerStep::Cancelled { consumed, id }) => {
                    desk.source.cancel(id);
                    self.pipe.consume(consumed);
                }
                Ok(ServerStep::Established { consumed }) => {
                    drop(desk);
                    self.pipe.consume(consumed);
                    self.establish();
                }
                Ok(ServerStep::Skip { consumed } | ServerStep::Closing { consumed, .. }) => {
                    if !desk.source.established {
                        self.seat.hear();
                    }
                    self.pipe.consume(consumed);
                    self.service.seats.counters().busy.add(desk.source.mux.take_busy());
                }
                Ok(ServerStep::NeedMore { total }) => {
                    let full = !desk.source.mux.may_read();
                    drop(desk);
                    if full {
                        self.hold_back();
                    } else if self.ended {
                        self.rest(seen);
                    } else {
                        self.fill(total)?;
                    }
                }
                // Somebody has to write, or a handler to answer, before it goes on.
                Ok(ServerStep::TransmitFirst | ServerStep::AnswerFirst | _) => {
                    drop(desk);
                    self.conn.pump();
                    self.rest(seen);
                }
            }
        }
    }

    /// The client has proved that it has a key, which may have been retired since its hello.
    fn establish(&mut self) {
        self.pipe.trust();
        self.seat.establish();
        let mut desk = self.conn.lock();
        desk.source.established = true;
        // Whoever retires the key asks the machine for it, which tells it from here on.
        if self.service.keys.is_retired(desk.source.mux.machine().key_id()) {
            desk.source.mux.close(self.conn.now(), CloseReason::KeyRetired);
        } else if self.seat.is_stopping() {
            desk.source.mux.close(self.conn.now(), CloseReason::ShuttingDown);
        }
    }

    /// Before the first handler is called, waits until what was sealed has been handed to the
    /// stream: the answer to the client's first PING is among it, and a client that sees the stream
    /// end without having heard anything relies on that no handler ran. Whoever writes gives up
    /// after a lifetime at the latest.
    fn greet<'d>(&mut self, mut desk: MutexGuard<'d, Desk<State>>) -> MutexGuard<'d, Desk<State>> {
        while !self.greeted && desk.is_writing() && !desk.source.is_over() {
            desk = self.conn.wait(desk, Some(STOP_POLL));
        }
        self.greeted = true;
        desk
    }

    /// Waits until the request has completed, as nothing can be read meanwhile.
    fn wait_for_handler(&self) {
        loop {
            let now = self.conn.now();
            let mut desk = self.conn.lock();
            let late = desk.source.refuse_late(now);
            if late > 0 {
                self.service.seats.counters().busy.add(late);
            }
            if !desk.source.is_busy() || desk.source.cut {
                return;
            }
            let late_at = desk.source.late_at();
            let wait = late_at.map_or(STOP_POLL, |at| at.since(now).min(STOP_POLL));
            drop(self.conn.wait(desk, Some(wait.max(Duration::from_millis(1)))));
        }
    }

    /// Too much waits to be written: nothing is read until some of it has gone. The lifetime stands
    /// still.
    fn hold_back(&self) {
        let now = self.conn.now();
        self.conn.lock().source.mux.set_reading(now, false);
        loop {
            let mut desk = self.conn.lock();
            if desk.source.mux.may_read() || desk.source.is_over() {
                break;
            }
            let seen = desk.changes();
            let late = desk.source.refuse_late(self.conn.now());
            drop(desk);
            if late > 0 {
                self.service.seats.counters().busy.add(late);
                self.conn.pump();
            }
            if !self.rest(seen) {
                break;
            }
        }
        let now = self.conn.now();
        self.conn.lock().source.mux.set_reading(now, true);
    }

    /// Waits until something was written or has changed since `seen`, or a deadline has come; says
    /// whether the connection lives.
    fn rest(&self, seen: u64) -> bool {
        let now = self.conn.now();
        let mut desk = self.conn.lock();
        if desk.changes() != seen {
            return true;
        }
        if desk.source.is_over() || !desk.source.handle_timeout(now) {
            return false;
        }
        let until = desk.source.poll_timeout();
        // A thread that cannot be woken looks now and then.
        let wait = until.map_or(STOP_POLL, |until| until.since(now).min(STOP_POLL));
        drop(self.conn.wait(desk, Some(wait.max(Duration::from_millis(1)))));
        true
    }

    /// Waits for bytes.
    fn fill(&mut self, total: usize) -> io::Result<()> {
        let desk = self.conn.lock();
        if desk.source.is_over() {
            return Ok(());
        }
        let until = desk.source.poll_timeout();
        let half_open = !desk.source.established;
        drop(desk);
        if half_open {
            self.seat.wait();
        }
        let filled = self.pipe.fill(total, until)?;
        let now = self.conn.now();
        let state = &mut self.conn.lock().source;
        match filled {
            Filled::Bytes => {}
            Filled::Nothing => _ = state.handle_timeout(now),
            Filled::EndOfStream => {
                self.ended = true;
                // The next look at the machine says what ended it.
                _ = state.mux.end_of_stream(now, self.pipe.unread());
            }
        }
        Ok(())
    }

    /// Ends the stream as its end deserves.
    fn leave(&mut self, ended: &io::Result<ConnectionError>) {
        self.service.pool.withdraw(&self.handling);
        let mut desk = self.conn.lock();
        let unanswered = desk.source.mux.unanswered();
        desk.source.cancel_all();
        desk.source.note_end(self.conn.now());
        let (established, cut) = (desk.source.established, desk.source.cut);
        drop(desk);
        if !cut {
            self.seat.leave_unanswered(unanswered);
        }
        if !established && !cut && ended.is_ok() {
            self.service.seats.counters().unauthenticated.add(1);
        }
        if ended.is_ok() && !cut {
            self.conn.leave(&mut self.pipe);
        } else {
            self.pipe.abort();
        }
    }
}

/// What handlers of one connection need, on whatever thread they run.
struct Handling<H> {
    /// A handler that runs keeps no stream open whose connection has ended.
    conn: Weak<Conn>,
    peer: Option<SocketAddr>,
    handler: Arc<H>,
    seats: Arc<Seats>,
}

impl<H> pool::Source for Handling<H>
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    /// Runs the handler on the request whose turn it is, if there is one, and sends what comes of
    /// it.
    fn work(&self, more: &dyn Fn()) {
        let Some(conn) = self.conn.upgrade() else { return };
        let (started, others) = conn.lock().source.start();
        drop(conn);
        if others {
            more();
        }
        let Some(Started {
            id,
            key_id,
            body,
            cancelled,
        }) = started
        else {
            return;
        };
        let counters = self.seats.counters();
        counters.requests.add(1);
        let request = Request::received(body, self.peer, key_id, cancelled);
        // A handler that panics may leave its own state broken; what this crate holds is not
        // touched by it.
        let answer = catch_unwind(AssertUnwindSafe(|| (self.handler)(request)));
        let answer = answer.map_or(Err(None), |answer| answer.map_err(Some));
        let Some(conn) = self.conn.upgrade() else {
            return counters.handled(Handled::Cancelled);
        };
        counters.handled(conn.lock().source.answer(id, answer));
        conn.pump();
        conn.lock().source.done();
        conn.tell();
    }
}
