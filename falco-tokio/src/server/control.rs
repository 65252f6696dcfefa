//! What others may say to a connection's task: handlers that have finished, a server that stops.
//! And what its requests may ask it.

use core::net::SocketAddr;
use core::task::{Context, Waker};
use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use falco_core::{CloseReason, KeyId, RequestId};
use tokio::sync::Notify;

use crate::error::HandlerError;

/// What came of a handler.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answer(Bytes),
    Failed(HandlerError),
    Panicked,
    /// It was dropped before it was done.
    Dropped,
}

/// Kept small: an idle connection has one.
#[derive(Debug, Default)]
struct State {
    waker: Option<Waker>,
    /// None while nothing is under way.
    busy: Option<Box<Busy>>,
    close: Option<CloseReason>,
    cut: bool,
    /// It is late in its handshake, and others wait for its place.
    make_room: bool,
    /// There is nobody to answer any more.
    over: bool,
}

/// What there is to say of requests that are under way.
#[derive(Debug, Default)]
struct Busy {
    finished: Vec<(RequestId, Outcome)>,
    /// Requests whose clients no longer want the answer, as long as their handlers run.
    cancelled: HashSet<RequestId>,
    /// Told whenever a request is cancelled or all are; there once somebody waits for that.
    cancelling: Option<Arc<Notify>>,
}

/// What has been said since it was last asked.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) finished: Vec<(RequestId, Outcome)>,
    pub(crate) close: Option<CloseReason>,
    pub(crate) cut: bool,
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
        // The state is whole between any two of its steps, none of which can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes the connection's task.
    fn tell(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.lock();
        change(&mut state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// What has been said; from now on the task of `cx` is woken when more is.
    pub(crate) fn news(&self, cx: &Context<'_>) -> News {
        let mut state = self.lock();
        match &mut state.waker {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        News {
            finished: state
                .busy
                .as_mut()
                .map_or_else(Vec::new, |busy| core::mem::take(&mut busy.finished)),
            close: state.close.take(),
            cut: state.cut,
            make_room: core::mem::take(&mut state.make_room),
        }
    }

    /// A handler has finished.
    pub(crate) fn finish(&self, id: RequestId, outcome: Outcome) {
        self.tell(|state| state.busy().finished.push((id, outcome)));
    }

    /// The connection is to end in good order.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.tell(|state| state.close = Some(reason));
    }

    /// The connection is to end at once.
    pub(crate) fn cut(&self) {
        self.tell(|state| state.cut = true);
    }

    /// The connection is late in its handshake, and is to end unless it has something to say.
    pub(crate) fn make_room(&self) {
        self.tell(|state| state.make_room = true);
    }

    #[cfg(test)]
    pub(crate) fn asked_for_room(&self) -> bool {
        core::mem::take(&mut self.lock().make_room)
    }

    /// A request is no longer wanted.
    pub(crate) fn cancel(&self, id: RequestId) {
        let mut state = self.lock();
        state.busy().cancelled.insert(id);
        state.tell_cancelled();
    }

    /// The handler of a request is done.
    pub(crate) fn forget(&self, id: RequestId) {
        if let Some(busy) = &mut self.lock().busy {
            busy.cancelled.remove(&id);
        }
    }

    /// There is nobody to answer any more.
    pub(crate) fn cancel_all(&self) {
        let mut state = self.lock();
        state.over = true;
        state.tell_cancelled();
    }

    pub(crate) fn is_cancelled(&self, id: RequestId) -> bool {
        self.lock().is_cancelled(id)
    }

    pub(crate) async fn cancelled(&self, id: RequestId) {
        loop {
            let cancelling = {
                let mut state = self.lock();
                if state.is_cancelled(id) {
                    return;
                }
                Arc::clone(state.busy().cancelling.get_or_insert_default())
            };
            let notified = cancelling.notified();
            if self.is_cancelled(id) {
                return;
            }
            notified.await;
        }
    }

    /// Gives back memory that a busy time has left.
    pub(crate) fn shrink(&self) {
        let mut state = self.lock();
        let is_idle = |busy: &Busy| {
            let waited_for = busy
                .cancelling
                .as_ref()
                .is_some_and(|cancelling| Arc::strong_count(cancelling) > 1);
            busy.finished.is_empty() && busy.cancelled.is_empty() && !waited_for
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

    fn is_cancelled(&self, id: RequestId) -> bool {
        self.over || self.busy.as_ref().is_some_and(|busy| busy.cancelled.contains(&id))
    }

    /// Under the lock, so that whoever has looked before is told.
    fn tell_cancelled(&self) {
        if let Some(cancelling) = self.busy.as_ref().and_then(|busy| busy.cancelling.as_ref()) {
            cancelling.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_has_a_small_one() {
        // With the two counts of an `Arc`: what fits between the pieces that the runtime takes for
        // a connection, which are aligned to 128 bytes.
        assert!(
            size_of::<Control>() + 2 * size_of::<usize>() <= 104,
            "{}",
            size_of::<Control>()
        );
    }
}
