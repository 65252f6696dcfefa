//! How requests begin: no more of them, and no more of their bytes, than the server takes; and how
//! they are sealed.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

use super::super::step::Left;
use super::super::waiters::{self, SPARE, Waiters, Waiting};
use super::{Begun, ClientMux, Queued, position};
use crate::error::{ConnectionError, OutputTooSmall, RequestError, SealError};
use crate::message::{CloseReason, Fate, RequestId, Status};
use crate::send_queue::SendQueue;
use crate::time::Instant;
use crate::wire::ClientKeyRef;

impl<H: ClientKeyRef, B: AsRef<[u8]>, W, P> ClientMux<H, B, W, P> {
    /// Lets those requests begin for which there is room now, and says whether there are any.
    pub(super) fn let_begin(&mut self) -> bool {
        let before = self.unbegun;
        if self.held_back.is_empty() || self.machine.status() != Status::Established {
            return false;
        }
        let places = self.machine.max_in_flight();
        while let Some(&ticket) = self.held_back.front() {
            // Few wait in the queue, so that one of them is found soon.
            if self.unbegun >= SPARE || self.unbegun + self.begun.len() >= places {
                break;
            }
            let length = self.waiting.held_back_length(ticket);
            if length.is_some_and(|length| !self.window.admits(self.held, length)) {
                break;
            }
            self.held_back.pop_front();
            if let Some((request, body)) = self.waiting.take_held_back(ticket) {
                self.held += body.as_ref().len();
                self.unbegun += 1;
                self.queue.push(request, Queued { ticket, body });
            }
        }
        self.unbegun > before
    }

    /// The server was busy for a request. Where the bytes in flight may be why, fewer are from
    /// now on. Says whether it was so.
    pub(super) fn hold_back_more(&mut self, id: RequestId) -> bool {
        let peer_max = usize::try_from(self.machine.peer_max_message()).unwrap_or(usize::MAX);
        let last = self.begun.back().map_or(0, |begun| begun.id.number());
        let length = self.begun_length(id);
        self.window.shrink(id, length, self.held, last, peer_max)
    }

    /// A request was answered: after a server was busy, more bytes are in flight again.
    pub(super) fn hold_back_less(&mut self, id: RequestId) {
        if !self.window.is_full() {
            let length = self.begun_length(id);
            self.window.grow(id, length);
        }
    }

    fn begun_length(&self, id: RequestId) -> usize {
        let begun = position(&self.begun, id).and_then(|at| self.begun.get(at));
        begun.map_or(0, |begun| begun.length)
    }

    /// Writes what is owed and what waits to the front of `out`, and says how many bytes are to be
    /// sent. `failed` receives the requests that will never go: they are larger than the server
    /// reads, whose limit was not known when they were handed over.
    ///
    /// # Errors
    /// [`OutputTooSmall`]. What ended the connection is told by [`recv`](Self::recv).
    pub fn seal(
        &mut self,
        now: Instant,
        out: &mut [u8],
        mut failed: impl FnMut(W, RequestError),
    ) -> Result<usize, OutputTooSmall> {
        loop {
            let sealed = self.seal_queue(now, out, &mut failed);
            let more = self.let_begin();
            return match sealed {
                // What failed has made room for others.
                Ok(0) if more => continue,
                Ok(count) => Ok(count),
                Err(SealError::OutputTooSmall(small)) => Err(small),
                Err(SealError::Connection(ConnectionError::NumbersExhausted)) => {
                    self.machine.close(now, CloseReason::Done);
                    Ok(0)
                }
                Err(_) => Ok(0),
            };
        }
    }

    fn seal_queue(
        &mut self,
        now: Instant,
        out: &mut [u8],
        failed: &mut impl FnMut(W, RequestError),
    ) -> Result<usize, SealError> {
        let Self {
            machine,
            queue,
            waiting,
            begun,
            unbegun,
            held,
            ..
        } = self;
        let sealed = queue.seal(machine, now, out, |request, queued| {
            let (ticket, length) = (queued.ticket, queued.as_ref().len());
            match (request.failure(), request.id()) {
                (Some(failure), _) => {
                    *unbegun -= 1;
                    *held -= length;
                    if let Some(Waiting { waiter, .. }) = waiting.take(ticket) {
                        failed(waiter, failure);
                    }
                }
                (None, Some(id)) => *unbegun -= usize::from(note(waiting, begun, ticket, id, length)),
                // It has completed.
                (None, None) => {}
            }
        });
        for (request, queued) in queue.iter() {
            if let Some(id) = request.id() {
                *unbegun -= usize::from(note(waiting, begun, queued.ticket, id, queued.as_ref().len()));
            }
        }
        sealed
    }

    /// Bytes of output with which one call of [`seal`](Self::seal) makes progress with the longest
    /// request that waits, or seals many small ones.
    #[must_use]
    pub fn seal_size(&self) -> usize {
        self.machine.seal_size(self.queue.worthwhile())
    }

    /// Takes out the requests of which nothing was sent, in the order in which they were handed
    /// over: they may go to another connection.
    pub fn take_unbegun(&mut self) -> Vec<Left<B, W>> {
        let mut begun = SendQueue::new();
        let mut left = Vec::new();
        let mut leave = |waiting: Option<Waiting<B, W>>, body| {
            if let Some(Waiting { ticket, waiter, .. }) = waiting {
                left.push(Left {
                    ticket,
                    waiter,
                    body: Some(body),
                    fate: Fate::NotProcessed,
                });
            }
        };
        while let Some((request, queued)) = self.queue.pop() {
            if request.id().is_some() {
                begun.push(request, queued);
            } else {
                self.held -= queued.as_ref().len();
                leave(self.waiting.take(queued.ticket), queued.body);
            }
        }
        self.queue = begun;
        self.unbegun = 0;
        for ticket in core::mem::take(&mut self.held_back) {
            if let Some((_, body)) = self.waiting.take_held_back(ticket) {
                leave(self.waiting.take(ticket), body);
            }
        }
        left.sort_by_key(|left| left.ticket);
        left
    }
}

/// The request `ticket` has begun under `id`. Says whether it had not before.
fn note<B, W>(
    waiting: &mut Waiters<B, W>,
    begun: &mut VecDeque<Begun>,
    ticket: u64,
    id: RequestId,
    length: usize,
) -> bool {
    let Err(at) = waiters::position(begun, id.number().into(), |begun| begun.id.number().into()) else {
        return false;
    };
    begun.insert(at, Begun { id, ticket, length });
    waiting.begin(ticket, id);
    true
}
