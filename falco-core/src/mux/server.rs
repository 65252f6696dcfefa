//! The mux of a server: joins requests from their parts, bounds the memory that they hold, and
//! queues answers and refusals.

mod answer_queue;
mod answers;
mod complete;
mod deferred;
#[cfg(feature = "streams")]
mod open_handlers;
mod refusals;
mod stream;
#[cfg(feature = "streams")]
mod streams;

use core::fmt;
use core::time::Duration;

use self::answer_queue::AnswerQueue;
use self::deferred::Deferred;
use self::refusals::Refusals;
use super::admission::{MustClose, hello_fingerprint};
use super::deadlines::MuxDeadlines;
use super::held::{Held, HeldBytes, PER_REQUEST, bytes, give_back};
use super::partial::Partial;
use super::step::ServerStep;
use super::{Body, Budget};
use crate::connection::ServerConnection;
use crate::ending::Ending;
use crate::error::ConnectionError;
use crate::event::{Received, ServerEvent, ServerWait};
use crate::greeting::Greeting;
use crate::message::{CloseReason, RequestId, Status};
use crate::no_answer::NoAnswer;
use crate::reassembly::{HeapPartials, Reassembly};
use crate::settings::Settings;
use crate::time::{Instant, MaybeInstant, Span};
use crate::unread::Unread;
use crate::wire::ServerKeyRef;

/// A server's connection with its requests that have not completed. `B` is the body of an answer,
/// `G` the bound that all connections share.
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct ServerMux<H: ServerKeyRef, B, G: Budget> {
    machine: ServerConnection<H>,
    answers: AnswerQueue<B>,
    /// Refusals that the connection has not accepted yet.
    refusals: Refusals,
    parts: Reassembly<HeapPartials>,
    /// The bytes of each request that has not completed.
    held: Held,
    deferred: Deferred,
    /// The bytes of a frame that has arrived in part.
    partial: Partial,
    budget: G,
    /// If more bytes of answers are queued than this, no request reaches a handler.
    max_queued: u32,
    /// The largest message. If more bytes of requests than this are deferred, nothing is read.
    max_message: u32,
    /// Bytes of answers that `budget` counts.
    counted: u32,
    /// Bytes of the last output if it was long, because the stream may not have accepted it. Zero
    /// if it was short, as it always is on the noise wire.
    output: u32,
    reading: bool,
    deadlines: MuxDeadlines,
    /// When to drain.
    drains_at: MaybeInstant,
    /// Whether answers were queued behind the last output.
    backlog: bool,
    greeting: Greeting,
    /// The last output may contain part of an answer.
    with_answer: bool,
    closed_at_once: bool,
    /// Requests that the mux has refused as busy since the last [`take_busy`](Self::take_busy).
    busy: u32,
    /// The caller handles open requests.
    #[cfg(feature = "streams")]
    takes_streams: bool,
    /// How many of them are held at once.
    #[cfg(feature = "streams")]
    max_open: u16,
    /// How many requests are in flight at once.
    #[cfg(feature = "streams")]
    max_in_flight: u16,
    #[cfg(feature = "streams")]
    streams: Option<alloc::boxed::Box<streams::Streams<B>>>,
}

impl<H: ServerKeyRef, B: AsRef<[u8]>, G: Budget> ServerMux<H, B, G> {
    /// A mux without requests. The `max_held` of `settings` bounds the bytes of requests, and in
    /// the same way the bytes of queued answers; see [`may_handle`](Self::may_handle).
    pub fn new(machine: ServerConnection<H>, budget: G, settings: &Settings) -> Self {
        Self {
            machine,
            answers: AnswerQueue::new(),
            refusals: Refusals::default(),
            parts: Reassembly::default(),
            held: Held::new(settings.max_held()),
            deferred: Deferred::default(),
            partial: Partial::default(),
            budget,
            max_queued: settings.max_held(),
            max_message: settings.max_message(),
            counted: 0,
            output: 0,
            reading: true,
            deadlines: MuxDeadlines::default(),
            drains_at: MaybeInstant::NONE,
            backlog: false,
            greeting: Greeting::new(),
            with_answer: false,
            closed_at_once: false,
            busy: 0,
            #[cfg(feature = "streams")]
            takes_streams: false,
            #[cfg(feature = "streams")]
            max_open: settings.max_open(),
            #[cfg(feature = "streams")]
            max_in_flight: settings.max_in_flight(),
            #[cfg(feature = "streams")]
            streams: None,
        }
    }

    /// The connection inside.
    pub const fn connection(&self) -> &ServerConnection<H> {
        &self.machine
    }

    /// The state of the connection.
    #[must_use]
    pub fn status(&self) -> Status {
        self.machine.status()
    }

    /// Whether the connection drains or has ended: it takes no new requests, and handlers that
    /// would run for long should end.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        matches!(self.status(), Status::Draining | Status::Ended)
    }

    /// Requests that have not completed.
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.held.len()
    }

    /// Reports whether the caller reads. Call it with `false` while [`recv`](Self::recv) waits for
    /// output that the client does not accept. Meanwhile the lifetime is paused, for at most one
    /// lifetime. Repeated calls change nothing.
    pub fn set_reading(&mut self, now: Instant, reading: bool) {
        if reading != self.reading {
            self.reading = reading;
            self.deadlines.set_reading(&mut self.machine, now, reading);
        }
    }

    /// Completes the requests in flight, accepts no new ones, then ends.
    pub fn close(&mut self, now: Instant, reason: CloseReason) {
        self.deadlines.note_poll(&mut self.machine, now);
        self.machine.close(now, reason);
    }

    /// Lets an established connection drain once it is `age` old, plus or minus a tenth: it is
    /// closed as [`CloseReason::ShuttingDown`], and its client continues on another connection.
    /// `below` returns a random number that is less than its argument, so that connections which
    /// began together do not end together. Does nothing on the classic wire, which has no CLOSE.
    pub fn drain_after(&mut self, now: Instant, age: Duration, below: impl FnOnce(u64) -> u64) {
        if self.machine.refuses() {
            let millis = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            let tenth = millis / 10;
            let jitter = below(tenth.saturating_mul(2).saturating_add(1));
            let age = Span::from_millis(millis.saturating_sub(tenth).saturating_add(jitter));
            self.drains_at = (now + age).into();
        }
    }

    fn drain_if_old(&mut self, now: Instant) {
        if self.drains_at.get().is_some_and(|at| now >= at) {
            self.drains_at = MaybeInstant::NONE;
            self.close(now, CloseReason::ShuttingDown);
        }
    }

    /// Call it when the key of the connection was revoked. Drops all requests and answers, and
    /// queues a CLOSE with that reason. Then stop reading, and close the stream as the result says.
    pub fn revoke(&mut self, now: Instant) -> Ending {
        self.close_at_once(now, CloseReason::KeyRetired);
        self.ending(self.machine.end().unwrap_or(ConnectionError::Closed), now)
    }

    /// Closes an established connection that may not stay, as
    /// [`Admission::establish`](super::Admission::establish) says. A connection over a limit has
    /// little time for its last bytes, as [`ending`](Self::ending) says: a client that does not end
    /// its stream must not keep a place that others could have.
    pub fn close_for(&mut self, now: Instant, why: MustClose) {
        match why {
            MustClose::KeyRetired => self.close(now, CloseReason::KeyRetired),
            MustClose::ShuttingDown => self.close(now, CloseReason::ShuttingDown),
            MustClose::OverLimit => self.close_at_once(now, CloseReason::Done),
        }
    }

    /// Drops all requests and answers, and queues a CLOSE with this reason, which the client has
    /// little time to accept.
    fn close_at_once(&mut self, now: Instant, reason: CloseReason) {
        self.finish();
        self.closed_at_once = true;
        self.close(now, reason);
    }

    /// Processes the unread bytes as [`ServerConnection::recv`](crate::Connection::recv) does. If
    /// the shared bound, the connection's bound or memory has no room for a request, the request is
    /// refused as busy, and no step reports it.
    ///
    /// A request that may not reach a handler yet ([`may_handle`](Self::may_handle)) is deferred:
    /// it is kept, and a later call returns it before it looks at the unread bytes. So call it
    /// again after [`seal`](Self::seal) has returned bytes.
    ///
    /// After the handshake, no request reaches a handler before [`flushed`](Self::flushed).
    ///
    /// # Errors
    /// What ended the connection.
    pub fn recv<'u>(&mut self, now: Instant, unread: Unread<'u, '_>) -> Result<ServerStep<'u>, ConnectionError> {
        self.drain_if_old(now);
        self.deadlines.note_poll(&mut self.machine, now);
        if let Some((id, body)) = self.next_request() {
            let body = Body::Whole(body);
            return Ok(ServerStep::Request { id, body });
        }
        #[cfg(feature = "streams")]
        if let Some(step) = self.next_open() {
            return Ok(step);
        }
        if !self.may_read() && self.machine.end().is_none() {
            return Ok(ServerStep::TransmitFirst);
        }
        let arrived = unread.len();
        let hello = if self.is_established() {
            None
        } else {
            hello_fingerprint(&unread)
        };
        let event = match self.machine.recv(now, unread)? {
            Received::NeedMore { total } => return Ok(self.need_more(now, arrived, total)),
            Received::Wait(ServerWait::TransmitFirst) => return Ok(ServerStep::TransmitFirst),
            Received::Wait(ServerWait::AnswerFirst) => return Ok(ServerStep::AnswerFirst),
            Received::Skip => {
                return Ok(hello.map_or(ServerStep::Skip, |fingerprint| ServerStep::Hello { fingerprint }));
            }
            Received::Event(event) => event,
        };
        self.partial.release(&self.budget);
        let skip = ServerStep::Skip;
        Ok(match event {
            ServerEvent::Established => {
                self.greeting.established();
                self.budget.set_key(self.machine.key_id());
                ServerStep::Established
            }
            ServerEvent::Request { id, body } => {
                if !self.hold_new(id, body.len()) {
                    return Ok(skip);
                }
                self.whole(id, Body::Lent(body))
            }
            ServerEvent::Begin { id, total, body } => {
                if self.hold_new(id, body.len()) && self.parts.begin(id, total, body).is_err() {
                    self.refuse_busy(id);
                }
                skip
            }
            #[cfg(feature = "streams")]
            ServerEvent::Opened { id, body } => self.opened(id, body),
            #[cfg(feature = "streams")]
            ServerEvent::Credit { id } => {
                self.credited(id);
                skip
            }
            ServerEvent::Part { id, body, last } => {
                #[cfg(feature = "streams")]
                if let Some(step) = self.open_part(id, body, last) {
                    return Ok(step);
                }
                // The mux may have refused the request while the connection still receives its
                // parts.
                if !self.is_held(id) {
                    return Ok(skip);
                }
                // Count the bytes that the buffer reserves, which may be more than have arrived.
                if !self.hold(id, self.parts.growth(id, body.len()), 0) {
                    return Ok(skip);
                }
                if self.parts.part(id, body).is_err() {
                    self.refuse_busy(id);
                    return Ok(skip);
                }
                match self.parts.take(id).filter(|_| last) {
                    Some((bytes, _)) => self.whole(id, Body::Whole(bytes)),
                    None => skip,
                }
            }
            ServerEvent::Abandoned { id } => {
                self.parts.forget(id);
                self.release(id);
                skip
            }
            ServerEvent::Cancelled { id } => {
                if self.deferred.remove(id) {
                    self.give_up(id, NoAnswer::Cancelled);
                    return Ok(skip);
                }
                #[cfg(feature = "streams")]
                if !self.cancel_open(id) {
                    return Ok(skip);
                }
                ServerStep::Cancelled { id }
            }
            ServerEvent::Closing { reason } => ServerStep::Closing { reason },
            ServerEvent::Ping => skip,
        })
    }

    /// The step for a whole request that has just arrived.
    fn whole<'u>(&mut self, id: RequestId, body: Body<'u>) -> ServerStep<'u> {
        // If requests may reach a handler, `recv` has returned the deferred ones before.
        if self.may_handle() {
            return ServerStep::Request { id, body };
        }
        if self.has_deferred_enough() {
            self.refuse_busy(id);
        } else {
            self.deferred.push(id, body.into_vec());
        }
        ServerStep::Skip
    }

    /// The bytes of a request that [`recv`](Self::recv) has returned. Keep the value as long as the
    /// handler has the body: the bytes count towards the shared bound until it is dropped, even if
    /// the request is cancelled or the connection ends before. They count towards this connection
    /// until the request completes.
    #[must_use]
    pub fn take_held(&mut self, id: RequestId) -> HeldBytes<G>
    where
        G: Clone,
    {
        let (bytes, is_window) = self.held.hand_over(id);
        HeldBytes::new(bytes, is_window, self.budget.clone())
    }

    /// Call it when the connection has ended. Drops all requests and answers, and gives their bytes
    /// back to the shared bound. For a caller that keeps the mux while handlers are running. The
    /// last output still counts until [`seal`](Self::seal) is called again.
    pub fn finish(&mut self) {
        self.give_back();
        self.held = Held::closed();
        self.deferred = Deferred::default();
        self.answers.clear();
        self.refusals = Refusals::default();
        self.parts = Reassembly::default();
        #[cfg(feature = "streams")]
        {
            self.streams = None;
        }
        self.settle();
    }

    /// Whether the client has proved that it has the key.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        self.greeting.is_established()
    }

    /// Releases memory that is not needed while nothing is in flight.
    pub fn shrink(&mut self) {
        self.answers.shrink();
        self.held.shrink();
        self.refusals.shrink();
        self.machine.shrink();
        #[cfg(feature = "streams")]
        self.streams.take_if(|streams| streams.is_empty());
    }

    /// How many requests the mux has refused as busy since the last call, because the shared bound,
    /// the connection's bound or memory had no room for them.
    pub fn take_busy(&mut self) -> u64 {
        core::mem::take(&mut self.busy).into()
    }

    /// More bytes are needed, `total` in all. Counts the bytes of a long frame that have `arrived`.
    /// If there is no room for them, closes the connection, which ends once the earlier requests
    /// are answered: the classic wire cannot refuse a single request.
    fn need_more<'u>(&mut self, now: Instant, arrived: usize, total: usize) -> ServerStep<'u> {
        if self.is_established() && !self.partial.hold(arrived, total, &self.held, &self.budget) {
            self.busy += 1;
            self.machine.close(now, CloseReason::Done);
            return ServerStep::AnswerFirst;
        }
        ServerStep::NeedMore { total }
    }

    fn refuse_busy(&mut self, id: RequestId) {
        self.busy += 1;
        self.give_up(id, NoAnswer::Busy);
    }

    /// Counts a request that begins with so many bytes, or refuses it if there is no room for it.
    fn hold_new(&mut self, id: RequestId, bytes: usize) -> bool {
        self.hold(id, bytes, PER_REQUEST)
    }

    /// Counts bytes of a request, and what it takes of the shared bound `besides`, or refuses it if
    /// there is no room for them.
    fn hold(&mut self, id: RequestId, bytes: usize, besides: usize) -> bool {
        let shared = bytes.saturating_add(besides);
        if !self.budget.take(shared) {
            self.refuse_busy(id);
            return false;
        }
        if !self.held.add(id, bytes) {
            self.budget.give_back(shared);
            self.refuse_busy(id);
            return false;
        }
        true
    }

    fn release(&mut self, id: RequestId) {
        release(&mut self.held, &self.budget, id);
    }

    fn is_held(&self, id: RequestId) -> bool {
        self.held.contains(id)
    }
}

fn release<G: Budget>(held: &mut Held, budget: &G, id: RequestId) {
    if let Some((bytes, is_window)) = held.release(id) {
        give_back(budget, bytes, is_window);
    }
}

impl<H: ServerKeyRef, B, G: Budget> Drop for ServerMux<H, B, G> {
    /// Gives back the bytes that requests and answers still hold.
    fn drop(&mut self) {
        self.give_back();
    }
}

impl<H: ServerKeyRef, B, G: Budget> ServerMux<H, B, G> {
    fn give_back(&mut self) {
        let (all, windows) = self.held.own_bytes();
        self.budget.give_back(all - windows);
        self.budget.give_back_open(windows);
        let answers = core::mem::take(&mut self.counted);
        self.budget.remove_answers(bytes(answers));
        self.partial.release(&self.budget);
    }
}

impl<H: ServerKeyRef, B: AsRef<[u8]>, G: Budget> fmt::Debug for ServerMux<H, B, G> {
    /// Shows counts, and no bodies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerMux")
            .field("machine", &self.machine)
            .field("held", &self.held.len())
            .field("parts", &self.parts.len())
            .field("answers", &self.answers.len())
            .field("refusals", &self.refusals.len())
            .field("deferred", &self.deferred.len())
            .field("queued", &self.answers.bodies())
            .finish_non_exhaustive()
    }
}
