//! The state that the threads of a server's connection share: the mux, and which requests wait for
//! a worker or have one. There is no I/O here.

mod output;
pub(super) mod streams;

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Weak};

use falco_core::keys::ServerKeys;
use falco_core::mux::{Halves, HeldBytes, ServerMux, ServerStep, SharedBudget};
use falco_core::{
    CloseReason, ConnectionError, Ending, Instant, KeyId, LostRequest, NoAnswer, RequestError, RequestId,
    ServerConnection, Settings, Status, Unread,
};

use self::streams::{OpenPlace, OpenPlaces, Opens};
use super::linger::LingerTimer;
use super::queue::{Position, Queue};
use crate::error::{Error, copy};
use crate::open::{HalfError, Pipe};
use crate::shared::Shared;

pub(super) type Conn = Shared<State>;

pub(super) type Mux = ServerMux<Arc<ServerKeys>, Vec<u8>, SharedBudget>;

/// What a handler is called with.
pub(super) enum Work {
    /// The body of a request.
    Whole(Vec<u8>),
    /// What the halves of an open request share with the connection, and the place of its handler.
    Open(Arc<Pipe>, OpenPlace),
}

/// A complete request, or an open one, that has no result from a handler yet.
struct Pending {
    /// The work, its bytes and the position in the queue, until a worker takes the request.
    queued: Option<(Work, HeldBytes<SharedBudget>, Position)>,
    cancelled: Arc<AtomicBool>,
}

/// A request that a worker has taken, or the thread of the connection.
pub(super) struct Job {
    pub(super) id: RequestId,
    pub(super) key: (Option<KeyId>, Option<Arc<str>>),
    pub(super) work: Work,
    pub(super) cancelled: Arc<AtomicBool>,
    /// Kept until the handler has returned, even if the connection ends before.
    pub(super) held: HeldBytes<SharedBudget>,
}

#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub(super) struct State {
    pub(super) mux: Mux,
    pending: HashMap<RequestId, Pending>,
    /// Open requests. The answers of some are still sent, although their handlers have returned.
    pub(super) opens: Opens,
    /// Answers of handlers that had not returned when the connection ended.
    pub(super) answered: u64,
    /// The requests in `pending` that no worker has taken.
    queue: Queue<RequestId>,
    /// A request that waits longer than this for a worker is refused as busy.
    queue_timeout: Duration,
    /// For the handlers of open requests, if the connection takes any.
    open_places: Option<OpenPlaces>,
    /// Requests that were sent as a whole have handlers as open ones do.
    pub(super) all_stream: bool,
    /// Workers take no request, because too many answers were queued.
    held_up: bool,
    /// When workers could last take requests again. The time before that does not count as waiting
    /// for a worker.
    resumed: Instant,
    /// Adds the connection to the pool's queue, if it is being served.
    submit: Option<Arc<dyn Fn() + Send + Sync>>,
    /// `submit` is to be called.
    submit_due: bool,
    /// How many workers have taken a request and not finished.
    running: usize,
    /// The label of the client's key.
    pub(super) label: Option<Arc<str>>,
    /// The connection was ended at once: nothing is written any more.
    pub(super) cut: bool,
    /// The key of the connection was revoked: nothing more is read, and no handler starts.
    pub(super) revoked: bool,
    /// The timer that ends the stream if the client does not.
    linger: Option<Arc<LingerTimer<Self>>>,
    /// The connection that has this state.
    own: Weak<Conn>,
    /// What ended the connection, for the thread that reads, if another thread has noticed it.
    pub(super) end: Option<io::Result<ConnectionError>>,
    write_failed: bool,
    ending: Option<Ending>,
}

impl State {
    pub(super) fn new(
        machine: ServerConnection<Arc<ServerKeys>>,
        budget: SharedBudget,
        settings: &Settings,
        (queue_timeout, open_places): (Duration, Option<OpenPlaces>),
    ) -> Self {
        let mux = ServerMux::new(machine, budget, settings);
        Self {
            mux: if open_places.is_some() { mux.with_streams() } else { mux },
            open_places,
            pending: HashMap::new(),
            opens: Opens::default(),
            answered: 0,
            queue: Queue::new(),
            queue_timeout,
            all_stream: false,
            held_up: false,
            resumed: Instant::ZERO,
            submit: None,
            submit_due: false,
            running: 0,
            label: None,
            cut: false,
            revoked: false,
            linger: None,
            own: Weak::new(),
            end: None,
            write_failed: false,
            ending: None,
        }
    }

    pub(super) fn set_linger_timer(&mut self, timer: Arc<LingerTimer<Self>>, own: Weak<Conn>) {
        self.linger = Some(timer);
        self.own = own;
    }

    /// Sets how to add the connection to the pool's queue from a thread that writes.
    pub(super) fn set_submit(&mut self, submit: Arc<dyn Fn() + Send + Sync>) {
        self.submit = Some(submit);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.cut || self.revoked || self.write_failed || self.mux.status() == Status::Ended
    }

    /// Whether it drains or has ended.
    pub(super) fn is_closing(&self) -> bool {
        self.has_ended() || self.mux.is_closing()
    }

    /// The thread that reads ends the connection: the time for the end of its stream starts now.
    /// A client that is not authenticated gets no time.
    pub(super) fn end_stream(&mut self, now: Instant) {
        self.note_end(now);
        if !self.mux.is_established() {
            let ending = self.mux.ending(ConnectionError::Closed, now);
            self.ending.get_or_insert(ending);
        }
    }

    /// If the connection has ended, the time for the end of its stream starts now.
    pub(super) fn note_end(&mut self, now: Instant) {
        if let (None, Some(end)) = (self.ending, self.mux.connection().end()) {
            self.ending = Some(self.mux.ending(end, now));
        }
    }

    /// Adds a complete request to the queue. Returns whether the connection is to be submitted to
    /// the pool.
    #[must_use]
    pub(super) fn push(&mut self, now: Instant, id: RequestId, body: Vec<u8>) -> bool {
        if self.all_stream {
            return self.push_whole(now, id, &body);
        }
        self.push_work(now, id, Work::Whole(body))
    }

    fn push_work(&mut self, now: Instant, id: RequestId, work: Work) -> bool {
        let (position, schedule) = self.queue.push(id, now);
        let pending = Pending {
            queued: Some((work, self.mux.take_held(id), position)),
            cancelled: Arc::default(),
        };
        self.pending.insert(id, pending);
        schedule
    }

    /// Whether no other request is waiting or has a handler, and one may have a handler now.
    pub(super) fn is_free(&self) -> bool {
        self.pending.is_empty() && !self.all_stream && self.mux.may_handle()
    }

    /// Takes a complete request that does not wait in the queue, for the thread of the connection.
    pub(super) fn begin(&mut self, id: RequestId, body: Vec<u8>) -> Job {
        let cancelled = Arc::<AtomicBool>::default();
        let pending = Pending {
            queued: None,
            cancelled: Arc::clone(&cancelled),
        };
        self.pending.insert(id, pending);
        let held = self.mux.take_held(id);
        self.job(id, Work::Whole(body), cancelled, held)
    }

    /// Adds a request that was begun and has no handler to the queue, as [`push`](Self::push) does,
    /// unless the connection has ended.
    #[must_use]
    pub(super) fn put_back(&mut self, now: Instant, job: Job) -> bool {
        let Some(pending) = self.pending.get_mut(&job.id) else {
            return false;
        };
        let (position, schedule) = self.queue.push(job.id, now);
        pending.queued = Some((job.work, job.held, position));
        schedule
    }

    fn job(&self, id: RequestId, work: Work, cancelled: Arc<AtomicBool>, held: HeldBytes<SharedBudget>) -> Job {
        Job {
            id,
            key: (self.mux.connection().key_id(), self.label.clone()),
            work,
            cancelled,
            held,
        }
    }

    /// The client has cancelled a request. If no worker has taken it, none will.
    pub(super) fn cancel(&mut self, id: RequestId) {
        if let Some(pending) = self.pending.get(&id) {
            pending.cancelled.store(true, Ordering::Release);
        }
        if let Some(pipe) = self.opens.pipe(id) {
            pipe.update(Halves::cancel);
        }
        let Some(pending) = self.pending.get(&id) else { return };
        if let Some((_, _, position)) = pending.queued {
            self.queue.remove(position);
            let dropped = NoAnswer::Dropped;
            let _ = if self.opens.pipe(id).is_some() {
                self.end_open(id, Err(dropped))
            } else {
                self.answer(id, Err(dropped))
            };
        }
    }

    /// No answer can be sent any more: sets the flag of each request, and empties the queue.
    pub(super) fn cancel_all(&mut self) {
        for (_, pending) in self.pending.drain() {
            pending.cancelled.store(true, Ordering::Release);
        }
        self.queue.clear();
        self.fail_opens(&Ok(ConnectionError::Closed));
        self.mux.finish();
        // The thread that serves the connection has the handler as well, so this does not drop it.
        self.submit = None;
    }

    /// The connection has ended: the halves of its open requests fail.
    pub(super) fn fail_opens(&mut self, end: &io::Result<ConnectionError>) {
        self.answered += self.opens.fail_all(&HalfError(match end {
            Ok(end) => Error::lost(LostRequest::after(*end)),
            Err(source) => Error::io("reading or writing a stream", copy(source), LostRequest::DROPPED.fate),
        }));
    }

    /// Forgets a request that has a result.
    pub(super) fn forget(&mut self, id: RequestId) {
        self.pending.remove(&id);
    }

    /// Refuses the requests that have waited too long for a worker. Returns how many.
    pub(super) fn refuse_overdue(&mut self, now: Instant) -> u64 {
        let mut refused = 0;
        while self.overdue_at().is_some_and(|at| at <= now) {
            if let Some(id) = self.queue.pop_first() {
                self.pending.remove(&id);
                self.opens.remove(id);
                self.mux.refuse_unhandled(id);
                refused += self.mux.take_busy();
            }
        }
        refused
    }

    /// When the first request of the queue has waited too long for a worker.
    pub(super) fn overdue_at(&self) -> Option<Instant> {
        let since = self.queue.since().filter(|_| self.mux.may_handle())?;
        Some(since.max(self.resumed) + self.queue_timeout)
    }

    /// Handles the deadlines that have passed at `now`. Returns whether the connection stays open.
    /// If it does not, `end` has the reason.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> bool {
        let end = self.mux.handle_timeout(now).err();
        if let Some(end) = end {
            self.end.get_or_insert(Ok(end));
        }
        end.is_none()
    }

    /// The next deadline, as known at `now`.
    pub(super) fn poll_timeout(&self, now: Instant) -> Option<Instant> {
        // Requests that wait because the client does not read its answers may soon wait for a
        // worker.
        let held_up = !self.mux.may_handle() || self.mux.has_request();
        let overdue = self.overdue_at().or(held_up.then(|| now + self.queue_timeout));
        self.mux.poll_timeout().into_iter().chain(overdue).min()
    }

    /// The body of an open request is whole.
    pub(super) fn end_body(&self, id: RequestId) {
        if let Some(pipe) = self.opens.pipe(id) {
            pipe.update(Halves::end_input);
        }
    }

    /// The next request, for a worker, and whether there are more. `None` if all waiting requests
    /// were cancelled or refused, and while too many answers are queued.
    pub(super) fn pop(&mut self) -> (Option<Job>, bool) {
        if !self.mux.may_handle() {
            // Sealing adds the connection to the pool's queue again.
            self.held_up = true;
            self.queue.unschedule();
            return (None, false);
        }
        let (first, more) = self.queue.pop();
        let job = first.and_then(|id| {
            let pending = self.pending.get_mut(&id)?;
            let (work, held, _) = pending.queued.take()?;
            let cancelled = Arc::clone(&pending.cancelled);
            Some(self.job(id, work, cancelled, held))
        });
        self.running += usize::from(job.is_some());
        (job, more)
    }

    /// After sealing: if requests may reach a handler again, workers take them.
    fn resume(&mut self, now: Instant) {
        while let Some((id, body)) = self.mux.next_request() {
            self.submit_due |= self.push(now, id, body);
        }
        // Only open requests are still deferred. `recv` returns them without further bytes.
        while self.mux.has_request() {
            match self.mux.recv(now, Unread::new(&mut [], &mut 0)) {
                Ok(ServerStep::Opened { id, body, .. }) => {
                    let body = body.into_vec();
                    self.submit_due |= self.push_open(now, id, &body);
                }
                Ok(ServerStep::Ended { id, .. }) => self.end_body(id),
                Ok(_) | Err(_) => break,
            }
        }
        if self.mux.may_handle() && core::mem::take(&mut self.held_up) {
            self.resumed = now;
            self.submit_due |= self.queue.reschedule();
        }
    }

    /// A worker has finished the request that it took.
    pub(super) const fn job_done(&mut self) {
        self.running -= 1;
    }

    /// Whether a request waits for a worker or has one.
    pub(super) fn is_busy(&self) -> bool {
        self.running > 0 || !self.queue.is_empty()
    }

    /// Takes the result of a handler. An error is only borrowed, because dropping it runs code of
    /// the user's, and the state is locked.
    pub(super) fn answer(
        &mut self,
        id: RequestId,
        result: Result<Vec<u8>, NoAnswer<'_>>,
    ) -> Result<bool, RequestError> {
        let Some(pending) = self.pending.remove(&id) else {
            return Ok(false);
        };
        self.mux.complete(id, result, pending.cancelled.load(Ordering::Acquire))
    }
}

impl Conn {
    /// Ends the connection gracefully, from any thread.
    pub(super) fn close(self: &Arc<Self>, reason: CloseReason) {
        let now = self.now();
        let mut locked = self.lock();
        locked.state.mux.close(now, reason);
        // If that has ended the connection, its stream ends after the last write.
        locked.state.note_end(now);
        drop(locked);
        // If the stream does not split, the thread that reads also writes, when it wakes next.
        if self.splits() {
            self.flush();
        }
        self.notify();
    }

    /// Ends the connection at once because its key was revoked. The thread that reads sends the
    /// reason, if the stream accepts it.
    pub(super) fn revoke(&self) {
        let mut locked = self.lock();
        locked.state.revoked = true;
        locked.state.cancel_all();
        let now = self.now();
        let ending = locked.state.mux.revoke(now);
        locked.state.ending = Some(ending);
        drop(locked);
        self.notify();
        self.shutdown(Shutdown::Read);
    }

    /// Ends the connection at once, from any thread. Returns how many requests were not answered.
    pub(super) fn cut(&self) -> usize {
        let mut locked = self.lock();
        let unanswered = locked.state.mux.unanswered();
        let ending = locked.state.mux.cut(self.now());
        locked.state.cut = true;
        locked.state.ending = Some(ending);
        locked.state.cancel_all();
        drop(locked);
        self.notify();
        self.shutdown(Shutdown::Both);
        unanswered
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing, reason = "a test may panic")]
mod tests;
