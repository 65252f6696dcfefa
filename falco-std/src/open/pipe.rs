//! What the halves of an open request share with its connection: bytes on their way in both
//! directions, bounded by the windows, and the threads that wait for them. A thread that waits here
//! does not use the stream of the connection.
//!
//! The connection calls its side while its state is locked. The halves notify their [`Owner`],
//! which locks that state, only while the pipe is not locked.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::Error;

/// With this many bytes on their way to the connection, a writer waits.
const ENOUGH: usize = 64 << 10;
/// A reader that has taken this many bytes tells the connection, which gives credit for them.
const TAKEN: usize = 32 << 10;
/// Bytes are joined to chunks of this size at most, so that many short ones take no more memory
/// than one long one.
const JOINED: usize = 64 << 10;

/// Does what the halves of a stream want, on their thread.
pub(crate) trait Owner: Send + Sync {
    fn notify(&self);
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
            Some(last) => last.extend_from_slice(bytes),
            None => self.queue.push_back(bytes.to_vec()),
        }
    }

    /// Adds `chunk`, without a copy unless it is short.
    fn push(&mut self, chunk: Vec<u8>) {
        if let Some(last) = self.last_with_room_for(chunk.len()) {
            last.extend_from_slice(&chunk);
            self.bytes += chunk.len();
        } else {
            self.bytes += chunk.len();
            self.queue.push_back(chunk);
        }
    }

    fn last_with_room_for(&mut self, bytes: usize) -> Option<&mut Vec<u8>> {
        // What was taken does not stay because something follows.
        if self.taken > 0
            && self.queue.len() == 1
            && let Some(only) = self.queue.front_mut()
        {
            only.drain(..core::mem::take(&mut self.taken));
        }
        self.queue.back_mut().filter(|last| last.len() + bytes <= JOINED)
    }

    /// Takes the first chunk, or as much of it as is worthwhile.
    fn pop_piece(&mut self) -> Option<Vec<u8>> {
        let rest = self.queue.front()?.get(self.taken..).unwrap_or_default();
        let piece = match rest.get(..ENOUGH) {
            Some(piece) if rest.len() > ENOUGH => piece.to_vec(),
            _ => return self.pop(),
        };
        self.taken += piece.len();
        self.bytes -= piece.len();
        Some(piece)
    }

    /// Takes the first chunk.
    fn pop(&mut self) -> Option<Vec<u8>> {
        let mut chunk = self.queue.pop_front()?;
        chunk.drain(..core::mem::take(&mut self.taken));
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

    /// Drops everything. Returns how many bytes that were.
    fn clear(&mut self) -> usize {
        core::mem::take(self).bytes
    }
}

#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
struct State {
    /// Bytes that have arrived and that the reader has not taken.
    arrived: Chunks,
    /// How the body that is read has ended.
    input_end: Option<Result<(), Error>>,
    /// Bytes that the reader has taken and that no credit was given for.
    taken: usize,
    /// The reader waits, and has nothing left.
    waits: bool,
    reader_gone: bool,
    /// Bytes that the connection has not accepted yet.
    outgoing: Chunks,
    /// The writer has finished its body.
    finished: bool,
    /// The connection has accepted all of it.
    accepted: bool,
    /// Why nothing more is sent.
    output_end: Option<Error>,
    writer_gone: bool,
    /// The connection was told that there is something for it, and has not looked yet.
    notified: bool,
}

/// What the halves want of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// Bytes that the reader has taken since the last call.
    pub(crate) taken: usize,
    /// It waits for more, and has nothing left.
    pub(crate) waits: bool,
    /// The reader was dropped before the end of its body.
    pub(crate) reader_gone: bool,
    /// The writer was dropped before it had finished its body.
    pub(crate) writer_gone: bool,
}

/// The shared state of the halves of one open request.
pub(crate) struct Pipe {
    state: Mutex<State>,
    /// The reader waits for bytes or the end.
    arrival: Condvar,
    /// The writer waits for room.
    room: Condvar,
    owner: Box<dyn Owner>,
    /// The connection is told when the reader has taken this many bytes: at most a quarter of the
    /// window, so that the other side always has credit left for most of it.
    tells_at: usize,
    of_client: bool,
}

impl Pipe {
    pub(crate) fn new(owner: Box<dyn Owner>, window_kib: u16, of_client: bool) -> Arc<Self> {
        let state = State {
            arrived: Chunks::default(),
            input_end: None,
            taken: 0,
            waits: false,
            reader_gone: false,
            outgoing: Chunks::default(),
            finished: false,
            accepted: false,
            output_end: None,
            writer_gone: false,
            notified: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            arrival: Condvar::new(),
            room: Condvar::new(),
            owner,
            tells_at: (usize::from(window_kib) << 8).clamp(1, TAKEN),
            of_client,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the connection, unless it was told already.
    fn notify(&self, mut state: MutexGuard<'_, State>) {
        let first = !core::mem::replace(&mut state.notified, true);
        drop(state);
        if first {
            self.owner.notify();
        }
    }
}

/// The side of the connection.
impl Pipe {
    /// Bytes of the body that is read have arrived.
    pub(crate) fn arrive(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if !bytes.is_empty() && !state.reader_gone && state.input_end.is_none() {
            state.waits = false;
            state.arrived.extend(bytes);
            self.arrival.notify_all();
        }
    }

    /// The body that is read is whole.
    pub(crate) fn end_input(&self) {
        self.lock().input_end.get_or_insert(Ok(()));
        self.arrival.notify_all();
    }

    /// Nothing more of the body that is read arrives, although it is not whole.
    pub(crate) fn stop_input(&self, why: Error) {
        self.lock().input_end.get_or_insert(Err(why));
        self.arrival.notify_all();
    }

    /// Nothing more is sent.
    pub(crate) fn end_output(&self, why: Error) {
        let mut state = self.lock();
        state.output_end.get_or_insert(why);
        state.outgoing.clear();
        self.room.notify_all();
    }

    /// The request has failed.
    pub(crate) fn fail(&self, why: Error) {
        let mut state = self.lock();
        if !state.finished {
            state.output_end.get_or_insert_with(|| why.with_fate(why.fate()));
        }
        state.outgoing.clear();
        state.input_end.get_or_insert(Err(why));
        drop(state);
        self.arrival.notify_all();
        self.room.notify_all();
    }

    /// What the halves want. They tell the connection again when they want more.
    pub(crate) fn wishes(&self) -> Wishes {
        let mut state = self.lock();
        state.notified = false;
        Wishes {
            taken: core::mem::take(&mut state.taken),
            waits: state.waits,
            reader_gone: state.reader_gone && !matches!(state.input_end, Some(Ok(()))),
            writer_gone: state.writer_gone && !state.finished,
        }
    }

    /// The next bytes to send.
    pub(crate) fn take_chunk(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        let chunk = state.outgoing.pop_piece()?;
        if state.outgoing.bytes < ENOUGH {
            self.room.notify_all();
        }
        Some(chunk)
    }

    /// Whether there is something to send, if only the end.
    pub(crate) fn has_output(&self) -> bool {
        let state = self.lock();
        state.finished || !state.outgoing.is_empty()
    }

    /// Whether the writer has finished its body, which may not be sent yet.
    pub(crate) fn will_finish(&self) -> bool {
        let state = self.lock();
        state.finished && state.output_end.is_none()
    }

    /// Whether everything that is to be sent was taken, and no more follows.
    pub(crate) fn is_finished(&self) -> bool {
        let state = self.lock();
        state.finished && state.outgoing.is_empty()
    }
}

/// Whether the connection has accepted the whole body of the writer, which a handler may learn
/// after the connection has ended.
impl Pipe {
    pub(crate) fn accept_all(&self) {
        self.lock().accepted = true;
    }

    pub(crate) fn has_accepted_all(&self) -> bool {
        self.lock().accepted
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
                state.taken += before - state.arrived.bytes;
                if state.taken >= self.tells_at {
                    self.notify(state);
                }
                return Some(Ok(taken));
            }
            match &state.input_end {
                Some(Ok(())) => return None,
                Some(Err(why)) => return Some(Err(why.with_fate(why.fate()))),
                None => {}
            }
            let told = core::mem::replace(&mut state.waits, true);
            // A thread that has told the connection and did not have its turn yet also does this.
            if (state.taken > 0 || !told) && !state.notified {
                self.notify(state);
                state = self.lock();
            } else {
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

    /// Waits until there is room, then queues bytes to send.
    pub(super) fn send(&self, bytes: Vec<u8>) -> Result<(), Error> {
        let mut state = self.lock();
        loop {
            if let Some(why) = &state.output_end {
                return Err(why.with_fate(why.fate()));
            }
            if state.finished {
                return Err(Error::Stopped);
            }
            if state.outgoing.bytes < ENOUGH {
                break;
            }
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !bytes.is_empty() {
            state.outgoing.push(bytes);
            self.notify(state);
        }
        Ok(())
    }

    /// No more bytes follow.
    pub(super) fn finish(&self) -> Result<(), Error> {
        let mut state = self.lock();
        if let Some(why) = &state.output_end {
            // The request has completed well before: nothing of this body was needed.
            if self.of_client && matches!((why, &state.input_end), (Error::Stopped, Some(Ok(())))) {
                return Ok(());
            }
            return Err(why.with_fate(why.fate()));
        }
        state.finished = true;
        self.notify(state);
        Ok(())
    }

    pub(super) fn drop_reader(&self) {
        let mut state = self.lock();
        state.reader_gone = true;
        state.taken += state.arrived.clear();
        if !matches!(state.input_end, Some(Ok(()))) {
            self.notify(state);
        }
    }

    pub(super) fn drop_writer(&self) {
        let mut state = self.lock();
        state.writer_gone = true;
        if !state.finished && state.output_end.is_none() {
            self.notify(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nobody;

    impl Owner for Nobody {
        fn notify(&self) {}
    }

    /// A client that has its answer needs nothing more of its own body. A handler whose answer was
    /// dropped has not sent it.
    #[test]
    fn finishing_after_the_stop_of_a_whole_input_is_an_error_for_a_handler_only() {
        for of_client in [true, false] {
            let pipe = Pipe::new(Box::new(Nobody), 64, of_client);
            pipe.end_input();
            pipe.end_output(Error::Stopped);
            assert_eq!(pipe.finish().is_ok(), of_client);
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
