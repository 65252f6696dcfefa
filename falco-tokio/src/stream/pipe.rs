//! What the halves of an open request share with the task of its connection: bytes on their way in
//! both directions, bounded by the windows, and the tasks that wait for them. [`Halves`] decides
//! everything else.

mod chunks;

use core::task::{Context, Poll, Waker};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use falco_core::mux::{Halves, StreamError};

use self::chunks::Chunks;
pub(crate) use self::chunks::without_unused;
use crate::error::Error;

/// While the writer exists, the connection takes a longer chunk in pieces of this size, so that the
/// writer waits. What arrives for a reader is in pieces of this size at most.
pub(crate) const PIECE: usize = 64 << 10;

/// Notifies the task of a connection that a half of an open request has work for it.
pub(crate) trait ConnectionHandle: Send + Sync {
    fn notify(&self);
}

/// The error of a half.
#[derive(Debug)]
pub(crate) struct HalfError(pub(crate) Error);

impl Clone for HalfError {
    fn clone(&self) -> Self {
        Self(self.0.again(self.0.fate()))
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

struct State {
    halves: Halves<HalfError>,
    /// Bytes that have arrived and that the reader has not taken.
    arrived: Chunks,
    reader: Option<Waker>,
    /// Bytes that the connection has not accepted yet.
    outgoing: Chunks,
    /// Bytes that the writer has sent in all.
    sent: usize,
    writer: Option<Waker>,
    /// Waits until the request has begun.
    opener: Option<Waker>,
}

/// The shared state of the halves of one open request.
pub(crate) struct Pipe {
    state: Mutex<State>,
    connection: Box<dyn ConnectionHandle>,
}

impl State {
    /// The wakers of the halves that no longer have to wait.
    fn wakers(&mut self) -> [Option<Waker>; 3] {
        let reads = !self.arrived.is_empty() || self.halves.input_end().is_some();
        let writes = !matches!(self.halves.may_send(), Ok(false));
        let has_begun = self.halves.begun().is_some();
        [
            self.reader.take_if(|_| reads),
            self.writer.take_if(|_| writes),
            self.opener.take_if(|_| has_begun),
        ]
    }
}

impl Pipe {
    pub(crate) fn new(connection: Box<dyn ConnectionHandle>, halves: Halves<HalfError>) -> Arc<Self> {
        let state = State {
            halves,
            arrived: Chunks::default(),
            reader: None,
            outgoing: Chunks::default(),
            sent: 0,
            writer: None,
            opener: None,
        };
        let state = Mutex::new(state);
        Arc::new(Self { state, connection })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, so the state is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, and wakes the halves that no longer have to wait.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let changed = change(&mut state);
        let dropped = state
            .halves
            .drops_output()
            .then(|| core::mem::take(&mut state.outgoing));
        let wakers = state.wakers();
        drop(state);
        drop(dropped);
        wakers.into_iter().flatten().for_each(Waker::wake);
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
                bytes.chunks(PIECE).for_each(|piece| state.arrived.copy(piece));
            }
        });
    }

    /// A whole body has arrived.
    pub(crate) fn arrive_whole(&self, body: Bytes) {
        self.change(|state| {
            if state.halves.arrived(body.len()) {
                state.arrived.push(body);
            }
        });
    }

    /// Changes or reads what the halves share.
    pub(crate) fn update<T>(&self, update: impl FnOnce(&mut Halves<HalfError>) -> T) -> T {
        self.change(|state| update(&mut state.halves))
    }

    /// Lets the connection do its work for the halves, with the next bytes to send.
    pub(crate) fn pump<T>(
        &self,
        pump: impl FnOnce(&mut Halves<HalfError>, &mut dyn FnMut() -> Option<Bytes>) -> T,
    ) -> T {
        self.change(|state| {
            let State { halves, outgoing, .. } = state;
            // No writer would wait for its turn.
            let at_once = halves.is_answer_whole();
            let mut next = || {
                if at_once {
                    outgoing.pop_rest()
                } else {
                    outgoing.pop_piece()
                }
            };
            pump(halves, &mut next)
        })
    }

    /// As [`pump`](Self::pump), after the writer was dropped: passes on all that it has written.
    pub(crate) fn hand_over<T>(
        &self,
        pump: impl FnOnce(&mut Halves<HalfError>, &mut dyn FnMut() -> Option<Bytes>) -> T,
    ) -> T {
        self.change(|state| {
            let State { halves, outgoing, .. } = state;
            pump(halves, &mut || outgoing.pop_rest())
        })
    }

    /// The length of the answer to a whole request, which the handler has finished.
    pub(crate) fn whole_answer(&self) -> Option<usize> {
        let state = self.lock();
        state.halves.is_whole().then_some(state.sent)
    }

    /// The handler has ended. Returns how many bytes its writer has left that are to be sent.
    pub(crate) fn left(&self) -> usize {
        self.change(|state| {
            state.outgoing.free_split();
            state.halves.left()
        })
    }
}

/// The side of the halves.
impl Pipe {
    /// Waits until the request has begun.
    pub(super) fn poll_begun(&self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.lock();
        let Some(begun) = state.halves.begun() else {
            set(&mut state.opener, cx);
            return Poll::Pending;
        };
        Poll::Ready(begun.map_err(|why| why.0))
    }

    /// The next bytes that have arrived, at most `most`; `None` at the end of the body.
    pub(super) fn poll_next(&self, cx: &Context<'_>, most: usize) -> Poll<Option<Result<Bytes, Error>>> {
        let mut state = self.lock();
        if let Some(first) = state.arrived.front() {
            let bytes = first.split_to(first.len().min(most));
            if first.is_empty() {
                state.arrived.pop();
            }
            let has = state.halves.take(bytes.len());
            self.notify(state, has);
            return Poll::Ready(Some(Ok(bytes)));
        }
        let Some(end) = state.halves.input_end() else {
            set(&mut state.reader, cx);
            return Poll::Pending;
        };
        Poll::Ready(end.err().map(|why| Err(why.0)))
    }

    /// Waits until there is room for more bytes to send.
    pub(super) fn poll_ready(&self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.lock();
        if state.halves.may_send().map_err(|why| why.0)? {
            return Poll::Ready(Ok(()));
        }
        set(&mut state.writer, cx);
        Poll::Pending
    }

    /// Queues bytes to send.
    pub(super) fn send(&self, bytes: Bytes) -> Result<(), Error> {
        let mut state = self.lock();
        state.halves.may_send().map_err(|why| why.0)?;
        let has = state.halves.send(bytes.len());
        state.sent += bytes.len();
        state.outgoing.add(bytes);
        self.notify(state, has);
        Ok(())
    }

    /// Queues the last bytes to send, together with their end.
    pub(super) fn finish_with(&self, bytes: Bytes) -> Result<(), Error> {
        let mut state = self.lock();
        state.halves.may_send().map_err(|why| why.0)?;
        let sends = state.halves.send(bytes.len());
        state.sent += bytes.len();
        state.outgoing.add(bytes);
        let has = state.halves.finish().map_err(|why| why.0)?;
        self.notify(state, sends || has);
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
        state.reader = None;
        let arrived = core::mem::take(&mut state.arrived);
        let has = state.halves.drop_reader();
        self.notify(state, has);
        drop(arrived);
    }

    pub(super) fn drop_writer(&self) {
        let mut state = self.lock();
        state.writer = None;
        let has = state.halves.drop_writer();
        self.notify(state, has);
    }
}

fn set(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::chunks::{JOINED, SHORT};
    use super::*;

    struct Nobody;

    impl ConnectionHandle for Nobody {
        fn notify(&self) {}
    }

    fn pipe() -> Arc<Pipe> {
        Pipe::new(Box::new(Nobody), Halves::of_client(64))
    }

    /// A client that has its answer needs nothing more of its own body.
    #[test]
    fn finishing_after_a_whole_answer_is_no_error() {
        let pipe = pipe();
        pipe.update(Halves::complete);
        assert!(pipe.send(Bytes::from_static(b"more")).is_err());
        assert!(pipe.finish().is_ok());
    }

    #[test]
    fn single_bytes_that_wait_to_be_sent_are_joined() -> Result<(), Error> {
        let pipe = pipe();
        for at in 0..60_000_u32 {
            let [byte, ..] = at.to_le_bytes();
            pipe.send(Bytes::copy_from_slice(&[byte]))?;
        }
        let taken = pipe.pump(|_, next| core::iter::from_fn(next).collect::<Vec<_>>());
        let lengths: Vec<_> = taken.iter().map(Bytes::len).collect();
        let rest = 59_999 - 3 * JOINED;
        assert_eq!(
            lengths,
            [1, JOINED, JOINED, JOINED, rest],
            "the first one, and all that follow it"
        );
        let taken = taken.concat();
        let expected = (0..60_000_u32).map(|at| at.to_le_bytes()[0]);
        assert!(taken.iter().copied().eq(expected));
        Ok(())
    }

    #[test]
    fn short_pieces_take_little_more_memory_than_their_bytes() {
        for length in [1, 100, 3_000, SHORT - 1, SHORT] {
            let (mut chunks, mut bytes) = (Chunks::default(), 0);
            while bytes < 1 << 20 {
                chunks.copy(&vec![7; length]);
                bytes += length;
            }
            // The memory of `Bytes` is known if they can be turned into a vector without a copy.
            let ended = chunks.queue.into_iter().map(|chunk| {
                let (address, chunk) = (chunk.as_ptr(), Vec::from(chunk));
                assert_eq!(chunk.as_ptr(), address);
                chunk.capacity()
            });
            let memory = ended.sum::<usize>() + chunks.joined.capacity();
            assert!(memory <= bytes + JOINED / 2, "{memory} for {bytes} of {length}");
        }
    }

    /// What the connection takes has no more memory than its bytes. A chunk of which nothing was
    /// taken is not copied.
    #[test]
    fn no_piece_keeps_the_memory_of_a_longer_chunk() -> Result<(), Error> {
        const LENGTH: usize = 5 * PIECE + 1;
        for (pieces, expected) in [(0, vec![LENGTH]), (2, vec![LENGTH - 2 * PIECE]), (6, vec![])] {
            let pipe = pipe();
            let chunk = Bytes::from(vec![7; LENGTH]);
            // The clone keeps the chunk shared, so its memory is not freed early.
            pipe.send(chunk.clone())?;
            let taken: Vec<_> = pipe.pump(|_, next| core::iter::from_fn(next).take(pieces).collect());
            let last = pieces.saturating_sub(5).min(1);
            let whole = taken.iter().filter(|piece| piece.len() == PIECE).count();
            assert_eq!((taken.len(), whole), (pieces, pieces - last));
            let rest: Vec<_> = pipe.hand_over(|_, next| core::iter::from_fn(next).collect());
            let lengths: Vec<_> = rest.iter().map(Bytes::len).collect();
            assert_eq!(lengths, expected);
            let is_free = pieces > 0;
            assert_eq!(chunk.is_unique(), is_free, "after {pieces} pieces");
        }
        Ok(())
    }

    /// The whole window of a deferred request arrives at once.
    #[test]
    fn a_window_that_arrives_at_once_is_freed_piece_by_piece() {
        let pipe = pipe();
        pipe.arrive(&vec![7; 5 * PIECE + 1]);
        let state = pipe.lock();
        let lengths: Vec<_> = state.arrived.queue.iter().map(Bytes::len).collect();
        assert_eq!((lengths, &state.arrived.joined[..]), (vec![PIECE; 5], &[7][..]));
    }

    #[test]
    fn unused_memory_of_bytes_is_freed_and_nothing_else_is_copied() {
        let long = |length| {
            let mut bytes = vec![7; 1 << 20];
            bytes.truncate(length);
            Bytes::from(bytes)
        };
        let slice = |from, to| long(1 << 20).slice(from..to);
        let (first, middle, last) = (slice(0, 10), slice(10, 20), slice((1 << 20) - 10, 1 << 20));
        for kept in [long(10), long(100_000), first, middle, last] {
            let bytes = without_unused(kept.slice(..));
            // `kept` has the same memory, so it cannot be known.
            assert_eq!(bytes.as_ptr(), kept.as_ptr());
            drop(bytes);
            let (length, address) = (kept.len(), kept.as_ptr());
            let bytes = without_unused(kept);
            assert_ne!(bytes.as_ptr(), address);
            let capacity = bytes.try_into_mut().map(|bytes| bytes.capacity());
            assert_eq!(capacity, Ok(length));
        }
        for kept in [
            long(1 << 19),
            long(1 << 20),
            Bytes::from_static(b"static"),
            Bytes::new(),
        ] {
            let address = kept.as_ptr();
            assert_eq!(without_unused(kept).as_ptr(), address);
        }
    }

    #[test]
    fn a_writer_has_one_chunk_with_more_memory_than_its_bytes() -> Result<(), Error> {
        let (pipe, chunk) = (pipe(), Bytes::from(vec![7; PIECE + 1000]));
        pipe.send(chunk.clone())?;
        let first = pipe.pump(|_, next| next());
        assert!(first.is_some() && !chunk.is_unique());
        pipe.send(Bytes::from(vec![7; PIECE]))?;
        assert!(chunk.is_unique());
        Ok(())
    }
}
