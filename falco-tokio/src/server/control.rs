//! How handlers and the server signal a connection's task, and what requests may ask about their
//! connection.

use core::net::SocketAddr;
use core::task::{Context, Waker};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use falco_core::mux::{Halves, HeldBytes, SharedBudget};
use falco_core::{CloseReason, KeyId, RequestId};
use tokio::sync::Notify;

use crate::error::HandlerError;
use crate::stream::Pipe;

/// How a handler ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answer(Bytes),
    Failed(HandlerError),
    Panicked,
    /// The handler was dropped before it returned.
    Dropped,
    /// The handler returned an answer that has no room.
    NoRoom,
}

/// A handler that has ended, and what counts of its request and its answer until the connection
/// takes the outcome.
pub(crate) type Finished = (RequestId, Outcome, Option<HeldBytes<SharedBudget>>);

/// Why a connection ends at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The connection is half-open and has no unread bytes, and another one needs its place.
    ForAnother,
    /// The key of the connection was revoked.
    Revoked,
    /// The server ends.
    Shutdown,
}

/// Small, because each idle connection has one.
#[derive(Debug, Default)]
struct State {
    waker: Option<Waker>,
    /// `None` while no request is in flight.
    busy: Option<Box<Busy>>,
    close: Option<CloseReason>,
    cut: Option<Cut>,
    /// The connection was selected to be dropped, because another one needs its place.
    make_room: bool,
    /// The connection drains.
    closing: bool,
    /// The connection has ended.
    ended: bool,
}

/// Signals about requests in flight.
#[derive(Debug, Default)]
struct Busy {
    finished: Vec<Finished>,
    /// Bytes of their answers.
    answers: usize,
    /// Open requests whose halves have work for the connection.
    streams: Vec<RequestId>,
    /// Requests that were cancelled and whose handlers still run.
    cancelled: HashSet<RequestId>,
    /// Notified when a request is cancelled or the connection ends: one entry for each request
    /// whose handler waits for that, so that cancelling a request wakes no other handler.
    waiting: HashMap<RequestId, Arc<Notify>>,
    /// Notified when the connection drains or ends. Created when the first handler waits for that.
    closing: Option<Arc<Notify>>,
}

/// What was signalled since the task last took it.
#[derive(Debug)]
pub(crate) struct Signals {
    pub(crate) finished: Vec<Finished>,
    pub(crate) streams: Vec<RequestId>,
    pub(crate) close: Option<CloseReason>,
    pub(crate) cut: Option<Cut>,
    pub(crate) make_room: bool,
}

#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) key: OnceLock<KeyId>,
    state: Mutex<State>,
}

impl Control {
    pub(crate) fn new(peer: Option<SocketAddr>) -> Self {
        Self {
            peer,
            key: OnceLock::new(),
            state: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while the lock is held, so the state is consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the connection's task.
    fn signal(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the signals. The task of `cx` is woken when there are more. If `defer` is set and a
    /// stream has a signal, returns `None`. The caller then has to take all signals later.
    pub(crate) fn take(&self, cx: &Context<'_>, defer: bool) -> Option<Signals> {
        let mut state = self.lock();
        if defer && state.busy.as_ref().is_some_and(|busy| !busy.streams.is_empty()) {
            return None;
        }
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        let (finished, streams) = state.busy.as_mut().map_or_else(Default::default, |busy| {
            busy.answers = 0;
            (core::mem::take(&mut busy.finished), core::mem::take(&mut busy.streams))
        });
        Some(Signals {
            finished,
            streams,
            close: state.close.take(),
            cut: state.cut,
            make_room: core::mem::take(&mut state.make_room),
        })
    }

    /// A handler has ended. Its answer counts from this call on, because many handlers may end
    /// before the connection takes their answers. The answer includes the unsent bytes in the pipe
    /// of an open request. It is dropped if there is no room for it.
    pub(crate) fn finish(
        &self,
        id: RequestId,
        outcome: Outcome,
        pipe: Option<&Pipe>,
        mut held: Option<HeldBytes<SharedBudget>>,
    ) {
        let unsent = pipe.map_or(0, Pipe::handler_ended);
        // What is dropped runs code of the user's, so it is dropped after the lock is released:
        // an answer without room, and after the end, when no task takes it, the outcome.
        let (mut outcome, mut no_room) = (Some(outcome), None);
        self.signal(|state| {
            if state.ended {
                return;
            }
            let busy = state.busy();
            let returned = match &outcome {
                Some(Outcome::Answer(body)) => body.len(),
                _ => 0,
            };
            let length = unsent.saturating_add(returned);
            if let (1.., Some(held)) = (length, &mut held) {
                if held.hold_answer(length, busy.answers) {
                    busy.answers = busy.answers.saturating_add(length);
                } else {
                    no_room = outcome.replace(Outcome::NoRoom);
                    if let Some(pipe) = pipe {
                        pipe.update(Halves::drop_unsent);
                    }
                }
            }
            busy.finished
                .extend(outcome.take().map(|outcome| (id, outcome, held.take())));
        });
        drop(no_room);
    }

    /// A half of an open request has work for the connection.
    pub(crate) fn stream(&self, id: RequestId) {
        self.signal(|state| {
            if !state.ended {
                state.busy().streams.push(id);
            }
        });
    }

    /// Drains the connection.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.signal(|state| state.close = Some(reason));
    }

    /// Ends the connection at once.
    pub(crate) fn cut(&self) {
        self.signal(|state| state.cut = Some(Cut::Shutdown));
    }

    /// Ends the connection at once because its key was revoked.
    pub(crate) fn revoke(&self) {
        self.signal(|state| {
            state.cut.get_or_insert(Cut::Revoked);
        });
    }

    /// Ends the connection, which is half-open, unless it has bytes to read.
    pub(crate) fn make_room(&self) {
        self.signal(|state| state.make_room = true);
    }

    #[cfg(test)]
    pub(crate) fn asked_for_room(&self) -> bool {
        core::mem::take(&mut self.lock().make_room)
    }

    /// The client has cancelled a request.
    pub(crate) fn cancel(&self, id: RequestId) {
        let mut state = self.lock();
        let busy = state.busy();
        busy.cancelled.insert(id);
        // Under the lock, so that a task which has checked before is notified.
        if let Some(waiting) = busy.waiting.get(&id) {
            waiting.notify_waiters();
        }
    }

    /// The handler of a request has ended. Returns whether the request was cancelled.
    pub(crate) fn take_cancelled(&self, id: RequestId) -> bool {
        let mut state = self.lock();
        let cancelled = state.busy.as_mut().is_some_and(|busy| busy.cancelled.remove(&id));
        cancelled || state.ended
    }

    /// The connection has ended: all its requests are cancelled.
    pub(crate) fn cancel_all(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.notify_closing();
        for waiting in state.busy.iter().flat_map(|busy| busy.waiting.values()) {
            waiting.notify_waiters();
        }
    }

    pub(crate) fn is_cancelled(&self, id: RequestId) -> bool {
        self.lock().is_cancelled(id)
    }

    pub(crate) async fn cancelled(&self, id: RequestId) {
        let waiting = {
            let mut state = self.lock();
            if state.is_cancelled(id) {
                return;
            }
            Waiting {
                control: self,
                id,
                notify: Arc::clone(state.busy().waiting.entry(id).or_default()),
            }
        };
        loop {
            let notified = waiting.notify.notified();
            if self.is_cancelled(id) {
                return;
            }
            notified.await;
        }
    }

    /// The connection drains.
    pub(crate) fn set_closing(&self) {
        let mut state = self.lock();
        state.closing = true;
        state.notify_closing();
    }

    /// Whether the connection drains or has ended.
    pub(crate) fn is_closing(&self) -> bool {
        self.lock().is_closing()
    }

    pub(crate) async fn closing(&self) {
        loop {
            let changed = {
                let mut state = self.lock();
                if state.is_closing() {
                    return;
                }
                Arc::clone(state.busy().closing.get_or_insert_default())
            };
            let notified = changed.notified();
            if self.is_closing() {
                return;
            }
            notified.await;
        }
    }

    /// Releases memory that is not needed while the connection is idle.
    pub(crate) fn shrink(&self) {
        let mut state = self.lock();
        let is_idle = |busy: &Busy| {
            let closing = busy.closing.as_ref();
            let waited_for = closing.is_some_and(|closing| Arc::strong_count(closing) > 1) || !busy.waiting.is_empty();
            busy.finished.is_empty() && busy.streams.is_empty() && busy.cancelled.is_empty() && !waited_for
        };
        if state.busy.as_deref().is_some_and(is_idle) {
            state.busy = None;
        }
    }
}

impl State {
    fn busy(&mut self) -> &mut Busy {
        self.busy.get_or_insert_default()
    }

    const fn is_closing(&self) -> bool {
        self.closing || self.ended
    }

    fn is_cancelled(&self, id: RequestId) -> bool {
        self.ended || self.busy.as_ref().is_some_and(|busy| busy.cancelled.contains(&id))
    }

    /// Call it under the lock, so that a task which has checked before is notified.
    fn notify_closing(&self) {
        if let Some(closing) = self.busy.as_ref().and_then(|busy| busy.closing.as_ref()) {
            closing.notify_waiters();
        }
    }
}

/// Something that waits until a request is cancelled.
struct Waiting<'c> {
    control: &'c Control,
    id: RequestId,
    notify: Arc<Notify>,
}

impl Drop for Waiting<'_> {
    /// The last one takes the request out.
    fn drop(&mut self) {
        let mut state = self.control.lock();
        if let Some(busy) = &mut state.busy
            && Arc::strong_count(&self.notify) == 2
        {
            busy.waiting.remove(&self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_has_a_small_one() {
        // With the two counts of an `Arc`, this fits in the space that the allocations of a
        // connection leave, which are aligned to 128 bytes.
        assert!(
            size_of::<Control>() + 2 * size_of::<usize>() <= 104,
            "{}",
            size_of::<Control>()
        );
    }
}
