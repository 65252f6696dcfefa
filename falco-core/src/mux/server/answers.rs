//! Answers and refusals, from a handler's result to the sealed bytes.

use super::{ServerMux, give_back};
use crate::error::{OutputTooSmall, ReplyError, RequestError, SealError};
use crate::message::{Refusal, RequestId, Status};
use crate::mux::Budget;
use crate::mux::partial::RECORD;
use crate::no_answer::NoAnswer;
use crate::outgoing::OutgoingAnswer;
use crate::time::Instant;
use crate::wire::ServerKeyRef;

impl<H: ServerKeyRef, B: AsRef<[u8]>, G: Budget> ServerMux<H, B, G> {
    /// Queues the answer to a request. If the request has completed already, or the connection has
    /// ended, the answer is dropped.
    ///
    /// An answer counts with its length. `SharedBudget::most_unused` returns how much unused memory
    /// it may have.
    ///
    /// # Errors
    /// The request is refused as [`Refusal::AnswerTooLarge`], and the answer is dropped.
    /// [`RequestError::TooLarge`]: it is larger than the client accepts or than this side may send.
    /// [`RequestError::Refused`]: the answers that are queued leave no room for it.
    pub fn answer(&mut self, id: RequestId, body: B) -> Result<(), RequestError> {
        if !self.is_held(id) {
            return Ok(());
        }
        self.queue_answer(id, body).map(drop)
    }

    /// Queues the answer to a request that is held. Returns `false` if the connection has ended.
    pub(super) fn queue_answer(&mut self, id: RequestId, body: B) -> Result<bool, RequestError> {
        let made = self.machine.answer(id, body.as_ref().len());
        self.queue_made(id, body, made)
    }

    /// As [`queue_answer`](Self::queue_answer). `made` is what the connection returned for the
    /// answer.
    pub(super) fn queue_made(
        &mut self,
        id: RequestId,
        body: B,
        made: Result<OutgoingAnswer, ReplyError>,
    ) -> Result<bool, RequestError> {
        let length = body.as_ref().len();
        match made {
            Ok(answer) if self.make_room(length) => {
                self.answers.push(answer, body, !self.machine.refuses());
                self.held.set_answered(id);
                Ok(true)
            }
            Ok(_) => Err(RequestError::Refused(self.give_up(id, NoAnswer::NoRoom))),
            Err(ReplyError::Request(error)) => {
                self.give_up(id, NoAnswer::NoRoom);
                Err(error)
            }
            Err(_) => {
                // Its open answer has begun, and is cut off.
                #[cfg(feature = "streams")]
                if self.streams.is_some() {
                    self.refuse(id, Refusal::Failed);
                }
                self.release(id);
                Ok(false)
            }
        }
    }

    /// Refuses a request as the table of [`NoAnswer`] says, and returns the refusal.
    pub(super) fn give_up(&mut self, id: RequestId, why: NoAnswer<'_>) -> Refusal {
        let refusal = why.refusal(false);
        self.refuse(id, refusal);
        refusal
    }

    /// Refuses a request. If its answer is being sent, the rest of the answer is not sent. For a
    /// request that has completed, this does nothing.
    pub fn refuse(&mut self, id: RequestId, refusal: Refusal) {
        self.parts.forget(id);
        self.deferred.remove(id);
        // Search the answers only if this one is queued: otherwise many refusals would be slow.
        let is_answered = self.held.is_answered(id);
        self.release(id);
        #[cfg(feature = "streams")]
        let refusal = self.refusal_of_open(id, refusal);
        #[cfg(feature = "streams")]
        if let Some(streams) = &mut self.streams {
            streams.forget(id);
            self.settle();
        }
        if is_answered {
            self.answers.remove(id);
            self.settle();
        }
        self.refusals.push(id, refusal);
    }

    /// Writes pending output and then answers to the front of `out`, and returns how many bytes to
    /// send. Call it again only when the stream has accepted all of them. If answers are queued
    /// behind them, the next call takes their acceptance as a sign that the client still reads, and
    /// restarts the idle timeout. Until the next call, output that is longer than a record of the
    /// noise wire counts as a queued answer, so keep no buffer that is much larger than the output.
    ///
    /// # Errors
    /// [`OutputTooSmall`]. [`recv`](Self::recv) returns what ended the connection.
    pub fn seal(&mut self, now: Instant, out: &mut [u8]) -> Result<usize, OutputTooSmall> {
        self.deadlines.note_poll(&mut self.machine, now);
        if core::mem::take(&mut self.backlog) {
            self.machine.note_taken(now);
        }
        let answers = self.has_answers();
        let sealed = self.seal_next(now, out);
        let output = sealed.ok().filter(|count| *count > RECORD).unwrap_or(0);
        self.output = u32::try_from(output).unwrap_or(u32::MAX);
        if matches!(sealed, Ok(1..)) {
            self.with_answer = answers;
            self.backlog = self.has_answers();
        }
        self.settle();
        sealed
    }

    /// Whether there is nothing to seal: a call of [`seal`](Self::seal) returns 0, unless a
    /// deadline has passed. After a long output this is `false`, because only the next call of
    /// `seal` counts that output as accepted.
    #[must_use]
    pub fn all_sealed(&self) -> bool {
        self.output == 0
            && !self.backlog
            && self.refusals.is_empty()
            && !self.has_answers()
            && !self.machine.has_pending()
            && self.machine.status() == Status::Established
    }

    fn seal_next(&mut self, now: Instant, out: &mut [u8]) -> Result<usize, OutputTooSmall> {
        loop {
            while let Some((id, refusal)) = self.refusals.first() {
                let refused = self.machine.refuse(id, refusal);
                if refused.is_err_and(ReplyError::waits_for_output) {
                    break;
                }
                // The connection has accepted the refusal, or there is nothing to refuse.
                self.refusals.pop();
            }
            let sealed = self.seal_answers(now, out);
            return match sealed {
                Ok(count) => Ok(count),
                Err(SealError::OutputTooSmall(small)) => Err(small),
                // The request has completed in another way, such as by a refusal. Its answer is
                // dropped, so that it does not block others.
                Err(SealError::NotWaiting(id)) => {
                    self.answers.remove(id);
                    self.release(id);
                    #[cfg(feature = "streams")]
                    if let Some(streams) = &mut self.streams {
                        streams.forget(id);
                    }
                    continue;
                }
                Err(_) => Ok(0),
            };
        }
    }

    fn seal_answers(&mut self, now: Instant, out: &mut [u8]) -> Result<usize, SealError> {
        #[cfg(feature = "streams")]
        if self.streams.is_some() {
            return self.seal_with_streams(now, out);
        }
        let (held, budget) = (&mut self.held, &self.budget);
        // The bytes of all requests are given back at once.
        let mut free = 0;
        let sealed = self.answers.seal(&mut self.machine, now, out, |answer, _| {
            match held.release(answer.id()) {
                Some((bytes, false)) => free += bytes,
                Some((window, true)) => give_back(budget, window, true),
                None => {}
            }
        });
        if free > 0 {
            give_back(budget, free, false);
        }
        sealed
    }

    /// Whether there are answers that could be sent.
    pub(super) fn has_answers(&self) -> bool {
        #[cfg(feature = "streams")]
        if self.streams.as_ref().is_some_and(|streams| streams.has_ready()) {
            return true;
        }
        !self.answers.is_empty()
    }

    /// An output size with which one call of [`seal`](Self::seal) seals many small answers, or much
    /// of the longest queued one.
    #[must_use]
    pub fn seal_size(&self) -> usize {
        let useful_output = self.answers.useful_output();
        #[cfg(feature = "streams")]
        let useful_output = useful_output.max(self.streams.as_ref().map_or(0, |streams| streams.useful_output()));
        self.machine.seal_size(useful_output)
    }
}
