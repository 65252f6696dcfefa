//! Open answers: a subscription reads one in pieces, and a request collects one.

use core::fmt;
use core::task::Poll;

use falco_core::{ClientEvent, ClientKeyRef, Instant};

use super::{BufferedClient, PendingRequest};
use crate::buffers::Buffers;
use crate::error::Error;

/// How the answer to a request is taken out of its memory.
pub(super) struct OpenAnswer {
    /// Whether it is read in pieces, and not as a whole.
    in_pieces: bool,
    /// Whether it began open.
    began: bool,
    /// The bytes before this offset in the memory were taken. `start + lent <= received`.
    start: usize,
    /// Bytes from `start` that are lent to the caller.
    lent: usize,
    /// The length of an answer that is read in pieces and does not fit the memory. Its bytes are
    /// dropped.
    too_large: Option<usize>,
}

impl OpenAnswer {
    pub(super) const fn new(in_pieces: bool) -> Self {
        Self {
            in_pieces,
            began: false,
            start: 0,
            lent: 0,
            too_large: None,
        }
    }
}

/// A subscription that has not ended: its body, and the memory for the pieces of its answer. Both
/// are yours, and [`into_parts`](Self::into_parts) returns them.
///
/// Pass it to [every step](BufferedClient::step_subscription), and take the pieces with
/// [`poll_next`](BufferedClient::poll_next). A step that does not receive it cancels the request.
pub struct PendingSubscription<B, A>(PendingRequest<B, A>);

impl<B: AsRef<[u8]>, A: AsMut<[u8]>> PendingRequest<B, A> {
    /// Notes how an answer begins. An answer of known length that is larger than the memory is
    /// dropped at once, although it would fit piece by piece.
    #[allow(clippy::wildcard_enum_match_arm, reason = "no other event begins an answer")]
    pub(super) fn note_beginning(&mut self, event: &ClientEvent<'_>) {
        self.open.began |= matches!(event, ClientEvent::Opened { .. });
        if let ClientEvent::Begin { total, .. } = event
            && self.open.in_pieces
        {
            let total = usize::try_from(*total).unwrap_or(usize::MAX);
            self.open.too_large = (total > self.answer.as_mut().len()).then_some(total);
        }
    }

    /// Moves what was not taken to the front of the memory, if the next part does not fit behind
    /// it. Returns whether it fits then: always for an open answer, because the memory holds a
    /// window.
    pub(super) fn make_room(&mut self, bytes: usize) -> bool {
        if !self.open.in_pieces || self.open.too_large.is_some() {
            return !self.open.in_pieces;
        }
        let memory = self.answer.as_mut();
        if memory.len() - self.received >= bytes {
            return true;
        }
        let held = self.open.start..self.received;
        // Always true. With this check the compiler knows that the copy cannot panic.
        if memory.get(held.clone()).is_some() {
            memory.copy_within(held, 0);
            self.received -= self.open.start;
            self.open.start = 0;
        }
        let needed = self.received.saturating_add(bytes);
        self.open.too_large = (needed > memory.len()).then_some(needed);
        self.open.too_large.is_none()
    }

    /// Whether the answer is an open one that is collected as a whole.
    pub(super) const fn is_collected(&self) -> bool {
        self.open.began && !self.open.in_pieces
    }

    /// Takes back the piece that was lent, and returns its length.
    fn take_back(&mut self) -> usize {
        let taken = core::mem::take(&mut self.open.lent);
        self.open.start += taken;
        if self.open.start == self.received {
            self.open.start = 0;
            self.received = 0;
        }
        taken
    }

    /// Whether bytes have arrived that were not taken.
    const fn has_piece(&self) -> bool {
        self.open.start < self.received
    }

    /// Whether there is a piece, or the answer has ended.
    fn is_ready(&mut self) -> Result<bool, Error> {
        if let Some(length) = self.open.too_large {
            let room = self.answer.as_mut().len();
            return Err(Error::AnswerTooLarge { length, room });
        }
        if self.has_piece() {
            return Ok(true);
        }
        if let Some(failure) = self.outgoing.failure() {
            return Err(Error::Request(failure));
        }
        match self.outcome {
            None => Ok(false),
            Some(Ok(())) => Ok(true),
            Some(Err(error)) => Err(Error::Request(error)),
        }
    }
}

impl<B: AsRef<[u8]>, A: AsMut<[u8]>> PendingSubscription<B, A> {
    /// The body and the memory for the pieces.
    pub fn into_parts(self) -> (B, A) {
        self.0.into_parts()
    }

    /// Why the request was not sent, or whether its first frame is sealed.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) fn has_begun(&self) -> Result<bool, Error> {
        match self.0.outgoing.failure() {
            Some(failure) => Err(Error::Request(failure)),
            None => Ok(self.0.outgoing.id().is_some()),
        }
    }

    /// Lends all bytes that have arrived, or `None` if there are none.
    pub(crate) fn lend(&mut self) -> Option<&[u8]> {
        let (start, end) = (self.0.open.start, self.0.received);
        let piece = self.0.answer.as_mut().get(start..end).unwrap_or_default();
        self.0.open.lent = piece.len();
        (!piece.is_empty()).then_some(piece)
    }
}

impl<B, A> fmt::Debug for PendingSubscription<B, A> {
    /// Shows its progress and none of its bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingSubscription")
            .field("outgoing", &self.0.outgoing)
            .finish_non_exhaustive()
    }
}

impl<H: ClientKeyRef, B: Buffers> BufferedClient<H, B> {
    /// Creates a request with this body whose answer is read in pieces. The service sends a piece
    /// whenever it has one, without a limit of time. [`step_subscription`](Self::step_subscription)
    /// sends the request and writes its answer to `memory`, and [`poll_next`](Self::poll_next)
    /// returns the pieces. Only the noise wire has subscriptions.
    ///
    /// On the wire this is an open request, which a server answers with an open answer. The
    /// [window](falco_core::Settings::with_streams) of this side bounds what arrives before it is
    /// taken. `memory` has to be as large as that window. An answer of known length is read in the
    /// same way, if all of it fits `memory`.
    ///
    /// If the previous request is not completed, it is cancelled, and its answer is dropped.
    ///
    /// # Errors
    /// [`Error::Window`] if `memory` is smaller than the window, or the window is 0;
    /// [`RequestError::NoOpenBodies`](falco_core::RequestError::NoOpenBodies) if the server takes
    /// no open requests, which `poll_next` returns if it is not known yet; [`Error::Closing`], or
    /// what ended the connection.
    pub fn subscribe<Q: AsRef<[u8]>, A: AsMut<[u8]>>(
        &mut self,
        body: Q,
        mut memory: A,
    ) -> Result<PendingSubscription<Q, A>, Error> {
        self.reaches_handler = false;
        let machine = self.connection.machine_mut();
        let mut outgoing = machine.open_request()?;
        let (window, room) = (machine.window(), memory.as_mut().len());
        if window == 0 || usize::try_from(window).map_or(true, |window| window > room) {
            return Err(Error::Window { window, room });
        }
        outgoing.finish();
        self.cancel();
        Ok(PendingSubscription(PendingRequest {
            outgoing,
            body,
            answer: memory,
            received: 0,
            outcome: None,
            open: OpenAnswer::new(true),
        }))
    }

    /// As [`step`](Self::step), with a subscription.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_subscription<Q: AsRef<[u8]>, A: AsMut<[u8]>>(
        &mut self,
        now: Instant,
        subscription: &mut PendingSubscription<Q, A>,
    ) -> Result<bool, Error> {
        self.step(now, Some(&mut subscription.0))
    }

    /// The next piece of the answer: all bytes that have arrived and were not returned before. It
    /// is `None` once the answer has ended and all of it was returned, and `Pending` if a
    /// [step](Self::step_subscription) is needed first.
    ///
    /// The piece that the previous call has returned counts as taken: its memory is free, and the
    /// server may send as many bytes again.
    ///
    /// # Errors
    /// [`Error::Request`] if the answer was cut off or the request refused, once all bytes before
    /// that were returned; [`Error::AnswerTooLarge`] for an answer of known length that does not
    /// fit the memory. What ends the connection is an error of `step_subscription`, and cuts the
    /// answer off, too.
    pub fn poll_next<'p, Q: AsRef<[u8]>, A: AsMut<[u8]>>(
        &mut self,
        subscription: &'p mut PendingSubscription<Q, A>,
    ) -> Result<Poll<Option<&'p [u8]>>, Error> {
        Ok(if self.is_ready(subscription)? {
            Poll::Ready(subscription.lend())
        } else {
            Poll::Pending
        })
    }

    /// Takes back the piece that was lent, and gives credit for it. Returns whether there is
    /// another, or the answer has ended.
    pub(crate) fn is_ready<Q: AsRef<[u8]>, A: AsMut<[u8]>>(
        &mut self,
        subscription: &mut PendingSubscription<Q, A>,
    ) -> Result<bool, Error> {
        let pending = &mut subscription.0;
        let taken = pending.take_back();
        if let Some(id) = pending.outgoing.id() {
            // Fails only if the connection has ended, which `step` returns.
            let _ = self.connection.machine_mut().credit(id, taken, !pending.has_piece());
        }
        pending.is_ready()
    }

    /// Handles a part of an answer that is collected. If the answer is too large, the caller learns
    /// it at once, from `answered`.
    pub(super) fn collect<Q, A: AsMut<[u8]>>(&mut self, request: &mut PendingRequest<Q, A>, part: usize) {
        let (length, most) = (request.received, request.answer.as_mut().len());
        if let Some(id) = request.outgoing.id()
            && !self.connection.machine_mut().collect(id, part, length, most)
        {
            request.outcome = Some(Ok(()));
        }
    }
}
