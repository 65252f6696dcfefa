//! Who reads a connection that has a thread of its own. A caller that finds nobody reading reads
//! until its own request has completed, which saves waking the thread and being woken by it for
//! each request. The thread reads while callers wait that do not read, for open requests, and while
//! there are no requests: that is, for everything that comes unasked.

use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::io;
use std::panic::catch_unwind;
use std::sync::{Arc, PoisonError};

use super::limit::Limit;
use super::outcome::{Ended, Outcome, Reply};
use super::reader::Reader;
use super::state::{Slot, State};
use crate::shared::Shared;

/// How often the thread looks, while callers read, whether there was a new request. If there was
/// none, it reads.
const PAUSE: Duration = Duration::from_millis(20);

/// The turn of a caller, or of the thread. It ends when this is dropped.
pub(super) struct Turn(Option<Reader>);

impl Turn {
    /// The first turn of the thread.
    pub(super) const fn new(reader: Reader) -> Self {
        Self(Some(reader))
    }

    /// The turn of a caller, if nobody reads.
    pub(super) fn take(shared: &Arc<Shared<State>>, state: &mut State) -> Option<Self> {
        let line = state.turns.take()?;
        Some(Self(Some(Reader::with_others(Arc::clone(shared), line))))
    }

    /// Reads until the request of `slot` has completed, for `limit` at most.
    pub(super) fn read_until(mut self, slot: &Slot, limit: Option<Limit>) -> Option<Outcome<Reply>> {
        let reader = self.0.as_mut()?;
        let read = catch_unwind(AssertUnwindSafe(|| reader.read_until(slot, limit)));
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

    /// Reads whenever no caller does, until the connection has ended. Runs on the thread.
    pub(super) fn run(mut self) {
        while let Some(reader) = self.0.as_mut() {
            // A stream of the user may panic. Its callers still need an error.
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

    /// Leaves reading to the callers until the thread is needed.
    fn rest(&mut self) {
        let Some(reader) = self.0.take() else { return };
        let (shared, line) = reader.into_line();
        let mut locked = shared.lock();
        locked.state.turns.line = Some(line);
        if locked.state.needs_reader() {
            // A request has come meanwhile.
            locked.state.turns.called = true;
        }
        let call = Arc::clone(&locked.state.turns.call);
        let mut seen = None;
        loop {
            let requests = locked.state.requests();
            let quiet = seen.replace(requests) == Some(requests);
            if (quiet || locked.state.turns.called)
                && let Some(line) = locked.state.turns.take()
            {
                drop(locked);
                self.0 = Some(Reader::with_others(shared, line));
                return;
            }
            // If one caller has been reading all the time, it calls this thread when it is done.
            locked.state.turns.asleep = quiet;
            locked = if quiet {
                call.wait(locked).unwrap_or_else(PoisonError::into_inner)
            } else {
                let waited = call.wait_timeout(locked, PAUSE);
                waited.unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(reader) = self.0.take() else { return };
        let (shared, line) = reader.into_line();
        let state = &mut shared.lock().state;
        state.turns.line = Some(line);
        if state.turns.asleep || state.needs_reader() {
            state.turns.call_thread();
        }
    }
}

fn panicked() -> Ended {
    Err(io::Error::other("the stream panicked"))
}
