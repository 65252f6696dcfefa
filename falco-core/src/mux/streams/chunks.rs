//! The bytes of an open body that wait to be sealed, in chunks.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::LONGEST_PART;

/// Chunks that are shorter than this are joined, so that each does not need a frame of its own.
const SHORT: usize = 8 << 10;
/// How many bytes of short chunks are joined.
const JOINED: usize = LONGEST_PART;

/// The bytes of an open body that are not sealed yet.
#[expect(clippy::struct_field_names, reason = "they are the chunks")]
pub(in crate::mux) struct Chunks<B> {
    chunks: VecDeque<Chunk<B>>,
    /// Bytes at the front of the first chunk that are sealed.
    taken: usize,
    /// Bytes of all chunks that are not sealed.
    pub(super) bytes: usize,
    /// Bytes of all chunks, and what is reserved for joined ones. A chunk stays in memory until its
    /// last byte is sealed.
    pub(super) memory: usize,
    /// No more will follow.
    pub(super) finished: bool,
}

enum Chunk<B> {
    Given(B),
    Joined(Vec<u8>),
}

impl<B: AsRef<[u8]>> Chunk<B> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Given(bytes) => bytes.as_ref(),
            Self::Joined(bytes) => bytes,
        }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Given(bytes) => bytes.as_ref().len(),
            Self::Joined(bytes) => bytes.capacity(),
        }
    }
}

impl<B: AsRef<[u8]>> Chunks<B> {
    pub(in crate::mux) const fn new() -> Self {
        Self {
            chunks: VecDeque::new(),
            taken: 0,
            bytes: 0,
            memory: 0,
            finished: false,
        }
    }

    /// One chunk that is the whole body.
    pub(in crate::mux) fn whole(body: Vec<u8>) -> Self {
        let (bytes, memory) = (body.len(), body.capacity());
        Self {
            chunks: VecDeque::from([Chunk::Joined(body)]),
            taken: 0,
            bytes,
            memory,
            finished: true,
        }
    }

    /// Adds a chunk. Short ones are copied to the end of the one before them, if that is short or
    /// was joined too.
    pub(in crate::mux) fn push(&mut self, chunk: B) {
        let new = chunk.as_ref();
        if new.is_empty() {
            return;
        }
        self.bytes += new.len();
        if self.joined_capacity(new.len()).is_some()
            && let Some(last) = self.chunks.back_mut()
        {
            let before = last.memory();
            match last {
                Chunk::Joined(bytes) => append(bytes, new, JOINED),
                Chunk::Given(given) => *last = Chunk::Joined([given.as_ref(), new].concat()),
            }
            self.memory = self.memory - before + last.memory();
            return;
        }
        self.memory += new.len();
        self.chunks.push_back(Chunk::Given(chunk));
    }

    /// How many more bytes of memory a chunk of this length takes.
    pub(super) fn growth(&self, length: usize) -> usize {
        let last = self.chunks.back().map_or(0, Chunk::memory);
        self.joined_capacity(length).map_or(length, |capacity| capacity - last)
    }

    /// If a chunk of this length is joined to the last one: what is then reserved for that.
    fn joined_capacity(&self, length: usize) -> Option<usize> {
        if length >= SHORT {
            return None;
        }
        match self.chunks.back()? {
            Chunk::Joined(bytes) if bytes.len() + length <= JOINED => {
                Some(capacity_for(bytes, bytes.len() + length, JOINED))
            }
            Chunk::Given(given) if given.as_ref().len() < SHORT => Some(given.as_ref().len() + length),
            Chunk::Joined(_) | Chunk::Given(_) => None,
        }
    }

    pub(super) fn front(&self) -> &[u8] {
        let front = self.chunks.front().map_or(&[][..], Chunk::bytes);
        front.get(self.taken..).unwrap_or_default()
    }

    /// Notes that bytes of the first chunk are sealed, and drops the chunk if all of it is.
    pub(super) fn take(&mut self, bytes: usize) {
        self.taken += bytes;
        self.bytes = self.bytes.saturating_sub(bytes);
        if self
            .chunks
            .front()
            .is_some_and(|chunk| chunk.bytes().len() <= self.taken)
        {
            self.memory -= self.chunks.pop_front().map_or(0, |chunk| chunk.memory());
            self.taken = 0;
        }
    }

    /// Whether the first chunk is the end of the body.
    pub(super) fn ends(&self) -> bool {
        self.finished && self.chunks.len() <= 1
    }

    /// No more will follow.
    pub(in crate::mux) const fn finish(&mut self) {
        self.finished = true;
    }

    pub(in crate::mux) const fn is_finished(&self) -> bool {
        self.finished
    }
}

/// The capacity of `body` with so many bytes: it doubles up to `most` bytes.
pub(in crate::mux) fn capacity_for(body: &Vec<u8>, length: usize, most: usize) -> usize {
    let capacity = body.capacity();
    if length > capacity {
        return capacity.saturating_mul(2).min(most).max(length);
    }
    capacity
}

/// Appends to `body`, whose memory is known.
pub(in crate::mux) fn append(body: &mut Vec<u8>, bytes: &[u8], most: usize) {
    let capacity = capacity_for(body, body.len() + bytes.len(), most);
    body.reserve_exact(capacity - body.len());
    body.extend_from_slice(bytes);
}
