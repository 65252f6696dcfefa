//! How a connection is closed, and where its requests go when it has ended.

use std::io;

use falco_core::mux::Unfinished;
use falco_core::{CloseReason, ConnectionError};

use super::super::call::error_of;
use super::{Connection, Event};

impl Connection {
    /// Closes the connection for new requests. Requests that have not begun are returned; the
    /// others complete.
    pub(in super::super) fn drain(&mut self) {
        let now = self.now;
        self.settled = 0;
        self.mux.close(now, CloseReason::Done);
        self.returned
            .calls
            .extend(self.mux.poll_closing().into_iter().flatten());
        self.returned.opens.extend(self.mux.take_unbegun_open());
    }

    /// Reports once that the connection no longer accepts requests, if the slot has not closed it.
    /// Requests that have not begun are returned.
    pub(super) fn poll_closing(&mut self) -> Option<Event> {
        let unbegun = self.mux.poll_closing()?;
        self.returned.calls.extend(unbegun);
        self.returned.opens.extend(self.mux.take_unbegun_open());
        Some(Event::Closing)
    }

    /// Closes once all accepted requests have begun.
    pub(in super::super) fn close(&mut self) {
        self.settled = 0;
        self.mux.close_when_begun(CloseReason::Done);
    }

    /// Returns the requests and pings that go to another connection, and sends the other callers
    /// the error.
    pub(super) fn finish(&mut self, end: &io::Result<ConnectionError>) {
        for Unfinished { call, fate, retry, .. } in self.mux.finish_open() {
            if retry {
                self.returned.opens.push(call);
            } else {
                self.answers
                    .answer(call.waiter, Err(error_of(end, "reading or writing a stream", fate)));
            }
        }
        for Unfinished { call, fate, retry, .. } in self.mux.finish() {
            if retry {
                self.returned.calls.push(call);
            } else {
                self.answers
                    .answer(call.waiter, Err(error_of(end, "waiting for the answer", fate)));
            }
        }
        for Unfinished { call, fate, retry, .. } in self.mux.finish_pings() {
            if retry {
                self.returned.pings.push(call);
            } else {
                let error = error_of(end, "waiting for the answer to a ping", fate);
                let _ = call.waiter.1.send(Err(error));
            }
        }
    }
}
