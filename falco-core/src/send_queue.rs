//! What waits to be sent, in turns: a large message goes a frame at a time, and everything that
//! waits has its turn before it has the next.

use alloc::collections::VecDeque;
use core::fmt;

use crate::connection::Connection;
use crate::error::SealError;
use crate::outgoing::Outgoing;
use crate::role::Role;
use crate::time::Instant;
use crate::wire::KeyRef;

/// Small messages are worth being sealed together up to so many bytes.
const TOGETHER: usize = 16 << 10;
/// No less than what a message takes besides its body, on any wire.
const AROUND: usize = 40;

/// Messages with their bodies, in the order of their turns.
///
/// [`seal`](Self::seal) gives each message one frame, beginning with the one that has waited
/// longest, until the output is full. Those that had a frame and are not done go behind those that
/// had none. So with an output of one record, a small message waits for one record of each large
/// one, and never for a large one to end.
pub struct SendQueue<M, B> {
    waiting: VecDeque<Entry<M, B>>,
}

struct Entry<M, B> {
    message: M,
    body: B,
    /// Bytes of the body that had gone when this was last looked at.
    sealed: usize,
}

impl<M: Outgoing, B: AsRef<[u8]>> SendQueue<M, B> {
    /// Nothing waits.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
        }
    }

    /// Puts a message with its whole body behind all others.
    pub fn push(&mut self, message: M, body: B) {
        self.waiting.push_back(Entry {
            message,
            body,
            sealed: 0,
        });
    }

    /// How many messages wait, begun or not.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Bytes of the longest body that waits; what [`Connection::seal_size`] wants to know.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.lengths().max().unwrap_or(0)
    }

    /// What [`Connection::seal_size`] is to know so that the longest message can go, and small ones
    /// together.
    #[must_use]
    pub fn worthwhile(&self) -> usize {
        let all: usize = self.lengths().map(|length| length.saturating_add(AROUND)).sum();
        self.longest().max(all.min(TOGETHER))
    }

    fn lengths(&self) -> impl Iterator<Item = usize> {
        self.waiting.iter().map(|entry| entry.body.as_ref().len())
    }

    /// The messages that wait, in the order of their turns.
    pub fn iter(&self) -> impl Iterator<Item = (&M, &B)> {
        self.waiting.iter().map(|entry| (&entry.message, &entry.body))
    }

    /// Seals the next frames into `out`, and hands each message that is done with by it to `done`,
    /// with its body. Says how many bytes are to be sent.
    ///
    /// # Errors
    /// Those of [`Connection::seal`]. After any but one of the connection or the output, the first
    /// message is the one to look at, and [`pop`](Self::pop) takes it out.
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
        let messages = self
            .waiting
            .iter_mut()
            .map(|entry| (&mut entry.message, entry.body.as_ref()));
        let sealed = connection.seal(now, messages, out);
        // Whoever had a frame goes to the end or out, in order; `index` stands at the first that is
        // not known to have had none.
        let mut index = 0;
        for _ in 0..self.waiting.len() {
            let Some(entry) = self.waiting.get_mut(index) else {
                break;
            };
            let had_turn = entry.message.sealed_bytes() > entry.sealed;
            entry.sealed = entry.message.sealed_bytes();
            if !had_turn && !entry.message.is_done() {
                index += 1;
            } else if let Some(entry) = self.waiting.remove(index) {
                if entry.message.is_done() {
                    done(entry.message, entry.body);
                } else {
                    self.waiting.push_back(entry);
                }
            }
        }
        sealed
    }

    /// Keeps the messages for which `keep` says so: others were given up, or go another way.
    pub fn retain(&mut self, mut keep: impl FnMut(&M, &B) -> bool) {
        self.waiting.retain(|entry| keep(&entry.message, &entry.body));
    }

    /// Takes the message out whose turn is next.
    pub fn pop(&mut self) -> Option<(M, B)> {
        self.waiting.pop_front().map(|entry| (entry.message, entry.body))
    }
}

impl<M: Outgoing, B: AsRef<[u8]>> Default for SendQueue<M, B> {
    fn default() -> Self {
        Self::new()
    }
}

impl<M, B> fmt::Debug for SendQueue<M, B> {
    /// How many wait, and nothing of their bodies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendQueue")
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}
