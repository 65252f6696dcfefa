//! The open requests of a connection. It moves bytes between their halves and the mux.

use std::sync::Arc;

use bytes::Bytes;
use falco_core::RequestId;
use falco_core::mux::Halves;

use super::super::handler::Handler;
use super::super::request::Request;
use super::super::running::{self, Kept};
use super::super::streams::{self, StreamRequest};
use super::Connection;
use crate::metrics::Stopwatch;
use crate::stream::{PIECE, Pipe};

impl<H: Handler> Connection<H> {
    /// Calls the handler of an open request, on a task of its own. The end of an answer may reach
    /// the client before its handler has returned.
    pub(super) fn handle_open(&mut self, id: RequestId, first: Bytes) {
        let Some(halves) = self.mux.begin_handler(id) else {
            return;
        };
        let pipe = &streams::pipe(id, halves, &self.control);
        self.running.add_open(id, pipe);
        // A request that was deferred may begin with a whole window.
        if first.len() > PIECE {
            pipe.arrive(&first);
        } else {
            pipe.arrive_whole(first);
        }
        self.run_open(id, pipe);
    }

    /// Calls the handler of open requests with one that has arrived as a whole.
    pub(super) fn handle_whole(&mut self, id: RequestId, body: Bytes) {
        let Some(halves) = self.mux.begin_whole(id) else {
            return;
        };
        self.handlers.service.counters.metrics.request_length.length(body.len());
        let pipe = &streams::pipe(id, halves, &self.control);
        self.running.add_open(id, pipe);
        pipe.arrive_whole(body);
        pipe.update(Halves::end_input);
        self.run_open(id, pipe);
    }

    fn run_open(&mut self, id: RequestId, pipe: &Arc<Pipe>) {
        let since = Stopwatch::start();
        self.handlers.service.counters.requests.add(1);
        if let Some(holder) = &self.holder {
            holder.requests.add(1);
        }
        let request = Request::received(Bytes::new(), id, self.labeled(), Arc::clone(&self.control));
        let request = StreamRequest::new(pipe, request);
        match running::begin(|| self.handlers.open(request)) {
            // No CANCEL was read since.
            Err(outcome) => self.finish(id, outcome, false),
            Ok(handler) => {
                let kept = Kept {
                    held: Some(self.mux.take_held(id)),
                    place: self.running.share(&self.handlers.service, self.place),
                    pipe: Some(Arc::clone(pipe)),
                };
                self.running
                    .spawn(handler, (id, since), kept, &self.control, self.span.as_deref());
            }
        }
    }

    /// Does the work that the halves of an open request have for the connection.
    pub(super) fn pump(&mut self, id: RequestId) {
        if let Some(pipe) = self.running.open(id) {
            pipe.pump(|halves, next| self.mux.pump(id, halves, next));
        }
    }

    /// Moves to the mux what handlers have written and the mux has room for. Returns whether there
    /// was something.
    pub(super) fn pump_writable(&mut self) -> bool {
        let mut pumped = false;
        while let Some(id) = self.mux.poll_writable() {
            self.pump(id);
            pumped = true;
        }
        pumped
    }

    /// Once the connection drains, wakes the handlers that wait for that. One that writes an answer
    /// without an end then finishes it.
    pub(super) fn note_closing(&mut self) {
        if !self.closing && self.mux.is_closing() {
            self.closing = true;
            self.control.set_closing();
        }
    }
}
