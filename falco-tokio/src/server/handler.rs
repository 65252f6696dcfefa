//! Handlers: closures and Tower services.

use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::Ordering;

use bytes::Bytes;
use falco_core::Refusal;
use tower::Service;
use tower::load_shed::error::Overloaded;

use super::request::Request;
use crate::error::HandlerError;

/// Handles requests: any `Fn(Request) -> impl Future<Output = Result<impl Into<Bytes>,
/// HandlerError>>`, or a Tower service by [`Server::serve_service`](crate::Server::serve_service).
pub trait Handler: Send + Sync + 'static {
    /// What a client receives.
    type Answer: Into<Bytes>;

    /// Resolves to the answer. The connection's own task polls it first. If it is not ready then,
    /// it gets a task of its own, without being moved in memory.
    type Future: Future<Output = Result<Self::Answer, HandlerError>> + Send + 'static;

    /// Starts to handle a request.
    fn handle(&self, request: Request) -> Self::Future;
}

impl<F, Fut, B> Handler for F
where
    F: Fn(Request) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<B, HandlerError>> + Send + 'static,
    B: Into<Bytes>,
{
    type Answer = B;
    type Future = Fut;

    fn handle(&self, request: Request) -> Fut {
        self(request)
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
    type Answer = Bytes;
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
