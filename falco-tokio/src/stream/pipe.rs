//! What the halves of an open request share with the task of its connection: bytes on their way in
//! both directions, bounded by the windows, and who waits for what.

use core::task::{Context, Poll, Waker};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Bytes, BytesMut};

use crate::error::Error;

/// With this many bytes on their way to the connection, a writer waits.
const ENOUGH: usize = 64 << 10;
/// Pieces that are shorter are joined.
const SHORT: usize = 4 << 10;
/// A reader that has taken this many bytes tells the connection, which gives credit for them. It
/// tells it earlier if the window is small.
const TAKEN: usize = 32 << 10;

/// Tells the task of a connection that a half of a stream has something for it.
pub(crate) trait Owner: Send + Sync {
    fn notify(&self);
}

#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
struct State {
    /// Bytes that have arrived and that the reader has not taken.
    arrived: VecDeque<Bytes>,
    /// Short pieces that have arrived behind these. They are joined, so that a peer which sends
    /// single bytes takes no more memory than the window.
    joined: BytesMut,
    /// How the body that is read has ended.
    input_end: Option<Result<(), Error>>,
    reader: Option<Waker>,
    /// Bytes that the reader has taken since the connection was told.
    taken: usize,
    reader_gone: bool,
    /// Bytes that the connection has not accepted yet.
    outgoing: VecDeque<Bytes>,
    /// Short pieces behind these. They are joined, so that a writer of single bytes takes no more
    /// memory than its bytes.
    outgoing_joined: BytesMut,
    outgoing_bytes: usize,
    /// The writer has finished its body.
    finished: bool,
    /// Why nothing more is sent.
    output_end: Option<Error>,
    writer: Option<Waker>,
    writer_gone: bool,
    /// The request of a client has not begun.
    waits_to_begin: bool,
    opener: Option<Waker>,
    /// The connection was told that there is something for it, and has not looked yet.
    notified: bool,
}

/// What the halves want of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wishes {
    /// Bytes that the reader has taken since the last call.
    pub(crate) taken: usize,
    /// The reader was dropped before the end of its body.
    pub(crate) reader_gone: bool,
    /// The writer was dropped before it had finished its body.
    pub(crate) writer_gone: bool,
}

/// The shared state of the halves of one open request.
pub(crate) struct Pipe {
    state: Mutex<State>,
    owner: Box<dyn Owner>,
    /// The connection is told when the reader has taken this many bytes. That is at most a quarter
    /// of the window, so the other side always has credit left for most of it, and a reader that
    /// waits need not give credit for every few bytes.
    tells_at: usize,
    of_client: bool,
}

impl State {
    fn push_joined(&mut self) {
        if !self.outgoing_joined.is_empty() {
            let joined = self.outgoing_joined.split().freeze();
            self.outgoing.push_back(joined);
        }
    }

    /// Drops what was to be sent.
    fn clear_outgoing(&mut self) {
        self.outgoing = VecDeque::new();
        self.outgoing_joined = BytesMut::new();
        self.outgoing_bytes = 0;
    }
}

impl Pipe {
    pub(crate) fn new(owner: Box<dyn Owner>, window_kib: u16, of_client: bool) -> Arc<Self> {
        let state = State {
            arrived: VecDeque::new(),
            joined: BytesMut::new(),
            input_end: None,
            reader: None,
            taken: 0,
            reader_gone: false,
            outgoing: VecDeque::new(),
            outgoing_joined: BytesMut::new(),
            outgoing_bytes: 0,
            finished: false,
            output_end: None,
            writer: None,
            writer_gone: false,
            waits_to_begin: of_client,
            opener: None,
            notified: false,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            owner,
            tells_at: (usize::from(window_kib) << 8).clamp(1, TAKEN),
            of_client,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, so the state is consistent.
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
    /// The request has begun.
    pub(crate) fn begun(&self) {
        let mut state = self.lock();
        state.waits_to_begin = false;
        let opener = state.opener.take();
        drop(state);
        wake(opener);
    }

    /// Bytes of the body that is read have arrived.
    pub(crate) fn arrive(&self, bytes: &[u8]) {
        let mut state = self.lock();
        if bytes.is_empty() || state.reader_gone || state.input_end.is_some() {
            return;
        }
        if bytes.len() >= SHORT {
            let before = state.joined.split().freeze();
            state.arrived.extend((!before.is_empty()).then_some(before));
            state.arrived.push_back(Bytes::copy_from_slice(bytes));
        } else {
            state.joined.extend_from_slice(bytes);
        }
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// A whole body has arrived.
    pub(crate) fn arrive_whole(&self, body: Bytes) {
        let mut state = self.lock();
        if !body.is_empty() && !state.reader_gone && state.input_end.is_none() {
            state.arrived.push_back(body);
        }
    }

    /// Nothing more of the body that is read arrives, although it is not whole.
    pub(crate) fn stop_input(&self, why: Error) {
        let mut state = self.lock();
        state.input_end.get_or_insert(Err(why));
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// The body that is read is whole.
    pub(crate) fn end_input(&self) {
        let mut state = self.lock();
        state.input_end.get_or_insert(Ok(()));
        let reader = state.reader.take();
        drop(state);
        wake(reader);
    }

    /// Nothing more is sent.
    pub(crate) fn end_output(&self, why: Error) {
        let mut state = self.lock();
        state.output_end.get_or_insert(why);
        state.clear_outgoing();
        let writer = state.writer.take();
        drop(state);
        wake(writer);
    }

    /// The request has failed.
    pub(crate) fn fail(&self, why: Error) {
        let mut state = self.lock();
        if !state.finished {
            state.output_end.get_or_insert_with(|| why.again(why.fate()));
        }
        state.clear_outgoing();
        state.input_end.get_or_insert(Err(why));
        state.waits_to_begin = false;
        let wakers = [state.reader.take(), state.writer.take(), state.opener.take()];
        drop(state);
        wakers.into_iter().for_each(wake);
    }

    /// What the halves want. They tell the connection again when they want more.
    pub(crate) fn wishes(&self) -> Wishes {
        let mut state = self.lock();
        state.notified = false;
        Wishes {
            taken: core::mem::take(&mut state.taken),
            reader_gone: state.reader_gone && !matches!(state.input_end, Some(Ok(()))),
            writer_gone: state.writer_gone && !state.finished,
        }
    }

    /// The next bytes to send.
    pub(crate) fn take_chunk(&self) -> Option<Bytes> {
        let mut state = self.lock();
        if state.outgoing.is_empty() {
            state.push_joined();
        }
        let chunk = state.outgoing.pop_front()?;
        state.outgoing_bytes -= chunk.len();
        let writer = (state.outgoing_bytes < ENOUGH).then(|| state.writer.take());
        drop(state);
        wake(writer.flatten());
        Some(chunk)
    }

    /// Whether there is something to send, if only the end.
    pub(crate) fn has_output(&self) -> bool {
        let state = self.lock();
        state.finished || state.outgoing_bytes > 0
    }

    /// Whether the writer has finished its body, which may not be sent yet.
    pub(crate) fn will_finish(&self) -> bool {
        let state = self.lock();
        state.finished && state.output_end.is_none()
    }

    /// Whether everything that is to be sent was taken, and no more follows.
    pub(crate) fn is_finished(&self) -> bool {
        let state = self.lock();
        state.finished && state.outgoing_bytes == 0
    }
}

/// The side of the halves.
impl Pipe {
    /// Waits until the request has begun.
    pub(super) fn poll_begun(&self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.lock();
        if state.waits_to_begin {
            set(&mut state.opener, cx);
            return Poll::Pending;
        }
        // If the server takes nothing more, its answer says why.
        Poll::Ready(match &state.input_end {
            Some(Err(why)) => Err(why.again(why.fate())),
            Some(Ok(())) | None => Ok(()),
        })
    }

    /// The next bytes that have arrived, at most `most`; `None` at the end of the body.
    pub(super) fn poll_next(&self, cx: &Context<'_>, most: usize) -> Poll<Option<Result<Bytes, Error>>> {
        let mut state = self.lock();
        if state.arrived.is_empty() && !state.joined.is_empty() {
            let joined = state.joined.split().freeze();
            state.arrived.push_back(joined);
        }
        if let Some(first) = state.arrived.front_mut() {
            let bytes = first.split_to(first.len().min(most));
            if first.is_empty() {
                state.arrived.pop_front();
            }
            state.taken += bytes.len();
            if state.taken >= self.tells_at {
                self.notify(state);
            }
            return Poll::Ready(Some(Ok(bytes)));
        }
        match &state.input_end {
            Some(Ok(())) => return Poll::Ready(None),
            Some(Err(why)) => return Poll::Ready(Some(Err(why.again(why.fate())))),
            None => {}
        }
        set(&mut state.reader, cx);
        Poll::Pending
    }

    /// Waits until there is room for more bytes to send.
    pub(super) fn poll_ready(&self, cx: &Context<'_>) -> Poll<Result<(), Error>> {
        let mut state = self.lock();
        if let Some(why) = &state.output_end {
            return Poll::Ready(Err(why.again(why.fate())));
        }
        if state.finished {
            return Poll::Ready(Err(Error::Stopped));
        }
        if state.outgoing_bytes < ENOUGH {
            return Poll::Ready(Ok(()));
        }
        set(&mut state.writer, cx);
        Poll::Pending
    }

    /// Queues bytes to send.
    pub(super) fn send(&self, bytes: Bytes) -> Result<(), Error> {
        let mut state = self.lock();
        if let Some(why) = &state.output_end {
            return Err(why.again(why.fate()));
        }
        if state.finished {
            return Err(Error::Stopped);
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let is_first = state.outgoing_bytes == 0;
        state.outgoing_bytes += bytes.len();
        if bytes.len() < SHORT && !is_first {
            state.outgoing_joined.extend_from_slice(&bytes);
            self.notify(state);
            return Ok(());
        }
        state.push_joined();
        // The connection takes a long chunk piece by piece.
        let mut rest = bytes;
        while rest.len() > ENOUGH {
            let piece = rest.split_to(ENOUGH);
            state.outgoing.push_back(piece);
        }
        state.outgoing.push_back(rest);
        self.notify(state);
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
            return Err(why.again(why.fate()));
        }
        state.finished = true;
        self.notify(state);
        Ok(())
    }

    pub(super) fn drop_reader(&self) {
        let mut state = self.lock();
        state.reader_gone = true;
        state.reader = None;
        state.taken += state.arrived.iter().map(Bytes::len).sum::<usize>() + state.joined.len();
        let arrived = (core::mem::take(&mut state.arrived), core::mem::take(&mut state.joined));
        if matches!(state.input_end, Some(Ok(()))) {
            return;
        }
        self.notify(state);
        drop(arrived);
    }

    pub(super) fn drop_writer(&self) {
        let mut state = self.lock();
        state.writer_gone = true;
        state.writer = None;
        if !state.finished && state.output_end.is_none() {
            self.notify(state);
        }
    }
}

fn set(waker: &mut Option<Waker>, cx: &Context<'_>) {
    match waker {
        Some(waker) => waker.clone_from(cx.waker()),
        none => *none = Some(cx.waker().clone()),
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
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

    #[test]
    fn single_bytes_that_wait_to_be_sent_are_joined() -> Result<(), Error> {
        let pipe = Pipe::new(Box::new(Nobody), 64, false);
        for at in 0..60_000_u32 {
            let [byte, ..] = at.to_le_bytes();
            pipe.send(Bytes::copy_from_slice(&[byte]))?;
        }
        assert_eq!(pipe.lock().outgoing.len(), 1);
        let mut taken = Vec::new();
        while let Some(chunk) = pipe.take_chunk() {
            taken.extend_from_slice(&chunk);
        }
        let expected = (0..60_000_u32).map(|at| at.to_le_bytes()[0]);
        assert!(taken.iter().copied().eq(expected));
        Ok(())
    }
}
