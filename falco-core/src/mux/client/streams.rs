//! Open bodies at a client: requests that a caller writes while they are sent, and answers that it
//! reads while they arrive. `sealing` begins and sends requests, and returns those that have not
//! completed when the connection ends.

mod sealing;

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::vec::Vec;

use super::super::Body;
use super::super::halves::Halves;
use super::super::open_call::OpenCall;
use super::super::step::ClientStep;
use super::super::streams::{StreamError, Writers};
use super::ClientMux;
use crate::error::{Error, RequestError};
use crate::message::{Fate, Refusal, RequestId, Status};
use crate::outgoing::OutgoingRequest;
use crate::wire::ClientKeyRef;

/// The open bodies of a connection. Most connections have none.
pub(super) struct Streams<B, W> {
    /// Open requests that have not completed, by ticket.
    calls: BTreeMap<u64, Open<W>>,
    /// Open requests that are held back, by ticket.
    held_back: BTreeSet<u64>,
    /// How many open requests are not held back and have not begun.
    beginning: usize,
    /// Open requests that have begun, and that [`ClientMux::poll_begun`] has not returned.
    newly_begun: VecDeque<u64>,
    /// The bodies of open requests, by ticket.
    writers: Writers<OutgoingRequest, B>,
    /// Open requests in flight, by key, with their tickets. Some may have been cancelled.
    begun: BTreeMap<u64, u64>,
    /// Open answers that have begun, by key.
    answers: BTreeMap<u64, Answer>,
    /// The requests whose open answers are returned in pieces, by ticket.
    reading: BTreeMap<u64, RequestId>,
    /// Open requests have the first turn in the next output.
    goes_first: bool,
}

/// An open request with its caller.
struct Open<W> {
    waiter: W,
    id: Option<RequestId>,
}

/// An open answer.
enum Answer {
    /// Its caller wants it as a whole.
    Collected(Vec<u8>),
    /// It is returned in pieces, for the request with this ticket.
    InPieces(u64),
}

impl<B: AsRef<[u8]>, W> Streams<B, W> {
    const fn new() -> Self {
        Self {
            calls: BTreeMap::new(),
            held_back: BTreeSet::new(),
            beginning: 0,
            newly_begun: VecDeque::new(),
            writers: Writers::new(),
            begun: BTreeMap::new(),
            answers: BTreeMap::new(),
            reading: BTreeMap::new(),
            goes_first: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty() && self.begun.is_empty() && self.answers.is_empty() && self.writers.is_empty()
    }

    /// Open requests that have not completed.
    pub(super) fn outstanding(&self) -> usize {
        self.calls.len()
    }

    /// Open requests in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.begun.len()
    }

    pub(super) fn has_unbegun(&self) -> bool {
        self.beginning > 0 || !self.held_back.is_empty()
    }

    /// Whether something of an open request could be sent.
    pub(super) fn has_ready(&self) -> bool {
        self.writers.has_ready()
    }

    pub(super) fn useful_output(&self) -> usize {
        self.writers.useful_output()
    }

    /// Whether the answer to the open request `id` is wanted. `None` if it is no open request.
    pub(super) fn is_awaited(&self, id: RequestId) -> Option<bool> {
        let ticket = self.begun.get(&id.key())?;
        Some(self.calls.contains_key(ticket))
    }

    /// Forgets the open answer to a request that was cancelled or has completed, and returns
    /// whether a part of it was returned.
    pub(super) fn forget_answer(&mut self, id: RequestId) -> bool {
        match self.answers.remove(&id.key()) {
            Some(Answer::InPieces(ticket)) => {
                self.reading.remove(&ticket);
                true
            }
            Some(Answer::Collected(_)) | None => false,
        }
    }
}

impl<H: ClientKeyRef, B: AsRef<[u8]>, W, P> ClientMux<H, B, W, P> {
    fn streams(&mut self) -> &mut Streams<B, W> {
        self.streams.get_or_insert_with(|| Box::new(Streams::new()))
    }

    /// Bytes that the server reserves for an open request.
    fn reserved(&self) -> usize {
        usize::try_from(self.machine.peer_window()).unwrap_or(usize::MAX)
    }

    /// Accepts an open request. It begins once the limits of the server allow it, with the bytes
    /// that were [written](Self::write) by then. Once it has begun it is never resent.
    ///
    /// # Errors
    /// Returns the request. With an error it fails, because the server takes no open bodies.
    /// Otherwise the connection accepts no new requests, and this one may go to another.
    pub fn open(&mut self, call: OpenCall<B, W>) -> Result<(), (OpenCall<B, W>, Option<RequestError>)> {
        let request = match self.machine.open_request() {
            Ok(request) => request,
            Err(Error::Request(error)) => return Err((call, Some(error))),
            Err(_) => return Err((call, None)),
        };
        let OpenCall { ticket, waiter, chunks } = call;
        let streams = self.streams();
        streams.calls.insert(ticket, Open { waiter, id: None });
        streams.writers.park(ticket, request, chunks, u32::MAX);
        streams.held_back.insert(ticket);
        self.accepted = false;
        self.release_held_back_opens();
        Ok(())
    }

    /// Gives turns to open requests, as many as the server takes.
    pub(super) fn release_held_back_opens(&mut self) {
        let Some(streams) = self.streams.as_mut().filter(|streams| !streams.held_back.is_empty()) else {
            return;
        };
        if self.machine.status() != Status::Established {
            return;
        }
        let max_open = usize::from(self.machine.peer_max_open());
        let places = self.machine.max_in_flight().saturating_sub(self.machine.in_flight());
        // Whether the server takes open requests is known only after the handshake. If it takes
        // none, the connection fails them.
        let most = if max_open == 0 { usize::MAX } else { max_open };
        while streams.begun.len() + streams.beginning < most
            && streams.beginning < places
            && let Some(ticket) = streams.held_back.pop_first()
        {
            streams.beginning += 1;
            streams.writers.release(ticket);
        }
    }

    /// Moves data between the halves of a request and the connection: gives credit for what its
    /// caller has taken, and accepts what it has sent of an open one, which `next` takes out. Call
    /// it when a half has something for the connection, and for what
    /// [`poll_writable`](Self::poll_writable) returns.
    ///
    /// If the caller has dropped a half before its body was complete, the request is cancelled, and
    /// its waiter is returned.
    pub fn pump<E: Clone + From<StreamError>>(
        &mut self,
        ticket: u64,
        halves: &mut Halves<E>,
        mut next: impl FnMut() -> Option<B>,
    ) -> Option<W> {
        let (taken, waits) = halves.take_reading();
        if halves.is_given_up() {
            halves.fail(StreamError::Ended.into());
            let open = self.cancel_open(ticket).map(|(waiter, _)| waiter);
            return open.or_else(|| self.cancel(ticket).map(|(call, _)| call.waiter));
        }
        if taken > 0 || waits {
            self.credit(ticket, taken, waits);
        }
        while self.may_write(ticket) {
            let Some(chunk) = halves.next(&mut next) else {
                if halves.is_finished() {
                    let _ = self.finish_body(ticket);
                }
                break;
            };
            if let Err(why) = self.write(ticket, chunk) {
                halves.end_output(why);
            }
        }
        None
    }

    /// Queues bytes of the body of an open request. They are sent as the server gives credit. Call
    /// it only while [`may_write`](Self::may_write) returns `true`, so that the queue is short. It
    /// never refuses a chunk because of its length.
    ///
    /// # Errors
    /// [`StreamError::Ended`]: the request has completed, or its body was finished. The chunk is
    /// dropped.
    pub fn write(&mut self, ticket: u64, chunk: B) -> Result<(), StreamError> {
        let streams = self.streams.as_mut().ok_or(StreamError::Ended)?;
        self.accepted = false;
        streams.writers.push(ticket, chunk)
    }

    /// Ends the body of an open request: an END follows its last bytes.
    ///
    /// # Errors
    /// [`StreamError::Ended`]: the request has completed.
    pub fn finish_body(&mut self, ticket: u64) -> Result<(), StreamError> {
        let streams = self.streams.as_mut().ok_or(StreamError::Ended)?;
        self.accepted = false;
        if streams.writers.finish(ticket) {
            Ok(())
        } else {
            Err(StreamError::Ended)
        }
    }

    /// Whether the caller may write more of an open request now. It may while fewer than about
    /// 64 KiB are queued and the server's credit exceeds what is queued; without credit, it may
    /// queue one chunk. If this is `false`, [`poll_writable`](Self::poll_writable) returns the
    /// request when the caller may write again, or when [`write`](Self::write) fails.
    pub fn may_write(&mut self, ticket: u64) -> bool {
        let streams = self.streams.as_mut();
        streams.is_some_and(|streams| streams.writers.may_write(ticket))
    }

    /// Returns a request for which [`may_write`](Self::may_write) has returned `false`, once its
    /// caller may write again or the next [`write`](Self::write) fails. Call it after
    /// [`recv`](Self::recv), [`seal`](Self::seal) and [`cancel_open`](Self::cancel_open) until it
    /// returns `None`.
    pub fn poll_writable(&mut self) -> Option<u64> {
        self.streams.as_mut()?.writers.pop_writable()
    }

    /// Reports that the caller has taken `bytes` of an open answer. `waits` says whether it has
    /// taken all that has arrived and wants more: see
    /// [`Connection::credit`](crate::Connection::credit).
    pub fn credit(&mut self, ticket: u64, bytes: usize, waits: bool) {
        let id = self.streams.as_ref().and_then(|streams| streams.reading.get(&ticket));
        if let Some(id) = id {
            // It fails only if the connection has ended.
            let _ = self.machine.credit(*id, bytes, waits);
        }
    }

    /// The waiter of an outstanding request with an open body, or of a streaming one.
    pub fn stream_waiter(&mut self, ticket: u64) -> Option<&mut W> {
        let open = self.streams.as_mut().and_then(|streams| streams.calls.get_mut(&ticket));
        open.map(|open| &mut open.waiter).or_else(|| self.table.waiter(ticket))
    }

    /// Cancels an open request, whether its body, its answer or both are open. Returns its waiter
    /// and its fate, or `None` if it has completed.
    pub fn cancel_open(&mut self, ticket: u64) -> Option<(W, Fate)> {
        let streams = self.streams.as_mut()?;
        let Open { waiter, id } = streams.calls.remove(&ticket)?;
        streams.writers.remove(ticket);
        let Some(id) = id else {
            streams.beginning -= usize::from(!streams.held_back.remove(&ticket));
            self.release_held_back_opens();
            return Some((waiter, Fate::NotProcessed));
        };
        self.cancel_begun(id);
        Some((waiter, Fate::MaybeProcessed))
    }

    /// An open answer begins.
    pub(super) fn answer_opened<'u>(&mut self, id: RequestId, body: &'u [u8]) -> ClientStep<'u, B, W, P> {
        self.history.served = true;
        let open = self.streams.as_ref().and_then(|streams| streams.begun.get(&id.key()));
        let sent = || self.begun.get(id).map(|begun| begun.ticket);
        let Some(ticket) = open.copied().or_else(sent) else {
            return ClientStep::Skip;
        };
        let in_pieces = match self.table.get(ticket) {
            Some(call) if open.is_none() => Some(call.streams),
            _ => self.is_awaited(id).then_some(true),
        };
        let streams = self.streams();
        match in_pieces {
            Some(true) => {
                streams.answers.insert(id.key(), Answer::InPieces(ticket));
                streams.reading.insert(ticket, id);
                ClientStep::Opened { ticket, body }
            }
            Some(false) => {
                streams.answers.insert(id.key(), Answer::Collected(Vec::new()));
                self.collect(id, body)
            }
            // It was cancelled.
            None => ClientStep::Skip,
        }
    }

    /// A part of an open answer, or its end. `None` if the answer is not open.
    pub(super) fn answer_part<'u>(
        &mut self,
        id: RequestId,
        body: &'u [u8],
        last: bool,
    ) -> Option<ClientStep<'u, B, W, P>> {
        let streams = self.streams.as_mut()?;
        let ticket = match streams.answers.get(&id.key())? {
            Answer::InPieces(ticket) => *ticket,
            Answer::Collected(_) if !last => return Some(self.collect(id, body)),
            Answer::Collected(_) => {
                let whole = streams.answers.remove(&id.key());
                let body = match whole {
                    Some(Answer::Collected(body)) => Body::Whole(body),
                    Some(Answer::InPieces(_)) | None => Body::Lent(body),
                };
                let waiter = self.completed(id);
                let skip = ClientStep::Skip;
                return Some(waiter.map_or(skip, |waiter| ClientStep::Answer { waiter, body }));
            }
        };
        if !last {
            return Some(ClientStep::Part { ticket, body });
        }
        streams.forget_answer(id);
        let waiter = self.completed(id);
        let skip = ClientStep::Skip;
        Some(waiter.map_or(skip, |waiter| ClientStep::Ended { ticket, waiter }))
    }

    /// Adds a part to an answer that is collected. If the answer gets longer than `max_message` of
    /// this side, its request is cancelled.
    fn collect<'u>(&mut self, id: RequestId, part: &[u8]) -> ClientStep<'u, B, W, P> {
        let skip = ClientStep::Skip;
        let most = usize::try_from(self.max_answer).unwrap_or(usize::MAX);
        let answer = self
            .streams
            .as_mut()
            .and_then(|streams| streams.answers.get_mut(&id.key()));
        let Some(Answer::Collected(whole)) = answer else {
            return skip;
        };
        let length = whole.len().saturating_add(part.len());
        if self.machine.collect(id, part.len(), length, most) {
            whole.extend_from_slice(part);
            return skip;
        }
        self.cancel_begun(id);
        let ticket = self.begun.get(id).map(|begun| begun.ticket);
        let call = ticket.and_then(|ticket| self.take(ticket));
        call.map_or(skip, |call| ClientStep::Refused {
            call,
            refusal: Refusal::AnswerTooLarge,
            retry: false,
        })
    }

    /// A request was answered as a whole. Returns its waiter, unless it was cancelled.
    pub(super) fn completed(&mut self, id: RequestId) -> Option<W> {
        self.history.served = true;
        match self.open_completed(id) {
            Some((_, waiter)) => waiter,
            None => self.answered(id).map(|call| call.waiter),
        }
    }

    /// The open request `id` has completed. Returns its ticket and its waiter, if it was not
    /// cancelled; or `None` if this is no open request.
    fn open_completed(&mut self, id: RequestId) -> Option<(u64, Option<W>)> {
        let reserved = self.reserved();
        let streams = self.streams.as_mut()?;
        let ticket = streams.begun.remove(&id.key())?;
        streams.forget_answer(id);
        // If its caller waits until it may write more, `poll_writable` returns the request.
        streams.writers.remove(ticket);
        let open = streams.calls.remove(&ticket);
        self.held = self.held.saturating_sub(reserved);
        self.release_held_back_opens();
        Some((ticket, open.map(|open| open.waiter)))
    }

    /// The server gave credit for an open request.
    pub(super) fn credited(&mut self, id: RequestId) {
        let sendable = self.machine.sendable(id);
        if let Some(streams) = &mut self.streams
            && let Some(ticket) = streams.begun.get(&id.key())
        {
            streams.writers.credited(*ticket, sendable);
        }
    }

    /// An open request was refused. `None` if this is no open request.
    pub(super) fn open_refused<'u>(&mut self, id: RequestId, refusal: Refusal) -> Option<ClientStep<'u, B, W, P>> {
        let (ticket, waiter) = self.open_completed(id)?;
        self.parts.forget(id);
        self.history.served |= refusal != Refusal::NotProcessed;
        let skip = ClientStep::Skip;
        Some(waiter.map_or(skip, |waiter| ClientStep::OpenRefused {
            ticket,
            waiter,
            refusal,
        }))
    }

    /// The refusal that the caller of a request with a length receives for `refusal`. If a part of
    /// its answer was returned, the request was processed, and is not sent again.
    pub(super) fn refusal_of_streaming(&mut self, id: RequestId, refusal: Refusal) -> Refusal {
        let was_returned = self.streams.as_mut().is_some_and(|streams| streams.forget_answer(id));
        refusal.of_reached(was_returned)
    }
}
