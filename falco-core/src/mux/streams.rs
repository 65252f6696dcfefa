//! Open bodies that this side writes: the bytes that wait to be sealed, the order of turns, and
//! which of their writers have room for more.

mod chunks;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::fmt;

pub(super) use self::chunks::{Chunks, append, capacity_for};
use crate::error::{LostRequest, RequestError};
use crate::message::Refusal;
use crate::noise;
use crate::outgoing::Outgoing;

/// How many bytes of an open body fit into one record of the largest size: 65,512. A chunk that is
/// one byte longer takes a second record. So an adapter that fills chunks by reading should read at
/// most this many bytes at a time.
pub const LONGEST_PART: usize = noise::LONGEST_PART;
/// With this many bytes of a body in the queue, the caller or handler waits before it writes more.
pub(super) const ENOUGH: usize = LONGEST_PART;
/// How many bodies have a turn in one output at most.
const TURNS: usize = 64;
/// How many keys of removed bodies [`Writers::ready`] may contain, besides one for each body in it.
const GONE: usize = 64;

/// Why a half of an open request has ended, or a chunk of an open body was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(
    clippy::exhaustive_enums,
    reason = "an adapter has to name an error for each of them"
)]
pub enum StreamError {
    /// Nothing more of the body is sent: its request has completed or was cancelled, the body was
    /// finished, or the connection has ended.
    Ended,
    /// The client has cancelled the request.
    Cancelled,
    /// The request was refused as [`AnswerTooLarge`](crate::Refusal::AnswerTooLarge).
    /// [`RequestError::TooLarge`]: the client takes no open answers, and this one is larger than it
    /// reads. [`RequestError::Refused`]: too many bytes of answers wait at the server.
    Request(RequestError),
    /// The connection ended before the request completed.
    Lost(LostRequest),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended => f.write_str("nothing more of this body is sent: its request has ended"),
            Self::Cancelled => f.write_str("the client has cancelled the request"),
            Self::Request(error) => error.fmt(f),
            Self::Lost(lost) => write!(f, "the connection ended: {}", lost.end),
        }
    }
}

impl core::error::Error for StreamError {}

impl StreamError {
    /// Too many bytes of answers wait at the server.
    pub(super) const NO_ROOM: Self = Self::Request(RequestError::Refused(Refusal::AnswerTooLarge));

    /// Why the request was refused, if it was.
    pub(super) const fn request_error(self) -> Option<RequestError> {
        match self {
            Self::Request(error) => Some(error),
            Self::Ended | Self::Cancelled | Self::Lost(_) => None,
        }
    }
}

/// A body that this side writes.
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub(super) struct Writer<M, B> {
    pub(super) message: M,
    chunks: Chunks<B>,
    /// How many bytes of it may be sent.
    credit: usize,
    begun: bool,
    /// Of a body that is not open: bytes that were sealed before this turn.
    sealed: usize,
    is_ready: bool,
    /// Bytes of it in [`Writers::ready_bytes`].
    counted: usize,
    /// The caller or handler waits until it may write more.
    is_full: bool,
    /// It has no turns yet.
    is_held_back: bool,
}

impl<M: Outgoing, B: AsRef<[u8]>> Writer<M, B> {
    /// Whether a frame of it could be sent now.
    fn has_turn(&self, no_credit: bool) -> bool {
        let sendable = !self.message.is_open() || self.credit > 0 || no_credit;
        !self.begun || (self.chunks.bytes > 0 && sendable) || (self.chunks.bytes == 0 && self.chunks.finished)
    }

    /// Whether a frame of it was sealed in this turn.
    fn had_frame(&self) -> bool {
        self.message.is_done() || self.message.has_begun() != self.begun || self.message.sealed_bytes() > self.sealed
    }

    /// Whether the caller or handler may add a chunk: one, if there is no credit.
    fn may_write(&self) -> bool {
        let bytes = self.chunks.bytes;
        !self.chunks.finished && bytes < ENOUGH && (bytes == 0 || bytes < self.credit)
    }
}

/// All open bodies that this side writes, by key. Only those that could be sent have turns, so that
/// a body without credit does not delay the others.
pub(super) struct Writers<M, B> {
    all: BTreeMap<u64, Writer<M, B>>,
    /// Those that could be sent, in the order of their turns, and keys of removed bodies.
    ready: VecDeque<u64>,
    /// How many keys in `ready` are of bodies that were not removed.
    ready_count: usize,
    /// Those to which more may be written again.
    writable: VecDeque<u64>,
    /// Those that have a turn in this output.
    sealing: Vec<(u64, Writer<M, B>)>,
    memory: usize,
    ready_bytes: usize,
    /// No more credit comes. A body that needs some has a turn, in which the connection cuts it
    /// off.
    no_credit: bool,
}

/// What a turn did to a body.
pub(super) enum Turn<M> {
    /// Its first frame was sealed.
    Begun(u64, M),
    /// It is sealed completely, or the rest of it is not sent.
    Done(u64, M),
}

impl<M: Outgoing, B: AsRef<[u8]>> Writers<M, B> {
    pub(super) const fn new() -> Self {
        Self {
            all: BTreeMap::new(),
            ready: VecDeque::new(),
            ready_count: 0,
            writable: VecDeque::new(),
            sealing: Vec::new(),
            memory: 0,
            ready_bytes: 0,
            no_credit: false,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty() && self.writable.is_empty()
    }

    /// Bytes of memory that all chunks take.
    pub(super) const fn memory(&self) -> usize {
        self.memory
    }

    pub(super) const fn has_ready(&self) -> bool {
        self.ready_count > 0
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.all.contains_key(&key)
    }

    /// Adds a body of which `credit` bytes may be sent.
    pub(super) fn insert(&mut self, key: u64, message: M, chunks: Chunks<B>, credit: u32) {
        self.park(key, message, chunks, credit);
        self.release(key);
    }

    /// Adds a body that has no turns before it is released.
    pub(super) fn park(&mut self, key: u64, message: M, chunks: Chunks<B>, credit: u32) {
        self.memory += chunks.memory;
        let writer = Writer {
            message,
            chunks,
            credit: usize::try_from(credit).unwrap_or(usize::MAX),
            begun: false,
            sealed: 0,
            is_ready: false,
            counted: 0,
            is_full: false,
            is_held_back: true,
        };
        self.all.insert(key, writer);
    }

    /// Gives turns to a body.
    pub(super) fn release(&mut self, key: u64) {
        if let Some(writer) = self.all.get_mut(&key) {
            writer.is_held_back = false;
            self.note(key);
        }
    }

    /// No more credit comes.
    pub(super) fn end_credit(&mut self) {
        self.no_credit = true;
        let keys: Vec<_> = self.all.keys().copied().collect();
        for key in keys {
            self.note(key);
        }
    }

    /// Updates whether a body has turns.
    fn note(&mut self, key: u64) {
        let Some(writer) = self.all.get_mut(&key) else {
            return;
        };
        let ready = writer.has_turn(self.no_credit) && !writer.is_held_back;
        if ready && !writer.is_ready {
            self.ready.push_back(key);
            self.ready_count += 1;
        }
        writer.is_ready |= ready;
        let counted = if writer.is_ready { writer.chunks.bytes } else { 0 };
        self.ready_bytes = self.ready_bytes + counted - core::mem::replace(&mut writer.counted, counted);
        if writer.is_full && writer.may_write() {
            writer.is_full = false;
            self.writable.push_back(key);
        }
    }

    /// Adds a chunk.
    pub(super) fn push(&mut self, key: u64, chunk: B) -> Result<(), StreamError> {
        let writer = self.all.get_mut(&key).filter(|writer| !writer.chunks.finished);
        let writer = writer.ok_or(StreamError::Ended)?;
        let before = writer.chunks.memory;
        writer.chunks.push(chunk);
        self.memory = self.memory - before + writer.chunks.memory;
        self.note(key);
        Ok(())
    }

    /// How many more bytes of memory [`push`](Self::push) takes for a chunk of this length.
    pub(super) fn growth(&self, key: u64, length: usize) -> usize {
        let writer = self.all.get(&key).filter(|writer| !writer.chunks.finished);
        writer.map_or(0, |writer| writer.chunks.growth(length))
    }

    /// No more chunks follow. Returns whether there is such a body.
    pub(super) fn finish(&mut self, key: u64) -> bool {
        let Some(writer) = self.all.get_mut(&key) else {
            return false;
        };
        writer.chunks.finished = true;
        self.note(key);
        true
    }

    /// Whether a chunk may be added to a body. If not, [`pop_writable`](Self::pop_writable) returns
    /// the body once that has changed or the body was removed.
    pub(super) fn may_write(&mut self, key: u64) -> bool {
        let Some(writer) = self.all.get_mut(&key) else {
            return false;
        };
        let may_write = writer.may_write();
        writer.is_full = !may_write;
        may_write
    }

    /// A body to which more may be written again, or that was removed.
    pub(super) fn pop_writable(&mut self) -> Option<u64> {
        self.writable.pop_front()
    }

    /// The peer gave credit: `credit` bytes may be sent now.
    pub(super) fn credited(&mut self, key: u64, credit: u32) {
        if let Some(writer) = self.all.get_mut(&key) {
            writer.credit = usize::try_from(credit).unwrap_or(usize::MAX);
            self.note(key);
        }
    }

    /// Removes a body. If its writer waits, [`pop_writable`](Self::pop_writable) returns the body.
    pub(super) fn remove(&mut self, key: u64) -> Option<(M, Chunks<B>)> {
        let writer = self.all.remove(&key)?;
        if writer.is_ready {
            self.ready_count -= 1;
            // Each sweep removes more keys than it keeps, so its amortized cost is low.
            if self.ready.len() > 2 * self.ready_count + GONE {
                let all = &self.all;
                self.ready.retain(|key| all.contains_key(key));
            }
        }
        Some(self.forget(key, writer))
    }

    fn forget(&mut self, key: u64, writer: Writer<M, B>) -> (M, Chunks<B>) {
        self.memory -= writer.chunks.memory;
        self.ready_bytes -= writer.counted;
        if writer.is_full {
            self.writable.push_back(key);
        }
        (writer.message, writer.chunks)
    }

    /// Selects the bodies that have a turn in an output of `room` bytes.
    pub(super) fn begin_turn(&mut self, room: usize) {
        let mut wanted = 0;
        while wanted < room
            && self.sealing.len() < TURNS
            && let Some(key) = self.ready.pop_front()
        {
            let Some(writer) = self.all.remove(&key) else {
                continue;
            };
            self.ready_count -= 1;
            wanted += writer.chunks.front().len().min(writer.credit.max(1)) + 40;
            self.sealing.push((key, writer));
        }
    }

    /// The selected bodies, with what may be sealed of them.
    pub(super) fn messages(&mut self) -> impl Iterator<Item = (&mut M, &[u8])> {
        self.sealing.iter_mut().map(|(_, writer)| {
            if writer.chunks.ends() {
                writer.message.finish();
            }
            (&mut writer.message, writer.chunks.front())
        })
    }

    /// Puts the selected bodies back. `credit` says how many more bytes of one may be sent.
    pub(super) fn end_turn(&mut self, credit: impl Fn(&M) -> u32, mut each: impl FnMut(Turn<&M>)) {
        // The output had no room for the bodies after the last one that had a frame: these stay
        // ahead of the others. A body before that one had no frame for another reason.
        let mut sealing = core::mem::take(&mut self.sealing);
        let last = sealing.iter().rposition(|(_, writer)| writer.had_frame());
        let mut waiting = Vec::new();
        for (at, (key, mut writer)) in sealing.drain(..).enumerate() {
            let begins = writer.message.has_begun() && !writer.begun;
            let waits = last.is_none_or(|last| at > last);
            let sealed = writer.message.take_sealed();
            writer.sealed = writer.message.sealed_bytes();
            self.memory -= writer.chunks.memory;
            writer.chunks.take(sealed);
            self.memory += writer.chunks.memory;
            writer.is_ready = false;
            if begins {
                each(Turn::Begun(key, &writer.message));
                writer.begun = true;
            }
            if writer.message.is_done() {
                each(Turn::Done(key, &writer.message));
                self.forget(key, writer);
                continue;
            }
            if writer.begun {
                writer.credit = usize::try_from(credit(&writer.message)).unwrap_or(usize::MAX);
            }
            if waits && writer.has_turn(self.no_credit) {
                writer.is_ready = true;
                waiting.push(key);
            }
            self.all.insert(key, writer);
            self.note(key);
        }
        self.sealing = sealing;
        self.ready_count += waiting.len();
        for key in waiting.into_iter().rev() {
            self.ready.push_front(key);
        }
    }

    /// Bytes of output that are useful for the next turn.
    pub(super) fn useful_output(&self) -> usize {
        self.ready_bytes.min(ENOUGH)
    }
}
