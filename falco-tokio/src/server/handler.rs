//! What a handler is given, what it gives, and the two kinds of handlers there are: closures and Tower services.

use core::error::Error;
use core::fmt;
use core::future::Future;
use core::net::SocketAddr;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll};
use std::sync::Arc;

use bytes::Bytes;
use falco_core::{KeyId, Refusal, RequestId};
use tower::Service;
use tower::load_shed::error::Overloaded;

use super::control::Control;

/// What a handler fails with. It stays on this side: the client learns only that its request failed, and on the classic wire that its connection ended.
///
/// A [`Refusal`] is the exception: a handler that fails with one chooses the words in which its request is refused.
pub type HandlerError = Box<dyn Error + Send + Sync>;

/// A request, decrypted.
pub struct Request {
    body: Bytes,
    id: RequestId,
    control: Arc<Control>,
    /// Where it is noted that somebody has looked at the body, if anybody wants to know.
    seen: Option<Arc<AtomicBool>>,
}

impl Request {
    pub(crate) const fn new(body: Bytes, id: RequestId, control: Arc<Control>) -> Self {
        let seen = None;
        Self {
            body,
            id,
            control,
            seen,
        }
    }

    fn see(&self) {
        if let Some(seen) = &self.seen {
            seen.store(true, Ordering::Relaxed);
        }
    }

    /// The bytes that the client sent.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        self.see();
        &self.body
    }

    /// The bytes that the client sent, to keep.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.see();
        self.body
    }

    /// The client's address; none where the connection is not one of the internet.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.control.peer
    }

    /// The id of the key that the client has proved to have. The classic wire has none.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.control.key.get().copied()
    }

    /// Whether nobody waits for the answer any more: the client has cancelled the request, or is gone.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.control.is_cancelled(self.id)
    }

    /// Waits until nobody waits for the answer any more. For what a handler has set going elsewhere, and for handlers that are not dropped
    /// ([`OnCancel::Signal`](crate::OnCancel::Signal)).
    pub async fn cancelled(&self) {
        self.control.cancelled(self.id).await;
    }
}

impl fmt::Debug for Request {
    /// Shows how long the body is, and nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("number", &self.id.number())
            .field("length", &self.body.len())
            .field("peer", &self.peer())
            .field("key_id", &self.key_id())
            .finish_non_exhaustive()
    }
}

/// What runs for each request: any `Fn(Request) -> impl Future<Output = Result<impl Into<Bytes>, HandlerError>>`, or a Tower service by
/// [`Server::serve_service`](crate::Server::serve_service).
pub trait Handler: Send + Sync + 'static {
    /// What becomes the answer. It can be moved between polls: first the connection's own task polls it, and if it is not ready then, another.
    type Future: Future<Output = Result<Bytes, HandlerError>> + Send + Unpin + 'static;

    /// Begins to handle a request.
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

/// A Tower service as a handler: each request is made ready for and called on a clone.
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
        let seen = Arc::new(AtomicBool::new(false));
        request.seen = Some(Arc::clone(&seen));
        let mut service = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        Box::pin(async move {
            core::future::poll_fn(|cx| service.poll_ready(cx))
                .await
                .map_err(Into::into)?;
            let answered = service.call(request).await.map_err(Into::into);
            // A load shed turns a request away before anything has looked at it. One that fails with the overload of somebody else has been at work.
            match answered {
                Err(error) if error.is::<Overloaded>() && !seen.load(Ordering::Relaxed) => Err(Refusal::Busy.into()),
                answered => answered,
            }
        })
    }
}

/// What the client is told of a handler's error.
pub(crate) fn refusal_of(error: &HandlerError) -> Refusal {
    error.downcast_ref().copied().unwrap_or(Refusal::Failed)
}
