//! What the halves of an open request share with its connection: bytes on their way in both
//! directions, bounded by the windows, and the threads that wait for them. [`Halves`] decides
//! everything else. A thread that waits here does not use the stream of the connection.
//!
//! The connection calls its side of a pipe while the connection's state is locked. The halves call
//! [`ConnectionHandle::notify`], which locks that state, only while the pipe is not locked.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use falco_core::mux::{Halves, SharedBudget, StreamError};

use crate::error::Error;

/// While the writer exists, the connection takes a longer chunk in pieces of this size, so that the
/// writer waits. What arrives for a reader is in pieces of this size at most.
const PIECE: usize = 64 << 10;
/// Bytes are joined to chunks of this size at most, so that many short ones take no more memory
/// than one long one.
const JOINED: usize = 16 << 10;

/// Lets the connection do its work for the halves of an open request, on their thread.
pub(crate) trait ConnectionHandle: Send + Sync {
    fn notify(&self);
}

/// The error of a half.
#[derive(Debug)]
pub(crate) struct HalfError(pub(crate) Error);

impl Clone for HalfError {
    fn clone(&self) -> Self {
        Self(self.0.with_fate(self.0.fate()))
    }
}

impl From<StreamError> for HalfError {
    fn from(error: StreamError) -> Self {
        Self(match error {
            StreamError::Ended => Error::Stopped,
            StreamError::Cancelled => Error::Cancelled,
            StreamError::Request(error) => Error::Request(error),
            StreamError::Lost(lost) => Error::lost(lost),
        })
    }
}

/// The same bytes without their unused memory, if that is much.
pub(crate) fn without_unused(mut bytes: Vec<u8>) -> Vec<u8> {
    if bytes.capacity() - bytes.len() > SharedBudget::most_unused(bytes.len()) {
        bytes.shrink_to_fit();
    }
    bytes
}

/// Bytes in order.
#[derive(Default)]
struct Chunks {
    queue: VecDeque<Vec<u8>>,
    /// Bytes at the front of the first chunk that were taken.
    taken: usize,
    /// Bytes that were not taken.
    bytes: usize,
}

impl Chunks {
    const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Adds a copy of `bytes`.
    fn extend(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        match self.last_with_room_for(bytes.len()) {
            Some(last) => join(last, bytes),
            None => self.queue.push_back(bytes.to_vec()),
        }
    }

    /// Adds `chunk`, without a copy unless it is short.
    fn push(&mut self, chunk: Vec<u8>) {
        if let Some(last) = self.last_with_room_for(chunk.len()) {
            join(last, &chunk);
            self.bytes += chunk.len();
        } else {
            self.bytes += chunk.len();
            self.queue.push_back(chunk);
        }
    }

    fn last_with_room_for(&mut self, bytes: usize) -> Option<&mut Vec<u8>> {
        // Bytes that were taken must not stay in memory because more are appended to their chunk.
        if self.taken > 0
            && self.queue.len() == 1
            && let Some(only) = self.queue.front_mut()
        {
            only.drain(..core::mem::take(&mut self.taken));
            only.shrink_to(JOINED);
        }
        let last = self.queue.back_mut()?;
        if last.len() + bytes <= JOINED {
            return Some(last);
        }
        // Nothing more is joined to it.
        last.shrink_to_fit();
        None
    }

    /// Takes the first chunk, or a copy of a piece of it if it is long. The result has no unused
    /// memory, because only its length counts.
    fn pop_piece(&mut self) -> Option<Vec<u8>> {
        let rest = self.queue.front()?.get(self.taken..).unwrap_or_default();
        let piece = match rest.get(..PIECE) {
            Some(piece) if rest.len() > PIECE => piece.to_vec(),
            _ => return self.pop(),
        };
        self.taken += piece.len();
        self.bytes -= piece.len();
        Some(piece)
    }

    /// Takes all that is left of the first chunk.
    fn pop(&mut self) -> Option<Vec<u8>> {
        let mut chunk = self.queue.pop_front()?;
        if self.taken > 0 {
            chunk.drain(..core::mem::take(&mut self.taken));
            chunk.shrink_to_fit();
        }
        self.bytes -= chunk.len();
        Some(chunk)
    }

    /// Copies bytes to `buf`. Returns how many.
    fn read(&mut self, buf: &mut [u8]) -> usize {
        let mut copied = 0;
        while let Some(chunk) = self.queue.front() {
            let rest = chunk.get(self.taken..).unwrap_or_default();
            let room = buf.get_mut(copied..).unwrap_or_default();
            let count = rest.len().min(room.len());
            if count == 0 {
                break;
            }
            for (to, from) in room.iter_mut().zip(rest) {
                *to = *from;
            }
            copied += count;
            self.taken += count;
            self.bytes -= count;
            if self.taken == chunk.len() {
                self.queue.pop_front();
                self.taken = 0;
            }
        }
        copied
    }

    /// Drops everything.
    fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Appends to a chunk. When it is full, its capacity doubles, up to [`JOINED`].
fn join(last: &mut Vec<u8>, bytes: &[u8]) {
    let length = last.len() + bytes.len();
    if length > last.capacity() {
        let capacity = last.capacity().saturating_mul(2).min(JOINED).max(length);
        last.reserve_exact(capacity - last.len());
    }
    last.extend_from_slice(bytes);
}

struct State {
    halves: Halves<HalfError>,
    /// Bytes that have arrived and that the reader has not taken.
    arrived: Chunks,
    /// Bytes that the connection has not accepted yet.
    outgoing: Chunks,
    reader_waits: bool,
    writer_waits: bool,
    /// The answer was accepted as a whole, and counted.
    counted: bool,
}

/// The shared state of the halves of one open request.
pub(crate) struct Pipe {
    state: Mutex<State>,
    /// The reader waits for bytes or the end.
    arrival: Condvar,
    /// The writer waits for room.
    room: Condvar,
    connection: Box<dyn ConnectionHandle>,
}

impl Pipe {
    pub(crate) fn new(connection: Box<dyn ConnectionHandle>, halves: Halves<HalfError>) -> Arc<Self> {
        let state = State {
            halves,
            arrived: Chunks::default(),
            outgoing: Chunks::default(),
            reader_waits: false,
            writer_waits: false,
            counted: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            arrival: Condvar::new(),
            room: Condvar::new(),
            connection,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the halves that no longer have to wait.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let changed = change(&mut state);
        if state.halves.drops_output() {
            state.outgoing.clear();
        }
        let reads = state.reader_waits && (!state.arrived.is_empty() || state.halves.input_end().is_some());
        let writes = state.writer_waits && !matches!(state.halves.may_send(), Ok(false));
        state.reader_waits &= !reads;
        state.writer_waits &= !writes;
        drop(state);
        if reads {
            self.arrival.notify_all();
        }
        if writes {
            self.room.notify_all();
        }
        changed
    }

    /// Unlocks the state, and notifies the connection if a half `has` work for it.
    fn notify(&self, state: MutexGuard<'_, State>, has: bool) {
        drop(state);
        if has {
            self.connection.notify();
        }
    }
}

/// The side of the connection.
impl Pipe {
    /// Bytes of the body that is read have arrived.
    pub(crate) fn arrive(&self, bytes: &[u8]) {
        self.change(|state| {
            if state.halves.arrived(bytes.len()) {
                bytes.chunks(PIECE).for_each(|piece| state.arrived.extend(piece));
            }
        });
    }

    /// Whether to count the answer: returns `true` once, after the connection has accepted the
    /// whole answer.
    pub(crate) fn count_answer(&self) -> bool {
        self.change(|state| state.halves.is_answered() && !core::mem::replace(&mut state.counted, true))
    }

    /// Whether the answer was counted.
    pub(crate) fn is_counted(&self) -> bool {
        self.change(|state| state.counted)
    }

    /// Changes or reads what the halves share.
    pub(crate) fn update<T>(&self, update: impl FnOnce(&mut Halves<HalfError>) -> T) -> T {
        self.change(|state| update(&mut state.halves))
    }

    /// Lets the connection do its work for the halves, with the next bytes to send.
    pub(crate) fn pump<T>(
        &self,
        pump: impl FnOnce(&mut Halves<HalfError>, &mut dyn FnMut() -> Option<Vec<u8>>) -> T,
    ) -> T {
        self.change(|state| {
            let State { halves, outgoing, .. } = state;
            // A whole answer has no writer that would have to wait for room.
            let at_once = halves.is_answer_whole();
            let mut next = || if at_once { outgoing.pop() } else { outgoing.pop_piece() };
            pump(halves, &mut next)
        })
    }

    /// As [`pump`](Self::pump) after the writer was dropped: passes on all that it has written.
    pub(crate) fn hand_over<T>(
        &self,
        pump: impl FnOnce(&mut Halves<HalfError>, &mut dyn FnMut() -> Option<Vec<u8>>) -> T,
    ) -> T {
        self.change(|state| {
            let State { halves, outgoing, .. } = state;
            pump(halves, &mut || outgoing.pop())
        })
    }
}

/// The side of the halves.
impl Pipe {
    /// Waits for bytes, and takes some with `take`; `None` at the end of the body.
    fn take_arrived<T>(&self, take: impl FnOnce(&mut Chunks) -> T) -> Option<Result<T, Error>> {
        let mut state = self.lock();
        loop {
            if !state.arrived.is_empty() {
                let before = state.arrived.bytes;
                let taken = take(&mut state.arrived);
                let bytes = before - state.arrived.bytes;
                let has = state.halves.take(bytes);
                self.notify(state, has);
                return Some(Ok(taken));
            }
            if let Some(end) = state.halves.input_end() {
                return end.err().map(|why| Err(why.0));
            }
            // Before this thread waits, the connection gives credit for what was taken.
            if state.halves.wait() {
                self.notify(state, true);
                state = self.lock();
            } else {
                state.reader_waits = true;
                state = self.arrival.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Waits for the next bytes that have arrived; `None` at the end of the body.
    pub(super) fn next(&self) -> Option<Result<Vec<u8>, Error>> {
        self.take_arrived(|arrived| arrived.pop().unwrap_or_default())
    }

    /// As [`next`](Self::next), and copies them to `buf`, which is not empty.
    pub(super) fn read(&self, buf: &mut [u8]) -> Option<Result<usize, Error>> {
        self.take_arrived(|arrived| arrived.read(buf))
    }

    /// Waits until there is room, then queues bytes to send. If they are the `last` ones, also
    /// finishes the body.
    pub(super) fn send(&self, bytes: Vec<u8>, last: bool) -> Result<(), Error> {
        let bytes = without_unused(bytes);
        let mut state = self.lock();
        while !state.halves.may_send().map_err(|why| why.0)? {
            state.writer_waits = true;
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let mut has = state.halves.send(bytes.len());
        if !bytes.is_empty() {
            state.outgoing.push(bytes);
        }
        if last {
            has |= state.halves.finish().map_err(|why| why.0)?;
        }
        self.notify(state, has);
        Ok(())
    }

    /// No more bytes follow.
    pub(super) fn finish(&self) -> Result<(), Error> {
        let mut state = self.lock();
        let has = state.halves.finish().map_err(|why| why.0)?;
        self.notify(state, has);
        Ok(())
    }

    pub(super) fn drop_reader(&self) {
        let mut state = self.lock();
        state.arrived.clear();
        let has = state.halves.drop_reader();
        self.notify(state, has);
    }

    pub(super) fn drop_writer(&self) {
        let mut state = self.lock();
        let has = state.halves.drop_writer();
        self.notify(state, has);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl ConnectionHandle for Nobody {
        fn notify(&self) {}
    }

    /// A client that has its answer needs nothing more of its own body.
    #[test]
    fn finishing_after_a_whole_answer_is_no_error() {
        let pipe = Pipe::new(Box::new(Nobody), Halves::of_client(64));
        pipe.update(Halves::complete);
        assert!(pipe.send(b"more".to_vec(), false).is_err());
        assert!(pipe.finish().is_ok());
    }

    #[test]
    fn short_pieces_take_little_more_memory_than_their_bytes() {
        for length in [1, 100, 7_000, 33_000] {
            let mut chunks = Chunks::default();
            while chunks.bytes < 1 << 20 {
                chunks.extend(&vec![7; length]);
            }
            let memory: usize = chunks.queue.iter().map(Vec::capacity).sum();
            assert!(
                memory <= chunks.bytes + JOINED / 2,
                "{memory} for {} of {length}",
                chunks.bytes
            );
        }
    }

    /// What the connection takes has no more memory than its bytes.
    #[test]
    fn no_piece_keeps_the_memory_of_a_longer_chunk() -> Result<(), Error> {
        const LENGTH: usize = 5 * PIECE + 1;
        for (pieces, expected) in [(0, vec![LENGTH]), (2, vec![LENGTH - 2 * PIECE]), (6, vec![])] {
            let pipe = Pipe::new(Box::new(Nobody), Halves::of_client(64));
            pipe.send(vec![7; LENGTH], false)?;
            let taken: Vec<_> = pipe.pump(|_, next| core::iter::from_fn(next).take(pieces).collect());
            let rest: Vec<_> = pipe.hand_over(|_, next| core::iter::from_fn(next).collect());
            let lengths: Vec<_> = rest.iter().map(Vec::len).collect();
            assert_eq!((taken.len(), lengths), (pieces, expected));
            for chunk in taken.iter().chain(&rest) {
                assert_eq!(chunk.capacity(), chunk.len(), "after {pieces} pieces");
            }
        }
        Ok(())
    }

    /// The whole window of a deferred request arrives at once.
    #[test]
    fn a_window_that_arrives_at_once_is_freed_piece_by_piece() {
        let pipe = Pipe::new(Box::new(Nobody), Halves::of_client(64));
        pipe.arrive(&vec![7; 5 * PIECE + 1]);
        let state = pipe.lock();
        let lengths: Vec<_> = state.arrived.queue.iter().map(Vec::capacity).collect();
        assert_eq!(lengths, [PIECE, PIECE, PIECE, PIECE, PIECE, 1]);
    }

    #[test]
    fn no_chunk_keeps_much_unused_memory() -> Result<(), Error> {
        let pipe = Pipe::new(Box::new(Nobody), Halves::of_client(64));
        let mut long = vec![7; 1 << 20];
        long.truncate(20_000);
        pipe.send(long, false)?;
        let taken = pipe.hand_over(|_, next| next());
        assert_eq!(taken.map(|chunk| chunk.capacity()), Some(20_000));
        Ok(())
    }

    #[test]
    fn a_writer_has_one_chunk_with_more_memory_than_its_bytes() {
        for length in [1, PIECE] {
            let mut chunks = Chunks::default();
            chunks.push(vec![7; PIECE + 1000]);
            assert!(chunks.pop_piece().is_some());
            chunks.push(vec![7; length]);
            let memory: usize = chunks.queue.iter().map(Vec::capacity).sum();
            assert!(memory <= length + JOINED, "{memory}");
        }
    }

    /// A reader that always leaves a byte does not keep what it has taken.
    #[test]
    fn bytes_that_were_taken_are_freed_when_more_arrive() {
        let mut chunks = Chunks::default();
        for _ in 0..1000 {
            chunks.extend(&[7; 100]);
            let mut taken = vec![0; 100.min(chunks.bytes - 1)];
            assert_eq!(chunks.read(&mut taken), taken.len());
        }
        let kept: usize = chunks.queue.iter().map(Vec::len).sum();
        assert!(kept <= 200, "{kept}");
    }
}
