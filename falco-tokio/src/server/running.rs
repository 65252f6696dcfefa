//! Handlers that were not ready at once, each on a task of its own.

use core::future::Future;
use core::panic::AssertUnwindSafe;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::panic::catch_unwind;
use std::sync::Arc;

use bytes::Bytes;
use falco_core::RequestId;
use tokio::task::AbortHandle;
use tracing::Span;

use super::control::{Control, Outcome};
use super::handler::HandlerError;

/// The outcome of polling a handler; one that panics has failed.
pub(crate) fn poll_handler<F>(handler: &mut F, cx: &mut Context<'_>) -> Poll<Outcome>
where
    F: Future<Output = Result<Bytes, HandlerError>> + Unpin,
{
    match catch_unwind(AssertUnwindSafe(|| Pin::new(handler).poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(Ok(body))) => Poll::Ready(Outcome::Answer(body)),
        Ok(Poll::Ready(Err(error))) => Poll::Ready(Outcome::Failed(error)),
        Err(_) => Poll::Ready(Outcome::Panicked),
    }
}

/// A handler on a task of its own. However it ends, the connection is told.
struct Task<F> {
    handler: Option<F>,
    id: RequestId,
    control: Arc<Control>,
    span: Span,
}

impl<F: Future<Output = Result<Bytes, HandlerError>> + Unpin> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(handler) = &mut this.handler else {
            return Poll::Ready(());
        };
        let outcome = {
            let _entered = this.span.enter();
            ready!(poll_handler(handler, cx))
        };
        // What it holds is gone before anybody hears that it is done.
        this.handler = None;
        this.control.finish(this.id, outcome);
        Poll::Ready(())
    }
}

impl<F> Drop for Task<F> {
    fn drop(&mut self) {
        if self.handler.take().is_some() {
            self.control.finish(self.id, Outcome::Dropped);
        }
    }
}

/// The handlers of one connection that are on tasks of their own.
#[derive(Debug, Default)]
pub(crate) struct Running(Vec<(RequestId, AbortHandle)>);

impl Running {
    pub(crate) fn spawn<F>(&mut self, handler: F, id: RequestId, control: &Arc<Control>, span: &Span)
    where
        F: Future<Output = Result<Bytes, HandlerError>> + Send + Unpin + 'static,
    {
        let task = Task {
            handler: Some(handler),
            id,
            control: Arc::clone(control),
            span: span.clone(),
        };
        self.0.push((id, tokio::spawn(task).abort_handle()));
    }

    /// A handler has finished; says whether it was one of these.
    pub(crate) fn remove(&mut self, id: RequestId) -> bool {
        let at = self.0.iter().position(|(other, _)| *other == id);
        at.map(|at| self.0.swap_remove(at)).is_some()
    }

    /// Has the handler of a request dropped.
    pub(crate) fn abort(&self, id: RequestId) {
        if let Some((_, handle)) = self.0.iter().find(|(other, _)| *other == id) {
            handle.abort();
        }
    }

    pub(crate) fn abort_all(&self) {
        self.0.iter().for_each(|(_, handle)| handle.abort());
    }

    pub(crate) const fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn contains(&self, id: RequestId) -> bool {
        self.0.iter().any(|(other, _)| *other == id)
    }

    /// Gives back memory that a busy time has left.
    pub(crate) fn shrink(&mut self) {
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
    }
}
