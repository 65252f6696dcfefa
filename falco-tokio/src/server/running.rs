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

/// Calls a handler and, if `poll` says so, polls it once. A panic, wherever it happens, fails this
/// request only.
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

/// Polls a handler. One that is ready is dropped before its outcome is returned.
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
        // It is not polled again. Its drop may panic as well.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(handler.take())));
        Poll::Ready(Outcome::Panicked)
    })
}

/// A handler on a task of its own. However it ends, the connection receives an outcome.
struct Task<F> {
    handler: Option<F>,
    id: RequestId,
    control: Arc<Control>,
    span: Span,
    finished: bool,
}

impl<F: Future<Output = Result<Bytes, HandlerError>> + Unpin> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let _entered = this.span.enter();
        let outcome = ready!(poll_handler(&mut this.handler, cx));
        this.finished = true;
        this.control.finish(this.id, outcome);
        Poll::Ready(())
    }
}

impl<F> Drop for Task<F> {
    fn drop(&mut self) {
        // First, so that the handler has stopped when the connection receives the outcome.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(self.handler.take())));
        if !self.finished {
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
            finished: false,
        };
        self.0.insert(id, tokio::spawn(task).abort_handle());
    }

    /// A handler has ended. Returns whether it was one of these.
    pub(crate) fn remove(&mut self, id: RequestId) -> bool {
        self.0.remove(&id).is_some()
    }

    /// Drops the handler of a request.
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

    /// Releases memory that is not needed while no handler runs. Returns whether there was any.
    pub(crate) fn shrink(&mut self) -> bool {
        let idle = self.0.is_empty() && self.0.capacity() > 0;
        if idle {
            self.0 = HashMap::new();
        }
        idle
    }
}
