//! One connection of a client: the socket and the mux. Its slot polls it.

mod ending;
mod exchange;
mod streams;

use core::fmt;
use core::panic::AssertUnwindSafe;
use core::task::{Context, Poll, ready};
use std::io;
use std::panic::catch_unwind;
use std::sync::Arc;

use bytes::Bytes;
use falco_core::keys::ClientKeys;
use falco_core::mux::{Admitted, ClientMux, History};
use falco_core::{ClientConnection, ConnectionError, Ending, EntropyError, Fate, wipe_stack};
use tokio::time::Instant;
use tracing::debug;

use self::exchange::Pause;
use super::call::{Call, Ping, PingTo, Returned, Waiter};
use super::callers::Answers;
use super::env::{Env, OwnKey};
use super::panics::panicked;
use crate::line::{Line, sealed};
use crate::metrics::Up;
use crate::socket::Socket;
use crate::timer::{Timer, reschedule};

/// After this many bytes in one direction, other tasks of the thread have their turn.
const TURN: usize = 64 << 10;

pub(super) struct Connection {
    line: Line<Socket>,
    mux: Mux,
    timer: Timer,
    stage: Stage,
    /// When this turn began. It is not read again during the turn, which is short.
    now: falco_core::Instant,
    env: Arc<Env>,
    key: Arc<OwnKey>,
    /// Which of the servers of the client it is connected to.
    server: usize,
    /// Counts the connection while it is established.
    counted: Option<Up>,
    eof: bool,
    /// When bytes were last received.
    received: falco_core::Instant,
    /// The earliest deadline, as known when the last turn ended.
    due: Option<falco_core::Instant>,
    /// When the slot wants to be woken.
    pub(super) wakes_at: Option<Instant>,
    /// Reads the socket itself. The runtime may not have been notified yet of bytes in it.
    reads_directly: bool,
    /// How many unread bytes are needed in all, if the last turn left nothing to process or to
    /// write, and only new requests have come since. The next turn then reads at once. Otherwise 0.
    settled: u32,
    /// Bytes read in this turn.
    turn: usize,
    /// Bytes written in this turn. Each direction has its own limit, so that neither keeps the
    /// other from its turn.
    written: usize,
    /// What goes to another connection.
    pub(super) returned: Returned,
    /// Answers that the slot has not delivered yet.
    pub(super) answers: Answers,
}

#[derive(Debug)]
enum Stage {
    Open,
    /// The connection has ended, and its stream is being closed.
    Ending(Ending),
    Closed,
}

/// What a connection reports to its slot.
pub(super) enum Event {
    Established,
    /// No new requests are accepted. Requests in flight still complete.
    Closing,
    /// The time has passed at which the slot wants to be woken.
    Due,
    /// All requests have been returned or have completed. The stream may still be ending.
    Ended(io::Result<ConnectionError>),
}

/// The mux of a connection. A ping keeps the time at which it was accepted.
type Mux = ClientMux<Arc<ClientKeys>, Bytes, Waiter, (Instant, PingTo)>;

/// What ended a connection, for the log.
struct End<'e>(&'e io::Result<ConnectionError>);

impl fmt::Display for End<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(end) => end.fmt(f),
            Err(error) => error.fmt(f),
        }
    }
}

impl Connection {
    /// A connection under `key`, whose handshake begins now.
    pub(super) fn new(socket: Socket, env: &Arc<Env>, key: Arc<OwnKey>, server: usize) -> Result<Self, EntropyError> {
        let mut entropy = env.entropy.clone();
        let now = env.clock.now();
        let machine = ClientConnection::new(Arc::clone(&key.keys), &env.settings, now, &mut entropy)?;
        Ok(Self {
            line: Line::new(socket),
            mux: ClientMux::new(machine, &env.settings),
            timer: Timer::default(),
            stage: Stage::Open,
            now,
            env: Arc::clone(env),
            key,
            server,
            counted: None,
            eof: false,
            received: now,
            due: None,
            wakes_at: None,
            reads_directly: false,
            settled: 0,
            turn: 0,
            written: 0,
            returned: Returned::default(),
            answers: Answers::default(),
        })
    }

    /// Which of the servers of the client it is connected to.
    pub(super) const fn server(&self) -> usize {
        self.server
    }

    /// A turn begins, which may call several methods.
    pub(super) const fn begin_turn(&mut self, now: falco_core::Instant) {
        self.now = now;
    }

    /// Whether new requests are accepted.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open) && self.mux.is_open()
    }

    pub(super) const fn is_established(&self) -> bool {
        self.mux.is_established()
    }

    /// Whether the stream is closed and nothing is left to do.
    pub(super) fn is_closed(&self) -> bool {
        matches!(self.stage, Stage::Closed)
    }

    /// What the connection has learned about its server.
    pub(super) fn history(&self) -> History {
        self.mux.history()
    }

    /// Whether the client was admitted under the key of the connection.
    pub(super) fn admitted(&self) -> &Admitted {
        &self.key.admitted
    }

    /// Accepts a request, or gives it back.
    pub(super) fn request(&mut self, call: Call) -> Option<Call> {
        if !self.is_open() {
            return Some(call);
        }
        match self.mux.request(call) {
            Ok(()) => None,
            Err((call, None)) => Some(call),
            Err((call, Some(error))) => {
                self.answers.fail(call.waiter, error);
                None
            }
        }
    }

    /// The callers of the requests that it has, by ticket.
    pub(super) fn waiters(&self) -> impl Iterator<Item = (u64, &Waiter)> {
        self.mux.waiters()
    }

    /// Cancels a request and returns it, so that its caller can receive an error.
    pub(super) fn cancel(&mut self, ticket: u64) -> Option<(Call, Fate)> {
        self.settled = 0;
        self.mux.cancel(ticket)
    }

    /// Queues a ping, or gives it back.
    pub(super) fn ping(&mut self, mut ping: Ping) -> Option<Ping> {
        if !self.is_open() {
            return Some(ping);
        }
        // Pings whose callers no longer wait are removed here, because a server need not answer all
        // pings.
        drop(self.mux.take_pings(|(_, to)| to.is_closed()));
        ping.waiter.0 = Instant::now();
        self.settled = 0;
        self.mux.ping(ping).err()
    }

    /// Requests in flight here, including cancelled ones.
    pub(super) fn in_flight(&self) -> usize {
        self.mux.connection().in_flight().max(self.mux.outstanding())
    }

    /// Releases memory that was needed for more than `few` answers at once, or for more requests
    /// than there are.
    pub(super) fn shrink(&mut self, few: usize) {
        self.answers.shrink(few);
        self.mux.shrink();
    }

    /// Whether the connection is established and nothing was received for a while. It may have
    /// ended since, if the process was stopped or its threads were busy.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_established() && self.mux.is_quiet(self.received, self.now)
    }

    /// Drives the connection as [`poll`](Self::poll) does, but reads the socket itself first: the
    /// runtime may not have been notified of what is in it. If nothing is, and nothing else is left
    /// to do, this returns `Pending` and no task is woken later.
    pub(super) fn poll_socket(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.received = self.now;
        let mut early = None;
        if let Ok(total @ 1..) = usize::try_from(self.settled)
            && self.line.stream().is_os_socket()
        {
            early = match self.line.read_now(total) {
                Poll::Ready(read) => Some(read),
                Poll::Pending => return Poll::Pending,
            };
        }
        // The end of the stream may follow what was read.
        self.reads_directly = true;
        self.poll(cx, early)
    }

    /// Reads, writes and applies deadlines until there is something to report. It is not inlined,
    /// because its caller overwrites its stack frame afterwards.
    ///
    /// `early` is the result of a read of this turn, if there was one.
    #[inline(never)]
    fn run(&mut self, cx: &mut Context<'_>, mut early: Option<io::Result<usize>>) -> Poll<Event> {
        self.turn = 0;
        self.written = 0;
        // At a deadline the mux relies on what has arrived being read. The runtime may not know yet
        // that something has.
        let overdue = self.due.is_some_and(|due| due <= self.now);
        let mut settled = core::mem::take(&mut self.settled);
        if overdue {
            self.reads_directly = true;
            settled = 0;
        }
        loop {
            let total = match usize::try_from(core::mem::take(&mut settled)) {
                Ok(total @ 1..) => total,
                _ => match self.receive() {
                    Pause::Report(event) => return Poll::Ready(event),
                    Pause::Read(total) => total,
                },
            };
            self.pump_writable();
            let wrote = match self.write(cx) {
                Ok(wrote) => wrote,
                Err(error) => return Poll::Ready(self.read_remaining(cx, error)),
            };
            // Another round does nothing if all is written and more bytes are needed.
            let mut moved = (wrote.some && !wrote.all) || self.pump_writable();
            if let Some(end) = self.mux.end() {
                return Poll::Ready(Event::Ended(Ok(end)));
            }
            // The connection may have closed because it has no request ids left.
            if let Some(event) = self.poll_closing() {
                return Poll::Ready(event);
            }
            let mut read = false;
            let polled = match early.take() {
                Some(read) => Poll::Ready(read),
                None => self.read(cx, total),
            };
            match polled {
                Poll::Ready(Ok(0)) => {
                    let now = self.now;
                    self.eof = true;
                    return Poll::Ready(Event::Ended(Ok(self.mux.end_of_stream(now, &self.line.unread()))));
                }
                Poll::Ready(Ok(count)) => {
                    self.received = self.now;
                    self.turn += count;
                    moved = true;
                    read = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Ended(Err(error))),
                Poll::Pending => {}
            }
            let yields = self.turn >= TURN || self.written >= TURN;
            if moved && !yields {
                continue;
            }
            let (now, deadline) = (self.now, self.mux.poll_timeout());
            // What was read is received in the next turn, before a deadline counts.
            if !(read && yields) && deadline.is_some_and(|deadline| deadline <= now) {
                if let Err(end) = self.mux.handle_timeout(now) {
                    return Poll::Ready(Event::Ended(Ok(end)));
                }
                continue;
            }
            if yields {
                reschedule(cx);
                return Poll::Pending;
            }
            self.line.shrink();
            self.due = deadline;
            let deadline = deadline.map(|deadline| self.env.clock.at(deadline));
            let wakes_at = [deadline, self.wakes_at].into_iter().flatten().min();
            if self.timer.poll(cx, wakes_at).is_pending() {
                if wrote.all && self.is_open() {
                    self.settled = u32::try_from(total).unwrap_or(0);
                }
                return Poll::Pending;
            }
            self.now = self.env.clock.now();
            if self.wakes_at.is_some_and(|at| at <= Instant::now()) {
                return Poll::Ready(Event::Due);
            }
        }
    }

    /// Drives the connection. After [`Event::Ended`], poll it until it [is
    /// closed](Self::is_closed). `early` is a read of this turn, if there was one.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, mut early: Option<io::Result<usize>>) -> Poll<Event> {
        loop {
            match self.stage {
                Stage::Open => {
                    let ran = catch_unwind(AssertUnwindSafe(|| self.run(cx, early.take())));
                    wipe_stack();
                    let event = ready!(ran.unwrap_or_else(|_| Poll::Ready(Event::Ended(Err(panicked())))));
                    if let Event::Ended(end) = &event {
                        debug!(server = %self.env.servers.dial(self.server), end = %End(end), "ended");
                        self.stage = match end {
                            Ok(end) => Stage::Ending(self.mux.ending(*end, self.now)),
                            Err(_) => Stage::Closed,
                        };
                        self.finish(end);
                    }
                    return Poll::Ready(event);
                }
                Stage::Ending(mut ending) => {
                    let (mux, now, answers) = (&mut self.mux, self.now, &mut self.answers);
                    let seal = |out: &mut [u8]| sealed(mux.seal(now, out, |waiter, error| answers.fail(waiter, error)));
                    let times = (self.env.clock, &mut self.timer);
                    let end = || self.line.poll_end(cx, &mut ending, times, self.eof, seal);
                    let polled = catch_unwind(AssertUnwindSafe(end));
                    wipe_stack();
                    self.stage = Stage::Ending(ending);
                    let _ = ready!(polled.unwrap_or_else(|_| Poll::Ready(Err(panicked()))));
                    self.stage = Stage::Closed;
                }
                Stage::Closed => return Poll::Pending,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::Client;
    use super::*;

    #[tokio::test]
    async fn pings_that_were_given_up_are_not_kept() -> Result<(), Box<dyn core::error::Error>> {
        let key = falco_core::Key::from_bytes([7; 32])?;
        let client = Client::builder(key).connect_lazy("127.0.0.1:1")?;
        let env = &client.inner.env;
        let (near, _far) = tokio::io::duplex(1);
        let mut connection = Connection::new(Socket::Other(Box::new(near)), env, env.key(), 0)?;
        let (to, _waits) = oneshot::channel();
        assert!(connection.ping(Ping::new(0, (), (Instant::now(), to))).is_none());
        for _ in 0..10 {
            // The caller no longer waits.
            let (to, _) = oneshot::channel();
            assert!(connection.ping(Ping::new(0, (), (Instant::now(), to))).is_none());
        }
        assert_eq!(connection.mux.take_pings(|_| true).len(), 2);
        Ok(())
    }
}
