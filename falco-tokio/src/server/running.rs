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
use falco_core::mux::{HeldBytes, SharedBudget};
use tokio::task::AbortHandle;
use tracing::Span;

use super::Service;
use super::control::{Control, Outcome};
use super::place::{Place, SharedPlace};
use crate::error::{Error, HandlerError};
use crate::metrics::Stopwatch;
use crate::stream::{HalfError, Pipe, without_unused};

/// Calls the handler of an open request, and returns its future. The error is that it panicked.
pub(crate) fn begin<F>(begin: impl FnOnce() -> F) -> Result<F, Outcome> {
    catch_unwind(AssertUnwindSafe(begin)).map_err(|_| Outcome::Panicked)
}

/// Memory for the future of a handler. When the handler has ended, the next one can use it.
pub(crate) struct Frame<F>(Pin<Box<Option<F>>>);

impl<F> Default for Frame<F> {
    fn default() -> Self {
        Self(Box::pin(None))
    }
}

impl<F, A> Frame<F>
where
    F: Future<Output = Result<A, HandlerError>>,
    A: Into<Bytes>,
{
    /// Calls a handler and, with `poll`, polls it once. If it is ready, it is dropped before this
    /// returns its outcome. A panic in the call, the poll or the drop fails only this request.
    pub(crate) fn begin(&mut self, begin: impl FnOnce() -> F, poll: bool, cx: &mut Context<'_>) -> Poll<Outcome> {
        let polled = catch_unwind(AssertUnwindSafe(|| {
            self.0.set(Some(begin()));
            if !poll {
                return Poll::Pending;
            }
            let outcome = outcome(ready!(Pin::new(&mut *self).poll(cx)));
            self.0.set(None);
            Poll::Ready(outcome)
        }));
        polled.unwrap_or_else(|_| {
            // The handler is not polled again. Dropping it may panic as well.
            let _ = catch_unwind(AssertUnwindSafe(|| self.0.set(None)));
            Poll::Ready(Outcome::Panicked)
        })
    }
}

impl<F, A> Future for Frame<F>
where
    F: Future<Output = Result<A, HandlerError>>,
    A: Into<Bytes>,
{
    type Output = Result<Bytes, HandlerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.0.as_mut().as_pin_mut() {
            Some(handler) => handler.poll(cx).map_ok(Into::into),
            // It has ended.
            None => Poll::Pending,
        }
    }
}

fn outcome(result: Result<Bytes, HandlerError>) -> Outcome {
    match result {
        Ok(body) => Outcome::Answer(without_unused(body)),
        Err(error) => Outcome::Failed(error),
    }
}

/// Polls a handler. If it is ready, it is dropped before this returns its outcome.
fn poll_handler<F>(handler: &mut Option<F>, cx: &mut Context<'_>) -> Poll<Outcome>
where
    F: Future<Output = Result<Bytes, HandlerError>> + Unpin,
{
    let polled = catch_unwind(AssertUnwindSafe(|| {
        let Some(running) = handler.as_mut() else {
            return Poll::Ready(Outcome::Dropped);
        };
        let outcome = outcome(ready!(Pin::new(running).poll(cx)));
        drop(handler.take());
        Poll::Ready(outcome)
    }));
    polled.unwrap_or_else(|_| {
        // The handler is not polled again. Dropping it may panic as well.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(handler.take())));
        Poll::Ready(Outcome::Panicked)
    })
}

/// What a handler that runs keeps until it has ended, even if its request or its connection ends
/// before: the bytes of the request and a place. The connection takes the bytes with the outcome.
pub(crate) struct Kept {
    pub(crate) held: Option<HeldBytes<SharedBudget>>,
    pub(crate) place: Arc<SharedPlace>,
    /// The pipe of an open request. `None` for other requests.
    pub(crate) pipe: Option<Arc<Pipe>>,
}

/// A handler on a task of its own. However it ends, the connection receives an outcome.
struct Task<F> {
    handler: Option<F>,
    id: RequestId,
    /// When the handler was called.
    since: Stopwatch,
    control: Arc<Control>,
    span: Span,
    finished: bool,
    /// Dropped after the handler.
    kept: Kept,
}

impl<F: Future<Output = Result<Bytes, HandlerError>> + Unpin> Future for Task<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let _entered = this.span.enter();
        let outcome = ready!(poll_handler(&mut this.handler, cx));
        this.finished = true;
        this.kept.place.metrics().handler_time.time(this.since);
        let pipe = this.kept.pipe.as_deref();
        this.control.finish(this.id, outcome, pipe, this.kept.held.take());
        Poll::Ready(())
    }
}

impl<F> Drop for Task<F> {
    fn drop(&mut self) {
        // First, so that the handler has stopped when the connection receives the outcome.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(self.handler.take())));
        if !self.finished {
            self.kept.place.metrics().handler_time.time(self.since);
            self.control.finish(self.id, Outcome::Dropped, None, None);
        }
    }
}

/// The handlers of one connection that are on tasks of their own, and its open requests. An idle
/// connection has none, and no memory for them.
#[derive(Default)]
pub(crate) struct Running(Option<Box<Tasks>>);

#[derive(Default)]
struct Tasks {
    handlers: HashMap<RequestId, AbortHandle>,
    /// The place that these handlers share with the connection.
    place: Option<Arc<SharedPlace>>,
    /// What the halves of each open request share with the connection, until it has completed.
    opens: HashMap<RequestId, Arc<Pipe>>,
    /// Open requests that had their whole answer when the connection ended, although their handlers
    /// had not returned.
    answered: usize,
}

impl Running {
    pub(crate) fn add_open(&mut self, id: RequestId, pipe: &Arc<Pipe>) {
        self.0.get_or_insert_default().opens.insert(id, Arc::clone(pipe));
    }

    pub(crate) fn open(&self, id: RequestId) -> Option<&Pipe> {
        Some(&**self.0.as_ref()?.opens.get(&id)?)
    }

    pub(crate) fn remove_open(&mut self, id: RequestId) -> Option<Arc<Pipe>> {
        self.0.as_mut()?.opens.remove(&id)
    }

    /// The connection of these requests is gone: their halves fail with `why`.
    pub(crate) fn fail_opens(&mut self, why: Error) {
        let Some(tasks) = &mut self.0 else { return };
        let why = HalfError(why);
        for (_, pipe) in core::mem::take(&mut tasks.opens) {
            let answered = pipe.update(|halves| {
                halves.fail(why.clone());
                halves.is_answered()
            });
            tasks.answered += usize::from(answered);
        }
    }

    /// After the connection has ended: how many handlers had written their whole answer and have
    /// not returned.
    pub(crate) fn answered(&self) -> usize {
        self.0.as_ref().map_or(0, |tasks| tasks.answered)
    }

    /// The place of the connection, for a handler.
    pub(crate) fn share(&mut self, service: &Arc<Service>, place: Place) -> Arc<SharedPlace> {
        let tasks = self.0.get_or_insert_default();
        Arc::clone(tasks.place.get_or_insert_with(|| SharedPlace::new(service, place)))
    }

    /// The connection has ended. Returns whether the last handler frees the place.
    pub(crate) fn end(&mut self) -> bool {
        let place = self.0.as_mut().and_then(|tasks| tasks.place.take());
        if let Some(place) = &place {
            place.end();
        }
        place.is_some()
    }

    pub(crate) fn spawn<F>(
        &mut self,
        handler: F,
        (id, since): (RequestId, Stopwatch),
        kept: Kept,
        control: &Arc<Control>,
        span: Option<&Span>,
    ) where
        F: Future<Output = Result<Bytes, HandlerError>> + Send + Unpin + 'static,
    {
        let task = Task {
            handler: Some(handler),
            id,
            since,
            control: Arc::clone(control),
            span: span.cloned().unwrap_or_else(Span::none),
            finished: false,
            kept,
        };
        let handle = tokio::spawn(task).abort_handle();
        self.0.get_or_insert_default().handlers.insert(id, handle);
    }

    fn handlers(&self) -> impl Iterator<Item = &AbortHandle> {
        self.0.iter().flat_map(|tasks| tasks.handlers.values())
    }

    fn get(&self, id: RequestId) -> Option<&AbortHandle> {
        self.0.as_ref()?.handlers.get(&id)
    }

    /// A handler has ended. Returns whether it ran on a task of its own.
    pub(crate) fn remove(&mut self, id: RequestId) -> bool {
        self.0
            .as_mut()
            .is_some_and(|tasks| tasks.handlers.remove(&id).is_some())
    }

    /// Drops the handler of a request.
    pub(crate) fn abort(&self, id: RequestId) {
        if let Some(handle) = self.get(id) {
            handle.abort();
        }
    }

    pub(crate) fn abort_all(&self) {
        self.handlers().for_each(AbortHandle::abort);
    }

    pub(crate) fn len(&self) -> usize {
        self.handlers().count()
    }

    pub(crate) fn contains(&self, id: RequestId) -> bool {
        self.get(id).is_some()
    }

    /// Releases memory that is not needed while no handler runs. Returns whether there was any.
    pub(crate) fn shrink(&mut self) -> bool {
        let idle = self
            .0
            .as_ref()
            .is_some_and(|tasks| tasks.handlers.is_empty() && tasks.opens.is_empty());
        if idle {
            self.0 = None;
        }
        idle
    }
}
