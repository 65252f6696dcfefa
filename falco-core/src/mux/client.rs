//! A client's side: who waits for the answer to what, from the moment a request is handed over to
//! its one end.

mod begin;
mod window;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;

use super::Body;
use super::deadline::Writes;
use super::ending::Ending;
use super::step::{ClientStep, Left, Rejected};
use super::waiters::{self, SPARE, Waiters, Waiting};
use crate::connection::ClientConnection;
use crate::error::{ConnectionError, LINGER};
use crate::event::{ClientEvent, ClientWait, Received};
use crate::message::{CloseReason, Fate, PingId, Refusal, RequestId, Status};
use crate::outgoing::OutgoingRequest;
use crate::reassembly::{Partial, Reassembly};
use crate::send_queue::SendQueue;
use crate::settings::DEFAULT_MAX_HELD;
use crate::time::Instant;
use crate::wire::ClientKeyRef;

use self::window::Window;

/// A client's machine with the requests that callers have handed over and that have had no end.
///
/// `B` is a body on its way, `W` whoever waits for the answer, `P` whoever waits for the answer to
/// a ping. Each waiter is given back exactly once: with the answer, with a refusal, to its
/// [`cancel`](Self::cancel), or by [`finish`](Self::finish).
///
/// Requests begin in the order in which they were handed over, and no more of them than the server
/// takes: as many as its limit in flight allows, and as many bytes as
/// [`with_max_held`](Self::with_max_held) says. The others wait here, and what is done with one of
/// them takes no longer however many wait.
pub struct ClientMux<H: ClientKeyRef, B, W, P = W> {
    machine: ClientConnection<H>,
    /// Requests that may begin or have begun, until all of them is sealed.
    queue: SendQueue<OutgoingRequest, Queued<B>>,
    waiting: Waiters<B, W>,
    /// Tickets of the requests that may not begin yet, ascending; some may have been cancelled.
    held_back: VecDeque<u64>,
    /// Requests in the queue that have not begun.
    unbegun: usize,
    /// The requests that have begun and had no end, sorted by number.
    begun: VecDeque<Begun>,
    /// Bytes of all requests that may begin, or have begun and had no end.
    held: usize,
    window: Window,
    parts: Reassembly<Vec<Partial<Vec<u8>>>>,
    /// Pings that were not answered, in the order in which they were asked for.
    pings: VecDeque<(PingId, P)>,
    writes: Writes,
    established: bool,
}

struct Begun {
    id: RequestId,
    ticket: u64,
    length: usize,
}

struct Queued<B> {
    ticket: u64,
    body: B,
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Queued<B> {
    fn as_ref(&self) -> &[u8] {
        self.body.as_ref()
    }
}

impl<H: ClientKeyRef, B: AsRef<[u8]>, W, P> ClientMux<H, B, W, P> {
    /// Nothing waits yet.
    pub fn new(machine: ClientConnection<H>) -> Self {
        Self {
            machine,
            queue: SendQueue::new(),
            waiting: Waiters::new(),
            held_back: VecDeque::new(),
            unbegun: 0,
            begun: VecDeque::new(),
            held: 0,
            window: Window::new(usize::try_from(DEFAULT_MAX_HELD).unwrap_or(usize::MAX)),
            parts: Reassembly::new(Vec::new()),
            pings: VecDeque::new(),
            writes: Writes::default(),
            established: false,
        }
    }

    /// How many bytes of requests may be under way at once, 64 MiB by default: as many as a server
    /// holds by default ([`Settings::with_max_held`](crate::Settings::with_max_held)). A single
    /// request may be larger.
    #[must_use]
    pub const fn with_max_held(mut self, bytes: usize) -> Self {
        self.window = Window::new(bytes);
        self
    }

    /// The machine inside.
    pub const fn machine(&self) -> &ClientConnection<H> {
        &self.machine
    }

    /// Whether new requests are taken.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.machine.status(), Status::Handshaking | Status::Established)
    }

    /// Requests that have had no end.
    #[must_use]
    pub const fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    /// Whether requests wait of which nothing was sent.
    #[must_use]
    pub fn has_unbegun(&self) -> bool {
        self.unbegun > 0 || self.holds_back()
    }

    /// Whether something of a request has not been sealed.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.queue.is_empty() || self.holds_back()
    }

    const fn holds_back(&self) -> bool {
        self.waiting.held_back() > 0
    }

    /// Queues a request. `ticket` is the caller's name for it; they ascend.
    ///
    /// # Errors
    /// [`Rejected`], with all that was handed in.
    pub fn request(&mut self, ticket: u64, body: B, waiter: W) -> Result<(), Rejected<B, W>> {
        let request = match self.machine.request(body.as_ref().len()) {
            Ok(request) => request,
            Err(why) => return Err(Rejected { body, waiter, why }),
        };
        self.waiting.insert(ticket, waiter, (request, body));
        let (Ok(at) | Err(at)) = waiters::position(&self.held_back, ticket, |other| *other);
        self.held_back.insert(at, ticket);
        self.let_begin();
        Ok(())
    }

    /// Nobody waits any more for the request `ticket`. What was not sent is withdrawn; of what was,
    /// the server is told. Gives the waiter back with what it may be told of the request; `None`
    /// where it has completed.
    pub fn cancel(&mut self, ticket: u64) -> Option<(W, Fate)> {
        let Waiting { waiter, id, unsent, .. } = self.waiting.take(ticket)?;
        if unsent.is_some() {
            if self.held_back.len() > 2 * self.waiting.held_back() + SPARE {
                let waiting = &self.waiting;
                self.held_back.retain(|ticket| waiting.is_held_back(*ticket));
            }
            return Some((waiter, Fate::NotProcessed));
        }
        let mut removed = None;
        self.queue.retain(|_, queued| {
            let stays = queued.ticket != ticket;
            if !stays {
                removed = Some(queued.as_ref().len());
            }
            stays
        });
        if let Some(id) = id {
            self.parts.forget(id);
            // It fails only where the connection has ended.
            let _ = self.machine.cancel(id);
        } else if let Some(length) = removed {
            self.unbegun -= 1;
            self.held -= length;
            self.let_begin();
        }
        // What has not gone whole reaches no handler.
        let fate = if removed.is_some() {
            Fate::NotProcessed
        } else {
            Fate::MaybeProcessed
        };
        Some((waiter, fate))
    }

    /// Owes the server a ping. Where the wire has an answer to it, the waiter is given back with
    /// [`ClientStep::Pong`]; where it has none, at once.
    ///
    /// # Errors
    /// The waiter, where the connection is closing or has ended.
    pub fn ping(&mut self, waiter: P) -> Result<Option<P>, P> {
        match self.machine.ping() {
            Ok(_) if !self.is_open() => Err(waiter),
            Ok(ping) if self.machine.answers_pings() => {
                self.pings.push_back((ping, waiter));
                Ok(None)
            }
            Ok(_) => Ok(Some(waiter)),
            Err(_) => Err(waiter),
        }
    }

    /// Takes out those who wait for the answer to a ping, and for whom `leaves` says so.
    pub fn take_pings(&mut self, mut leaves: impl FnMut(&P) -> bool) -> Vec<P> {
        let (left, stay) = core::mem::take(&mut self.pings)
            .into_iter()
            .partition(|(_, waiter)| leaves(waiter));
        self.pings = stay;
        let left: VecDeque<(PingId, P)> = left;
        left.into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// Finishes what has begun, takes nothing new, then ends.
    pub fn close(&mut self, now: Instant, reason: CloseReason) {
        self.machine.close(now, reason);
    }

    /// Looks at the unread bytes, as [`ClientConnection::recv`] does.
    ///
    /// # Errors
    /// What ended the connection; [`finish`](Self::finish) has those who still wait.
    pub fn recv<'u>(&mut self, now: Instant, unread: &'u mut [u8]) -> Result<ClientStep<'u, W, P>, ConnectionError> {
        let (consumed, event) = match self.machine.recv(now, unread)? {
            Received::NeedMore { total } => return Ok(ClientStep::NeedMore { total }),
            Received::Wait(ClientWait::TransmitFirst) => return Ok(ClientStep::TransmitFirst),
            Received::Skip { consumed } => return Ok(ClientStep::Skip { consumed }),
            Received::Event { consumed, event } => (consumed, event),
        };
        let step = self.take_event(consumed, event);
        self.let_begin();
        Ok(step)
    }

    fn take_event<'u>(&mut self, consumed: usize, event: ClientEvent<'u>) -> ClientStep<'u, W, P> {
        let skip = ClientStep::Skip { consumed };
        match event {
            ClientEvent::Established => {
                self.established = true;
                ClientStep::Established { consumed }
            }
            ClientEvent::Answer { id, body } => {
                self.hold_back_less(id);
                self.end(id).map_or(skip, |waiter| ClientStep::Answer {
                    consumed,
                    waiter,
                    body: Body::Lent(body),
                })
            }
            ClientEvent::Begin { id, total, body } => {
                if self.is_awaited(id) {
                    // A vector has room, and the machine has judged the parts.
                    let _ = self.parts.begin(id, total, body);
                }
                skip
            }
            ClientEvent::Part { id, body, last } => {
                // Of an answer that nobody waits for nothing is kept.
                let _ = self.parts.part(id, body);
                let whole = self.parts.take(id).filter(|_| last);
                if last {
                    self.hold_back_less(id);
                }
                let waiter = if last { self.end(id) } else { None };
                whole
                    .zip(waiter)
                    .map_or(skip, |((bytes, _), waiter)| ClientStep::Answer {
                        consumed,
                        waiter,
                        body: Body::Whole(bytes),
                    })
            }
            ClientEvent::Refused { id, refusal } => {
                self.parts.forget(id);
                let again = refusal == Refusal::Busy && self.hold_back_more(id);
                self.end(id).map_or(skip, |waiter| ClientStep::Refused {
                    consumed,
                    waiter,
                    refusal,
                    again,
                })
            }
            ClientEvent::Pong { ping } => {
                let answered = self.pings.partition_point(|(own, _)| *own <= ping);
                let waiters = self.pings.drain(..answered).map(|(_, waiter)| waiter).collect();
                ClientStep::Pong { consumed, waiters }
            }
            ClientEvent::Closing { reason } => ClientStep::Closing { consumed, reason },
        }
    }

    /// The connection is over, whatever ended it: everybody who still waits, in the order of the
    /// tickets.
    ///
    /// Of a request that has gone whole, [`ClientConnection::fate`] says what became of it.
    pub fn finish(&mut self) -> Vec<Left<B, W>> {
        let mut left = self.take_unbegun();
        let mut half_sent: Vec<_> = self.queue.iter().map(|(_, queued)| queued.ticket).collect();
        half_sent.sort_unstable();
        let fate = self.machine.fate();
        left.extend(self.waiting.drain().map(|Waiting { ticket, waiter, .. }| Left {
            ticket,
            waiter,
            body: None,
            // What has not gone whole reaches no handler.
            fate: if half_sent.binary_search(&ticket).is_ok() {
                Fate::NotProcessed
            } else {
                fate
            },
        }));
        self.queue = SendQueue::new();
        self.begun = VecDeque::new();
        self.held = 0;
        self.parts = Reassembly::default();
        left.sort_by_key(|left| left.ticket);
        left
    }

    /// The stream has no more bytes, as for
    /// [`ClientConnection::end_of_stream`](crate::Connection::end_of_stream).
    ///
    /// # Errors
    /// What ended the connection.
    pub fn end_of_stream(&mut self, now: Instant, unread: &[u8]) -> Result<(), ConnectionError> {
        self.machine.end_of_stream(now, unread)
    }

    /// Says whether the caller reads, as for
    /// [`ClientConnection::set_reading`](crate::Connection::set_reading).
    pub fn set_reading(&mut self, now: Instant, reading: bool) {
        self.machine.set_reading(now, reading);
    }

    /// Says that the stream has taken something of what was sealed, or all of it.
    pub fn wrote(&mut self) {
        self.writes.progress();
    }

    /// Says that the stream takes nothing now of what was sealed. After a lifetime of that the
    /// connection ends. To say the same again costs nothing.
    pub fn blocked(&mut self, now: Instant) {
        self.writes.block(now);
    }

    /// Whether the stream has taken nothing for a lifetime of what was to be written:
    /// [`handle_timeout`](Self::handle_timeout) then ends the connection. A thread that does
    /// nothing but write asks this.
    #[must_use]
    pub fn is_stalled(&self, now: Instant) -> bool {
        self.writes.is_due(&self.machine, now)
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.writes.poll_timeout(&self.machine)
    }

    /// Does what is due at `now`. To be called when everything that has come was read. Whoever
    /// comes late by more than some milliseconds is to read once more first: the deadline is put
    /// off.
    ///
    /// # Errors
    /// What ended the connection; [`ConnectionError::Stalled`] where a write made no progress for a
    /// lifetime.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.writes.handle_timeout(&mut self.machine, now)
    }

    /// How the stream of a connection that has ended with `end` is left: a client waits for
    /// [`LINGER`](crate::LINGER) at the most.
    #[must_use]
    pub fn ending(&self, end: ConnectionError, now: Instant) -> Ending {
        Ending::new(end, self.established, LINGER, now)
    }

    /// Whether the server has let this client in, on this connection.
    #[must_use]
    pub const fn is_established(&self) -> bool {
        self.established
    }

    /// Gives back memory that a busy time has left.
    pub fn shrink(&mut self) {
        if self.waiting.len() == 0 && self.begun.is_empty() {
            self.waiting = Waiters::new();
            self.begun = VecDeque::new();
            self.held_back = VecDeque::new();
        }
        if self.queue.is_empty() {
            self.queue = SendQueue::new();
        }
    }

    fn is_awaited(&self, id: RequestId) -> bool {
        let begun = position(&self.begun, id).and_then(|at| self.begun.get(at));
        begun.is_some_and(|begun| self.waiting.contains(begun.ticket))
    }

    /// A request has completed: who waited for it, if somebody still does.
    fn end(&mut self, id: RequestId) -> Option<W> {
        // A server may answer or refuse a request of which not all has been sent: no more of it
        // goes.
        if self.queue.iter().any(|(request, _)| request.id() == Some(id)) {
            self.queue.retain(|request, _| request.id() != Some(id));
        }
        let at = position(&self.begun, id)?;
        let Begun { ticket, length, .. } = self.begun.remove(at)?;
        self.held -= length;
        self.waiting.take(ticket).map(|waiting| waiting.waiter)
    }
}

fn position(begun: &VecDeque<Begun>, id: RequestId) -> Option<usize> {
    waiters::position(begun, id.number().into(), |begun| begun.id.number().into()).ok()
}

impl<H: ClientKeyRef, B: AsRef<[u8]>, W, P> fmt::Debug for ClientMux<H, B, W, P> {
    /// How many there are of everything, and nothing of what they say.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMux")
            .field("machine", &self.machine)
            .field("waiting", &self.waiting.len())
            .field("begun", &self.begun.len())
            .field("parts", &self.parts.len())
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}
