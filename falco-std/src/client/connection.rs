//! A connection of a client: how a request is submitted and how its caller waits. If the connection
//! has a thread that reads (see `read_guard`), callers share it. Otherwise they use it one after
//! another.

use core::time::Duration;
use std::net::Shutdown;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use falco_core::keys::{ClientKeys, Entropy};
use falco_core::mux::History;
use falco_core::{ClientConnection, CloseReason, Fate, Settings};

use super::exclusive::{Acquired, Exclusive};
use super::limit::Limit;
use super::outcome::{Ended, Job, Outcome, Reply};
use super::read_guard::ReadGuard;
use super::reader::Reader;
use super::state::{Slot, State};
use crate::clock::Clock;
use crate::error::Error;
use crate::line::Line;
use crate::shared::{Locked, Shared, handles, unsplit_handles};
use crate::stream::BoxedStream;

/// Before a request, a caller may wait until the thread that reads has read what is readable. It
/// checks for that this often.
const CHECK_AGAIN: Duration = Duration::from_millis(5);
/// How long that caller waits at most.
const READER_WAIT: Duration = Duration::from_secs(1);

pub(super) struct Connection {
    pub(super) shared: Arc<Shared<State>>,
    /// The reader, if the connection has no thread.
    reader: Option<Exclusive>,
}

impl Connection {
    /// Completes the handshake over a connected stream. If a guard is returned, the caller has to
    /// run it on a new thread.
    pub(super) fn open(
        stream: BoxedStream,
        key: Arc<ClientKeys>,
        settings: &Settings,
        (entropy, clock): (&Entropy, Clock),
    ) -> Result<(Self, Option<ReadGuard>), Error> {
        let io = |error| Error::io("connecting", error, Fate::NotProcessed);
        // On the noise wire the server may send something when no caller waits, so the connection
        // gets a thread that reads. On the classic wire callers use the connection one after
        // another, without such a thread. Each first reads what has arrived.
        let ([input, output, control], splits) = if key.receives_unasked() {
            handles(stream).map_err(io)?
        } else {
            (unsplit_handles(stream), false)
        };
        let machine = ClientConnection::new(key, settings, clock.now(), &mut entropy.clone())?;
        let state = State::new(machine, settings, !splits);
        let shared = Shared::new(state, clock, [output, control], splits).map_err(io)?;
        let mut reader = Reader::new(Arc::clone(&shared), Line::new(input, clock, None));
        let result = reader.shake_hands();
        result.map_err(|ended| error_of(ended, "handshake"))?;
        Ok(if splits {
            (Self { shared, reader: None }, Some(ReadGuard::new(reader)))
        } else {
            let reader = Some(Exclusive::new(reader));
            (Self { shared, reader }, None)
        })
    }

    pub(super) fn request(&self, job: Job, limit: Option<Limit>) -> Outcome<Vec<u8>> {
        let outcome = self.call(job, limit, State::add);
        outcome.map(|reply| match reply {
            Reply::Answer(body) => body,
            // Only pings and open requests have these replies.
            Reply::Pong | Reply::Unanswered | Reply::Begun => Vec::new(),
        })
    }

    /// Pings the server. Returns the round-trip time if the wire has answers to pings.
    pub(super) fn ping(&self, job: Job, limit: Option<Limit>) -> Outcome<Option<Duration>> {
        let start = Instant::now();
        let outcome = self.call(job, limit, State::ping);
        outcome.map(|reply| matches!(reply, Reply::Pong).then(|| start.elapsed()))
    }

    fn call(
        &self,
        job: Job,
        limit: Option<Limit>,
        submit: impl FnOnce(&mut State, Job) -> Result<Arc<Slot>, Outcome<Reply>>,
    ) -> Outcome<Reply> {
        let Some(exclusive) = &self.reader else {
            let (mut locked, now) = self.lock_current(limit);
            let slot = match submit(&mut locked.state, job) {
                Ok(slot) => slot,
                Err(outcome) => return outcome,
            };
            let guard = ReadGuard::take(&self.shared, &mut locked.state);
            drop(locked);
            let now = self.shared.flush_at(now);
            let end = match guard {
                Some(guard) => guard.read_until(&slot, limit, now),
                None => slot.wait(limit),
            };
            return self.outcome(end, &slot, limit);
        };
        let mut guard = match exclusive.acquire(limit) {
            Acquired::Reader(guard) => guard,
            Acquired::Ended => return Outcome::Retry(job),
            Acquired::TimedOut(limit) => {
                return Outcome::Failed(limit.error("waiting for the connection", Fate::NotProcessed));
            }
        };
        let Some(reader) = guard.reader() else {
            return Outcome::Retry(job);
        };
        if let Err(ended) = reader.catch_up() {
            reader.finish(&ended);
            return Outcome::Retry(job);
        }
        let submitted = submit(&mut self.shared.lock().state, job);
        let slot = match submitted {
            Ok(slot) => slot,
            Err(outcome) => {
                if let Outcome::Failed(_) = &outcome {
                    guard.keep();
                }
                return outcome;
            }
        };
        let end = reader.read_until(&slot, limit, self.shared.now());
        let completed = end.is_some();
        let outcome = self.outcome(end, &slot, limit);
        // After a timeout the answer may still arrive, and the next caller must not wait for it. So
        // the connection ends.
        if completed && self.is_open() {
            guard.keep();
        }
        outcome
    }

    /// The outcome of a request. If it has not completed in time, it is cancelled.
    fn outcome(&self, end: Option<Outcome<Reply>>, slot: &Slot, limit: Option<Limit>) -> Outcome<Reply> {
        if let Some(end) = end {
            return end;
        }
        // Its body is dropped without the lock.
        let (fate, _job) = self.shared.lock().state.cancel(slot);
        if let Some(end) = slot.take() {
            // The request has completed meanwhile.
            return end;
        }
        if self.reader.is_none() {
            self.shared.flush();
        }
        Outcome::cancelled(fate, limit, || self.shared.lock().state.mux.abandon())
    }

    /// Locks the state of a shared connection once it is up to date. If nothing has arrived for a
    /// while, the connection may have ended unnoticed, because no thread reads or the process was
    /// stopped. In that case this reads what is readable, or waits until the thread that reads has
    /// done so. Also returns the time.
    pub(super) fn lock_current(&self, limit: Option<Limit>) -> (MutexGuard<'_, Locked<State>>, falco_core::Instant) {
        let mut locked = self.shared.lock();
        let mut waits_until = None;
        loop {
            let now = self.shared.now();
            if !locked.state.is_open() || !locked.state.is_quiet(now) || !self.shared.is_readable() {
                return (locked, now);
            }
            if let Some(guard) = ReadGuard::take(&self.shared, &mut locked.state) {
                drop(locked);
                guard.catch_up();
                locked = self.shared.lock();
                continue;
            }
            let until = *waits_until.get_or_insert_with(|| Instant::now() + READER_WAIT);
            let left = until.saturating_duration_since(Instant::now());
            let left = limit.map_or(left, |limit| left.min(limit.left()));
            if left.is_zero() {
                return (locked, now);
            }
            locked = self.shared.wait(locked, Some(left.min(CHECK_AGAIN)));
        }
    }

    /// Whether requests can begin, as far as is known without reading.
    pub(super) fn is_open(&self) -> bool {
        self.shared.lock().state.is_open()
    }

    pub(super) fn history(&self) -> (History, Option<falco_core::Instant>, Option<Error>) {
        self.shared.lock().state.history()
    }

    /// Closes the connection for new requests. Requests in flight complete, then the connection
    /// ends.
    pub(super) fn drain(&self) {
        let now = self.shared.now();
        let mut locked = self.shared.lock();
        locked.state.mux.close(now, CloseReason::Done);
        locked.state.read_lock.call_thread();
        drop(locked);
        // If there is no thread, the caller that uses the connection writes what is left, and ends
        // the stream when its request has completed.
        if self.reader.is_none() {
            self.shared.flush();
        }
    }

    /// Ends the connection gracefully when all submitted requests have completed, and waits for the
    /// server to end it too.
    pub(super) fn close(&self) {
        let Some(exclusive) = &self.reader else {
            return self.close_shared();
        };
        // Callers that wait already go first. No others follow, because the client is closed.
        if let Acquired::Reader(mut guard) = exclusive.acquire(None)
            && let Some(reader) = guard.reader()
        {
            reader.close();
        }
    }

    fn close_shared(&self) {
        let mut locked = self.shared.lock();
        locked.state.mux.close_when_begun(CloseReason::Done);
        locked.state.read_lock.call_thread();
        drop(locked);
        self.shared.flush();
        let mut locked = self.shared.lock();
        while !locked.state.ended {
            let now = self.shared.now();
            if let Some(end) = locked.state.mux.abandon_if_due(now) {
                // The reader still waits for bytes, so this thread ends the connection.
                locked.state.finish(now, &Ok(end));
                drop(locked);
                return self.abandon();
            }
            // The last answer does not wake this thread, so it checks at least once per `LINGER`.
            let closes_at = locked.state.mux.closes_at();
            let wait = closes_at.map_or(Settings::LINGER, |at| at.since(now).min(Settings::LINGER));
            locked = self.shared.wait(locked, Some(wait));
        }
    }

    /// Ends the connection at once. A reader notices the end of the stream. A stream that does not
    /// split ends when it is dropped.
    pub(super) fn abandon(&self) {
        self.shared.shutdown(Shutdown::Both);
        self.shared.lock().state.read_lock.call_thread();
    }
}

/// The error of a connection that has ended and on which no request was begun.
fn error_of(ended: Ended, doing: &'static str) -> Error {
    let fate = Fate::NotProcessed;
    match ended {
        Ok(end) => Error::Connection { end, fate },
        Err(error) => Error::io(doing, error, fate),
    }
}
