//! The open requests of a connection. It moves bytes between their halves and the mux.

use std::sync::{Arc, Weak};

use falco_core::mux::{Call, Halves, OpenCall, Unfinished};
use falco_core::{Fate, LostRequest};

use super::super::outcome::{Job, Outcome, Reply};
use super::super::stats::Counters;
use super::{Mux, Slot, State, job_of};
use crate::error::Error;
use crate::open::{ConnectionHandle, HalfError, Pipe};
use crate::shared::Shared;

/// Where the outcome of a request goes.
pub(in crate::client) enum Waiter {
    /// To its caller.
    Caller(Arc<Slot>),
    Stream(Stream),
}

/// The halves of an open request, and the caller who waits until it has begun. Or the half that
/// reads the answer to another request, and the caller who waits for its beginning. If this is
/// dropped before the request has ended, they fail.
pub(in crate::client) struct Stream {
    pipe: Arc<Pipe>,
    opener: Arc<Slot>,
    /// The request has begun, and its caller no longer waits for that.
    begun: bool,
    /// The counters of the client.
    counters: Arc<Counters>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        // Without effect if the request has ended.
        self.pipe.update(|halves| halves.lose(LostRequest::DROPPED));
    }
}

impl Waiter {
    /// The request is answered as a whole.
    pub(in crate::client) fn answer(&self, body: Vec<u8>) {
        match self {
            Self::Caller(slot) => slot.end(Outcome::Done(Reply::Answer(body))),
            Self::Stream(stream) => {
                stream.pipe.arrive(&body);
                self.end_stream();
                if !stream.begun {
                    stream.opener.end(Outcome::Done(Reply::Begun));
                }
            }
        }
    }

    /// The open answer is whole.
    pub(in crate::client) fn end_stream(&self) {
        if let Self::Stream(stream) = self {
            stream.counters.answers.add(1);
            stream.pipe.update(Halves::complete);
        }
    }

    /// The request has failed.
    pub(in crate::client) fn fail(&self, error: Error) {
        match self {
            Self::Caller(slot) => slot.end(Outcome::Failed(error)),
            Self::Stream(stream) => {
                if stream.begun {
                    stream.counters.errors.add(1);
                } else {
                    stream.opener.end(Outcome::Failed(error.with_fate(error.fate())));
                }
                stream.pipe.update(|halves| halves.fail(HalfError(error)));
            }
        }
    }

    /// The request goes to another connection.
    pub(in crate::client) fn retry(&self, job: Job) {
        match self {
            Self::Caller(slot) => slot.end(Outcome::Retry(job)),
            Self::Stream(stream) => stream.opener.end(Outcome::Retry(job)),
        }
    }

    const fn pipe(&self) -> Option<&Arc<Pipe>> {
        match self {
            Self::Stream(stream) => Some(&stream.pipe),
            Self::Caller(_) => None,
        }
    }
}

/// The request has begun, or an open answer to one that is not open.
pub(in crate::client) fn begin(mux: &mut Mux, ticket: u64) {
    if let Some(Waiter::Stream(stream)) = mux.stream_waiter(ticket)
        && !core::mem::replace(&mut stream.begun, true)
    {
        stream.opener.end(Outcome::Done(Reply::Begun));
    }
}

/// Bytes of an open answer have arrived.
pub(in crate::client) fn arrive(mux: &mut Mux, ticket: u64, body: &[u8]) {
    if let Some(pipe) = mux.stream_waiter(ticket).and_then(|waiter| waiter.pipe()) {
        pipe.arrive(body);
    }
}

struct StreamHandle {
    /// Weak, because the connection has the halves of its requests.
    shared: Weak<Shared<State>>,
    ticket: u64,
}

impl ConnectionHandle for StreamHandle {
    fn notify(&self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.lock().state.pump(self.ticket);
            shared.flush();
        }
    }
}

/// Where the caller of an open request waits until it has begun, and what its halves will share.
pub(in crate::client) type Begin = (Arc<Slot>, Arc<Pipe>);

impl State {
    /// Queues an open request that begins with `first`.
    pub(in crate::client) fn open(
        &mut self,
        first: Vec<u8>,
        shared: &Arc<Shared<Self>>,
        counters: &Arc<Counters>,
    ) -> Result<Begin, Outcome<Arc<Pipe>>> {
        if !self.is_open() {
            return Err(Outcome::Retry(Job::default()));
        }
        let halves = Halves::of_client(self.window_kib);
        let (stream, (opener, pipe)) = self.stream(halves, shared, counters);
        let mut call = OpenCall::new(opener.ticket(), stream);
        // A request that is not finished accepts it.
        let _ = call.write(first);
        match self.mux.open(call) {
            Ok(()) => Ok((opener, pipe)),
            Err((_, None)) => Err(Outcome::Retry(Job::default())),
            Err((_, Some(error))) => Err(Outcome::Failed(Error::Request(error))),
        }
    }

    /// Queues a request whose answer is read while it arrives.
    pub(in crate::client) fn request_stream(
        &mut self,
        job: Job,
        shared: &Arc<Shared<Self>>,
        counters: &Arc<Counters>,
    ) -> Result<Begin, Outcome<Arc<Pipe>>> {
        if !self.is_open() {
            return Err(Outcome::Retry(job));
        }
        let halves = Halves::of_reader(self.window_kib);
        let (stream, begin) = self.stream(halves, shared, counters);
        let mut call = Call::new(begin.0.ticket(), job.body, stream).streaming();
        call.attempts = job.attempts;
        match self.mux.request(call) {
            Ok(()) => Ok(begin),
            Err((call, None)) => Err(Outcome::Retry(job_of(call).1)),
            Err((_, Some(error))) => Err(Outcome::Failed(Error::Request(error))),
        }
    }

    fn stream(
        &mut self,
        halves: Halves<HalfError>,
        shared: &Arc<Shared<Self>>,
        counters: &Arc<Counters>,
    ) -> (Waiter, Begin) {
        let opener = self.slot();
        let handle = StreamHandle {
            shared: Arc::downgrade(shared),
            ticket: opener.ticket(),
        };
        let pipe = Pipe::new(Box::new(handle), halves);
        let stream = Stream {
            pipe: Arc::clone(&pipe),
            opener: Arc::clone(&opener),
            begun: false,
            counters: Arc::clone(counters),
        };
        (Waiter::Stream(stream), (opener, pipe))
    }

    /// Wakes the callers whose open requests have begun. Call it after sealing.
    pub(in crate::client) fn note_begun(&mut self) {
        while let Some(ticket) = self.mux.poll_begun() {
            begin(&mut self.mux, ticket);
        }
    }

    /// Cancels a request whose caller no longer waits until it or its answer begins, unless it has.
    /// Returns its fate.
    pub(in crate::client) fn cancel_opening(&mut self, ticket: u64) -> Fate {
        let cancelled = match self.mux.stream_waiter(ticket) {
            Some(Waiter::Stream(stream)) if !stream.begun => {
                let open = self.mux.cancel_open(ticket).map(|(_, fate)| fate);
                open.or_else(|| self.mux.cancel(ticket).map(|(_, fate)| fate))
            }
            _ => None,
        };
        cancelled.unwrap_or(LostRequest::DROPPED.fate)
    }

    fn pipe(&mut self, ticket: u64) -> Option<Arc<Pipe>> {
        self.mux.stream_waiter(ticket)?.pipe().cloned()
    }

    /// Does the work that the halves of an open request have for the connection. Returns whether
    /// the connection has that request.
    fn pump(&mut self, ticket: u64) -> bool {
        let Some(pipe) = self.pipe(ticket) else {
            return false;
        };
        drop(pipe.pump(|halves, next| self.mux.pump(ticket, halves, next)));
        true
    }

    /// Moves to the mux what the halves of open requests have written and the mux has room for.
    /// Returns whether there was something.
    pub(in crate::client) fn pump_writable(&mut self) -> bool {
        let mut pumped = false;
        while let Some(ticket) = self.mux.poll_writable() {
            pumped |= self.pump(ticket);
        }
        pumped
    }

    /// The connection accepts no more requests: open ones that have not begun go to another.
    pub(in crate::client) fn move_unbegun_opens(&mut self) {
        for call in self.mux.take_unbegun_open() {
            call.waiter.retry(Job::default());
        }
    }

    /// The connection has ended, with the error that `why` returns for the fate of a request.
    pub(in crate::client) fn finish_opens(&mut self, why: impl Fn(Fate) -> Error) {
        for Unfinished { call, fate, retry, .. } in self.mux.finish_open() {
            if retry {
                call.waiter.retry(Job::default());
            } else {
                call.waiter.fail(why(fate));
            }
        }
    }
}
