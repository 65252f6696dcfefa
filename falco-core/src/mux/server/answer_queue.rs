//! The answers of a connection of which some bytes are not sealed yet, in the order of their turns.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;

use crate::connection::ServerConnection;
use crate::error::SealError;
use crate::message::RequestId;
use crate::outgoing::OutgoingAnswer;
use crate::send_queue::SendQueue;
#[cfg(feature = "streams")]
use crate::send_queue::{InQueue, Turn};
use crate::time::Instant;
use crate::wire::ServerKeyRef;

/// The send queue, and early answers. On the classic wire, answers are sent in the order of the
/// requests. An answer is early if the answer to an earlier request has not been put into the send
/// queue. Early answers are kept apart, so that sealing need not skip them. Its cost then does not
/// depend on the order in which handlers end.
pub(super) struct AnswerQueue<B> {
    queue: SendQueue<OutgoingAnswer, B>,
    /// Boxed, because most connections never have an early answer.
    early: Option<Box<Early<B>>>,
    /// On the classic wire: the last request whose answer was put into the queue.
    last: u32,
}

/// The early answers, at least one, by the number of the request.
struct Early<B> {
    answers: BTreeMap<u32, (OutgoingAnswer, B)>,
    /// Bytes of their bodies.
    bytes: usize,
}

impl<B> AnswerQueue<B> {
    pub(super) const fn new() -> Self {
        Self {
            queue: SendQueue::new(),
            early: None,
            last: 0,
        }
    }

    /// Adds an answer. `in_order` says whether the connection sends answers in the order of the
    /// requests.
    pub(super) fn push(&mut self, answer: OutgoingAnswer, body: B, in_order: bool) {
        let number = answer.id().number();
        let next = self.last.saturating_add(1);
        if in_order && number > next {
            let early = self.early.get_or_insert_with(|| Box::new(Early::new()));
            return early.insert(number, answer, body);
        }
        self.queue.push(answer, body);
        if in_order && number == next {
            self.last = next;
            self.push_early();
        }
    }

    /// Moves early answers to the queue, until the answer to the next request is missing.
    fn push_early(&mut self) {
        while self.early.is_some()
            && let Some(next) = self.last.checked_add(1)
            && let Some((answer, body)) = self.take_early(next)
        {
            self.queue.push(answer, body);
            self.last = next;
        }
    }

    fn take_early(&mut self, number: u32) -> Option<(OutgoingAnswer, B)> {
        let early = self.early.as_mut()?;
        let (answer, body) = early.answers.remove(&number)?;
        early.bytes -= answer.length();
        if early.answers.is_empty() {
            self.early = None;
        }
        Some((answer, body))
    }

    /// Drops the answer to a request.
    pub(super) fn remove(&mut self, id: RequestId) {
        if self.take_early(id.number()).is_none() {
            self.queue.retain(|answer, _| answer.id() != id);
        }
    }

    /// How many answers there are, early ones included.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.early.as_ref().map_or(0, |early| early.answers.len())
    }

    /// Whether no answer can be sealed. There may be early ones.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes of all bodies. A body counts with its whole length until its last part is sealed.
    pub(super) fn bodies(&self) -> usize {
        self.queue.bodies() + self.early.as_ref().map_or(0, |early| early.bytes)
    }

    pub(super) fn useful_output(&self) -> usize {
        self.queue.useful_output()
    }

    /// Drops all answers.
    pub(super) fn clear(&mut self) {
        self.queue = SendQueue::new();
        self.early = None;
    }

    /// Releases the memory of the queue if it is empty.
    pub(super) fn shrink(&mut self) {
        if self.queue.is_empty() {
            self.queue = SendQueue::new();
        }
    }
}

impl<B> Early<B> {
    const fn new() -> Self {
        Self {
            answers: BTreeMap::new(),
            bytes: 0,
        }
    }

    fn insert(&mut self, number: u32, answer: OutgoingAnswer, body: B) {
        self.bytes += answer.length();
        if let Some((replaced, _)) = self.answers.insert(number, (answer, body)) {
            self.bytes -= replaced.length();
        }
    }
}

impl<B: AsRef<[u8]>> AnswerQueue<B> {
    /// As [`SendQueue::seal`].
    pub(super) fn seal<H: ServerKeyRef>(
        &mut self,
        connection: &mut ServerConnection<H>,
        now: Instant,
        out: &mut [u8],
        done: impl FnMut(OutgoingAnswer, B),
    ) -> Result<usize, SealError> {
        self.queue.seal(connection, now, out, done)
    }

    /// As [`SendQueue::messages`], with the bodies in the queue.
    #[cfg(feature = "streams")]
    pub(super) fn messages(&mut self) -> impl Iterator<Item = (&mut OutgoingAnswer, &[u8])> {
        self.queue.messages(&InQueue)
    }

    /// As [`SendQueue::end_turn`].
    #[cfg(feature = "streams")]
    pub(super) fn end_turn(&mut self, each: impl FnMut(Turn<'_, OutgoingAnswer, B>)) {
        self.queue.end_turn(each);
    }
}
