//! The open requests of a connection. It moves bytes between their halves and the mux.

use std::sync::Arc;

use falco_core::Fate;
use falco_core::mux::Halves;

use super::super::call::{OpenCall, Waiter};
use super::{Connection, Mux};
use crate::stream::Pipe;

/// An open answer begins. From now on its request has no time limit.
pub(super) fn begin(mux: &mut Mux, ticket: u64) {
    if let Some(waiter) = mux.stream_waiter(ticket) {
        waiter.limit = None;
        if let Some(pipe) = waiter.pipe() {
            pipe.update(Halves::begin);
        }
    }
}

/// Bytes of an open answer have arrived.
pub(super) fn arrive(mux: &mut Mux, ticket: u64, body: &[u8]) {
    if let Some(pipe) = mux.stream_waiter(ticket).and_then(|waiter| waiter.pipe()) {
        pipe.arrive(body);
    }
}

impl Connection {
    /// Accepts an open request, or gives it back.
    pub(in super::super) fn open(&mut self, call: OpenCall) -> Option<OpenCall> {
        if !self.is_open() {
            return Some(call);
        }
        let ticket = call.ticket;
        self.settled = 0;
        match self.mux.open(call) {
            Ok(()) => {
                self.pump(ticket);
                None
            }
            Err((call, None)) => Some(call),
            Err((call, Some(error))) => {
                self.answers.fail(call.waiter, error);
                None
            }
        }
    }

    fn pipe(&mut self, ticket: u64) -> Option<Arc<Pipe>> {
        self.mux.stream_waiter(ticket)?.pipe().cloned()
    }

    /// Does what the halves of an open request ask of the connection. Returns whether the
    /// connection has that request.
    pub(in super::super) fn pump(&mut self, ticket: u64) -> bool {
        let Some(pipe) = self.pipe(ticket) else {
            return false;
        };
        self.settled = 0;
        drop(pipe.pump(|halves, next| self.mux.pump(ticket, halves, next)));
        true
    }

    /// Moves bytes that the halves of open requests have written to the mux, as far as it has room.
    /// Returns whether there were any.
    pub(super) fn pump_writable(&mut self) -> bool {
        let mut pumped = false;
        while let Some(ticket) = self.mux.poll_writable() {
            pumped |= self.pump(ticket);
        }
        pumped
    }

    /// The callers of its open requests that have not begun, by ticket.
    pub(in super::super) fn openers(&self) -> impl Iterator<Item = (u64, &Waiter)> {
        self.mux.unbegun_open()
    }

    /// Cancels an open request and returns its caller.
    pub(in super::super) fn cancel_open(&mut self, ticket: u64) -> Option<(Waiter, Fate)> {
        self.mux.cancel_open(ticket)
    }

    /// Wakes the callers whose open requests have begun.
    pub(super) fn note_begun(&mut self) {
        while let Some(ticket) = self.mux.poll_begun() {
            if let Some(pipe) = self.pipe(ticket) {
                pipe.update(Halves::begin);
            }
        }
    }
}
