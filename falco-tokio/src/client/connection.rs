//! One connection of a client: the socket, the machine, and who waits for what. Its slot polls it.

use core::sync::atomic::Ordering;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use falco_core::keys::ClientKeys;
use falco_core::mux::{Body, ClientMux, ClientStep, Ending, Left, MAX_BUSY, Retry, after_loss, after_refusal};
use falco_core::{
    ClientConnection, CloseReason, ConnectionError, EntropyError, Error as CoreError, Fate, Refusal, RequestError,
    Status,
};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use super::Env;
use super::pending::Pending;
use crate::error::Error;
use crate::line::{Line, Wrote, sealed};
use crate::socket::Socket;
use crate::timer::{Timer, reschedule};

/// After so many bytes in one go, both ways, others on the same thread have their turn.
const TURN: usize = 64 << 10;
/// A connection that has heard nothing for so long is looked at before a request is sent on it. It
/// costs a system call, which requests that follow one another are spared.
const UNHEARD: Duration = Duration::from_millis(1);

pub(super) type PingTo = oneshot::Sender<Result<Option<Duration>, Error>>;

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Connection {
    line: Line<Socket>,
    mux: ClientMux<Arc<ClientKeys>, Bytes, Pending, (Instant, PingTo)>,
    timer: Timer,
    stage: Stage,
    env: Arc<Env>,
    keys: Arc<ClientKeys>,
    eof: bool,
    /// Closes once all that was handed over has begun.
    closing: bool,
    /// A request was answered, or refused by name.
    pub(super) served: bool,
    /// When something last came.
    heard: falco_core::Instant,
    /// The socket is read from without asking the runtime, which may not know yet what lies there.
    looks: bool,
    /// Bytes that were read since others had their turn.
    turn: usize,
    /// The same of those written. Counted apart, so that neither keeps the other from its turn.
    written: usize,
    /// Requests that were not processed here and may go to another connection.
    pub(super) returned: Vec<Pending>,
}

#[derive(Debug)]
enum Stage {
    Conversing,
    /// The connection has ended, and its stream ends.
    Ending(Ending),
    Over,
}

/// What a slot is told.
pub(super) enum News {
    Established,
    /// Nothing new is taken: what has begun still gets its end.
    Closing,
    /// Nobody waits here any more; the stream may still be ending.
    Ended(io::Result<ConnectionError>),
}

enum Next {
    Read(usize),
    Wait,
    Tell(News),
    End(ConnectionError),
}

impl Connection {
    /// A connection under `keys`, whose handshake begins now.
    pub(super) fn new(socket: Socket, env: &Arc<Env>, keys: Arc<ClientKeys>) -> Result<Self, EntropyError> {
        let mut entropy = env.entropy.clone();
        let now = env.clock.now();
        let machine = ClientConnection::new(Arc::clone(&keys), &env.settings, now, &mut entropy)?;
        let max_held = usize::try_from(env.settings.max_held()).unwrap_or(usize::MAX);
        Ok(Self {
            line: Line::new(socket),
            mux: ClientMux::new(machine).with_max_held(max_held),
            timer: Timer::default(),
            stage: Stage::Conversing,
            env: Arc::clone(env),
            keys,
            eof: false,
            closing: false,
            served: false,
            heard: now,
            looks: false,
            turn: 0,
            written: 0,
            returned: Vec::new(),
        })
    }

    fn now(&self) -> falco_core::Instant {
        self.env.clock.now()
    }

    /// Whether new requests are taken.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Conversing) && self.mux.is_open()
    }

    pub(super) const fn is_established(&self) -> bool {
        self.mux.is_established()
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, Stage::Over)
    }

    /// Takes a request, or gives it back.
    pub(super) fn request(&mut self, mut pending: Pending) -> Option<Pending> {
        if !self.is_open() {
            return Some(pending);
        }
        pending.tries += 1;
        let (ticket, body) = (pending.ticket, pending.body.clone());
        let rejected = self.mux.request(ticket, body, pending).err()?;
        match rejected.why {
            CoreError::Request(error) => {
                answer(rejected.waiter, Err(Error::Request(error)));
                None
            }
            CoreError::Closing | CoreError::Connection(_) | CoreError::Misuse(_) | _ => Some(rejected.waiter),
        }
    }

    /// Takes a request out that nobody waits for any more; it is the caller's to tell whoever did.
    pub(super) fn cancel(&mut self, ticket: u64) -> Option<(Pending, Fate)> {
        self.mux.cancel(ticket)
    }

    /// Owes the server a ping, or gives it back.
    pub(super) fn ping(&mut self, to: PingTo) -> Option<PingTo> {
        if !self.is_open() {
            return Some(to);
        }
        match self.mux.ping((Instant::now(), to)) {
            Ok(None) => None,
            // There is no answer to wait for.
            Ok(Some((_, to))) => {
                let _ = to.send(Ok(None));
                None
            }
            Err((_, to)) => Some(to),
        }
    }

    /// Requests that have had no end here, whoever waits for them.
    pub(super) fn in_flight(&self) -> usize {
        self.mux.machine().in_flight().max(self.mux.outstanding())
    }

    /// Takes nothing new, whatever of it has begun; the rest is returned.
    pub(super) fn retire(&mut self) {
        let unbegun = self.mux.take_unbegun();
        self.returned
            .extend(unbegun.into_iter().map(|left| unsent(left.waiter)));
        let now = self.now();
        self.mux.close(now, CloseReason::Done);
    }

    /// Closes once all that was handed over has begun.
    pub(super) fn close(&mut self) {
        self.closing = true;
    }

    fn close_if_due(&mut self) {
        if self.closing && !self.mux.has_unbegun() && self.mux.machine().status() == Status::Established {
            let now = self.now();
            self.mux.close(now, CloseReason::Done);
        }
    }

    fn receive(&mut self) -> Next {
        loop {
            let now = self.now();
            let step = match self.mux.recv(now, self.line.unread()) {
                Ok(step) => step,
                Err(end) => return Next::End(end),
            };
            match step {
                ClientStep::NeedMore { total } => return Next::Read(total),
                ClientStep::Skip { consumed } => self.line.consume(consumed),
                ClientStep::Established { consumed } => {
                    self.line.consume(consumed);
                    return Next::Tell(News::Established);
                }
                ClientStep::Answer { consumed, waiter, body } => {
                    let body = match body {
                        Body::Lent(body) => Bytes::copy_from_slice(body),
                        Body::Whole(bytes) => Bytes::from(bytes),
                    };
                    self.line.consume(consumed);
                    self.served = true;
                    answer(waiter, Ok(body));
                }
                ClientStep::Refused {
                    consumed,
                    mut waiter,
                    refusal,
                    again,
                } => {
                    self.line.consume(consumed);
                    self.served |= refusal != Refusal::NotProcessed;
                    if again && waiter.busy < MAX_BUSY {
                        waiter.busy += 1;
                        // It begins on this connection once there is room for it at the server.
                        self.returned.push(unsent(waiter));
                    } else if after_refusal(refusal, waiter.tries) == Retry::Again {
                        self.returned.push(waiter);
                    } else {
                        answer(waiter, Err(Error::Request(RequestError::Refused(refusal))));
                    }
                }
                ClientStep::Pong { consumed, waiters } => {
                    self.line.consume(consumed);
                    for (since, to) in waiters {
                        let _ = to.send(Ok(Some(since.elapsed())));
                    }
                }
                ClientStep::Closing { consumed, reason } => {
                    debug!(?reason, "the server closes");
                    if reason == CloseReason::KeyRetired && Arc::ptr_eq(&self.keys, &self.env.keys()) {
                        // Whoever is refused after this knows why.
                        self.env.admitted.store(false, Ordering::Relaxed);
                    }
                    self.line.consume(consumed);
                    self.retire();
                    return Next::Tell(News::Closing);
                }
                // What is written comes first.
                ClientStep::TransmitFirst | _ => return Next::Wait,
            }
        }
    }

    /// Writes whatever can go, for one turn.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<Wrote> {
        let (mux, clock, written) = (&mut self.mux, self.env.clock, &mut self.written);
        let wrote = self.line.write(cx, |out| {
            if *written >= TURN {
                return Ok(0);
            }
            let count = sealed(mux.seal(clock.now(), out, fail))?;
            *written += count;
            Ok(count)
        })?;
        if wrote.is_blocked() {
            self.mux.blocked(self.env.clock.now());
        } else {
            self.mux.wrote();
        }
        Ok(wrote)
    }

    /// Nothing can be written any more, because of `error`; what the server has said before that is
    /// heard all the same. A reset is told once: the write has had it, and what is read then looks
    /// like an end of the stream. It is one only where the write found a pipe that the server had
    /// closed before.
    fn hear_out(&mut self, cx: &mut Context<'_>, error: io::Error) -> Result<News, io::Error> {
        self.looks = true;
        loop {
            match self.receive() {
                Next::Tell(news) => return Ok(news),
                Next::End(end) => return Ok(News::Ended(Ok(end))),
                Next::Wait => return Err(error),
                Next::Read(total) => match self.read(cx, total) {
                    Poll::Ready(Ok(0)) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                    Poll::Ready(Ok(0)) => {
                        let now = self.now();
                        return match self.mux.end_of_stream(now, self.line.unread()) {
                            Err(end) => Ok(News::Ended(Ok(end))),
                            Ok(()) => Err(error),
                        };
                    }
                    Poll::Ready(Ok(_)) => {}
                    Poll::Ready(Err(_)) | Poll::Pending => return Err(error),
                },
            }
        }
    }

    /// Whether something may lie in the socket that has not been read: a connection that has heard
    /// nothing for a while may have ended without anybody having been here to see it.
    pub(super) fn is_unheard(&self) -> bool {
        self.is_established() && self.now().since(self.heard) >= UNHEARD
    }

    /// Polls the connection as [`poll`](Self::poll) does, after a look into the socket itself: the
    /// runtime may have had no time to tell what lies there.
    pub(super) fn look(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        self.heard = self.now();
        self.looks = true;
        self.poll(cx)
    }

    fn read(&mut self, cx: &mut Context<'_>, total: usize) -> Poll<io::Result<usize>> {
        if self.looks {
            if let Poll::Ready(read) = self.line.read_now(total) {
                return Poll::Ready(read);
            }
            self.looks = false;
        }
        self.line.poll_read(cx, total)
    }

    fn converse(&mut self, cx: &mut Context<'_>) -> Poll<Result<News, io::Error>> {
        self.turn = 0;
        self.written = 0;
        loop {
            // Here, as all may have begun and ended since the last time around.
            self.close_if_due();
            let next = self.receive();
            match next {
                Next::Tell(news) => return Poll::Ready(Ok(news)),
                Next::End(end) => return Poll::Ready(Ok(News::Ended(Ok(end)))),
                Next::Read(_) | Next::Wait => {}
            }
            let mut moved = match self.write(cx) {
                Ok(wrote) => wrote.some,
                Err(error) => return Poll::Ready(self.hear_out(cx, error)),
            };
            if let Some(end) = self.mux.machine().end() {
                return Poll::Ready(Ok(News::Ended(Ok(end))));
            }
            if let Next::Read(total) = next
                && !self.eof
            {
                match self.read(cx, total)? {
                    Poll::Ready(0) => {
                        self.eof = true;
                        let now = self.now();
                        if let Err(end) = self.mux.end_of_stream(now, self.line.unread()) {
                            return Poll::Ready(Ok(News::Ended(Ok(end))));
                        }
                        moved = true;
                    }
                    Poll::Ready(count) => {
                        self.heard = self.now();
                        self.turn += count;
                        moved = true;
                    }
                    Poll::Pending => {}
                }
            }
            if moved && self.turn < TURN && self.written < TURN {
                continue;
            }
            let now = self.now();
            if self.mux.poll_timeout().is_some_and(|deadline| deadline <= now) {
                if let Err(end) = self.mux.handle_timeout(now) {
                    return Poll::Ready(Ok(News::Ended(Ok(end))));
                }
                continue;
            }
            if self.turn >= TURN || self.written >= TURN {
                reschedule(cx);
                return Poll::Pending;
            }
            self.line.rest();
            if self.mux.outstanding() == 0 {
                self.mux.shrink();
            }
            let deadline = self.mux.poll_timeout().map(|deadline| self.env.clock.at(deadline));
            if self.timer.poll(cx, deadline).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Does what is due. After [`News::Ended`] it is to be polled on until it [is
    /// over](Self::is_over).
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<News> {
        loop {
            match &mut self.stage {
                Stage::Conversing => {
                    let news = match self.converse(cx) {
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(news)) => news,
                        Poll::Ready(Err(error)) => News::Ended(Err(error)),
                    };
                    if let News::Ended(end) = &news {
                        debug!(?end, "ended");
                        self.stage = match end {
                            Ok(end) => Stage::Ending(self.mux.ending(*end, self.env.clock.now())),
                            Err(_) => Stage::Over,
                        };
                        self.settle(end);
                    }
                    return Poll::Ready(news);
                }
                Stage::Ending(ending) => {
                    let mut ending = *ending;
                    let (mux, clock) = (&mut self.mux, self.env.clock);
                    let seal = |out: &mut [u8]| sealed(mux.seal(clock.now(), out, fail));
                    let times = (clock, &mut self.timer);
                    let polled = self.line.poll_end(cx, &mut ending, times, self.eof, seal);
                    self.stage = Stage::Ending(ending);
                    if polled.is_pending() {
                        return Poll::Pending;
                    }
                    self.stage = Stage::Over;
                }
                Stage::Over => return Poll::Pending,
            }
        }
    }

    /// Everybody who waits is told, or moves on.
    fn settle(&mut self, end: &io::Result<ConnectionError>) {
        for Left { waiter, fate, body, .. } in self.mux.finish() {
            let waiter = if body.is_some() { unsent(waiter) } else { waiter };
            if after_loss(fate, waiter.tries) == Retry::Again {
                self.returned.push(waiter);
            } else {
                answer(waiter, Err(error_of(end, "waiting for the answer", fate)));
            }
        }
        for (_, to) in self.mux.take_pings(|_| true) {
            let error = error_of(end, "waiting for the answer to a ping", Fate::NotProcessed);
            let _ = to.send(Err(error));
        }
    }
}

/// What was not sent on a connection, or was turned away for want of room, has not been tried on
/// it.
fn unsent(pending: Pending) -> Pending {
    let tries = pending.tries.saturating_sub(1);
    Pending { tries, ..pending }
}

/// A request will never go, for this reason.
fn fail(pending: Pending, error: RequestError) {
    answer(pending, Err(Error::Request(error)));
}

/// Tells whoever waits for a request; they may have gone.
pub(super) fn answer(pending: Pending, end: Result<Bytes, Error>) {
    let _ = pending.to.send(end);
}

/// What an end means for a request of the fate `fate`, while something was being done.
pub(super) fn error_of(end: &io::Result<ConnectionError>, doing: &'static str, fate: Fate) -> Error {
    match end {
        Ok(end) => Error::connection(*end, fate),
        Err(error) => {
            let source = io::Error::new(error.kind(), error.to_string());
            Error::io(doing, source, fate)
        }
    }
}
