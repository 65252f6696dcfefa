//! Open bodies at a server: requests that a handler reads while they arrive, and answers that it
//! writes while they are sent.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::super::held::bytes;
use super::super::streams::{Chunks, StreamError, Turn, Writers, append, capacity_for};
use super::super::{Body, Budget};
use super::{ServerMux, release};
use crate::error::{ReplyError, RequestError, SealError};
use crate::message::{Refusal, RequestId};
use crate::mux::ServerStep;
use crate::no_answer::NoAnswer;
use crate::outgoing::OutgoingAnswer;
use crate::send_queue;
use crate::time::Instant;
use crate::wire::ServerKeyRef;

/// The open bodies of a connection. Most connections have none.
pub(super) struct Streams<B> {
    /// Open requests whose handlers run, by key. The requests of some have completed.
    pub(super) handlers: BTreeSet<u64>,
    /// Requests that arrived as a whole, and whose handlers run and write open answers, by key.
    pub(super) whole_handlers: BTreeSet<u64>,
    /// Open requests that have reached a handler and have not completed, by key.
    open: BTreeSet<u64>,
    /// Open requests that have not reached a handler, by key.
    deferred: BTreeMap<u64, Deferred>,
    /// Keys of requests whose END arrived while they were deferred.
    ended: BTreeSet<u64>,
    writers: Writers<OutgoingAnswer, B>,
    /// Answers to clients that take no open ones, by key.
    collected: BTreeMap<u64, Vec<u8>>,
    /// Bytes that are reserved for these.
    collected_bytes: usize,
    /// Open answers have the first turn in the next output.
    goes_first: bool,
}

/// An open request with what has arrived of it, which is at most a window.
#[derive(Default)]
struct Deferred {
    body: Vec<u8>,
    ended: bool,
}

impl<B: AsRef<[u8]>> Streams<B> {
    const fn new() -> Self {
        Self {
            handlers: BTreeSet::new(),
            whole_handlers: BTreeSet::new(),
            open: BTreeSet::new(),
            deferred: BTreeMap::new(),
            ended: BTreeSet::new(),
            writers: Writers::new(),
            collected: BTreeMap::new(),
            collected_bytes: 0,
            goes_first: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        let without_requests = self.deferred.is_empty() && self.writers.is_empty() && self.collected.is_empty();
        let without_handlers = self.handlers.is_empty() && self.whole_handlers.is_empty();
        without_handlers && self.open.is_empty() && without_requests
    }

    /// Whether a request waits that has not reached a handler, or its end.
    pub(super) fn has_request(&self) -> bool {
        !self.deferred.is_empty() || !self.ended.is_empty()
    }

    /// Whether an open answer could be sent.
    pub(super) fn has_ready(&self) -> bool {
        self.writers.has_ready()
    }

    /// Whether the answer to a request has begun and is not sent completely.
    pub(super) fn is_answering(&self, id: RequestId) -> bool {
        let key = id.key();
        self.writers.contains(key) || self.collected.contains_key(&key)
    }

    /// Bytes of answers that are queued.
    pub(super) const fn bytes(&self) -> usize {
        self.writers.memory() + self.collected_bytes
    }

    /// Bytes of output that are useful for the next turn.
    pub(super) fn useful_output(&self) -> usize {
        self.writers.useful_output()
    }

    fn take_collected(&mut self, key: u64) -> Option<Vec<u8>> {
        let body = self.collected.remove(&key)?;
        self.collected_bytes -= body.capacity();
        Some(body)
    }

    /// Forgets a request that has completed. If its handler waits until it may write,
    /// `poll_writable` returns the request, and the next write fails.
    pub(super) fn forget(&mut self, id: RequestId) {
        let key = id.key();
        self.open.remove(&key);
        self.take_collected(key);
        self.writers.remove(key);
        self.deferred.remove(&key);
        self.ended.remove(&key);
    }
}

impl<H: ServerKeyRef, B: AsRef<[u8]>, G: Budget> ServerMux<H, B, G> {
    /// Reports that the caller handles the steps [`Opened`](ServerStep::Opened),
    /// [`Part`](ServerStep::Part) and [`Ended`](ServerStep::Ended). Without that, open requests are
    /// refused as too large, whatever the [settings](crate::Settings::with_streams) announce.
    #[must_use]
    pub fn with_streams(mut self) -> Self {
        self.takes_streams = true;
        self
    }

    pub(super) fn streams(&mut self) -> &mut Streams<B> {
        self.streams.get_or_insert_with(|| Box::new(Streams::new()))
    }

    /// An open request begins. Its whole window is reserved, in the part of the shared bound that
    /// open requests may take.
    pub(super) fn opened<'u>(&mut self, id: RequestId, body: &'u [u8]) -> ServerStep<'u> {
        let skip = ServerStep::Skip;
        if !self.takes_streams {
            self.give_up(id, NoAnswer::OpenBody);
            return skip;
        }
        let window = bytes(self.machine.window());
        if !self.held.has_room(window) || !self.budget.take_open(window) {
            self.refuse_busy(id);
            return skip;
        }
        // There is room.
        let _ = self.held.add(id, window);
        self.held.set_window(id);
        if !self.may_handle() {
            let mut deferred = Deferred::default();
            append(&mut deferred.body, body, window);
            self.streams().deferred.insert(id.key(), deferred);
            return skip;
        }
        self.streams().open.insert(id.key());
        let body = Body::Lent(body);
        ServerStep::Opened { id, body }
    }

    /// A part of an open request, or its end. `None` if its length was given.
    pub(super) fn open_part<'u>(&mut self, id: RequestId, body: &'u [u8], last: bool) -> Option<ServerStep<'u>> {
        let (window, streams) = (bytes(self.machine.window()), self.streams.as_mut()?);
        if let Some(deferred) = streams.deferred.get_mut(&id.key()) {
            append(&mut deferred.body, body, window);
            deferred.ended = last;
            return Some(ServerStep::Skip);
        }
        let is_open = streams.open.contains(&id.key());
        is_open.then_some(if last {
            ServerStep::Ended { id }
        } else {
            ServerStep::Part { id, body }
        })
    }

    /// The next step for an open request that was deferred and may reach a handler now.
    pub(super) fn next_open<'u>(&mut self) -> Option<ServerStep<'u>> {
        if self.streams.as_ref().is_none_or(|streams| !streams.has_request()) || !self.has_request() {
            return None;
        }
        let streams = self.streams.as_mut()?;
        if let Some(key) = streams.ended.pop_first() {
            let id = RequestId::from_key(key);
            return Some(ServerStep::Ended { id });
        }
        let (key, Deferred { body, ended }) = streams.deferred.pop_first()?;
        streams.open.insert(key);
        if ended {
            streams.ended.insert(key);
        }
        let (id, body) = (RequestId::from_key(key), Body::Whole(body));
        Some(ServerStep::Opened { id, body })
    }

    /// Refuses an open request as busy, because the caller has no room for its handler. Call it
    /// only before a handler has received the request, [credit](Self::credit) was given for it, or
    /// its answer has begun.
    pub fn refuse_unhandled(&mut self, id: RequestId) {
        self.end_handler(id);
        if let Some(streams) = &mut self.streams {
            streams.open.remove(&id.key());
        }
        self.refuse_busy(id);
    }

    /// The client gave credit for an open answer.
    pub(super) fn credited(&mut self, id: RequestId) {
        let sendable = self.machine.sendable(id);
        if let Some(streams) = &mut self.streams {
            streams.writers.credited(id.key(), sendable);
        }
    }

    /// The client has cancelled a request. Returns whether to notify its handler. `false` if no
    /// handler has received the request, or the handler has finished its answer.
    pub(super) fn cancel_open(&mut self, id: RequestId) -> bool {
        let Some(streams) = &mut self.streams else {
            return true;
        };
        let key = id.key();
        streams.take_collected(key);
        let writer = streams.writers.remove(key);
        let finished = writer.is_some_and(|(_, chunks)| chunks.is_finished());
        if finished || streams.deferred.contains_key(&key) {
            self.give_up(id, NoAnswer::Cancelled);
            return false;
        }
        true
    }

    /// The client's sending half has ended, so that no more credit comes.
    pub(super) fn note_no_credit(&mut self) {
        if let Some(streams) = &mut self.streams {
            streams.writers.end_credit();
        }
    }

    /// The refusal that the client receives for `refusal`. An open request that has reached its
    /// handler cannot be refused as not processed.
    pub(super) fn refusal_of_open(&self, id: RequestId, refusal: Refusal) -> Refusal {
        let reached = self
            .streams
            .as_ref()
            .is_some_and(|streams| streams.open.contains(&id.key()));
        refusal.of_reached(reached)
    }

    /// Seals answers and open answers. The two kinds take turns at going first, one output each. So
    /// a long queue of one kind delays the other by at most one output.
    pub(super) fn seal_with_streams(&mut self, now: Instant, out: &mut [u8]) -> Result<usize, SealError> {
        let Some(streams) = &mut self.streams else {
            return Ok(0);
        };
        streams.writers.begin_turn(out.len());
        let answers = self.answers.messages();
        let open = streams.writers.messages();
        let sealed = if streams.goes_first {
            self.machine.seal(now, open.chain(answers), out)
        } else {
            self.machine.seal(now, answers.chain(open), out)
        };
        if matches!(sealed, Ok(1..)) {
            streams.goes_first = !streams.goes_first;
        }
        let mut done = Vec::new();
        self.answers.end_turn(|turn| match turn {
            send_queue::Turn::Done(answer, _) => done.push(answer.id()),
            send_queue::Turn::Partial(..) => {}
        });
        let machine = &self.machine;
        let sendable = |answer: &OutgoingAnswer| machine.sendable(answer.id());
        streams.writers.end_turn(sendable, |turn| match turn {
            Turn::Done(_, answer) => done.push(answer.id()),
            Turn::Begun(..) => {}
        });
        for id in done {
            release(&mut self.held, &self.budget, id);
            streams.forget(id);
        }
        sealed
    }

    /// Begins an open answer, which [`write`](Self::write) and
    /// [`finish_answer`](Self::finish_answer) continue. To cut it off, [`refuse`](Self::refuse) or
    /// [`complete`](Self::complete) the request.
    ///
    /// If the client takes no open answers, the answer is collected, and sent as a whole when it is
    /// finished.
    ///
    /// # Errors
    /// [`StreamError::Ended`] if the request has completed, or its answer has begun.
    pub fn open_answer(&mut self, id: RequestId) -> Result<(), StreamError> {
        let key = id.key();
        let has_begun = self.streams.as_deref().is_some_and(|streams| streams.is_answering(id));
        if !self.is_held(id) || has_begun {
            return Err(StreamError::Ended);
        }
        match self.machine.open_answer(id) {
            Ok(answer) => {
                let credit = self.machine.sendable(id);
                self.streams().writers.insert(key, answer, Chunks::new(), credit);
            }
            Err(ReplyError::Request(_)) => {
                self.streams().collected.insert(key, Vec::new());
            }
            Err(_) => return Err(StreamError::Ended),
        }
        Ok(())
    }

    /// Queues bytes of an open answer. They are sent as the client gives credit. Call it while
    /// [`may_write`](Self::may_write) returns `true`, so that the queue is short. Once the handler
    /// has ended, call it for all that is left, so that it counts.
    ///
    /// A chunk counts whole towards the bounds on answers until its last byte is sealed, also while
    /// it waits for credit. So a chunk must not keep more memory than its bytes, as a piece of a
    /// longer buffer does. An answer that is collected for the client is refused as too large if
    /// the connection holds more than [`max_held`](crate::Settings::max_held) with it.
    ///
    /// # Errors
    /// [`StreamError`]. The chunk is dropped.
    pub fn write(&mut self, id: RequestId, chunk: B) -> Result<(), StreamError> {
        let result = self.queue_chunk(id, chunk);
        self.settle();
        result
    }

    fn queue_chunk(&mut self, id: RequestId, chunk: B) -> Result<(), StreamError> {
        let (key, streams) = (id.key(), self.streams.as_ref().ok_or(StreamError::Ended)?);
        if streams.collected.contains_key(&key) {
            return self.collect(id, chunk.as_ref());
        }
        let growth = streams.writers.growth(key, chunk.as_ref().len());
        if growth > 0 && !self.make_room(growth) {
            return Err(self.refuse_answer(id, StreamError::NO_ROOM));
        }
        let streams = self.streams.as_mut().ok_or(StreamError::Ended)?;
        streams.writers.push(key, chunk)
    }

    fn collect(&mut self, id: RequestId, chunk: &[u8]) -> Result<(), StreamError> {
        let (key, queued) = (id.key(), self.queued());
        let collected = self.streams.as_ref().and_then(|streams| streams.collected.get(&key));
        let body = collected.ok_or(StreamError::Ended)?;
        let (length, before) = (body.len() + chunk.len(), body.capacity());
        let added = capacity_for(body, length, usize::MAX) - before;
        // The connection knows the limit of one answer.
        let limit = match self.machine.answer(id, length) {
            // A collected answer is not sent before it is whole. So the client cannot make room for
            // it by reading, and it is refused.
            Ok(_) if added > 0 && queued.saturating_add(added) > bytes(self.max_queued) => {
                u64::try_from(before).unwrap_or(u64::MAX)
            }
            Ok(_) if !self.make_room(added) => return Err(self.refuse_answer(id, StreamError::NO_ROOM)),
            Ok(_) => {
                if let Some(streams) = &mut self.streams
                    && let Some(body) = streams.collected.get_mut(&key)
                {
                    append(body, chunk, usize::MAX);
                    streams.collected_bytes += body.capacity() - before;
                }
                return Ok(());
            }
            Err(ReplyError::Request(RequestError::TooLarge { limit, .. })) => limit,
            Err(_) => return Err(StreamError::Ended),
        };
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        let too_large = RequestError::TooLarge { length, limit };
        Err(self.refuse_answer(id, StreamError::Request(too_large)))
    }

    fn refuse_answer(&mut self, id: RequestId, why: StreamError) -> StreamError {
        self.give_up(id, NoAnswer::NoRoom);
        why
    }

    /// Ends an open answer: an END follows its last bytes.
    ///
    /// # Errors
    /// [`StreamError::Ended`] if nothing more of it is sent. Then [`complete`](Self::complete) the
    /// request, as after a handler that has failed.
    pub fn finish_answer(&mut self, id: RequestId) -> Result<(), StreamError> {
        let (key, streams) = (id.key(), self.streams.as_mut().ok_or(StreamError::Ended)?);
        if let Some(body) = streams.take_collected(key) {
            let answer = self.machine.answer(id, body.len()).map_err(|_| StreamError::Ended)?;
            streams.writers.insert(key, answer, Chunks::whole(body), u32::MAX);
        } else if !streams.writers.finish(key) {
            return Err(StreamError::Ended);
        }
        self.settle();
        Ok(())
    }

    /// Whether the handler may write more of an open answer now. It may while fewer than about 64
    /// KiB are queued and the client's credit exceeds what is queued; without credit, it may queue
    /// one chunk. If this is `false`, [`poll_writable`](Self::poll_writable) returns the request
    /// when the handler may write again, or when [`write`](Self::write) fails.
    pub fn may_write(&mut self, id: RequestId) -> bool {
        let Some(streams) = &mut self.streams else {
            return false;
        };
        streams.collected.contains_key(&id.key()) || streams.writers.may_write(id.key())
    }

    /// Returns a request for which [`may_write`](Self::may_write) has returned `false`, once its
    /// handler may write again or the next [`write`](Self::write) fails. Call it after
    /// [`recv`](Self::recv), [`seal`](Self::seal) and [`refuse`](Self::refuse) until it returns
    /// `None`.
    pub fn poll_writable(&mut self) -> Option<RequestId> {
        let key = self.streams.as_mut()?.writers.pop_writable()?;
        Some(RequestId::from_key(key))
    }

    /// Reports that the handler has taken `bytes` of an open request. `waits` says whether it has
    /// taken all that has arrived and wants more: see
    /// [`Connection::credit`](crate::Connection::credit).
    pub fn credit(&mut self, id: RequestId, bytes: usize, waits: bool) {
        // It fails only if the connection has ended.
        let _ = self.machine.credit(id, bytes, waits);
    }

    /// Drops the rest of an open request that its handler does not read to the end: no step returns
    /// more of it.
    pub fn discard(&mut self, id: RequestId) {
        let _ = self.machine.discard(id);
        if let Some(streams) = &mut self.streams {
            streams.ended.remove(&id.key());
        }
    }
}
