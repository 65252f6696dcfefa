//! What the threads that share a connection of a server share: the requests and their ends in the
//! core's care, and which of them wait for a handler or have one. No I/O.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Weak};

use falco_core::keys::ServerKeys;
use falco_core::mux::{Ending, LastStep, ServerMux, SharedBudget, refusal_of};
use falco_core::{
    CloseReason, ConnectionError, Instant, KeyId, Refusal, RequestId, ServerConnection, Settings, Status,
};

use super::handler::HandlerError;
use super::reaper::Reaper;
use super::waiting::{Place, Waiting};
use crate::line::{Line, Source, seal_into};

/// A connection, for any thread.
pub(super) type Conn = Line<State>;

/// A request that has come whole and that no handler is done with.
struct Taken {
    /// There until the handler starts, with its place among those that wait.
    waits: Option<(Vec<u8>, Place)>,
    cancelled: Arc<AtomicBool>,
}

/// A request whose handler starts.
pub(super) struct Started {
    pub(super) id: RequestId,
    pub(super) key_id: Option<KeyId>,
    pub(super) body: Vec<u8>,
    pub(super) cancelled: Arc<AtomicBool>,
}

/// What has become of a request whose handler is done.
#[derive(Clone, Copy, Debug)]
pub(super) enum Handled {
    Answered,
    Refused(Refusal),
    /// Its client has cancelled it, or is gone.
    Cancelled,
}

pub(super) struct State {
    pub(super) mux: ServerMux<Arc<ServerKeys>, Vec<u8>, SharedBudget>,
    taken: HashMap<RequestId, Taken>,
    /// Those of them whose handler has not started.
    waiting: Waiting<RequestId>,
    /// A request that waits longer for its handler to start is refused as busy.
    patience: Duration,
    /// Handlers that have started and are not done with.
    running: usize,
    pub(super) established: bool,
    /// It was cut off: nobody waits for anything.
    pub(super) cut: bool,
    /// What ends the stream when the client does not, and the connection to end.
    reaper: Option<(Arc<Reaper<Self>>, Weak<Conn>)>,
    /// Why nothing more can be written.
    pub(super) trouble: Option<io::Result<ConnectionError>>,
    broken: bool,
    ending: Option<Ending>,
}

impl State {
    pub(super) fn new(
        machine: ServerConnection<Arc<ServerKeys>>,
        budget: SharedBudget,
        settings: &Settings,
        patience: Duration,
    ) -> Self {
        Self {
            mux: ServerMux::new(machine, budget, settings),
            taken: HashMap::new(),
            waiting: Waiting::new(),
            patience,
            running: 0,
            established: false,
            cut: false,
            reaper: None,
            trouble: None,
            broken: false,
            ending: None,
        }
    }

    pub(super) fn set_reaper(&mut self, reaper: Arc<Reaper<Self>>, own: Weak<Conn>) {
        self.reaper = Some((reaper, own));
    }

    pub(super) fn is_over(&self) -> bool {
        self.cut || self.broken || self.mux.status() == Status::Ended
    }

    /// Once the connection has ended, its stream has its time from then on.
    pub(super) fn note_end(&mut self, now: Instant) {
        if let (None, Some(end)) = (self.ending, self.mux.machine().end()) {
            self.ending = Some(self.mux.ending(end, now));
        }
    }

    /// A whole request, for a handler in its turn; says whether the connection is to be submitted
    /// to the pool.
    #[must_use]
    pub(super) fn take(&mut self, now: Instant, id: RequestId, body: Vec<u8>) -> bool {
        let (place, submit) = self.waiting.add(id, now);
        let taken = Taken {
            waits: Some((body, place)),
            cancelled: Arc::default(),
        };
        self.taken.insert(id, taken);
        submit
    }

    /// The client no longer wants the answer. A handler that has not started does not.
    pub(super) fn cancel(&mut self, id: RequestId) {
        let Some(taken) = self.taken.get(&id) else { return };
        taken.cancelled.store(true, Ordering::Release);
        if let Some((_, place)) = taken.waits {
            self.taken.remove(&id);
            self.waiting.remove(place);
            self.mux.refuse(id, Refusal::Cancelled);
        }
    }

    /// Nobody is there any more to be answered: handlers are told, and those that have not started
    /// do not.
    pub(super) fn cancel_all(&mut self) {
        for (_, taken) in self.taken.drain() {
            taken.cancelled.store(true, Ordering::Release);
        }
        self.waiting.clear();
        self.mux.finish();
    }

    /// Refuses the requests that have waited too long for a worker, and says how many they were.
    pub(super) fn refuse_late(&mut self, now: Instant) -> u64 {
        let mut refused = 0;
        while self.late_at().is_some_and(|at| at <= now) {
            if let Some(id) = self.waiting.give_up_first() {
                self.taken.remove(&id);
                self.mux.refuse(id, Refusal::Busy);
                refused += 1;
            }
        }
        refused
    }

    /// When the first of them has waited too long.
    pub(super) fn late_at(&self) -> Option<Instant> {
        self.waiting.since().map(|since| since + self.patience)
    }

    /// Does what is due at `now`, and says whether the connection goes on. If not, `trouble` says
    /// why.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let end = self.mux.handle_timeout(now).err();
        if let Some(end) = end {
            self.trouble.get_or_insert(Ok(end));
        }
        end.is_none()
    }

    /// When something is to be done though nothing comes.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.mux.poll_timeout().into_iter().chain(self.late_at()).min()
    }

    /// The request whose handler starts now, its body and its flag; none where all that waited have
    /// had their ends. And whether others wait behind it.
    pub(super) fn start(&mut self) -> (Option<Started>, bool) {
        let (first, more) = self.waiting.take();
        let started = first.and_then(|id| {
            let taken = self.taken.get_mut(&id)?;
            let (body, _) = taken.waits.take()?;
            let cancelled = Arc::clone(&taken.cancelled);
            Some(Started {
                id,
                key_id: self.mux.machine().key_id(),
                body,
                cancelled,
            })
        });
        self.running += usize::from(started.is_some());
        (started, more)
    }

    /// A handler that has started is done with.
    pub(super) const fn done(&mut self) {
        self.running -= 1;
    }

    /// Whether a request waits for its handler or has one.
    pub(super) fn is_busy(&self) -> bool {
        self.running > 0 || !self.waiting.is_empty()
    }

    /// What a handler gave: an answer, an error, or neither where it panicked.
    pub(super) fn answer(&mut self, id: RequestId, given: Result<Vec<u8>, Option<HandlerError>>) -> Handled {
        let Some(taken) = self.taken.remove(&id) else {
            return Handled::Cancelled;
        };
        let error = match given {
            Ok(body) => {
                let answered = self.mux.answer(id, body);
                return answered.map_or(Handled::Refused(Refusal::AnswerTooLarge), |()| Handled::Answered);
            }
            Err(error) => error,
        };
        let cancelled = taken.cancelled.load(Ordering::Acquire);
        let refusal = refusal_of(error.as_deref(), cancelled);
        self.mux.refuse(id, refusal);
        if cancelled && refusal == Refusal::Cancelled {
            Handled::Cancelled
        } else {
            Handled::Refused(refusal)
        }
    }
}

impl Conn {
    /// Closes in good order, from any thread.
    pub(super) fn close(self: &Arc<Self>, reason: CloseReason) {
        let mut desk = self.lock();
        let state = &mut desk.source;
        state.mux.close(self.now(), reason);
        // Nothing is on its way to a stranger. To others something may be, which a byte of theirs
        // that found nobody reading would destroy: their streams end by the sending half first,
        // which whoever writes last shuts down, and whole only once they have ended too or a
        // second has passed.
        let how = (state.is_over() && !state.established).then_some(Shutdown::Both);
        drop(desk);
        // Where the thread that reads is also the one that writes, it does so when it looks next.
        if self.splits() {
            self.pump();
        }
        self.tell();
        if let Some(how) = how {
            self.shutdown(how);
        }
    }

    /// Ends at once, from any thread. Says how many requests it leaves unanswered.
    pub(super) fn cut(&self) -> usize {
        let mut desk = self.lock();
        let unanswered = desk.source.mux.unanswered();
        desk.source.cut = true;
        desk.source.cancel_all();
        drop(desk);
        self.tell();
        self.shutdown(Shutdown::Both);
        unanswered
    }
}

impl Source for State {
    fn seal(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        if self.broken || self.cut {
            return 0;
        }
        let sealed = seal_into(out, self.mux.seal_size(), |out| self.mux.seal(now, out));
        self.note_end(now);
        sealed
    }

    fn lifetime(&self) -> Duration {
        self.mux.machine().lifetime()
    }

    fn broken(&mut self, why: io::Result<ConnectionError>) {
        self.broken = true;
        self.trouble = Some(why);
        self.cancel_all();
    }

    fn blocked(&mut self, since: Instant, now: Instant) -> bool {
        self.mux.blocked(since);
        let late = self.ending.map(|ending| ending.step(now) == LastStep::Close);
        late.unwrap_or_else(|| self.mux.is_stalled(now))
    }

    fn wrote(&mut self) {
        self.mux.wrote();
    }

    fn rested(&mut self, now: Instant) -> Option<Shutdown> {
        let ending = self.ending.as_mut().filter(|_| !self.cut)?;
        ending.written();
        match ending.step(now) {
            LastStep::ShutDown => {
                ending.shut(now);
                // The thread that reads may wait for the client, and knows nothing of this.
                if let Some(((reaper, own), until)) = self.reaper.take().zip(ending.poll_timeout()) {
                    reaper.push(own, until.since(now));
                }
                Some(Shutdown::Write)
            }
            LastStep::Close => Some(Shutdown::Both),
            LastStep::Write | LastStep::DropInput => None,
        }
    }

    fn ending(&mut self) -> &mut Option<Ending> {
        &mut self.ending
    }
}
