//! A client's side: who waits for the answer to what, from the moment a request is handed over to its one end.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Deref;

use super::Body;
use crate::connection::ClientConnection;
use crate::error::{ConnectionError, Error, Misuse, RequestError};
use crate::event::{ClientEvent, Received};
use crate::message::{CloseReason, Fate, PingId, Refusal, RequestId, Status};
use crate::outgoing::OutgoingRequest;
use crate::reassembly::{Partial, Reassembly};
use crate::send_queue::SendQueue;
use crate::time::Instant;
use crate::wire::ClientWire;

/// A client's machine with the requests that callers have handed over and that have had no end.
///
/// `B` is a body on its way, `W` whoever waits for the answer. Each waiter is given back exactly once: with the answer, with a refusal, to its
/// [`cancel`](Self::cancel), or by [`finish`](Self::finish).
pub struct ClientMux<H: Deref<Target: ClientWire>, B, W> {
    machine: ClientConnection<H>,
    queue: SendQueue<OutgoingRequest, Queued<B>>,
    /// Sorted by ticket.
    waiting: VecDeque<Waiting<W>>,
    /// The tickets of the requests that have begun and had no end, sorted by number.
    begun: VecDeque<(RequestId, u64)>,
    parts: Reassembly<Vec<Partial<Vec<u8>>>>,
}

struct Waiting<W> {
    ticket: u64,
    /// There once its first byte is sealed.
    id: Option<RequestId>,
    waiter: W,
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

/// What came of the unread bytes.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientStep<W> {
    /// There is no whole frame: `total` unread bytes bring the next step.
    NeedMore {
        /// Unread bytes needed in all.
        total: usize,
    },
    /// Take what [`seal`](ClientMux::seal) has first, then call again.
    TransmitFirst,
    /// Nothing for the caller: drop these bytes and call again.
    Skip {
        /// Bytes to drop.
        consumed: usize,
    },
    /// The server has taken the hello.
    Established {
        /// Bytes to drop.
        consumed: usize,
    },
    /// A request has its answer.
    Answer {
        /// Bytes to drop, once the body is copied.
        consumed: usize,
        /// Who waited for it.
        waiter: W,
        /// The answer.
        body: Body,
    },
    /// A request was refused.
    Refused {
        /// Bytes to drop.
        consumed: usize,
        /// Who waited for it.
        waiter: W,
        /// Why.
        refusal: Refusal,
    },
    /// A ping was answered, and with it all before it.
    Pong {
        /// Bytes to drop.
        consumed: usize,
        /// The ping.
        ping: PingId,
    },
    /// The server closes. What has begun still gets its end; [`take_unbegun`](ClientMux::take_unbegun) has what is to go elsewhere.
    Closing {
        /// Bytes to drop.
        consumed: usize,
        /// Why.
        reason: CloseReason,
    },
}

/// A request that was not taken.
#[derive(Debug)]
#[non_exhaustive]
pub struct Rejected<B, W> {
    /// Its body.
    pub body: B,
    /// Who would have waited.
    pub waiter: W,
    /// [`RequestError::TooLarge`], or else the connection takes nothing new and the request may go to another.
    pub why: Error,
}

/// A request that a connection leaves behind.
#[derive(Debug)]
#[non_exhaustive]
pub struct Left<B, W> {
    /// The caller's number.
    pub ticket: u64,
    /// Who waits.
    pub waiter: W,
    /// Its body, where nothing of it was sent: it may go to another connection.
    pub body: Option<B>,
    /// Whether it may have been processed.
    pub fate: Fate,
}

impl<H: Deref<Target: ClientWire>, B: AsRef<[u8]>, W> ClientMux<H, B, W> {
    /// Nothing waits yet.
    pub const fn new(machine: ClientConnection<H>) -> Self {
        Self {
            machine,
            queue: SendQueue::new(),
            waiting: VecDeque::new(),
            begun: VecDeque::new(),
            parts: Reassembly::new(Vec::new()),
        }
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
    pub fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    /// Whether requests wait of which nothing was sent.
    #[must_use]
    pub fn has_unbegun(&self) -> bool {
        self.queue.iter().any(|(request, _)| request.id().is_none())
    }

    /// Whether something of a request has not been sealed.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !self.queue.is_empty()
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
        self.queue.push(request, Queued { ticket, body });
        let at = self.waiting.partition_point(|waiting| waiting.ticket < ticket);
        let id = None;
        self.waiting.insert(at, Waiting { ticket, id, waiter });
        Ok(())
    }

    /// Nobody waits any more for the request `ticket`. What was not sent is withdrawn; of what was, the server is told. Gives the waiter back with what it may be told of the request; `None` where
    /// it has had its end.
    pub fn cancel(&mut self, ticket: u64) -> Option<(W, Fate)> {
        let at = self
            .waiting
            .binary_search_by_key(&ticket, |waiting| waiting.ticket)
            .ok()?;
        let waiting = self.waiting.remove(at)?;
        let before = self.queue.len();
        self.queue.retain(|_, queued| queued.ticket != ticket);
        // What has not gone whole reaches no handler.
        let fate = if self.queue.len() < before {
            Fate::NotProcessed
        } else {
            Fate::MaybeProcessed
        };
        if let Some(id) = waiting.id {
            self.parts.forget(id);
            // It fails only where the connection has ended.
            let _ = self.machine.cancel(id);
        }
        Some((waiting.waiter, fate))
    }

    /// Owes the server a ping.
    ///
    /// # Errors
    /// Those of [`ClientConnection::ping`].
    pub fn ping(&mut self) -> Result<PingId, Error> {
        self.machine.ping()
    }

    /// Finishes what has begun, takes nothing new, then ends.
    pub fn close(&mut self, now: Instant, reason: CloseReason) {
        self.machine.close(now, reason);
    }

    /// Looks at the unread bytes, as [`ClientConnection::recv`] does.
    ///
    /// # Errors
    /// What ended the connection; [`finish`](Self::finish) has those who still wait.
    pub fn recv(&mut self, now: Instant, unread: &mut [u8]) -> Result<ClientStep<W>, ConnectionError> {
        let (consumed, event) = match self.machine.recv(now, unread)? {
            Received::NeedMore { total } => return Ok(ClientStep::NeedMore { total }),
            // A client gives no answers, so that there is nothing else to wait for.
            Received::TransmitFirst | Received::AnswerFirst => return Ok(ClientStep::TransmitFirst),
            Received::Skip { consumed } => return Ok(ClientStep::Skip { consumed }),
            Received::Event { consumed, event } => (consumed, event),
        };
        let bytes = |range| unread.get(range).unwrap_or_default();
        let skip = ClientStep::Skip { consumed };
        Ok(match event {
            ClientEvent::Established => ClientStep::Established { consumed },
            ClientEvent::Answer { id, body } => self.end(id).map_or(skip, |waiter| ClientStep::Answer {
                consumed,
                waiter,
                body: Body::Lent(body),
            }),
            ClientEvent::Begin { id, total, body } => {
                if self.is_awaited(id) {
                    // A vector has room, and the machine has judged the parts.
                    let _ = self.parts.begin(id, total, bytes(body));
                }
                skip
            }
            ClientEvent::Part { id, body, last } => {
                // Of an answer that nobody waits for nothing is kept.
                let _ = self.parts.part(id, bytes(body));
                let whole = self.parts.take(id).filter(|_| last);
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
                // Of a request half sent, nothing more goes.
                self.queue.retain(|request, _| request.id() != Some(id));
                self.end(id).map_or(skip, |waiter| ClientStep::Refused {
                    consumed,
                    waiter,
                    refusal,
                })
            }
            ClientEvent::Pong { ping } => ClientStep::Pong { consumed, ping },
            ClientEvent::Closing { reason } => ClientStep::Closing { consumed, reason },
        })
    }

    /// Writes what is owed and what waits to the front of `out`, and says how many bytes are to be sent. `failed` is told of requests that will never go: the
    /// server's limit was not known when they were handed over.
    ///
    /// # Errors
    /// [`Misuse::OutputTooSmall`]. What ended the connection is told by [`recv`](Self::recv).
    pub fn seal(
        &mut self,
        now: Instant,
        out: &mut [u8],
        mut failed: impl FnMut(W, RequestError),
    ) -> Result<usize, Misuse> {
        let (waiting, begun) = (&mut self.waiting, &mut self.begun);
        let sealed = self.queue.seal(&mut self.machine, now, out, |request, queued| {
            let at = waiting.binary_search_by_key(&queued.ticket, |waiting| waiting.ticket);
            match (request.failure(), request.id(), at) {
                (Some(failure), _, Ok(at)) => {
                    if let Some(waiting) = waiting.remove(at) {
                        failed(waiting.waiter, failure);
                    }
                }
                (None, Some(id), Ok(at)) => note(waiting, begun, at, id),
                // It was cancelled, or has had its end.
                (_, _, _) => {}
            }
        });
        for (request, queued) in self.queue.iter() {
            if let Some(id) = request.id()
                && let Ok(at) = waiting.binary_search_by_key(&queued.ticket, |waiting| waiting.ticket)
            {
                note(waiting, begun, at, id);
            }
        }
        match sealed {
            Ok(count) => Ok(count),
            Err(Error::Misuse(misuse @ Misuse::OutputTooSmall { .. })) => Err(misuse),
            Err(Error::Connection(ConnectionError::NumbersExhausted)) => {
                self.machine.close(now, CloseReason::Done);
                Ok(0)
            }
            Err(_) => Ok(0),
        }
    }

    /// Bytes of output with which one call of [`seal`](Self::seal) does something for whatever waits, and much where small requests do.
    #[must_use]
    pub fn seal_size(&self) -> usize {
        self.machine.seal_size(self.queue.worthwhile())
    }

    /// Takes out the requests of which nothing was sent, in the order in which they were handed over: they may go to another connection.
    pub fn take_unbegun(&mut self) -> Vec<Left<B, W>> {
        let mut begun = SendQueue::new();
        let mut left = Vec::new();
        while let Some((request, queued)) = self.queue.pop() {
            if request.id().is_some() {
                begun.push(request, queued);
                continue;
            }
            let at = self
                .waiting
                .binary_search_by_key(&queued.ticket, |waiting| waiting.ticket);
            if let Some(waiting) = at.ok().and_then(|at| self.waiting.remove(at)) {
                left.push(Left {
                    ticket: waiting.ticket,
                    waiter: waiting.waiter,
                    body: Some(queued.body),
                    fate: Fate::NotProcessed,
                });
            }
        }
        self.queue = begun;
        left.sort_by_key(|left| left.ticket);
        left
    }

    /// The connection is over, whatever ended it: everybody who still waits, in the order of the tickets.
    pub fn finish(&mut self) -> Vec<Left<B, W>> {
        let mut left = self.take_unbegun();
        let half_sent: Vec<_> = self.queue.iter().map(|(_, queued)| queued.ticket).collect();
        left.extend(self.waiting.drain(..).map(|waiting| Left {
            ticket: waiting.ticket,
            waiter: waiting.waiter,
            body: None,
            // What has not gone whole reaches no handler.
            fate: if half_sent.contains(&waiting.ticket) {
                Fate::NotProcessed
            } else {
                Fate::MaybeProcessed
            },
        }));
        self.queue = SendQueue::new();
        self.begun = VecDeque::new();
        self.parts = Reassembly::default();
        left.sort_by_key(|left| left.ticket);
        left
    }

    /// The stream has no more bytes, as for [`ClientConnection::end_of_stream`](crate::Connection::end_of_stream).
    ///
    /// # Errors
    /// What ended the connection.
    pub fn end_of_stream(&mut self, now: Instant, unread: &[u8]) -> Result<(), ConnectionError> {
        self.machine.end_of_stream(now, unread)
    }

    /// Says whether the caller reads, as for [`ClientConnection::set_reading`](crate::Connection::set_reading).
    pub fn set_reading(&mut self, now: Instant, reading: bool) {
        self.machine.set_reading(now, reading);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout()
    }

    /// Does what is due at `now`.
    ///
    /// # Errors
    /// What ended the connection.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.machine.handle_timeout(now)
    }

    /// Gives back memory that a busy time has left.
    pub fn shrink(&mut self) {
        if self.waiting.is_empty() && self.begun.is_empty() {
            self.waiting = VecDeque::new();
            self.begun = VecDeque::new();
        }
        if self.queue.is_empty() {
            self.queue = SendQueue::new();
        }
    }

    fn is_awaited(&self, id: RequestId) -> bool {
        position(&self.begun, id).is_some_and(|(_, ticket)| {
            let at = self.waiting.binary_search_by_key(&ticket, |waiting| waiting.ticket);
            at.is_ok()
        })
    }

    /// A request has had its end: who waited for it, if somebody still does.
    fn end(&mut self, id: RequestId) -> Option<W> {
        let (at, ticket) = position(&self.begun, id)?;
        self.begun.remove(at);
        let at = self
            .waiting
            .binary_search_by_key(&ticket, |waiting| waiting.ticket)
            .ok()?;
        self.waiting.remove(at).map(|waiting| waiting.waiter)
    }
}

/// The request of whoever waits at `at` has begun under `id`.
fn note<W>(waiting: &mut VecDeque<Waiting<W>>, begun: &mut VecDeque<(RequestId, u64)>, at: usize, id: RequestId) {
    if let Some(waiting) = waiting.get_mut(at)
        && waiting.id.is_none()
    {
        waiting.id = Some(id);
        let at = begun.partition_point(|(other, _)| other.number() < id.number());
        begun.insert(at, (id, waiting.ticket));
    }
}

fn position(begun: &VecDeque<(RequestId, u64)>, id: RequestId) -> Option<(usize, u64)> {
    let at = begun.binary_search_by_key(&id.number(), |(id, _)| id.number()).ok()?;
    begun.get(at).map(|(_, ticket)| (at, *ticket))
}

impl<H: Deref<Target: ClientWire>, B: AsRef<[u8]>, W> fmt::Debug for ClientMux<H, B, W> {
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
