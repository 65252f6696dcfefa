//! A client's side: requests from the moment they are accepted until they complete.

mod close;
mod in_flight;
mod pings;
mod send;
mod stream;
#[cfg(feature = "streams")]
mod streams;
mod window;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use super::Body;
use super::call::{Call, Unfinished};
use super::connect_attempts::History;
use super::deadlines::MuxDeadlines;
use super::step::ClientStep;
use super::table::{Progress, Table};
use crate::connection::ClientConnection;
use crate::error::{ConnectionError, Error, RequestError};
use crate::event::{ClientEvent, ClientWait, Received};
use crate::message::{CloseReason, Fate, PingId, Refusal, RequestId, Status};
use crate::outgoing::OutgoingRequest;
use crate::reassembly::{HeapPartials, Reassembly};
use crate::send_queue::SendQueue;
use crate::settings::Settings;
use crate::time::Instant;
use crate::unread::Unread;
use crate::wire::ClientKeyRef;

use self::close::Closing;
use self::in_flight::{Begun, InFlight};
use self::window::Window;

/// A client's connection with the requests that it has accepted and that have not completed.
///
/// `B` is the body of a request, `W` the waiter for its answer (such as a channel), and `P` the
/// waiter for the answer to a ping. The mux keeps a request with its body until it completes. It
/// gives each back exactly once: the waiter with the answer, or the whole [`Call`] with a refusal,
/// by [`cancel`](Self::cancel), by [`poll_closing`](Self::poll_closing), by
/// [`take_unbegun`](Self::take_unbegun) or by [`finish`](Self::finish).
///
/// Requests begin in the order of their tickets, as long as the server's in-flight limit and
/// [`with_max_held`](Self::with_max_held) allow it. The others are held back here. Operations on a
/// request do not get slower when many others are held back.
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub struct ClientMux<H: ClientKeyRef, B, W, P = W> {
    machine: ClientConnection<H>,
    /// All requests that have not completed.
    table: Table<B, W>,
    /// Requests that may begin or have begun and are not sealed completely, by ticket.
    queue: SendQueue<OutgoingRequest, u64>,
    /// Requests in the queue that have not begun.
    unbegun: Unbegun,
    begun: InFlight,
    /// Bytes of the requests in flight.
    held: usize,
    window: Window,
    parts: Reassembly<HeapPartials>,
    /// Pings that have not completed, oldest first.
    pings: VecDeque<(PingId, Call<(), P>)>,
    deadlines: MuxDeadlines,
    established: bool,
    history: History,
    closing: Closing,
    /// Requests were queued behind the last output.
    backlog: bool,
    /// The stream has accepted all requests as a whole.
    accepted: bool,
    /// Nothing more is written, and the last request was not accepted as a whole.
    unwritten: bool,
    /// The largest open answer that is collected.
    #[cfg(feature = "streams")]
    max_answer: u32,
    #[cfg(feature = "streams")]
    streams: Option<alloc::boxed::Box<streams::Streams<B, W>>>,
}

#[derive(Clone, Copy, Default)]
struct Unbegun {
    count: usize,
    bytes: usize,
}

impl Unbegun {
    const fn add(&mut self, length: usize) {
        self.count += 1;
        self.bytes += length;
    }

    const fn remove(&mut self, length: usize) {
        self.count -= 1;
        self.bytes -= length;
    }
}

impl<H: ClientKeyRef, B: AsRef<[u8]>, W, P> ClientMux<H, B, W, P> {
    /// A mux without requests. At most [`max_held`](Settings::max_held) bytes of requests are in
    /// flight at once.
    pub fn new(machine: ClientConnection<H>, settings: &Settings) -> Self {
        Self {
            machine,
            table: Table::new(),
            queue: SendQueue::new(),
            unbegun: Unbegun::default(),
            begun: InFlight::new(),
            held: 0,
            window: Window::new(usize::try_from(settings.max_held()).unwrap_or(usize::MAX)),
            parts: Reassembly::default(),
            pings: VecDeque::new(),
            deadlines: MuxDeadlines::default(),
            established: false,
            history: History::default(),
            closing: Closing::default(),
            backlog: false,
            accepted: false,
            unwritten: false,
            #[cfg(feature = "streams")]
            max_answer: settings.max_message(),
            #[cfg(feature = "streams")]
            streams: None,
        }
    }

    /// Sets another bound on the bytes in flight. It may be smaller than the largest message: a
    /// single request may exceed it.
    #[must_use]
    pub const fn with_max_held(mut self, bytes: usize) -> Self {
        self.window = Window::new(bytes);
        self
    }

    /// The connection inside.
    pub const fn connection(&self) -> &ClientConnection<H> {
        &self.machine
    }

    /// Whether new requests are accepted.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.closing.end.is_none() && matches!(self.machine.status(), Status::Handshaking | Status::Established)
    }

    /// Requests that have not completed.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        #[cfg(feature = "streams")]
        let open = self.streams.as_ref().map_or(0, |streams| streams.outstanding());
        #[cfg(not(feature = "streams"))]
        let open = 0;
        self.table.len() + open
    }

    /// Whether there are requests that have not begun.
    #[must_use]
    pub fn has_unbegun(&self) -> bool {
        #[cfg(feature = "streams")]
        if self.streams.as_ref().is_some_and(|streams| streams.has_unbegun()) {
            return true;
        }
        self.unbegun.count > 0 || self.table.held_back() > 0
    }

    /// Whether there are requests that are not sealed completely.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        #[cfg(feature = "streams")]
        if self.streams.as_ref().is_some_and(|streams| streams.has_ready()) {
            return true;
        }
        !self.queue.is_empty() || self.table.held_back() > 0
    }

    /// Accepts a request. It begins once the limits of the server allow it.
    ///
    /// # Errors
    /// The request. With an error it fails, because its body is larger than a message may be.
    /// Without one it may go to another connection, because this one accepts no new requests.
    pub fn request(&mut self, call: Call<B, W>) -> Result<(), (Call<B, W>, Option<RequestError>)> {
        match self.machine.request(call.body.as_ref().len()) {
            Ok(request) => self.accept(call, request),
            Err(Error::Request(error)) => return Err((call, Some(error))),
            Err(_) => return Err((call, None)),
        }
        Ok(())
    }

    /// The callers of the requests that are outstanding, by ticket.
    pub fn waiters(&self) -> impl Iterator<Item = (u64, &W)> {
        self.table.waiters()
    }

    /// Cancels the request with this ticket. Bytes that are not sealed yet are not sent. On the
    /// noise wire, the server is sent a CANCEL if the request has begun. Returns the request and
    /// its fate, or `None` if it has completed.
    pub fn cancel(&mut self, ticket: u64) -> Option<(Call<B, W>, Fate)> {
        let (call, progress) = self.table.take(ticket)?;
        // A request that was not sealed completely reaches no handler.
        let mut fate = Fate::NotProcessed;
        match progress {
            // Requests that are held back behind it may begin.
            Progress::HeldBack => self.fill_queue(),
            Progress::Queued => {
                let unbegun = &mut self.unbegun;
                self.queue.retain(|request, other| {
                    let stays = *other != ticket;
                    if !stays {
                        unbegun.remove(request.length());
                    }
                    stays
                });
                self.fill_queue();
            }
            Progress::Partial(id) => {
                self.queue.retain(|_, other| *other != ticket);
                self.cancel_begun(id);
            }
            Progress::Sent(id) => {
                self.cancel_begun(id);
                if !self.unwritten {
                    fate = Fate::MaybeProcessed;
                }
            }
        }
        Some((call, fate))
    }

    /// Reports that no more bytes are written. `all_accepted` says whether the stream has accepted
    /// all that was sealed; once it was `true`, later calls do not change that. If the last request
    /// was not accepted as a whole, its last record cannot be opened, so no handler receives it.
    ///
    /// For an adapter that has one request in flight at a time and ends the connection. Call it
    /// before [`cancel`](Self::cancel) and [`finish`](Self::finish). Without it, these assume that
    /// a request that was sealed as a whole was sent.
    pub fn writing_ended(&mut self, all_accepted: bool) {
        self.accepted |= all_accepted && !self.has_unsent();
        self.unwritten = !self.accepted;
    }

    fn cancel_begun(&mut self, id: RequestId) {
        self.parts.forget(id);
        #[cfg(feature = "streams")]
        if let Some(streams) = &mut self.streams {
            streams.forget_answer(id);
        }
        // It fails only if the connection has ended.
        let _ = self.machine.cancel(id);
    }

    /// Processes the unread bytes as [`ClientConnection::recv`] does. If the server refuses a
    /// request as busy and the bytes in flight may be the reason, the request is held back and sent
    /// again later, and no step reports that.
    ///
    /// # Errors
    /// What ended the connection. [`finish`](Self::finish) returns the requests that are left.
    pub fn recv<'u>(
        &mut self,
        now: Instant,
        unread: Unread<'u, '_>,
    ) -> Result<ClientStep<'u, B, W, P>, ConnectionError> {
        self.note(now)?;
        let have = unread.len();
        let event = match self.machine.recv(now, unread)? {
            Received::NeedMore { total } => return Ok(ClientStep::NeedMore { total }),
            // This happens only before the hello is sealed. The server sends nothing before it has
            // read the hello.
            Received::Wait(ClientWait::TransmitFirst) => return Ok(ClientStep::NeedMore { total: have + 1 }),
            Received::Skip => return Ok(ClientStep::Skip),
            Received::Event(event) => event,
        };
        let step = self.take_event(event);
        self.fill_queue();
        Ok(step)
    }

    fn take_event<'u>(&mut self, event: ClientEvent<'u>) -> ClientStep<'u, B, W, P> {
        let skip = ClientStep::Skip;
        match event {
            ClientEvent::Established => {
                self.established = true;
                ClientStep::Established
            }
            ClientEvent::Answer { id, body } => self.completed(id).map_or(skip, |waiter| ClientStep::Answer {
                waiter,
                body: Body::Lent(body),
            }),
            ClientEvent::Begin { id, total, body } => {
                if self.is_awaited(id) {
                    // It cannot fail: a `Vec` grows, and the connection has checked the parts.
                    let _ = self.parts.begin(id, total, body);
                }
                skip
            }
            ClientEvent::Part { id, body, last } => {
                #[cfg(feature = "streams")]
                if let Some(step) = self.answer_part(id, body, last) {
                    return step;
                }
                // This fails for a cancelled request, because its answer is discarded.
                let _ = self.parts.part(id, body);
                if !last {
                    return skip;
                }
                let whole = self.parts.take(id);
                whole
                    .zip(self.completed(id))
                    .map_or(skip, |((bytes, _), waiter)| ClientStep::Answer {
                        waiter,
                        body: Body::Whole(bytes),
                    })
            }
            #[cfg(feature = "streams")]
            ClientEvent::Opened { id, body } => self.answer_opened(id, body),
            #[cfg(feature = "streams")]
            ClientEvent::Credit { id } => {
                self.credited(id);
                skip
            }
            ClientEvent::Refused { id, refusal } => self.refused(id, refusal).unwrap_or(skip),
            ClientEvent::Pong { ping } => {
                let answered = self.pings.partition_point(|(own, _)| own.is_answered_by(ping));
                let waiters = self.pings.drain(..answered).map(|(_, ping)| ping.waiter).collect();
                ClientStep::Pong { waiters }
            }
            ClientEvent::Closing { reason } => {
                self.history.key_retired = reason == CloseReason::KeyRetired;
                self.history.drained = true;
                ClientStep::Closing { reason }
            }
        }
    }

    /// A request was answered. Grows the window if an earlier busy refusal has shrunk it.
    fn answered(&mut self, id: RequestId) -> Option<Call<B, W>> {
        self.history.served = true;
        let Begun { ticket, length, .. } = self.complete(id)?;
        self.window.grow(id, length);
        self.take(ticket)
    }

    /// A request was refused. If the bytes in flight may be the reason, shrinks the window and
    /// holds the request back until the window has room for it.
    fn refused<'u>(&mut self, id: RequestId, refusal: Refusal) -> Option<ClientStep<'u, B, W, P>> {
        #[cfg(feature = "streams")]
        if let Some(step) = self.open_refused(id, refusal) {
            return Some(step);
        }
        #[cfg(feature = "streams")]
        let refusal = self.refusal_of_streaming(id, refusal);
        self.parts.forget(id);
        self.history.served |= refusal != Refusal::NotProcessed;
        let may_fit = refusal == Refusal::Busy && self.shrink_window(id);
        let ticket = self.complete(id)?.ticket;
        let attempts = &mut self.table.get_mut(ticket)?.attempts;
        let retry = if may_fit {
            attempts.after_busy()
        } else {
            attempts.after_refusal(refusal)
        };
        if may_fit && retry && self.is_open() {
            self.hold_back(ticket);
            return None;
        }
        let call = self.take(ticket)?;
        Some(ClientStep::Refused { call, refusal, retry })
    }

    /// A request was answered as a whole. Returns its waiter, unless it was cancelled.
    #[cfg(not(feature = "streams"))]
    fn completed(&mut self, id: RequestId) -> Option<W> {
        self.answered(id).map(|call| call.waiter)
    }

    /// Removes a request from those in flight.
    fn complete(&mut self, id: RequestId) -> Option<Begun> {
        let begun = self.begun.remove(id)?;
        self.held -= begun.length;
        Some(begun)
    }

    /// Takes out a request that has completed. If the server answered or refused it before all of
    /// it was sent, the rest is not sent.
    fn take(&mut self, ticket: u64) -> Option<Call<B, W>> {
        let (call, progress) = self.table.take(ticket)?;
        if let Progress::Partial(_) = progress {
            self.queue.retain(|_, other| *other != ticket);
        }
        Some(call)
    }

    /// Call it when the connection has ended. Returns the outstanding requests in the order of
    /// their tickets, each with its fate and whether to retry it.
    ///
    /// A request that has not begun goes to another connection. One that was sent in part was not
    /// processed. For one that was sent completely, [`ClientConnection::fate`] says whether it may
    /// have been processed. A request is sent on at most [`MAX_TRIES`](super::Attempts::MAX_TRIES)
    /// connections.
    pub fn finish(&mut self) -> Vec<Unfinished<Call<B, W>>> {
        let sent = self.machine.fate_of(!self.unwritten, false);
        self.queue = SendQueue::new();
        self.unbegun = Unbegun::default();
        self.begun = InFlight::new();
        self.held = 0;
        self.parts = Reassembly::default();
        let unfinished = self.table.drain().map(|(progress, mut call)| {
            let (fate, retry) = match progress {
                Progress::HeldBack | Progress::Queued => (Fate::NotProcessed, true),
                Progress::Partial(_) => (Fate::NotProcessed, call.attempts.after_loss(Fate::NotProcessed)),
                Progress::Sent(_) => (sent, call.attempts.after_loss(sent)),
            };
            Unfinished { call, fate, retry }
        });
        unfinished.collect()
    }

    /// Whether the handshake of this connection has completed.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        self.established
    }

    /// What the connection has learned about its server, for
    /// [`ConnectAttempts::lost`](super::ConnectAttempts::lost) and
    /// [`Servers::lost`](super::Servers::lost).
    #[must_use]
    pub fn history(&self) -> History {
        let mut history = self.history;
        history.drained |= self.closing.reported || self.machine.status() == Status::Draining;
        history.end = self.end();
        history
    }

    /// Releases memory that the outstanding requests do not need. While nothing is outstanding, no
    /// memory is kept for requests.
    pub fn shrink(&mut self) {
        self.table.shrink();
        self.begun.shrink();
        if self.queue.is_empty() {
            self.queue = SendQueue::new();
        }
        self.machine.shrink();
        #[cfg(feature = "streams")]
        self.streams.take_if(|streams| streams.is_empty());
    }

    fn is_awaited(&self, id: RequestId) -> bool {
        #[cfg(feature = "streams")]
        if let Some(awaited) = self.streams.as_ref().and_then(|streams| streams.is_awaited(id)) {
            return awaited;
        }
        let begun = self.begun.get(id);
        begun.is_some_and(|begun| self.table.contains(begun.ticket))
    }

    /// The server refused a request as busy. If the bytes in flight may be the reason, shrinks the
    /// window and returns `true`.
    fn shrink_window(&mut self, id: RequestId) -> bool {
        let peer_max = usize::try_from(self.machine.peer_max_message()).unwrap_or(usize::MAX);
        let length = self.begun.get(id).map_or(0, |begun| begun.length);
        self.window.shrink(id, length, self.held, self.begun.last(), peer_max)
    }

    /// Holds back a request that the server has refused.
    fn hold_back(&mut self, ticket: u64) {
        self.queue.retain(|_, other| *other != ticket);
        self.table.hold_back(ticket);
    }
}

impl<H: ClientKeyRef, B: AsRef<[u8]>, W, P> fmt::Debug for ClientMux<H, B, W, P> {
    /// Shows counts, and no bodies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMux")
            .field("machine", &self.machine)
            .field("outstanding", &self.table.len())
            .field("begun", &self.begun.len())
            .field("parts", &self.parts.len())
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}
