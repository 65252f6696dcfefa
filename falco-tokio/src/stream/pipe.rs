//! What the halves of an open request share with the task of its connection: bytes on their way in
//! both directions, bounded by the windows, and who waits for what. [`Halves`] decides everything
//! else.

use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};
use falco_core::mux::{Halves, StreamError};

use crate::error::Error;

/// The connection takes a chunk that is longer than this piece by piece.
const PIECE: usize = 64 << 10;
/// Pieces that are shorter are joined.
const SHORT: usize = 4 << 10;
/// So many short pieces are joined. Their buffer grows by doubling, so it is not much larger.
const JOINED: usize = 16 << 10;

/// Tells the task of a connection that a half of a stream has something for it.
pub(crate) trait Owner: Send + Sync {
    fn notify(&self);
}

/// Why a half goes no further.
#[derive(Debug)]
pub(crate) struct Why(pub(crate) Error);

impl Clone for Why {
    fn clone(&self) -> Self {
        Self(self.0.again(self.0.fate()))
    }
}

impl From<StreamError> for Why {
    fn from(error: StreamError) -> Self {
        Self(match (error.request_error(), error) {
            (Some(error), _) => Error::Request(error),
            (None, StreamError::Cancelled) => Error::Cancelled,
            (None, _) => Error::Stopped,
        })
    }
}

/// Bytes in order.
#[derive(Default)]
struct Chunks {
    chunks: VecDeque<Bytes>,
    /// Short pieces behind these. They are joined, so that many single bytes take no more memory
    /// than their number.
    joined: BytesMut,
}

impl Chunks {
    fn is_empty(&self) -> bool {
        self.chunks.is_empty() && self.joined.is_empty()
    }

    fn push(&mut self, bytes: Bytes) {
        self.end_joined();
        self.chunks.push_back(bytes);
    }

    /// Adds a copy of `bytes`, which are joined with others if they are short.
    fn copy(&mut self, bytes: &[u8]) {
        if bytes.len() < SHORT {
            self.joined.extend_from_slice(bytes);
            if self.joined.len() >= JOINED {
                self.end_joined();
            }
        } else {
            self.push(Bytes::copy_from_slice(bytes));
        }
    }

    /// The first chunk.
    fn front(&mut self) -> Option<&mut Bytes> {
        if self.chunks.is_empty() {
            self.end_joined();
        }
        self.chunks.front_mut()
    }

    fn pop(&mut self) -> Option<Bytes> {
        self.front()?;
        self.chunks.pop_front()
    }

    fn end_joined(&mut self) {
        if !self.joined.is_empty() {
            let joined = self.joined.split().freeze();
            self.chunks.push_back(joined);
        }
    }
}

struct State {
    halves: Halves<Why>,
    /// Bytes that have arrived and that the reader has not taken.
    arrived: Chunks,
    reader: Option<Waker>,
    /// Bytes that the connection has not accepted yet.
    outgoing: Chunks,
    writer: Option<Waker>,
    /// Waits until the request has begun.
    opener: Option<Waker>,
}

/// The shared state of the halves of one open request.
pub(crate) struct Pipe {
    state: Mutex<State>,
    owner: Box<dyn Owner>,
}

impl State {
    /// Those who wait for nothing any more.
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
    pub(crate) fn new(owner: Box<dyn Owner>, halves: Halves<Why>) -> Arc<Self> {
        let state = State {
            halves,
            arrived: Chunks::default(),
            reader: None,
            outgoing: Chunks::default(),
            writer: None,
            opener: None,
        };
        let state = Mutex::new(state);
        Arc::new(Self { state, owner })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, so the state is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state for the connection, and wakes who waits for that.
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

    /// Tells the connection, if a half `has` something for it.
    fn notify(&self, state: MutexGuard<'_, State>, has: bool) {
        drop(state);
        if has {
            self.owner.notify();
        }
    }
}

/// The side of the connection.
impl Pipe {
    /// Bytes of the body that is read have arrived.
    pub(crate) fn arrive(&self, bytes: &[u8]) {
        self.change(|state| {
            if state.halves.arrived(bytes.len()) {
                state.arrived.copy(bytes);
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

    /// Tells the halves something.
    pub(crate) fn tell<T>(&self, tell: impl FnOnce(&mut Halves<Why>) -> T) -> T {
        self.change(|state| tell(&mut state.halves))
    }

    /// Has the connection do what the halves want, with the next bytes to send.
    pub(crate) fn pump<T>(&self, pump: impl FnOnce(&mut Halves<Why>, &mut dyn FnMut() -> Option<Bytes>) -> T) -> T {
        self.change(|state| {
            let State { halves, outgoing, .. } = state;
            pump(halves, &mut || outgoing.pop())
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
        let outgoing = &mut state.outgoing;
        if bytes.len() < SHORT && !outgoing.is_empty() {
            outgoing.copy(&bytes);
        } else {
            let mut rest = bytes;
            while rest.len() > PIECE {
                let piece = rest.split_to(PIECE);
                outgoing.push(piece);
            }
            if !rest.is_empty() {
                outgoing.push(rest);
            }
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
    use super::*;

    struct Nobody;

    impl Owner for Nobody {
        fn notify(&self) {}
    }

    fn pipe() -> Arc<Pipe> {
        Pipe::new(Box::new(Nobody), Halves::of_client(64))
    }

    /// A client that has its answer needs nothing more of its own body.
    #[test]
    fn finishing_after_a_whole_answer_is_no_error() {
        let pipe = pipe();
        pipe.tell(Halves::complete);
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
}
