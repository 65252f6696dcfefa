//! The handlers of open requests: how many run, and what the connection does for their halves.

use super::super::Budget;
use super::super::halves::Halves;
use super::super::streams::StreamError;
use super::{ServerMux, bytes};
use crate::error::{ReplyError, RequestError};
use crate::message::RequestId;
use crate::no_answer::NoAnswer;
use crate::wire::ServerKeyRef;

impl<H: ServerKeyRef, B: AsRef<[u8]>, G: Budget> ServerMux<H, B, G> {
    /// A handler is about to run for an open request, which [`Opened`](super::ServerStep::Opened)
    /// has returned. Returns what its halves share with the connection. Call
    /// [`handled`](Self::handled) when it has ended.
    ///
    /// `None` if twice as many handlers run as the client may have open requests: some continue to
    /// run after their request has completed or was cancelled. The request is then refused as busy.
    pub fn begin_handler<E: Clone + From<StreamError>>(&mut self, id: RequestId) -> Option<Halves<E>> {
        let most = 2 * usize::from(self.max_open);
        let handlers = &mut self.streams().handlers;
        if handlers.len() >= most {
            self.refuse_unhandled(id);
            return None;
        }
        handlers.insert(id.key());
        Some(Halves::new(bytes(self.machine.window()), false))
    }

    /// As [`begin_handler`](Self::begin_handler) for a request that has arrived as a whole, which
    /// [`Request`](super::ServerStep::Request) has returned, and whose handler writes an open
    /// answer. Pass the body to the halves as one that has arrived and ended.
    ///
    /// An answer is sent as a whole if it is one chunk, is [complete](Halves::is_answer_whole)
    /// before it begins, and is no longer than the client's largest message. Any other answer is
    /// open, and a client that wants a whole answer collects it.
    ///
    /// `None` if twice as many of these handlers run as requests may be in flight.
    pub fn begin_whole<E: Clone + From<StreamError>>(&mut self, id: RequestId) -> Option<Halves<E>> {
        let most = 2 * usize::from(self.max_in_flight);
        let handlers = &mut self.streams().whole_handlers;
        if handlers.len() >= most {
            self.refuse_unhandled(id);
            return None;
        }
        handlers.insert(id.key());
        let mut halves = Halves::new(bytes(self.machine.window()), false);
        halves.is_whole = true;
        Some(halves)
    }

    /// Moves data between the halves of an open request and the connection: gives credit for what
    /// its handler has taken, and accepts what it has sent, which `next` takes out. Call it when a
    /// half has something for the connection, and for what [`poll_writable`](Self::poll_writable)
    /// returns.
    pub fn pump<E: Clone + From<StreamError>>(
        &mut self,
        id: RequestId,
        halves: &mut Halves<E>,
        next: impl FnMut() -> Option<B>,
    ) {
        let (taken, waits) = halves.take_reading();
        if halves.discards_input() {
            if !core::mem::replace(&mut halves.discarded, true) {
                self.discard(id);
            }
        } else if taken > 0 || waits {
            self.credit(id, taken, waits);
        }
        self.accept_answer(id, halves, next, false);
    }

    /// Accepts what of an answer there is room for, or `all` of it. If the connection takes nothing
    /// more, the request has ended, and this ends both halves.
    fn accept_answer<E: Clone + From<StreamError>>(
        &mut self,
        id: RequestId,
        halves: &mut Halves<E>,
        next: impl FnMut() -> Option<B>,
        all: bool,
    ) {
        if let Err(why) = self.accept_chunks(id, halves, next, all) {
            halves.end_output(why);
            halves.end_request();
            halves.refused = halves.refused.or(why.request_error());
        }
    }

    fn accept_chunks<E: Clone + From<StreamError>>(
        &mut self,
        id: RequestId,
        halves: &mut Halves<E>,
        mut next: impl FnMut() -> Option<B>,
        all: bool,
    ) -> Result<(), StreamError> {
        while !halves.answered {
            if !halves.answering {
                // An answer begins with its first bytes or its end.
                if !halves.has_output() {
                    return Ok(());
                }
                let mut first = if halves.is_answer_whole() {
                    halves.next(&mut next)
                } else {
                    None
                };
                if halves.is_finished()
                    && let Some(body) = first.take()
                {
                    match self.machine.answer(id, body.as_ref().len()) {
                        // A client that takes open answers may read it in pieces.
                        Err(ReplyError::Request(_)) => first = Some(body),
                        made => {
                            if !self.queue_made(id, body, made).map_err(StreamError::Request)? {
                                return Err(StreamError::Ended);
                            }
                            halves.answer();
                            return Ok(());
                        }
                    }
                }
                self.open_answer(id)?;
                halves.answering = true;
                first.map_or(Ok(()), |chunk| self.write(id, chunk))?;
            }
            if !all && !self.may_write(id) {
                let goes_on = self.streams().is_answering(id);
                return if goes_on { Ok(()) } else { Err(StreamError::Ended) };
            }
            if let Some(chunk) = halves.next(&mut next) {
                self.write(id, chunk)?;
            } else if halves.is_finished() {
                // It fails only if the request has completed.
                let _ = self.finish_answer(id);
                // The request ends with its answer: no more of its body arrives.
                halves.answer();
            } else {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The handler of an open request has ended. If it has finished its answer, this accepts the
    /// rest of it, whatever the handler returned. Otherwise the request is completed as
    /// [`complete`](Self::complete) does; a handler that has returned before its answer was
    /// finished has failed. Drop `halves` afterwards.
    ///
    /// Returns `true` if the whole answer was accepted, otherwise what `complete` returns.
    ///
    /// # Errors
    /// Those of [`complete`](Self::complete). Also a [`Refusal`](crate::Refusal) that the handler
    /// returns after it has finished its answer: the answer is sent, and says in the protocol of
    /// the handler that the request was refused.
    pub fn handled<E: Clone + From<StreamError>>(
        &mut self,
        id: RequestId,
        halves: &mut Halves<E>,
        result: Result<(), NoAnswer<'_>>,
        next: impl FnMut() -> Option<B>,
    ) -> Result<bool, RequestError> {
        self.end_handler(id);
        if !halves.cancelled && halves.will_finish() {
            // The rest of the answer is accepted at once, so that it counts as queued.
            self.accept_answer(id, halves, next, true);
        }
        if !halves.cancelled && halves.answered {
            let chosen = result.err().and_then(NoAnswer::chosen);
            return chosen.map_or(Ok(true), |refusal| Err(RequestError::Refused(refusal.of_reached(true))));
        }
        halves.fail(StreamError::Ended.into());
        if let Some(refused) = halves.refused {
            return Err(refused);
        }
        // An answer that was not finished was dropped.
        let failure = result.err().unwrap_or(NoAnswer::Dropped);
        self.complete(id, Err(failure), halves.cancelled)
    }

    pub(super) fn end_handler(&mut self, id: RequestId) {
        if let Some(streams) = &mut self.streams {
            streams.handlers.remove(&id.key());
            streams.whole_handlers.remove(&id.key());
        }
    }
}
