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

    /// The handler has ended. Returns how many of its bytes the connection has not accepted yet.
    pub(crate) fn handler_ended(&self) -> usize {
        self.change(|state| {
            state.outgoing.free_split();
            state.halves.handler_ended()
        })
    }
}

/// The side of the halves.
impl Pipe {
    /// Waits until the request has begun.
    pub(super) fn poll_begun(&self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let begun = |state: &mut State| Some((state.halves.begun()?.map_err(|why| why.0), false));
        self.poll(cx, |state| &mut state.opener, begun)
    }

    /// The next bytes that have arrived, at most `most`; `None` at the end of the body.
    pub(super) fn poll_next(&self, cx: &Context<'_>, most: usize) -> Poll<Option<Result<Bytes, Error>>> {
        let next = |state: &mut State| {
            let Some(first) = state.arrived.front() else {
                let end = state.halves.input_end()?;
                return Some((end.err().map(|why| Err(why.0)), false));
            };
            let bytes = first.split_to(first.len().min(most));
            if first.is_empty() {
                state.arrived.pop();
            }
            let has = state.halves.take(bytes.len());
            Some((Some(Ok(bytes)), has))
        };
        self.poll(cx, |state| &mut state.reader, next)
    }

    /// Waits until there is room for more bytes to send.
    pub(super) fn poll_ready(&self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let room = |state: &mut State| match state.halves.may_send() {
            Ok(false) => None,
            Ok(true) => Some((Ok(()), false)),
            Err(why) => Some((Err(why.0), false)),
        };
        self.poll(cx, |state| &mut state.writer, room)
    }

    /// Waits until `ready` returns something, which it does with whether there is work for the
    /// connection. The waker is at `place` meanwhile.
    fn poll<T>(
        &self,
        cx: &Context<'_>,
        place: fn(&mut State) -> &mut Option<Waker>,
        ready: impl Fn(&mut State) -> Option<(T, bool)>,
    ) -> Poll<T> {
        let mut state = self.lock();
        if let Some((value, has)) = ready(&mut state) {
            self.notify(state, has);
            return Poll::Ready(value);
        }
        if place(&mut state)
            .as_ref()
            .is_some_and(|waker| waker.will_wake(cx.waker()))
        {
            return Poll::Pending;
        }
        // Cloning and dropping a waker may run any code, so that is done without the lock.
        drop(state);
        let mut waker = Some(cx.waker().clone());
        let mut state = self.lock();
        if let Some((value, has)) = ready(&mut state) {
            self.notify(state, has);
            return Poll::Ready(value);
        }
        core::mem::swap(place(&mut state), &mut waker);
        drop(state);
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
        let dropped = (state.reader.take(), core::mem::take(&mut state.arrived));
        let has = state.halves.drop_reader();
        self.notify(state, has);
        drop(dropped);
    }

    pub(super) fn drop_writer(&self) {
        let mut state = self.lock();
        let waker = state.writer.take();
        let has = state.halves.drop_writer();
        self.notify(state, has);
        drop(waker);
    }
}

#[cfg(test)]
mod tests;
