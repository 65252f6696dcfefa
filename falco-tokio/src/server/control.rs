//! What others may say to a connection's task: handlers that have finished, a server that stops. And what its requests may ask it.

use core::net::SocketAddr;
use core::task::{Context, Waker};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bytes::Bytes;
use falco_core::{CloseReason, KeyId, RequestId};
use tokio::sync::Notify;

use super::handler::HandlerError;

/// What came of a handler.
#[derive(Debug)]
pub(crate) enum Outcome {
    Answer(Bytes),
    Failed(HandlerError),
    Panicked,
    /// It was dropped before it was done.
    Dropped,
}

#[derive(Debug, Default)]
struct State {
    waker: Option<Waker>,
    finished: Vec<(RequestId, Outcome)>,
    close: Option<CloseReason>,
    cut: bool,
    /// Requests whose clients no longer want the answer, as long as their handlers run.
    cancelled: Vec<RequestId>,
    /// There is nobody to answer any more.
    over: bool,
}

/// What has been said since it was last asked.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) finished: Vec<(RequestId, Outcome)>,
    pub(crate) close: Option<CloseReason>,
    pub(crate) cut: bool,
}

#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) key: OnceLock<KeyId>,
    state: Mutex<State>,
    /// Told whenever a request is cancelled or all are.
    cancelling: Notify,
}

impl Control {
    pub(crate) fn new(peer: Option<SocketAddr>) -> Self {
        Self {
            peer,
            key: OnceLock::new(),
            state: Mutex::default(),
            cancelling: Notify::new(),
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
            finished: core::mem::take(&mut state.finished),
            close: state.close.take(),
            cut: state.cut,
        }
    }

    /// A handler has finished.
    pub(crate) fn finish(&self, id: RequestId, outcome: Outcome) {
        self.tell(|state| state.finished.push((id, outcome)));
    }

    /// The connection is to end in good order.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.tell(|state| state.close = Some(reason));
    }

    /// The connection is to end at once.
    pub(crate) fn cut(&self) {
        self.tell(|state| state.cut = true);
    }

    /// A request is no longer wanted.
    pub(crate) fn cancel(&self, id: RequestId) {
        self.lock().cancelled.push(id);
        self.cancelling.notify_waiters();
    }

    /// The handler of a request is done.
    pub(crate) fn forget(&self, id: RequestId) {
        let mut state = self.lock();
        if !state.cancelled.is_empty() {
            state.cancelled.retain(|other| *other != id);
        }
    }

    /// There is nobody to answer any more.
    pub(crate) fn cancel_all(&self) {
        self.lock().over = true;
        self.cancelling.notify_waiters();
    }

    pub(crate) fn is_cancelled(&self, id: RequestId) -> bool {
        let state = self.lock();
        state.over || state.cancelled.contains(&id)
    }

    pub(crate) async fn cancelled(&self, id: RequestId) {
        loop {
            let notified = self.cancelling.notified();
            if self.is_cancelled(id) {
                return;
            }
            notified.await;
        }
    }
}
