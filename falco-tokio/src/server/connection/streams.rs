//! What a connection does with open requests: it hands bytes on between their halves and the mux.

use core::task::{Context, Poll};
use std::sync::Arc;

use bytes::Bytes;
use falco_core::mux::StreamError;
use falco_core::{Refusal, RequestError, RequestId, Status};

use super::super::control::Outcome;
use super::super::handler::Handler;
use super::super::request::Request;
use super::super::running::{self, Kept};
use super::super::streams::StreamRequest;
use super::super::warning::warn_limited;
use super::Connection;
use crate::error::Error;
use crate::metrics::Stopwatch;

impl<H: Handler> Connection<H> {
    /// Calls the handler of an open request, on a task of its own. The request is refused if twice
    /// as many handlers run as the client may have open requests: many of them run on after their
    /// answers. The end of an answer may reach the client before its handler has returned.
    pub(super) fn handle_open(&mut self, cx: &mut Context<'_>, id: RequestId, first: Bytes) {
        let settings = &self.service.settings;
        if self.opens.len() >= 2 * usize::from(settings.max_open()) {
            self.mux.turn_away(id);
            return;
        }
        let pipe = &self.opens.add(id, settings.window_kib(), &self.control);
        pipe.arrive_whole(first);
        let since = Stopwatch::start();
        self.service.counters.requests.add(1);
        if let Some(holder) = &self.holder {
            holder.requests.add(1);
        }
        let request = Request::received(Bytes::new(), id, self.holder.clone(), Arc::clone(&self.control));
        let request = StreamRequest::new(pipe, request);
        match running::begin(|| self.handler.open(request), false, cx) {
            (_, Poll::Ready(outcome)) => self.finish(id, outcome),
            (handler, Poll::Pending) => {
                let kept = Kept {
                    held: Some(self.mux.take_held(id)),
                    place: self.running.share(&self.service, self.place),
                };
                self.running
                    .spawn(handler, (id, since), kept, &self.control, &self.span);
            }
        }
    }

    /// Does what the halves of an open request want.
    pub(super) fn pump(&mut self, id: RequestId) {
        let Some(open) = self.opens.get(id) else { return };
        let wishes = open.pipe.wishes();
        if wishes.reader_gone {
            if !core::mem::replace(&mut open.discarded, true) {
                self.mux.discard(id);
            }
        } else if wishes.taken > 0 {
            self.mux.credit(id, wishes.taken, false);
        }
        while !open.answered {
            if !open.answering {
                if !open.pipe.has_output() {
                    break;
                }
                if self.mux.open_answer(id).is_err() {
                    open.pipe.end_output(Error::Stopped);
                    break;
                }
                open.answering = true;
            }
            // What a handler leaves behind goes to the mux at once, which counts it.
            if !open.handled && !self.mux.wants(id) {
                break;
            }
            if let Some(chunk) = open.pipe.take_chunk() {
                let length = chunk.len();
                if let Err(error) = self.mux.write(id, chunk) {
                    open.pipe.end_output(error_of(error, length));
                    break;
                }
            } else if open.pipe.is_finished() {
                // It fails only if the request has completed.
                let _ = self.mux.finish_answer(id);
                open.answered = true;
                // The request ends with its answer: no more of its body arrives.
                open.pipe.stop_input(Error::Stopped);
            } else {
                break;
            }
        }
        if open.answered && open.handled {
            self.opens.remove(id);
        }
    }

    /// Hands on what handlers have written and the connection now takes. Returns whether there was
    /// something.
    pub(super) fn pump_writable(&mut self) -> bool {
        let mut pumped = false;
        while let Some(id) = self.mux.poll_writable() {
            self.pump(id);
            pumped = true;
        }
        pumped
    }

    /// If the connection drains, handlers are told, which may be about to write more for hours.
    pub(super) fn note_closing(&mut self) {
        if !self.closing && self.mux.connection().status() == Status::Draining {
            self.closing = true;
            self.control.set_closing();
        }
    }

    /// The client has cancelled an open request. If its handler has returned, the request completes
    /// here.
    pub(super) fn cancel_open(&mut self, id: RequestId) {
        let Some(open) = self.opens.get(id) else { return };
        open.pipe.fail(Error::Cancelled);
        open.cancelled = true;
        if open.handled {
            self.opens.remove(id);
            let _ = self.mux.complete(id, Err(falco_core::mux::NoAnswer::Dropped), true);
        }
    }

    /// The handler of an open request has ended. Returns how it has failed, if it has.
    pub(super) fn end_open(&mut self, id: RequestId, outcome: Outcome) -> Option<Outcome> {
        let Some(open) = self.opens.get(id) else {
            return Some(outcome);
        };
        // An answer that was finished is whole, whatever the handler returns.
        if !open.cancelled && (open.answered || open.pipe.will_finish()) {
            if let Outcome::Failed(error) = &outcome {
                warn_limited!(
                    self.service.warnings.failed,
                    request = id.number(),
                    %error,
                    "the handler failed after it had finished its answer"
                );
            }
            open.handled = true;
            self.service.counters.answers.add(1);
            self.control.forget(id);
            self.pump(id);
            return None;
        }
        open.pipe.fail(Error::Stopped);
        self.opens.remove(id);
        Some(match outcome {
            Outcome::Answer(_) => Outcome::Failed("the handler returned before its answer was finished".into()),
            Outcome::Failed(_) | Outcome::Panicked | Outcome::Dropped => outcome,
        })
    }
}

fn error_of(error: StreamError, length: usize) -> Error {
    match error {
        StreamError::TooLarge { limit } => Error::Request(RequestError::TooLarge {
            // What was written before is not known here.
            length: u64::from(limit).saturating_add(u64::try_from(length).unwrap_or(u64::MAX)),
            limit: limit.into(),
        }),
        StreamError::NoRoom => Error::Request(RequestError::Refused(Refusal::AnswerTooLarge)),
        StreamError::Ended | _ => Error::Stopped,
    }
}
