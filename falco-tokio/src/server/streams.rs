//! Open requests as their handlers receive them, and what a connection keeps of them.

use core::fmt;
use core::future::Future;
use core::net::SocketAddr;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::sync::Arc;

use bytes::Bytes;
use falco_core::mux::Halves;
use falco_core::{KeyId, RequestId};

use super::Service;
use super::control::Control;
use super::request::Request;
use crate::error::HandlerError;
use crate::stream::{ConnectionHandle, Pipe, RecvStream, SendStream, Why};

/// An open request: its body, which the handler reads, and the body of the answer, which it writes.
/// [`Server::serve_streams`](crate::Server::serve_streams) passes it to a handler.
#[derive(Debug)]
#[non_exhaustive]
pub struct StreamRequest {
    /// The body of the request. If it is dropped before its end, the rest is discarded.
    pub body: RecvStream,
    /// The body of the answer. [Finish](SendStream::finish) it before the handler returns:
    /// otherwise the answer is cut off, and the client learns that the handler has failed. An
    /// answer that is finished ends the request, also if its body is not complete.
    pub answer: SendStream,
    request: Request,
}

impl StreamRequest {
    pub(super) fn new(pipe: &Arc<Pipe>, request: Request) -> Self {
        let (body, answer) = crate::stream::halves(pipe);
        Self { body, answer, request }
    }

    /// As [`Request::peer`].
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.request.peer()
    }

    /// As [`Request::key_id`].
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.request.key_id()
    }

    /// As [`Request::key_label`].
    #[must_use]
    pub fn key_label(&self) -> Option<&str> {
        self.request.key_label()
    }

    /// As [`Request::is_cancelled`].
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.request.is_cancelled()
    }

    /// As [`Request::cancelled`].
    pub async fn cancelled(&self) {
        self.request.cancelled().await;
    }

    /// Whether the connection takes no new requests and ends once those that have begun have
    /// completed: the server shuts down, the connection has reached its
    /// [age](crate::ServerBuilder::max_connection_age), the key of the client was
    /// [retired](crate::Handle::retire_key), or the client closes. A handler that would run for
    /// long, such as that of a subscription, should then finish its answer. If it does not, it is
    /// cut off one lifetime after its connection began to close, or earlier when the time for a
    /// shutdown is over. Also true if the connection has ended.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.request.control().is_some_and(|control| control.is_closing())
    }

    /// Waits until the connection [is closing](Self::is_closing). The future does not borrow the
    /// request, so that its halves can be used meanwhile:
    ///
    /// ```
    /// use core::pin::pin;
    /// use falco_tokio::{HandlerError, StreamRequest};
    ///
    /// async fn echo(mut request: StreamRequest) -> Result<(), HandlerError> {
    ///     let mut closing = pin!(request.closing());
    ///     loop {
    ///         tokio::select! {
    ///             next = request.body.next() => match next {
    ///                 Some(bytes) => request.answer.send(bytes?).await?,
    ///                 None => break,
    ///             },
    ///             () = &mut closing => break,
    ///         }
    ///     }
    ///     Ok(request.answer.finish()?)
    /// }
    /// ```
    pub fn closing(&self) -> impl Future<Output = ()> + Send + use<> {
        let control = self.request.control().cloned();
        async move {
            match control {
                Some(control) => control.closing().await,
                None => core::future::pending().await,
            }
        }
    }
}

type Streaming = Pin<Box<dyn Future<Output = Result<(), HandlerError>> + Send>>;

/// What the connections of a server share: its state, and its handlers, for requests and, if it
/// takes any, for open ones.
pub(crate) struct Handlers<H> {
    pub(super) service: Arc<Service>,
    pub(super) handler: H,
    streams: Option<Box<dyn Fn(StreamRequest) -> Streaming + Send + Sync>>,
}

impl<H> Handlers<H> {
    pub(super) fn new(service: &Arc<Service>, handler: H) -> Arc<Self> {
        Arc::new(Self {
            service: Arc::clone(service),
            handler,
            streams: None,
        })
    }

    pub(super) fn with_streams<S, F>(service: &Arc<Service>, handler: H, streams: S) -> Arc<Self>
    where
        S: Fn(StreamRequest) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let streams = move |request| -> Streaming { Box::pin(streams(request)) };
        Arc::new(Self {
            service: Arc::clone(service),
            handler,
            streams: Some(Box::new(streams)),
        })
    }

    pub(super) fn take_streams(&self) -> bool {
        self.streams.is_some()
    }

    /// Calls the handler of an open request. The mux of a server without one refuses the request.
    pub(super) fn open(&self, request: StreamRequest) -> StreamHandler {
        StreamHandler(match &self.streams {
            Some(streams) => streams(request),
            None => Box::pin(core::future::ready(Ok(()))),
        })
    }
}

impl<H> fmt::Debug for Handlers<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handlers(..)")
    }
}

/// The running handler of an open request. The body that it returns means nothing.
pub(super) struct StreamHandler(Streaming);

impl Future for StreamHandler {
    type Output = Result<Bytes, HandlerError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx).map_ok(|()| Bytes::new())
    }
}

struct StreamHandle {
    control: Arc<Control>,
    id: RequestId,
}

impl ConnectionHandle for StreamHandle {
    fn notify(&self) {
        self.control.stream(self.id);
    }
}

/// What the halves of an open request share with the connection.
pub(super) fn pipe(id: RequestId, halves: Halves<Why>, control: &Arc<Control>) -> Arc<Pipe> {
    let control = Arc::clone(control);
    Pipe::new(Box::new(StreamHandle { control, id }), halves)
}
