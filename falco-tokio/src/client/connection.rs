//! One connection of a client: the socket, the machine, and who waits for what. Its slot polls it.

use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use falco_core::keys::ClientKeys;
use falco_core::mux::{Body, ClientMux, ClientStep, Left};
use falco_core::{
    ClientConnection, CloseReason, ConnectionError, EntropyError, Error as CoreError, Fate, LINGER, Misuse, PingId,
    Refusal, RequestError, Status,
};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::debug;

use super::Env;
use super::shared::Pending;
use crate::error::Error;
use crate::line::Line;
use crate::socket::Socket;
use crate::timer::Timer;

/// How many connections a request is handed to before it is given up, though none has processed it.
const TRIES: u32 = 3;

pub(super) type PingTo = oneshot::Sender<Result<Option<Duration>, Error>>;

pub(super) struct Connection {
    line: Line<Socket>,
    mux: ClientMux<Arc<ClientKeys>, Bytes, Pending>,
    pings: VecDeque<(PingId, Instant, PingTo)>,
    timer: Timer,
    stage: Stage,
    env: Arc<Env>,
    pub(super) established: bool,
    eof: bool,
    /// Closes once all that was handed over has begun.
    closing: bool,
    /// Requests that were not processed here and may go to another connection.
    pub(super) returned: Vec<Pending>,
}

#[derive(Debug)]
enum Stage {
    Conversing,
    /// The machine has ended: its last word is written, the sending half is shut down, then the server may end as well.
    Ending {
        until: Instant,
        shut: bool,
    },
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
        let machine = ClientConnection::new(keys, &env.settings, now, &mut entropy)?;
        Ok(Self {
            line: Line::new(socket),
            mux: ClientMux::new(machine),
            pings: VecDeque::new(),
            timer: Timer::default(),
            stage: Stage::Conversing,
            env: Arc::clone(env),
            established: false,
            eof: false,
            closing: false,
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
            CoreError::Connection(_) | CoreError::Misuse(_) | _ => Some(rejected.waiter),
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
        let Ok(ping) = self.mux.ping() else {
            return Some(to);
        };
        if self.env.wire.classic {
            // There is no answer to wait for.
            let _ = to.send(Ok(None));
        } else {
            self.pings.push_back((ping, Instant::now(), to));
        }
        None
    }

    /// Requests that have had no end here, whoever waits for them.
    pub(super) fn in_flight(&self) -> usize {
        self.mux.machine().in_flight().max(self.mux.outstanding())
    }

    /// Takes nothing new, whatever of it has begun; the rest is returned.
    pub(super) fn retire(&mut self) {
        let unbegun = self.mux.take_unbegun();
        self.returned.extend(unbegun.into_iter().map(|left| left.waiter));
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
                    self.established = true;
                    return Next::Tell(News::Established);
                }
                ClientStep::Answer { consumed, waiter, body } => {
                    let body = match body {
                        Body::Lent(range) => Bytes::copy_from_slice(self.line.unread().get(range).unwrap_or_default()),
                        Body::Whole(bytes) => Bytes::from(bytes),
                    };
                    self.line.consume(consumed);
                    answer(waiter, Ok(body));
                }
                ClientStep::Refused {
                    consumed,
                    waiter,
                    refusal,
                } => {
                    self.line.consume(consumed);
                    // A server that is busy is not asked again at once: that is for the caller to judge.
                    if refusal == Refusal::NotProcessed && waiter.tries < TRIES {
                        self.returned.push(waiter);
                    } else {
                        answer(waiter, Err(Error::Request(RequestError::Refused(refusal))));
                    }
                }
                ClientStep::Pong { consumed, ping } => {
                    self.line.consume(consumed);
                    while self.pings.front().is_some_and(|(own, _, _)| *own <= ping) {
                        if let Some((_, since, to)) = self.pings.pop_front() {
                            let _ = to.send(Ok(Some(since.elapsed())));
                        }
                    }
                }
                ClientStep::Closing { consumed, reason } => {
                    debug!(?reason, "the server closes");
                    self.line.consume(consumed);
                    self.retire();
                    return Next::Tell(News::Closing);
                }
                // What is written comes first.
                ClientStep::TransmitFirst | _ => return Next::Wait,
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let (mux, clock) = (&mut self.mux, self.env.clock);
        self.line.poll_write(cx, |out| {
            let failed = |waiter, error| answer(waiter, Err(Error::Request(error)));
            match mux.seal(clock.now(), out, failed) {
                Ok(sealed) => Ok(sealed),
                Err(Misuse::OutputTooSmall { needed, .. }) => Err(needed),
                Err(_) => Ok(0),
            }
        })
    }

    /// Nothing can be written any more, because of `error`; what the server has said before that is heard all the same.
    fn hear_out(&mut self, cx: &mut Context<'_>, error: io::Error) -> Result<News, io::Error> {
        loop {
            match self.receive() {
                Next::Tell(news) => return Ok(news),
                Next::End(end) => return Ok(News::Ended(Ok(end))),
                Next::Wait => return Err(error),
                Next::Read(total) => {
                    if !matches!(self.line.poll_read(cx, total), Poll::Ready(Ok(1..))) {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn converse(&mut self, cx: &mut Context<'_>) -> Poll<Result<News, io::Error>> {
        loop {
            // Here, as all may have begun and ended since the last time around.
            self.close_if_due();
            let next = self.receive();
            match next {
                Next::Tell(news) => return Poll::Ready(Ok(news)),
                Next::End(end) => return Poll::Ready(Ok(News::Ended(Ok(end)))),
                Next::Read(_) | Next::Wait => {}
            }
            match self.write(cx) {
                Poll::Ready(Err(error)) => return Poll::Ready(self.hear_out(cx, error)),
                Poll::Ready(Ok(true)) => continue,
                Poll::Ready(Ok(false)) | Poll::Pending => {}
            }
            if let Some(end) = self.mux.machine().end() {
                return Poll::Ready(Ok(News::Ended(Ok(end))));
            }
            if let Next::Read(total) = next
                && !self.eof
            {
                match self.line.poll_read(cx, total)? {
                    Poll::Ready(0) => {
                        self.eof = true;
                        let now = self.now();
                        if let Err(end) = self.mux.end_of_stream(now, self.line.unread()) {
                            return Poll::Ready(Ok(News::Ended(Ok(end))));
                        }
                        continue;
                    }
                    Poll::Ready(_) => continue,
                    Poll::Pending => {}
                }
            }
            let stall = self.line.stalls_at(self.mux.machine().lifetime());
            if stall.is_some_and(|stall| stall <= Instant::now()) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            let now = self.now();
            if self.mux.poll_timeout().is_some_and(|deadline| deadline <= now) {
                if let Err(end) = self.mux.handle_timeout(now) {
                    return Poll::Ready(Ok(News::Ended(Ok(end))));
                }
                continue;
            }
            self.line.rest();
            if self.mux.outstanding() == 0 {
                self.mux.shrink();
            }
            let machine = self.mux.poll_timeout().map(|deadline| self.env.clock.at(deadline));
            if self.timer.poll(cx, machine.into_iter().chain(stall).min()).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Does what is due. After [`News::Ended`] it is to be polled on until it [is over](Self::is_over).
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
                        let until = Instant::now() + LINGER;
                        self.stage = if self.established && end.as_ref().is_ok_and(|end| end.is_graceful()) {
                            Stage::Ending { until, shut: false }
                        } else {
                            Stage::Over
                        };
                        self.settle(end);
                    }
                    return Poll::Ready(news);
                }
                Stage::Ending { until, shut } => {
                    let (until, mut shut) = (*until, *shut);
                    let written = if shut { Poll::Ready(Ok(false)) } else { self.write(cx) };
                    let mut broken = matches!(written, Poll::Ready(Err(_)));
                    if !shut && matches!(written, Poll::Ready(Ok(_))) {
                        match self.line.poll_shutdown(cx) {
                            Poll::Ready(shutting) => {
                                shut = true;
                                broken = shutting.is_err();
                            }
                            Poll::Pending => {}
                        }
                    }
                    let seen = shut && (self.eof || self.line.poll_drop_rest(cx).is_ready());
                    if broken || seen || self.timer.poll(cx, Some(until)).is_ready() {
                        self.stage = Stage::Over;
                        continue;
                    }
                    self.stage = Stage::Ending { until, shut };
                    return Poll::Pending;
                }
                Stage::Over => return Poll::Pending,
            }
        }
    }

    /// Everybody who waits is told, or moves on.
    fn settle(&mut self, end: &io::Result<ConnectionError>) {
        for Left { waiter, fate, .. } in self.mux.finish() {
            if fate == Fate::NotProcessed && waiter.tries < TRIES {
                self.returned.push(waiter);
            } else {
                answer(waiter, Err(error_of(end, fate)));
            }
        }
        for (_, _, to) in self.pings.drain(..) {
            let _ = to.send(Err(error_of(end, Fate::NotProcessed)));
        }
    }
}

/// Tells whoever waits for a request; they may have gone.
pub(super) fn answer(pending: Pending, end: Result<Bytes, Error>) {
    let _ = pending.to.send(end);
}

/// What an end means for a request of the fate `fate`.
pub(super) fn error_of(end: &io::Result<ConnectionError>, fate: Fate) -> Error {
    match end {
        Ok(end) => Error::connection(*end, fate),
        Err(error) => {
            let source = io::Error::new(error.kind(), error.to_string());
            Error::io("waiting for the answer", source, fate)
        }
    }
}
