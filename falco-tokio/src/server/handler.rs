//! Handlers: closures and Tower services.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::Ordering;
use core::task::{Context, Poll};

use bytes::Bytes;
use falco_core::Refusal;
use tower::Service;
use tower::load_shed::error::Overloaded;

use super::request::Request;
use crate::error::HandlerError;

/// Handles requests: any `Fn(Request) -> impl Future<Output = Result<impl Into<Bytes>,
/// HandlerError>>`, or a Tower service by [`Server::serve_service`](crate::Server::serve_service).
pub trait Handler: Send + Sync + 'static {
    /// Resolves to the answer. It must be `Unpin`: the connection's own task polls it first, and if
    /// it is not ready then, it moves to another task.
    type Future: Future<Output = Result<Bytes, HandlerError>> + Send + Unpin + 'static;

    /// Starts to handle a request.
    fn handle(&self, request: Request) -> Self::Future;
}

impl<F, Fut, B> Handler for F
where
    F: Fn(Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<B, HandlerError>> + Send + 'static,
    B: Into<Bytes>,
{
    type Future = IntoBytes<Fut>;

    fn handle(&self, request: Request) -> IntoBytes<Fut> {
        IntoBytes(Box::pin(self(request)))
    }
}

/// The future of a handler that is a closure.
pub struct IntoBytes<Fut>(Pin<Box<Fut>>);

impl<Fut, B> Future for IntoBytes<Fut>
where
    Fut: Future<Output = Result<B, HandlerError>>,
    B: Into<Bytes>,
{
    type Output = Result<Bytes, HandlerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map_ok(Into::into)
    }
}

impl<Fut> fmt::Debug for IntoBytes<Fut> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IntoBytes(..)")
    }
}

/// A Tower service as a handler. Each request has a clone of the service, which is made ready
/// before it is called.
#[derive(Debug)]
pub(crate) struct ServiceHandler<S>(pub(crate) std::sync::Mutex<S>);

impl<S> Handler for ServiceHandler<S>
where
    S: Service<Request, Response = Bytes> + Clone + Send + 'static,
    S::Error: Into<HandlerError>,
    S::Future: Send + 'static,
{
    type Future = Pin<Box<dyn Future<Output = Result<Bytes, HandlerError>> + Send>>;

    fn handle(&self, mut request: Request) -> Self::Future {
        let read = request.watch_body();
        let mut service = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        Box::pin(async move {
            core::future::poll_fn(|cx| service.poll_ready(cx))
                .await
                .map_err(Into::into)?;
            let answered = service.call(request).await.map_err(Into::into);
            // A load-shed layer rejects a request before anything has read it. If the body was
            // read, the overload is that of another service, and the request may be processed.
            match answered {
                Err(error) if error.is::<Overloaded>() && !read.load(Ordering::Relaxed) => Err(Refusal::Busy.into()),
                answered => answered,
            }
        })
    }
}
