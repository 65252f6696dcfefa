//! Handlers that were not ready at once, each on a task of its own.

use core::future::Future;
use core::panic::AssertUnwindSafe;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::collections::HashMap;
use std::panic::catch_unwind;
use std::sync::Arc;

use bytes::Bytes;
use falco_core::RequestId;
use tokio::task::AbortHandle;
use tracing::Span;

use super::control::{Control, Outcome};
use crate::error::HandlerError;

/// Begins a handler and, if `poll` says so, polls it once. What it panics with, wherever, costs its
/// own request and nothing else.
pub(crate) fn begin<F>(begin: impl FnOnce() -> F, poll: bool, cx: &mut Context<'_>) -> (Option<F>, Poll<Outcome>)
where
    F: Future<Output = Result<Bytes, HandlerError>> + Unpin,
{
    match catch_unwind(AssertUnwindSafe(begin)) {
        Ok(handler) => {
            let mut handler = Some(handler);
            let polled = if poll {
                poll_handler(&mut handler, cx)
            } else {
                Poll::Pending
            };
            (handler, polled)
        }
        Err(_) => (None, Poll::Ready(Outcome::Panicked)),
    }
}

/// Polls a handler; one that is done is dropped before anybody hears of it.
fn poll_handler<F>(handler: &mut Option<F>, cx: &mut Context<'_>) -> Poll<Outcome>
where
    F: Future<Output = Result<Bytes, HandlerError>> + Unpin,
{
    let polled = catch_unwind(AssertUnwindSafe(|| {
        let Some(running) = handler.as_mut() else {
            return Poll::Ready(Outcome::Dropped);
        };
        let outcome = match ready!(Pin::new(running).poll(cx)) {
            Ok(body) => Outcome::Answer(body),
            Err(error) => Outcome::Failed(error),
        };
        drop(handler.take());
        Poll::Ready(outcome)
    }));
    polled.unwrap_or_else(|_| {
        // Polled no more; a second panic is not waited for.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(handler.take())));
        Poll::Ready(Outcome::Panicked)
    })
}

/// A handler on a task of its own. However it ends, the connection is told.
struct Task<F> {
    handler: Option<F>,
    id: RequestId,
    control: Arc<Control>,
    span: Span,
    told: bool,
}

impl<F: Future<Output = Result<Bytes, HandlerError>> + Unpin> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let _entered = this.span.enter();
        let outcome = ready!(poll_handler(&mut this.handler, cx));
        this.told = true;
        this.control.finish(this.id, outcome);
        Poll::Ready(())
    }
}

impl<F> Drop for Task<F> {
    fn drop(&mut self) {
        // In this order: the handler has stopped when the connection hears of it.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(self.handler.take())));
        if !self.told {
            self.control.finish(self.id, Outcome::Dropped);
        }
    }
}

/// The handlers of one connection that are on tasks of their own.
#[derive(Debug, Default)]
pub(crate) struct Running(HashMap<RequestId, AbortHandle>);

impl Running {
    pub(crate) fn spawn<F>(&mut self, handler: Option<F>, id: RequestId, control: &Arc<Control>, span: &Span)
    where
        F: Future<Output = Result<Bytes, HandlerError>> + Send + Unpin + 'static,
    {
        let task = Task {
            handler,
            id,
            control: Arc::clone(control),
            span: span.clone(),
            told: false,
        };
        self.0.insert(id, tokio::spawn(task).abort_handle());
    }

    /// A handler has finished; says whether it was one of these.
    pub(crate) fn remove(&mut self, id: RequestId) -> bool {
        self.0.remove(&id).is_some()
    }

    /// Has the handler of a request dropped.
    pub(crate) fn abort(&self, id: RequestId) {
        if let Some(handle) = self.0.get(&id) {
            handle.abort();
        }
    }

    pub(crate) fn abort_all(&self) {
        self.0.values().for_each(AbortHandle::abort);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn contains(&self, id: RequestId) -> bool {
        self.0.contains_key(&id)
    }

    /// Gives back memory that a busy time has left; says whether there was any.
    pub(crate) fn shrink(&mut self) -> bool {
        let idle = self.0.is_empty() && self.0.capacity() > 0;
        if idle {
            self.0 = HashMap::new();
        }
        idle
    }
}
