//! What a connection does with the bytes that have arrived.

use bytes::Bytes;
use falco_core::RequestError;
use falco_core::mux::{Body, ClientStep};
use tracing::debug;

use super::super::call::{answer, end, fail};
use super::streams::arrive;
use super::{Connection, Event, Pause};

impl Connection {
    /// Processes the unread bytes.
    #[allow(clippy::wildcard_enum_match_arm, reason = "no request is open, and no answer")]
    pub(super) fn receive(&mut self) -> Pause {
        let now = self.now;
        loop {
            let step = match self.mux.recv(now, self.line.unread()) {
                Ok(step) => step,
                Err(end) => return Pause::Report(Event::Ended(Ok(end))),
            };
            match step {
                ClientStep::NeedMore { total } => return Pause::Read(total),
                ClientStep::Skip { consumed } => self.line.consume(consumed),
                ClientStep::Established { consumed } => {
                    self.line.consume(consumed);
                    return Pause::Report(Event::Established);
                }
                ClientStep::Answer { consumed, waiter, body } => {
                    let body = match body {
                        Body::Lent(body) => Bytes::copy_from_slice(body),
                        Body::Whole(bytes) => Bytes::from(bytes),
                    };
                    self.line.consume(consumed);
                    answer(waiter, Ok(body));
                }
                ClientStep::Refused {
                    consumed,
                    call,
                    refusal,
                    retry,
                } => {
                    self.line.consume(consumed);
                    if retry {
                        self.returned.calls.push(call);
                    } else {
                        fail(call.waiter, RequestError::Refused(refusal));
                    }
                }
                ClientStep::Pong { consumed, waiters } => {
                    self.line.consume(consumed);
                    for (since, to) in waiters {
                        let _ = to.send(Ok(Some(since.elapsed())));
                    }
                }
                ClientStep::Closing { consumed, reason } => {
                    debug!(server = %self.env.servers.dial(self.server), ?reason, "the server closes");
                    self.line.consume(consumed);
                    if let Some(event) = self.poll_closing() {
                        return Pause::Report(event);
                    }
                }
                ClientStep::Opened { consumed, ticket, body } | ClientStep::Part { consumed, ticket, body } => {
                    arrive(&mut self.mux, ticket, body);
                    self.line.consume(consumed);
                }
                ClientStep::Ended { consumed, waiter, .. } => {
                    self.line.consume(consumed);
                    end(&waiter);
                }
                ClientStep::OpenRefused {
                    consumed,
                    waiter,
                    refusal,
                    ..
                } => {
                    self.line.consume(consumed);
                    fail(waiter, RequestError::Refused(refusal));
                }
                // There is no other step at present.
                other => {
                    let consumed = other.consumed();
                    self.line.consume(consumed);
                }
            }
        }
    }
}
