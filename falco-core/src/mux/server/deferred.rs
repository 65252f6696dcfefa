//! Requests that wait because too many bytes of answers are queued, and the rule by which they
//! continue.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use super::ServerMux;
use crate::message::RequestId;
use crate::mux::Budget;
use crate::mux::held::{UNCOUNTED, bytes};
use crate::wire::ServerKeyRef;

/// Whole requests that have not reached a handler. Most connections never have one, so the list
/// takes only a pointer while it is empty.
#[derive(Default)]
pub(super) struct Deferred(Option<Box<Requests>>);

/// At least one request, by number. A map, because a client may cancel many requests in any order.
#[derive(Default)]
struct Requests {
    by_number: BTreeMap<u64, (RequestId, Vec<u8>)>,
    /// Bytes of their bodies.
    bytes: usize,
}

impl Deferred {
    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |requests| requests.by_number.len())
    }

    /// Bytes of their bodies.
    fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |requests| requests.bytes)
    }

    pub(super) fn push(&mut self, id: RequestId, body: Vec<u8>) {
        let requests = self.0.get_or_insert_default();
        requests.bytes += body.len();
        requests.by_number.insert(id.key(), (id, body));
    }

    /// Removes a request, and returns whether it was there.
    pub(super) fn remove(&mut self, id: RequestId) -> bool {
        self.take(|requests| requests.remove(&id.key())).is_some()
    }

    /// Removes the request with the smallest number.
    fn pop(&mut self) -> Option<(RequestId, Vec<u8>)> {
        self.take(|requests| requests.pop_first().map(|(_, first)| first))
    }

    fn take(
        &mut self,
        take: impl FnOnce(&mut BTreeMap<u64, (RequestId, Vec<u8>)>) -> Option<(RequestId, Vec<u8>)>,
    ) -> Option<(RequestId, Vec<u8>)> {
        let requests = self.0.as_mut()?;
        let taken = take(&mut requests.by_number)?;
        requests.bytes -= taken.1.len();
        if requests.by_number.is_empty() {
            self.0 = None;
        }
        Some(taken)
    }
}

impl<H: ServerKeyRef, B: AsRef<[u8]>, G: Budget> ServerMux<H, B, G> {
    /// Whether a request may reach a handler now. `false` after the handshake until
    /// [`flushed`](Self::flushed). Also `false` while more bytes of answers are queued than a
    /// connection may hold ([`Settings::max_held`](crate::Settings::max_held)), or more than 16 KiB
    /// while those of all connections exceed the shared bound. The last output counts as queued if
    /// it is long, as an answer on the classic wire can be.
    ///
    /// Only sealing and flushing change it to `true`, so a connection waits for its own client
    /// alone. A client that takes its answers is served whatever the others do.
    #[must_use]
    pub fn may_handle(&self) -> bool {
        let queued = self.queued();
        !self.greeting.is_pending()
            && queued <= bytes(self.max_queued)
            && (queued <= bytes(UNCOUNTED) || !self.budget.is_over())
    }

    /// Whether [`recv`](Self::recv) takes a step with the unread bytes now. `false` after the
    /// handshake until [`flushed`](Self::flushed), and while many bytes of requests wait for a
    /// client that does not take its answers. If these answers wait for credit it is `true`,
    /// because the credit has to be read; further requests are then refused as busy.
    ///
    /// On the classic wire it is `false` as long as no request may reach a handler. A request over
    /// a bound would end a classic connection, so it stays in the stream.
    #[must_use]
    pub fn may_read(&self) -> bool {
        !self.greeting.is_pending()
            && (!self.has_deferred_enough() || self.waits_for_credit())
            && (self.machine.refuses() || self.may_handle())
    }

    /// Whether no more requests are to be deferred.
    pub(super) fn has_deferred_enough(&self) -> bool {
        self.deferred.bytes() > bytes(self.max_message)
    }

    /// Whether answers are queued and none of them can be sent before credit was read.
    #[cfg(feature = "streams")]
    fn waits_for_credit(&self) -> bool {
        !self.has_answers() && self.streams.as_ref().is_some_and(|streams| streams.bytes() > 0)
    }

    #[cfg(not(feature = "streams"))]
    const fn waits_for_credit(&self) -> bool {
        let _ = self;
        false
    }

    /// Whether [`next_request`](Self::next_request) returns a request.
    #[must_use]
    pub fn has_request(&self) -> bool {
        let has_one = self.deferred.len() > 0;
        #[cfg(feature = "streams")]
        let has_one = has_one || self.streams.as_ref().is_some_and(|streams| streams.has_request());
        has_one && self.machine.end().is_none() && self.may_handle()
    }

    /// The next request that was deferred and may reach a handler now. [`recv`](Self::recv) returns
    /// deferred requests first. This is for a thread that only writes.
    pub fn next_request(&mut self) -> Option<(RequestId, Vec<u8>)> {
        if self.has_request() { self.deferred.pop() } else { None }
    }

    /// Bytes of answers that are queued, also those that wait for credit or are being collected, or
    /// that lie in the output and may not have been accepted.
    pub(super) fn queued(&self) -> usize {
        let queued = self.answers.bodies();
        #[cfg(feature = "streams")]
        let queued = queued.saturating_add(self.streams.as_ref().map_or(0, |streams| streams.bytes()));
        queued.saturating_add(bytes(self.output))
    }

    /// Makes room for `added` bytes of an answer that is about to be queued. Returns `false` if the
    /// answers of all connections leave none. A few bytes always have room.
    pub(super) fn make_room(&mut self, added: usize) -> bool {
        let Ok(queued) = u32::try_from(self.queued().saturating_add(added)) else {
            return false;
        };
        let more = queued.saturating_sub(self.counted);
        if more <= UNCOUNTED {
            return true;
        }
        let has_room = self.budget.take_answers(bytes(more), bytes(queued));
        if has_room {
            self.counted = queued;
        }
        has_room
    }

    /// Updates this connection's part of the shared count of queued answers, if it is wrong by more
    /// than [`UNCOUNTED`] or if no answers are queued.
    pub(super) fn settle(&mut self) {
        let queued = u32::try_from(self.queued()).unwrap_or(u32::MAX);
        if queued.abs_diff(self.counted) <= UNCOUNTED && (queued > 0 || self.counted == 0) {
            return;
        }
        if queued > self.counted {
            self.budget.add_answers(bytes(queued - self.counted));
        } else {
            self.budget.remove_answers(bytes(self.counted - queued));
        }
        self.counted = queued;
    }
}
