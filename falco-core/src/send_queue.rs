//! Messages that wait to be sent, in turns: a large message is sent one frame at a time, and
//! between two of its frames every other message has a turn.

#![cfg_attr(
    not(feature = "testing"),
    allow(unreachable_pub, reason = "`testing` has it, for tests without a mux")
)]

mod lengths;

use alloc::collections::VecDeque;
use core::fmt;

use self::lengths::Lengths;
use crate::connection::Connection;
use crate::error::SealError;
use crate::outgoing::Outgoing;
use crate::role::Role;
use crate::time::Instant;
use crate::wire::KeyRef;

/// Messages with their bodies, in the order of their turns.
///
/// [`seal`](Self::seal) gives each message one frame, beginning with the one that has waited
/// longest, until the output is full. Messages that had a frame and are not done then go behind
/// those that had none. So with an output of one record, a small message waits for one record of
/// each large message, not for all records of a large one.
///
/// What an output costs depends on the messages in it, and hardly on how many others wait.
pub struct SendQueue<M, B> {
    waiting: VecDeque<Entry<M, B>>,
    /// How many messages [`messages`](Self::messages) has passed to the connection in this turn,
    /// from the front of the queue.
    passed_on: usize,
    lengths: Lengths,
}

struct Entry<M, B> {
    message: M,
    body: B,
    /// Bytes of the body that were sealed before this turn.
    sealed: usize,
}

/// A message that had a frame, or is done without one.
pub(crate) enum Turn<'m, M, B> {
    Done(M, B),
    Partial(&'m M, &'m B),
}

/// Provides the bodies of the messages of a queue. `B` is what the queue stores for each message.
pub(crate) trait Bodies<B> {
    fn body<'b>(&'b self, of: &'b B) -> &'b [u8];
}

/// The bodies are in the queue.
pub(crate) struct InQueue;

impl<B: AsRef<[u8]>> Bodies<B> for InQueue {
    fn body<'b>(&'b self, of: &'b B) -> &'b [u8] {
        of.as_ref()
    }
}

impl<M: Outgoing, B: AsRef<[u8]>> SendQueue<M, B> {
    /// Seals the next frames into `out`, and passes each message that this completes to `done`,
    /// with its body. Returns how many bytes to send.
    ///
    /// # Errors
    /// Those of [`Connection::seal`]. If the error concerns neither the connection nor the output,
    /// the first message caused it, and [`pop`](Self::pop) takes that message out.
    pub fn seal<R, H>(
        &mut self,
        connection: &mut Connection<R, H>,
        now: Instant,
        out: &mut [u8],
        mut done: impl FnMut(M, B),
    ) -> Result<usize, SealError>
    where
        R: Role<Outgoing = M>,
        H: KeyRef<R>,
    {
        let sealed = self.seal_bodies(connection, now, out, &InQueue);
        self.end_turn(|turn| match turn {
            Turn::Done(message, body) => done(message, body),
            Turn::Partial(..) => {}
        });
        sealed
    }
}

impl<M: Outgoing, B> SendQueue<M, B> {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            passed_on: 0,
            lengths: Lengths::new(),
        }
    }

    /// Puts a message with its whole body behind all others.
    pub fn push(&mut self, message: M, body: B) {
        let sealed = message.sealed_bytes();
        self.lengths.add(message.length());
        self.waiting.push_back(Entry { message, body, sealed });
    }

    /// How many messages wait, begun or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether no message waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// A length for [`Connection::seal_size`] with which the longest message makes progress, and
    /// small messages are sealed together.
    #[must_use]
    pub fn useful_output(&self) -> usize {
        self.lengths.useful_output(self.waiting.len())
    }

    /// Bytes of all bodies. A body counts whole until its last part is sealed, because until then
    /// all of it is in memory.
    pub(crate) fn bodies(&self) -> usize {
        self.lengths.bodies()
    }

    /// The messages that wait, in the order of their turns.
    #[cfg(any(test, feature = "testing"))]
    pub fn iter(&self) -> impl Iterator<Item = (&M, &B)> {
        self.waiting.iter().map(|entry| (&entry.message, &entry.body))
    }

    /// Seals the next frames into `out`, with bodies from `bodies`. Call
    /// [`end_turn`](Self::end_turn) after it.
    pub(crate) fn seal_bodies<R, H>(
        &mut self,
        connection: &mut Connection<R, H>,
        now: Instant,
        out: &mut [u8],
        bodies: &impl Bodies<B>,
    ) -> Result<usize, SealError>
    where
        R: Role<Outgoing = M>,
        H: KeyRef<R>,
    {
        connection.seal(now, self.messages(bodies), out)
    }

    /// The messages with their bodies from `bodies`, in the order of their turns. Call
    /// [`end_turn`](Self::end_turn) after they were sealed.
    pub(crate) fn messages<'q>(
        &'q mut self,
        bodies: &'q impl Bodies<B>,
    ) -> impl Iterator<Item = (&'q mut M, &'q [u8])> {
        let passed_on = &mut self.passed_on;
        *passed_on = 0;
        self.waiting.iter_mut().map(move |entry| {
            *passed_on += 1;
            (&mut entry.message, bodies.body(&entry.body))
        })
    }

    /// Passes the messages that had a frame to `each`, in the order of the queue. Those that are
    /// done leave the queue, and the others go behind those that had none.
    pub(crate) fn end_turn(&mut self, mut each: impl FnMut(Turn<'_, M, B>)) {
        // Messages before this index had no frame.
        let mut index = 0;
        for _ in 0..core::mem::take(&mut self.passed_on) {
            let Some(entry) = self.waiting.get_mut(index) else {
                break;
            };
            let sealed = entry.message.sealed_bytes();
            if sealed == entry.sealed && !entry.message.is_done() {
                index += 1;
                continue;
            }
            entry.sealed = sealed;
            let removed = match index {
                // Nearly always.
                0 => self.waiting.pop_front(),
                _ => self.waiting.remove(index),
            };
            let Some(entry) = removed else { break };
            if entry.message.is_done() {
                self.lengths.remove(entry.message.length());
                each(Turn::Done(entry.message, entry.body));
            } else {
                each(Turn::Partial(&entry.message, &entry.body));
                self.waiting.push_back(entry);
            }
        }
    }

    /// Keeps the messages for which `keep` returns `true`.
    pub fn retain(&mut self, mut keep: impl FnMut(&M, &B) -> bool) {
        let lengths = &mut self.lengths;
        self.waiting.retain(|entry| {
            let keeps = keep(&entry.message, &entry.body);
            if !keeps {
                lengths.remove(entry.message.length());
            }
            keeps
        });
    }

    /// Takes out the message whose turn is next.
    #[cfg(any(test, feature = "testing"))]
    pub fn pop(&mut self) -> Option<(M, B)> {
        let Entry { message, body, .. } = self.waiting.pop_front()?;
        self.lengths.remove(message.length());
        Some((message, body))
    }
}

impl<M: Outgoing, B> Default for SendQueue<M, B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M, B> fmt::Debug for SendQueue<M, B> {
    /// Shows how many messages wait, and no body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendQueue")
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics has failed")]
mod tests;
