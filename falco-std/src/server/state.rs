//! What the threads that share a connection of a server share: the machine, the requests that are being received, waiting and running, and the ends that are on their way. No I/O.

use core::sync::atomic::{AtomicBool, Ordering};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Weak};

use falco_core::keys::ServerKeys;
use falco_core::{
    CloseReason, Error, Instant, Misuse, OutgoingAnswer, Partial, Reassembly, Refusal, RequestId, ServerConnection,
    Status,
};

use super::pool::{Budget, Held, Turns};
use super::reaper::Reaper;
use crate::line::{Line, Source};

/// A request that has come whole and has had no end.
struct Taken {
    /// There until the handler starts.
    body: Option<Vec<u8>>,
    cancelled: Arc<AtomicBool>,
    held: Held,
}

/// An answer of which not all has been sealed.
struct Ready {
    answer: OutgoingAnswer,
    body: Vec<u8>,
    _held: Held,
}

#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct State {
    pub(super) machine: ServerConnection<Arc<ServerKeys>>,
    budget: Arc<Budget>,
    parts: Reassembly<Vec<Partial<Vec<u8>>>>,
    receiving: HashMap<RequestId, Held>,
    taken: HashMap<RequestId, Taken>,
    /// Those of them whose handler has not started.
    turns: Turns<RequestId>,
    /// In the order in which they take their turns.
    answers: VecDeque<Ready>,
    /// Bytes in `answers` that have not been sealed.
    queued: usize,
    /// While more bytes than this wait to be sealed, nothing is read: room for one answer of any size.
    max_queued: usize,
    /// Ends that the machine has not taken yet.
    refusals: VecDeque<(RequestId, Refusal)>,
    pub(super) established: bool,
    /// It was cut off: nobody waits for anything.
    pub(super) cut: bool,
    /// The sending half has been shut down, or is about to be.
    pub(super) leaving: bool,
    /// What ends the stream when the client does not, and the connection to end.
    reaper: Option<(Arc<Reaper>, Weak<Line<Self>>)>,
    pub(super) trouble: Option<io::Error>,
    broken: bool,
}

impl State {
    pub(super) fn new(machine: ServerConnection<Arc<ServerKeys>>, budget: Arc<Budget>, max_queued: usize) -> Self {
        Self {
            machine,
            budget,
            parts: Reassembly::default(),
            receiving: HashMap::new(),
            taken: HashMap::new(),
            turns: Turns::new(),
            answers: VecDeque::new(),
            queued: 0,
            max_queued,
            refusals: VecDeque::new(),
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

    pub(super) fn close(&mut self, now: Instant, reason: CloseReason) {
        self.machine.close(now, reason);
    }

    /// Whether so much waits to be written that nothing more is read.
    pub(super) const fn is_full(&self) -> bool {
        self.queued > self.max_queued
    }

    pub(super) fn is_over(&self) -> bool {
        self.cut || self.broken || self.machine.status() == Status::Ended
    }

    /// A whole request; says whether it is to be handled.
    #[must_use]
    pub(super) fn request(&mut self, id: RequestId, body: &[u8]) -> bool {
        let mut held = Held::new(Arc::clone(&self.budget));
        if !held.add(body.len()) {
            self.refusals.push_back((id, Refusal::Busy));
            return false;
        }
        self.take(id, body.to_vec(), held);
        true
    }

    pub(super) fn begin(&mut self, id: RequestId, total: u32, first: &[u8]) {
        let mut held = Held::new(Arc::clone(&self.budget));
        if held.add(first.len()) && self.parts.begin(id, total, first).is_ok() {
            self.receiving.insert(id, held);
        } else {
            self.refusals.push_back((id, Refusal::Busy));
        }
    }

    /// The next part of a request; says whether it is whole now, and to be handled.
    #[must_use]
    pub(super) fn part(&mut self, id: RequestId, bytes: &[u8], last: bool) -> bool {
        // One that was refused for want of room is not being received.
        let Some(held) = self.receiving.get_mut(&id) else {
            return false;
        };
        if !held.add(bytes.len()) || self.parts.part(id, bytes).is_err() {
            self.abandon(id);
            self.refusals.push_back((id, Refusal::Busy));
            return false;
        }
        if !last {
            return false;
        }
        let (Some((body, _)), Some(held)) = (self.parts.take(id), self.receiving.remove(&id)) else {
            return false;
        };
        self.take(id, body, held);
        true
    }

    fn take(&mut self, id: RequestId, body: Vec<u8>, held: Held) {
        let taken = Taken {
            body: Some(body),
            cancelled: Arc::default(),
            held,
        };
        self.taken.insert(id, taken);
    }

    /// Nothing more comes of a request half received.
    pub(super) fn abandon(&mut self, id: RequestId) {
        self.parts.forget(id);
        self.receiving.remove(&id);
    }

    /// The client no longer wants the answer. A handler that has not started does not.
    pub(super) fn cancel(&mut self, id: RequestId) {
        let Some(taken) = self.taken.get(&id) else { return };
        taken.cancelled.store(true, Ordering::Release);
        if taken.body.is_some() {
            self.taken.remove(&id);
            self.turns.remove(&id);
            self.refusals.push_back((id, Refusal::Cancelled));
        }
    }

    /// Nobody is there any more to be answered: handlers are told, and those that have not started do not.
    pub(super) fn cancel_all(&mut self) {
        for taken in self.taken.values() {
            taken.cancelled.store(true, Ordering::Release);
        }
        self.taken.retain(|_, taken| taken.body.is_none());
        self.turns.clear();
    }

    /// A request is to be handled in its turn; says whether that takes another job.
    #[must_use]
    pub(super) fn wait_for_turn(&mut self, id: RequestId) -> bool {
        self.turns.add(id)
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
            self.refusals.push_back((id, refusal));
            return !cancelled;
        };
        match self.machine.answer(id, body.len()) {
            Ok(answer) => {
                self.queued += body.len();
                self.answers.push_back(Ready {
                    answer,
                    body,
                    _held: taken.held,
                });
                false
            }
            Err(Error::Request(_)) => {
                self.refusals.push_back((id, Refusal::AnswerTooLarge));
                true
            }
            // The connection has ended, or the request with it.
            Err(_) => false,
        }
    }

    /// Hands the machine the ends that it has room for.
    fn refuse(&mut self) {
        while let Some((id, refusal)) = self.refusals.front().copied() {
            if self.machine.refuse(id, refusal) == Err(Misuse::TransmitFirst.into()) {
                return;
            }
            // Taken; or the connection has ended, or the request has had another end.
            self.refusals.pop_front();
        }
    }

    /// After something was sealed: who has gone whole leaves the queue, and a large one goes to its end.
    fn settle(&mut self, before: &[usize]) {
        let progress = |(before, ready): (&usize, &Ready)| *before != ready.answer.sealed() && !ready.answer.is_done();
        let turned = before.iter().zip(&self.answers).position(progress);
        if let Some(ready) = turned.and_then(|at| self.answers.remove(at)) {
            self.answers.push_back(ready);
        }
        self.answers.retain(|ready| !ready.answer.is_done());
        self.count();
    }

    fn count(&mut self) {
        self.queued = self
            .answers
            .iter()
            .map(|ready| ready.body.len().saturating_sub(ready.answer.sealed()))
            .sum();
    }
}

impl Source for State {
    fn seal(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        if self.broken || self.cut {
            return 0;
        }
        self.refuse();
        let total: usize = self.answers.iter().map(|ready| ready.body.len() + 16).sum();
        let mut size = self.machine.seal_size(total);
        loop {
            let before: Vec<_> = self.answers.iter().map(|ready| ready.answer.sealed()).collect();
            if out.len() < size {
                out.resize(size, 0);
            }
            let answers = self.answers.iter_mut();
            let messages = answers.map(|ready| (&mut ready.answer, ready.body.as_slice()));
            match self.machine.seal(now, messages, out) {
                Ok(count) => {
                    self.settle(&before);
                    return count;
                }
                Err(Error::Misuse(Misuse::OutputTooSmall { needed, .. })) if needed > size => size = needed,
                // A request that has had another end.
                Err(Error::Misuse(Misuse::NotWaiting(id))) => {
                    self.answers.retain(|ready| ready.answer.id() != id);
                    self.count();
                }
                // Told again by the machine to the thread that reads.
                Err(_) => {
                    self.answers.clear();
                    self.queued = 0;
                    return 0;
                }
            }
        }
    }

    fn broken(&mut self, error: io::Error) {
        self.broken = true;
        self.trouble = Some(error);
        self.cancel_all();
    }

    fn rested(&mut self) -> bool {
        let last = self.machine.status() == Status::Ended && !core::mem::replace(&mut self.leaving, true);
        if last && let Some((reaper, own)) = self.reaper.take() {
            reaper.push(own);
        }
        last && !self.cut
    }
}
