//! What a connection does with its handlers: it calls them, answers or refuses their requests, and
//! cancels them.

use core::task::{Context, Poll};
use std::sync::Arc;

use bytes::Bytes;
use falco_core::{NoAnswer, Refusal, RequestError, RequestId};

use super::super::OnCancel;
use super::super::control::Outcome;
use super::super::handler::Handler;
use super::super::holder::Holder;
use super::super::request::Request;
use super::super::running::Kept;
use super::super::warning::warn_limited;
use super::Connection;
use crate::metrics::Stopwatch;

impl<H: Handler> Connection<H> {
    /// Calls the handler. If it is not ready at once, it gets a task of its own.
    pub(super) fn handle(&mut self, cx: &mut Context<'_>, id: RequestId, body: Bytes) {
        let since = Stopwatch::start();
        self.handlers.service.counters.requests.add(1);
        self.handlers.service.counters.metrics.request_length.length(body.len());
        if let Some(holder) = &self.holder {
            holder.requests.add(1);
        }
        let request = Request::received(body, id, self.labeled(), Arc::clone(&self.control));
        let at_once = !self.handlers.service.spawn_handlers;
        let mut frame = self.frame.take().unwrap_or_default();
        match frame.begin(|| self.handlers.handler.handle(request), at_once, cx) {
            Poll::Ready(outcome) => {
                self.frame = Some(frame);
                self.handlers.service.counters.metrics.handler_time.time(since);
                // No CANCEL was read meanwhile.
                self.finish(id, outcome, false);
            }
            Poll::Pending => {
                let kept = Kept {
                    held: Some(self.mux.take_held(id)),
                    place: self.running.share(&self.handlers.service, self.place),
                    pipe: None,
                };
                self.running
                    .spawn(frame, (id, since), kept, &self.control, self.span.as_deref());
            }
        }
    }

    /// A handler has ended: completes its request, counts and logs how. `cancelled` says whether
    /// the client has cancelled the request. A client may cause any number of these logs, so the
    /// rate of warnings is limited.
    pub(super) fn finish(&mut self, id: RequestId, outcome: Outcome, cancelled: bool) {
        self.settled = 0;
        self.completed = self.completed.saturating_add(1);
        let open = self.running.remove_open(id);
        let error;
        let (number, warnings) = (id.number(), &self.handlers.service.warnings);
        let result = match outcome {
            Outcome::Answer(body) => {
                if open.is_none() {
                    self.handlers.service.counters.metrics.answer_length.length(body.len());
                }
                Ok(body)
            }
            Outcome::Failed(failed) => {
                error = failed;
                Err(NoAnswer::Failed(&*error))
            }
            Outcome::Panicked => {
                warn_limited!(warnings.panicked, request = number, "the handler panicked");
                Err(NoAnswer::Panicked)
            }
            // If the request was not cancelled, the runtime is shutting down, or the task of the
            // handler was aborted from elsewhere.
            Outcome::Dropped => Err(NoAnswer::Dropped),
            Outcome::NoRoom => Err(NoAnswer::NoRoom),
        };
        let failure = result.as_ref().err().copied();
        // A handler that returns a refusal has chosen it, and logs the reason itself, if at all.
        let chose = matches!(failure, Some(NoAnswer::Failed(error)) if error.is::<Refusal>());
        let handled = match &open {
            Some(pipe) => pipe.hand_over(|halves, next| self.mux.handled(id, halves, result.map(drop), next)),
            None => self.mux.complete(id, result, cancelled),
        };
        let counters = &self.handlers.service.counters;
        match handled {
            Ok(true) => {
                counters.answers.add(1);
                if let Some(length) = open.and_then(|pipe| pipe.whole_answer()) {
                    counters.metrics.answer_length.length(length);
                }
                if let Some(NoAnswer::Failed(error)) = failure.filter(|_| !chose) {
                    warn_limited!(
                        warnings.failed,
                        request = number,
                        %error,
                        "the handler failed after it had finished its answer"
                    );
                }
            }
            Ok(false) => counters.cancelled.add(1),
            Err(RequestError::TooLarge { length, limit }) => {
                counters.refusals.add(1);
                warn_limited!(
                    warnings.too_large,
                    request = number,
                    length,
                    limit,
                    "the answer is larger than the client accepts"
                );
            }
            Err(error) => {
                counters.refusals.add(1);
                // A handler may choose this refusal, too.
                if error == RequestError::Refused(Refusal::AnswerTooLarge)
                    && !matches!(failure, Some(NoAnswer::Failed(_)))
                {
                    warn_limited!(
                        warnings.no_room,
                        request = number,
                        "dropped an answer: too many bytes of answers are queued"
                    );
                }
                if error == RequestError::Refused(Refusal::Failed) {
                    counters.failed.add(1);
                    match failure {
                        Some(NoAnswer::Failed(error)) if !chose => {
                            warn_limited!(warnings.failed, request = number, %error, "the handler failed");
                        }
                        None => {
                            let error = "the handler returned before its answer was finished";
                            warn_limited!(warnings.failed, request = number, error, "the handler failed");
                        }
                        Some(_) => {}
                    }
                }
            }
        }
    }
}

impl<H: Handler> Connection<H> {
    /// The holder of the client's key, if it has a label. A request needs only the label.
    pub(super) fn labeled(&self) -> Option<Arc<Holder>> {
        self.holder.as_ref().filter(|holder| holder.label.is_some()).cloned()
    }

    /// The answers of running handlers are no longer needed.
    pub(super) fn cancel_all(&self) {
        self.control.cancel_all();
        if self.handlers.service.on_cancel == OnCancel::Drop {
            self.running.abort_all();
        }
    }
}
