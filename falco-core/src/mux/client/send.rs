//! How requests begin, within the limits on requests and bytes in flight, and how they are sealed.

use alloc::vec::Vec;

use super::super::call::Call;
use super::super::table::Progress;
use super::{ClientMux, Unbegun};
use crate::error::{Error, OutputTooSmall, RequestError, SealError};
use crate::message::Status;
use crate::outgoing::OutgoingRequest;
use crate::send_queue::Turn;
use crate::time::Instant;
use crate::wire::ClientKeyRef;

/// How many requests that have not begun may be in the send queue: as many as one output can hold
/// if they are small. The limit bounds the time to remove one of them.
const MAX_QUEUED: usize = 256;

/// Receives the requests that fail while they are moved to the send queue or sealed.
type Failed<'f, W> = &'f mut dyn FnMut(W, RequestError);

impl<H: ClientKeyRef, B: AsRef<[u8]>, W, P> ClientMux<H, B, W, P> {
    /// Accepts a request. It goes to the send queue if it may begin now, and is held back if not.
    pub(super) fn accept(&mut self, call: Call<B, W>, request: OutgoingRequest) {
        let length = request.length();
        let begins = self.table.held_back() == 0
            && self.machine.status() == Status::Established
            && self.unbegun.count < self.places()
            && self.window.admits(self.held + self.unbegun.bytes, length);
        if begins {
            self.queue.push(request, call.ticket);
            self.unbegun.add(length);
        }
        self.table.insert(call, !begins);
        self.accepted = false;
        if !begins {
            self.fill_queue();
        }
    }

    /// How many requests that have not begun may be in the send queue.
    fn places(&self) -> usize {
        let in_flight = self.begun.len();
        #[cfg(feature = "streams")]
        let in_flight = in_flight + self.streams.as_ref().map_or(0, |streams| streams.in_flight());
        self.machine.max_in_flight().saturating_sub(in_flight).min(MAX_QUEUED)
    }

    /// Moves the requests that may begin now to the send queue.
    #[inline]
    pub(super) fn fill_queue(&mut self) {
        if self.table.held_back() > 0 {
            self.release_held_back(None);
        }
        #[cfg(feature = "streams")]
        self.release_held_back_opens();
    }

    /// Moves the requests that may begin now to the send queue, and returns whether there were any.
    /// A request that is too large is passed to `failed`. If that is `None`, the request stays held
    /// back.
    fn release_held_back(&mut self, mut failed: Option<Failed<'_, W>>) -> bool {
        if self.machine.status() != Status::Established {
            return false;
        }
        let mut released = false;
        let places = self.places();
        while self.unbegun.count < places
            && let Some((ticket, length)) = self.table.next_held_back()
            && self.window.admits(self.held + self.unbegun.bytes, length)
        {
            match (self.machine.request(length), &mut failed) {
                (Ok(request), _) => {
                    self.table.release(ticket);
                    self.queue.push(request, ticket);
                    self.unbegun.add(length);
                    released = true;
                }
                // The server's limit was not known when the request was accepted.
                (Err(Error::Request(error)), Some(failed)) => {
                    if let Some((call, _)) = self.table.take(ticket) {
                        failed(call.waiter, error);
                    }
                }
                (Err(_), _) => break,
            }
        }
        released
    }

    /// Writes pending output and then requests to the front of `out`, and returns how many bytes to
    /// send. Call it again only when the stream has accepted all of them. If requests are queued
    /// behind them, the next call takes this as a sign that the server still reads, and restarts
    /// the idle timeout. `failed` receives the requests that are larger than the server reads. They
    /// were accepted before its limit was known.
    ///
    /// # Errors
    /// [`OutputTooSmall`]. [`recv`](Self::recv) returns what ended the connection.
    pub fn seal(
        &mut self,
        now: Instant,
        out: &mut [u8],
        mut failed: impl FnMut(W, RequestError),
    ) -> Result<usize, OutputTooSmall> {
        if self.note(now).is_err() {
            return Ok(0);
        }
        // The stream has accepted what was sealed before.
        self.accepted |= !self.has_unsent();
        if core::mem::take(&mut self.backlog) {
            self.machine.note_taken(now);
        }
        loop {
            self.close_if_begun(now);
            let sealed = self.seal_requests(now, out, &mut failed);
            self.note_progress(&mut failed);
            let released = self.table.held_back() > 0 && self.release_held_back(Some(&mut failed));
            return match sealed {
                // Requests that failed have made room for others.
                Ok(0) if released => continue,
                Ok(count) => {
                    self.backlog = count > 0 && self.has_sealable();
                    Ok(count)
                }
                Err(SealError::OutputTooSmall(small)) => Err(small),
                Err(_) => Ok(0),
            };
        }
    }

    /// Whether all is sealed: a call of [`seal`](Self::seal) seals nothing, unless a deadline has
    /// passed.
    #[must_use]
    pub fn all_sealed(&self) -> bool {
        !self.backlog
            && !self.has_unsent()
            && !self.closing.closes()
            && !self.machine.has_pending()
            && self.machine.status() == Status::Established
    }

    #[cfg_attr(
        not(feature = "streams"),
        expect(unused_variables, reason = "only open requests can fail")
    )]
    fn seal_requests(
        &mut self,
        now: Instant,
        out: &mut [u8],
        failed: &mut impl FnMut(W, RequestError),
    ) -> Result<usize, SealError> {
        #[cfg(feature = "streams")]
        if self.streams.is_some() {
            return self.seal_with_streams(now, out, failed);
        }
        self.queue.seal_bodies(&mut self.machine, now, out, &self.table)
    }

    /// Whether there are requests in the queue.
    fn has_sealable(&self) -> bool {
        #[cfg(feature = "streams")]
        if self.streams.as_ref().is_some_and(|streams| streams.has_ready()) {
            return true;
        }
        !self.queue.is_empty()
    }

    /// Records which requests have begun, and which were sealed as a whole.
    fn note_progress(&mut self, failed: &mut impl FnMut(W, RequestError)) {
        let Self {
            queue,
            table,
            begun,
            unbegun,
            held,
            ..
        } = self;
        queue.end_turn(|turn| {
            let (request, ticket) = match &turn {
                Turn::Done(request, ticket) => (request, *ticket),
                Turn::Partial(request, ticket) => (*request, **ticket),
            };
            let length = request.length();
            if let Some(failure) = request.failure() {
                unbegun.remove(length);
                if let Some((call, _)) = table.take(ticket) {
                    failed(call.waiter, failure);
                }
            } else if let Some(id) = request.id()
                && let Some(progress) = table.progress_mut(ticket)
            {
                if let Progress::Queued = *progress {
                    // Requests get their ids in the order of the queue.
                    begun.push(id, ticket, length);
                    unbegun.remove(length);
                    *held += length;
                }
                // A request can be done with only a part of it sealed, if the server has completed
                // it.
                *progress = if request.reaches_handler() {
                    Progress::Sent(id)
                } else {
                    Progress::Partial(id)
                };
            }
        });
    }

    /// An output size with which one call of [`seal`](Self::seal) seals many small requests, or
    /// much of the longest queued one.
    #[must_use]
    pub fn seal_size(&self) -> usize {
        let mut useful_output = self.queue.useful_output();
        if self.queue.is_empty() {
            // A request that is larger than the server reads fails in the call that then seals the
            // next one.
            let most = usize::try_from(self.machine.peer_max_message()).unwrap_or(usize::MAX);
            useful_output = useful_output.max(self.table.next_behind(most).unwrap_or(0));
        }
        #[cfg(feature = "streams")]
        let useful_output = useful_output.max(self.streams.as_ref().map_or(0, |streams| streams.useful_output()));
        self.machine.seal_size(useful_output)
    }

    /// Takes out the requests of which nothing was sent, in the order of their tickets, although
    /// the connection may be open. For an adapter with several connections, one of which is free.
    pub fn take_unbegun(&mut self) -> Vec<Call<B, W>> {
        self.queue.retain(|request, _| request.id().is_some());
        self.unbegun = Unbegun::default();
        let mut unbegun = Vec::new();
        self.table.take_unbegun(|call| unbegun.push(call));
        unbegun
    }
}
