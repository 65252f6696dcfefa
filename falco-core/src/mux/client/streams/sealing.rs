//! How open requests begin and are sealed, and what is left of them when their connection ends.

use alloc::collections::BTreeSet;
use alloc::vec::Vec;

use super::super::super::call::Unfinished;
use super::super::super::open_call::OpenCall;
use super::super::super::streams::Turn;
use super::super::ClientMux;
use super::Open;
use crate::error::{RequestError, SealError};
use crate::message::Fate;
use crate::outgoing::OutgoingRequest;
use crate::time::Instant;
use crate::wire::ClientKeyRef;

impl<H: ClientKeyRef, B: AsRef<[u8]>, W, P> ClientMux<H, B, W, P> {
    /// Seals requests and open requests. The two kinds take turns at going first, one output each.
    /// So a long queue of one kind delays the other by at most one output.
    pub(in super::super) fn seal_with_streams(
        &mut self,
        now: Instant,
        out: &mut [u8],
        failed: &mut impl FnMut(W, RequestError),
    ) -> Result<usize, SealError> {
        let reserved = self.reserved();
        let Some(streams) = self.streams.as_deref_mut() else {
            return Ok(0);
        };
        streams.writers.begin_turn(out.len());
        let requests = self.queue.messages(&self.table);
        let open = streams.writers.messages();
        let sealed = if streams.goes_first {
            self.machine.seal(now, open.chain(requests), out)
        } else {
            self.machine.seal(now, requests.chain(open), out)
        };
        if matches!(sealed, Ok(1..)) {
            streams.goes_first = !streams.goes_first;
        }
        let machine = &self.machine;
        let (calls, begun, beginning) = (&mut streams.calls, &mut streams.begun, &mut streams.beginning);
        let newly_begun = &mut streams.newly_begun;
        let sendable = |request: &OutgoingRequest| request.id().map_or(u32::MAX, |id| machine.sendable(id));
        let held = &mut self.held;
        streams.writers.end_turn(sendable, |turn| match turn {
            Turn::Begun(ticket, request) => {
                *beginning -= 1;
                *held += reserved;
                if let (Some(id), Some(open)) = (request.id(), calls.get_mut(&ticket)) {
                    open.id = Some(id);
                    newly_begun.push_back(ticket);
                    begun.insert(id.key(), ticket);
                }
            }
            Turn::Done(ticket, request) => {
                if let Some(error) = request.failure() {
                    *beginning -= 1;
                    if let Some(open) = calls.remove(&ticket) {
                        failed(open.waiter, error);
                    }
                }
            }
        });
        sealed
    }

    /// An open request that has begun: its first frame is sealed. From then on it may be processed,
    /// and never goes to another connection. Returns each once. Call it after [`seal`](Self::seal)
    /// until it returns `None`.
    pub fn poll_begun(&mut self) -> Option<u64> {
        let streams = self.streams.as_mut()?;
        let begun = core::iter::from_fn(|| streams.newly_begun.pop_front());
        // It may have been cancelled since.
        let mut outstanding = begun.filter(|ticket| streams.calls.contains_key(ticket));
        outstanding.next()
    }

    /// The open requests that have not begun, each with its waiter.
    pub fn unbegun_open(&self) -> impl Iterator<Item = (u64, &W)> {
        let calls = self.streams.as_deref().map(|streams| &streams.calls);
        let unbegun = calls.into_iter().flatten().filter(|(_, open)| open.id.is_none());
        unbegun.map(|(ticket, open)| (*ticket, &open.waiter))
    }

    /// Takes out the open requests of which nothing was sent, in the order of their tickets. The
    /// connection may still be open. [`take_unbegun`](Self::take_unbegun) returns only other
    /// requests: call both.
    pub fn take_unbegun_open(&mut self) -> Vec<OpenCall<B, W>> {
        let Some(streams) = &mut self.streams else {
            return Vec::new();
        };
        streams.held_back = BTreeSet::new();
        streams.beginning = 0;
        let is_unbegun = |(ticket, open): (&u64, &Open<W>)| open.id.is_none().then_some(*ticket);
        let tickets: Vec<_> = streams.calls.iter().filter_map(is_unbegun).collect();
        let take = |ticket| {
            let Open { waiter, .. } = streams.calls.remove(&ticket)?;
            let (_, chunks) = streams.writers.remove(ticket)?;
            Some(OpenCall { ticket, waiter, chunks })
        };
        tickets.into_iter().filter_map(take).collect()
    }

    /// Call it when the connection has ended, before [`finish`](Self::finish), which does not
    /// return open requests. Returns those that are outstanding, each with its fate. One that has
    /// not begun goes to another connection.
    pub fn finish_open(&mut self) -> Vec<Unfinished<OpenCall<B, W>>> {
        let unbegun = self.take_unbegun_open().into_iter().map(|call| Unfinished {
            call,
            fate: Fate::NotProcessed,
            retry: true,
        });
        let mut unfinished: Vec<_> = unbegun.collect();
        // Its first frame is enough for a handler to run, also if the stream has not accepted the
        // rest.
        let fate = self.machine.fate();
        let Some(streams) = self.streams.take() else {
            return unfinished;
        };
        let begun = streams.calls.into_iter().map(|(ticket, open)| Unfinished {
            call: OpenCall::new(ticket, open.waiter),
            fate,
            retry: false,
        });
        unfinished.extend(begun);
        unfinished
    }
}
