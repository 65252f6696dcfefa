//! What a connection does with its handlers: it calls them, answers or refuses their requests, and
//! cancels them.

use core::task::{Context, Poll};
use std::sync::Arc;

use bytes::Bytes;
use falco_core::mux::refusal_of;
use falco_core::{Refusal, RequestError, RequestId};
use tracing::warn;

use super::super::OnCancel;
use super::super::control::Outcome;
use super::super::handler::Handler;
use super::super::request::Request;
use super::super::running::{self, Kept};
use super::Connection;

impl<H: Handler> Connection<H> {
    /// Calls the handler. If it is not ready at once, it gets a task of its own.
    pub(super) fn handle(&mut self, cx: &mut Context<'_>, id: RequestId, body: Bytes) {
        self.service.counters.requests.add(1);
        let request = Request::received(body, id, Arc::clone(&self.control));
        let at_once = !self.service.spawn_handlers;
        match running::begin(|| self.handler.handle(request), at_once, cx) {
            (_, Poll::Ready(outcome)) => self.finish(id, outcome),
            (handler, Poll::Pending) => {
                let kept = Kept {
                    _held: self.mux.take_held(id),
                    _place: self.running.share(&self.service, self.place),
                };
                self.running.spawn(handler, id, kept, &self.control, &self.span);
            }
        }
    }

    /// A handler has ended: answers or refuses its request.
    pub(super) fn finish(&mut self, id: RequestId, outcome: Outcome) {
        let counters = &self.service.counters;
        let cancelled = self.control.is_cancelled(id);
        self.control.forget(id);
        let refusal = match outcome {
            Outcome::Answer(body) => match self.mux.answer(id, body) {
                Ok(()) => return counters.answers.add(1),
                Err(RequestError::TooLarge { length, limit }) => {
                    // Logged once per connection, because the client chooses the limit and the
                    // number of requests.
                    if self.too_large == 0 {
                        warn!(
                            request = id.number(),
                            length,
                            limit,
                            "the answer is larger than the client accepts; more such answers on this connection are only counted"
                        );
                    }
                    self.too_large = self.too_large.saturating_add(1);
                    return counters.refusals.add(1);
                }
                Err(_) => return counters.refusals.add(1),
            },
            Outcome::Dropped if cancelled => Refusal::Cancelled,
            Outcome::Failed(error) => {
                let refusal = refusal_of(Some(&*error), cancelled);
                if refusal == Refusal::Failed {
                    warn!(request = id.number(), %error, "the handler failed");
                }
                refusal
            }
            Outcome::Panicked => {
                warn!(request = id.number(), "the handler panicked");
                refusal_of(None, cancelled)
            }
            // The runtime shuts down, or the handler was aborted from elsewhere.
            Outcome::Dropped => refusal_of(None, cancelled),
        };
        if cancelled && refusal == Refusal::Cancelled {
            counters.cancelled.add(1);
            return self.mux.refuse(id, refusal);
        }
        if refusal == Refusal::Failed {
            counters.failed.add(1);
        }
        counters.refusals.add(1);
        self.mux.refuse(id, refusal);
    }
}

impl<H> Connection<H> {
    /// The answers of running handlers are no longer needed.
    pub(super) fn cancel_all(&self) {
        self.control.cancel_all();
        if self.service.on_cancel == OnCancel::Drop {
            self.running.abort_all();
        }
    }
}
