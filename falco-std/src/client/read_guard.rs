//! Which thread reads a connection that has a thread of its own. If no thread reads, a caller reads
//! until its own request has completed. For each request this saves two wake-ups: that of the
//! connection's thread, and that of the caller. The connection's thread reads while other callers
//! wait, while there are open requests, and while there are no requests.

use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::io;
use std::panic::catch_unwind;
use std::sync::{Arc, PoisonError};

use falco_core::Instant;

use super::limit::Limit;
use super::outcome::{Ended, Outcome, Reply};
use super::reader::Reader;
use super::state::{Slot, State};
use crate::shared::Shared;

/// While callers read, the connection's thread checks after this time whether there was a new
/// request. If there was none, it reads itself.
const PAUSE: Duration = Duration::from_millis(20);

/// The right of a caller, or of the connection's thread, to read. Dropping it releases the right.
pub(super) struct ReadGuard(Option<Reader>);

impl ReadGuard {
    /// The guard with which the connection's thread starts.
    pub(super) const fn new(reader: Reader) -> Self {
        Self(Some(reader))
    }

    /// The guard for a caller, if no thread reads.
    pub(super) fn take(shared: &Arc<Shared<State>>, state: &mut State) -> Option<Self> {
        let line = state.read_lock.take()?;
        Some(Self(Some(Reader::with_others(Arc::clone(shared), line))))
    }

    /// Reads from `now` on until the request of `slot` has completed, for `limit` at most.
    pub(super) fn read_until(mut self, slot: &Slot, limit: Option<Limit>, now: Instant) -> Option<Outcome<Reply>> {
        let reader = self.0.as_mut()?;
        let read = catch_unwind(AssertUnwindSafe(|| reader.read_until(slot, limit, now)));
        read.unwrap_or_else(|_| {
            reader.finish(&panicked());
            slot.take()
        })
    }

    /// Processes what has arrived, without waiting.
    pub(super) fn catch_up(mut self) {
        let Some(reader) = self.0.as_mut() else { return };
        let ended = catch_unwind(AssertUnwindSafe(|| reader.catch_up()));
        if let Err(ended) = ended.unwrap_or_else(|_| Err(panicked())) {
            reader.finish(&ended);
        }
    }

    /// Reads whenever no caller does, until the connection has ended. Runs on the connection's
    /// thread.
    pub(super) fn run(mut self) {
        while let Some(reader) = self.0.as_mut() {
            // A stream of the user may panic. The callers of requests still receive an error.
            let ended = catch_unwind(AssertUnwindSafe(|| reader.read_for_callers()));
            if let Err(ended) = ended.unwrap_or_else(|_| Err(panicked())) {
                reader.finish(&ended);
                break;
            }
            self.rest();
        }
        if let Some(reader) = self.0.take() {
            reader.end();
        }
    }

    /// Leaves reading to callers until the connection's thread is needed.
    fn rest(&mut self) {
        let Some(reader) = self.0.take() else { return };
        let (shared, line) = reader.into_line();
        let mut locked = shared.lock();
        locked.state.read_lock.line = Some(line);
        if locked.state.needs_reader() {
            // A request has come meanwhile.
            locked.state.read_lock.called = true;
        }
        let call = Arc::clone(&locked.state.read_lock.call);
        let mut seen = None;
        loop {
            let requests = locked.state.requests();
            let quiet = seen.replace(requests) == Some(requests);
            if (quiet || locked.state.read_lock.called)
                && let Some(line) = locked.state.read_lock.take()
            {
                drop(locked);
                self.0 = Some(Reader::with_others(shared, line));
                return;
            }
            // If one caller has been reading since the last check, it calls this thread when it has
            // finished.
            locked.state.read_lock.asleep = quiet;
            locked = if quiet {
                call.wait(locked).unwrap_or_else(PoisonError::into_inner)
            } else {
                let waited = call.wait_timeout(locked, PAUSE);
                waited.unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }
}

impl Drop for ReadGuard {
    fn drop(&mut self) {
        let Some(reader) = self.0.take() else { return };
        let (shared, line) = reader.into_line();
        let state = &mut shared.lock().state;
        state.read_lock.line = Some(line);
        if state.read_lock.asleep || state.needs_reader() {
            state.read_lock.call_thread();
        }
    }
}

fn panicked() -> Ended {
    Err(io::Error::other("the stream panicked"))
}
