//! What the threads that share a connection of a server share: the requests and their ends in the core's care, and which of them wait for a handler or have one. No I/O.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Weak};

use falco_core::keys::ServerKeys;
use falco_core::mux::{ServerMux, SharedBudget};
use falco_core::{Instant, Refusal, RequestId, ServerConnection, Status};

use super::pool::Turns;
use super::reaper::Reaper;
use crate::line::{Line, Source, seal_into};

/// A request that has come whole and that no handler is done with.
struct Taken {
    /// There until the handler starts.
    body: Option<Vec<u8>>,
    cancelled: Arc<AtomicBool>,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct State {
    pub(super) mux: ServerMux<Arc<ServerKeys>, Vec<u8>, SharedBudget>,
    taken: HashMap<RequestId, Taken>,
    /// Those of them whose handler has not started.
    turns: Turns<RequestId>,
    pub(super) established: bool,
    /// It was cut off: nobody waits for anything.
    pub(super) cut: bool,
    /// The sending half has been shut down, or is about to be.
    leaving: bool,
    /// What ends the stream when the client does not, and the connection to end.
    reaper: Option<(Arc<Reaper>, Weak<Line<Self>>)>,
    pub(super) trouble: Option<io::Error>,
    broken: bool,
}

impl State {
    /// While more than `max_queued` bytes of answers wait to be sealed, nothing is read.
    pub(super) fn new(machine: ServerConnection<Arc<ServerKeys>>, budget: SharedBudget, max_queued: usize) -> Self {
        Self {
            mux: ServerMux::new(machine, budget, max_queued),
            taken: HashMap::new(),
            turns: Turns::new(),
            established: false,
            cut: false,
            leaving: false,
            reaper: None,
            trouble: None,
            broken: false,
        }
    }

    pub(super) fn set_reaper(&mut self, reaper: Arc<Reaper>, own: Weak<Line<Self>>) {
        self.reaper = Some((reaper, own));
    }

    pub(super) fn is_over(&self) -> bool {
        self.cut || self.broken || self.mux.status() == Status::Ended
    }

    /// A whole request, for a handler in its turn; says whether that takes another job.
    #[must_use]
    pub(super) fn take(&mut self, id: RequestId, body: Vec<u8>) -> bool {
        let taken = Taken {
            body: Some(body),
            cancelled: Arc::default(),
        };
        self.taken.insert(id, taken);
        self.turns.add(id)
    }

    /// The client no longer wants the answer. A handler that has not started does not.
    pub(super) fn cancel(&mut self, id: RequestId) {
        let Some(taken) = self.taken.get(&id) else { return };
        taken.cancelled.store(true, Ordering::Release);
        if taken.body.is_some() {
            self.taken.remove(&id);
            self.turns.remove(&id);
            self.mux.refuse(id, Refusal::Cancelled);
        }
    }

    /// Nobody is there any more to be answered: handlers are told, and those that have not started do not.
    pub(super) fn cancel_all(&mut self) {
        for (_, taken) in self.taken.drain() {
            taken.cancelled.store(true, Ordering::Release);
        }
        self.turns.clear();
        self.mux.finish();
    }

    /// The request whose handler starts now, its body and its flag; none where all that waited have had their ends.
    pub(super) fn start(&mut self) -> Option<(RequestId, Vec<u8>, Arc<AtomicBool>)> {
        let id = self.turns.next()?;
        let taken = self.taken.get_mut(&id)?;
        Some((id, taken.body.take()?, Arc::clone(&taken.cancelled)))
    }

    /// What a handler gave; none where it failed. Says whether that counts as a failure.
    pub(super) fn answer(&mut self, id: RequestId, body: Option<Vec<u8>>) -> bool {
        let Some(taken) = self.taken.remove(&id) else {
            return false;
        };
        let Some(body) = body else {
            let cancelled = taken.cancelled.load(Ordering::Acquire);
            let refusal = if cancelled { Refusal::Cancelled } else { Refusal::Failed };
            self.mux.refuse(id, refusal);
            return !cancelled;
        };
        self.mux.answer(id, body).is_err()
    }
}

impl Source for State {
    fn seal(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        if self.broken || self.cut {
            return 0;
        }
        seal_into(out, self.mux.seal_size(), |out| self.mux.seal(now, out))
    }

    fn lifetime(&self) -> Duration {
        self.mux.machine().lifetime()
    }

    fn broken(&mut self, error: io::Error) {
        self.broken = true;
        self.trouble = Some(error);
        self.cancel_all();
    }

    fn rested(&mut self) -> bool {
        let last = self.mux.status() == Status::Ended && !core::mem::replace(&mut self.leaving, true);
        if last && let Some((reaper, own)) = self.reaper.take() {
            reaper.push(own);
        }
        last && !self.cut
    }
}
