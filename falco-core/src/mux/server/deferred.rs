//! Requests that wait because too many bytes of answers are queued, and when they no longer do.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::ServerMux;
use crate::message::RequestId;
use crate::mux::Budget;
use crate::wire::ServerKeyRef;

/// Bytes of queued answers that every connection may have, however many all of them have together.
/// The shared count may be wrong by this much for each connection, so that small answers that are
/// sealed at once never touch it.
const UNCOUNTED: usize = 16 << 10;

/// Whole requests that have not reached a handler, by number. A client may cancel them in any order,
/// however many there are.
#[derive(Default)]
pub(super) struct Deferred {
    requests: BTreeMap<u64, (RequestId, Vec<u8>)>,
    /// Bytes of their bodies.
    bytes: usize,
}

impl Deferred {
    pub(super) fn len(&self) -> usize {
        self.requests.len()
    }

    pub(super) fn push(&mut self, id: RequestId, body: Vec<u8>) {
        self.bytes += body.len();
        self.requests.insert(id.key(), (id, body));
    }

    /// Removes a request, and returns whether it was there.
    pub(super) fn remove(&mut self, id: RequestId) -> bool {
        let removed = self.requests.remove(&id.key());
        self.bytes -= removed.as_ref().map_or(0, |(_, body)| body.len());
        removed.is_some()
    }

    fn pop(&mut self) -> Option<(RequestId, Vec<u8>)> {
        let (_, first) = self.requests.pop_first()?;
        self.bytes -= first.1.len();
        Some(first)
    }
}

impl<H: ServerKeyRef, B: AsRef<[u8]>, G: Budget> ServerMux<H, B, G> {
    /// Whether a request may reach a handler now. `false` while the answers that are queued for this
    /// client have more bytes than a connection may hold
    /// ([`Settings::max_held`](crate::Settings::max_held)), or more than a few while those of all
    /// connections exceed the shared bound.
    ///
    /// Only sealing changes it to `true`, so a connection waits for its own client alone. A client
    /// that takes its answers is served whatever the others do.
    #[must_use]
    pub fn may_handle(&self) -> bool {
        let queued = self.answers.bodies();
        queued <= self.max_queued && (queued <= UNCOUNTED || !self.budget.is_over())
    }

    /// Whether [`recv`](Self::recv) takes a step with the unread bytes now. `false` while many bytes
    /// of requests wait for a client that does not take its answers.
    ///
    /// On the classic wire it is `false` while no request may reach a handler. A request over a bound
    /// would end a classic connection, so it stays in the stream.
    #[must_use]
    pub fn may_read(&self) -> bool {
        self.deferred.bytes <= self.max_message && (self.machine.refuses() || self.may_handle())
    }

    /// Whether [`next_request`](Self::next_request) returns a request.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.deferred.len() > 0 && self.machine.end().is_none() && self.may_handle()
    }

    /// The next request that was deferred and may reach a handler now. [`recv`](Self::recv) returns
    /// these first; this is for a thread that only writes.
    pub fn next_request(&mut self) -> Option<(RequestId, Vec<u8>)> {
        if self.has_request() { self.deferred.pop() } else { None }
    }

    /// Brings the count of all connections up to date.
    pub(super) fn settle(&mut self) {
        let queued = self.answers.bodies();
        if queued.abs_diff(self.counted) <= UNCOUNTED && (queued > 0 || self.counted == 0) {
            return;
        }
        if queued > self.counted {
            self.budget.add_answers(queued - self.counted);
        } else {
            self.budget.remove_answers(self.counted - queued);
        }
        self.counted = queued;
    }
}
