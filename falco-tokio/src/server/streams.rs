//! Open requests as their handlers receive them, and what a connection keeps of them.

use core::fmt;
use core::future::{Future, Ready, ready};
use core::net::SocketAddr;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::sync::Arc;

use bytes::Bytes;
use falco_core::mux::Halves;
use falco_core::{KeyId, Refusal, RequestId};

use super::control::Control;
use super::handler::Handler;
use super::request::Request;
use super::{Report, Server, Service};
use crate::error::{Error, HandlerError};
use crate::stream::{ConnectionHandle, HalfError, Pipe, RecvStream, SendStream};

/// An open request: its body, which the handler reads, and the body of the answer, which it writes.
/// [`Server::serve_streams`](crate::Server::serve_streams) passes it to a handler.
/// [`Server::serve_all_streams`](crate::Server::serve_all_streams) also passes one that was sent as
/// a whole, with a complete body.
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
    is_whole: bool,
}

impl StreamRequest {
    pub(super) fn new(pipe: &Arc<Pipe>, request: Request) -> Self {
        let (body, answer) = crate::stream::halves(pipe);
        Self {
            body,
            answer,
            request,
            is_whole: pipe.update(|halves| halves.is_whole()),
        }
    }

    /// Whether the request was sent as a whole, by [`Client::request`](crate::Client::request) or
    /// [`Client::request_stream`](crate::Client::request_stream). Its body is complete and is
    /// within the largest message.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.is_whole
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

/// What the connections of a server share: its state, its handler of requests, and its handler of
/// open requests, if it has one.
pub(crate) struct Handlers<H> {
    pub(super) service: Arc<Service>,
    pub(super) handler: H,
    streams: Option<Box<dyn Fn(StreamRequest) -> Streaming + Send + Sync>>,
    /// The handler of open requests takes the others as well.
    all_stream: bool,
}

impl<H> Handlers<H> {
    pub(super) fn new(service: &Arc<Service>, handler: H) -> Arc<Self> {
        Arc::new(Self {
            service: Arc::clone(service),
            handler,
            streams: None,
            all_stream: false,
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
            all_stream: false,
        })
    }

    pub(super) fn takes_streams(&self) -> bool {
        self.streams.is_some()
    }

    pub(super) fn all_stream(&self) -> bool {
        self.all_stream
    }

    /// Calls the handler of an open request. The mux of a server without one refuses the request.
    pub(super) fn open(&self, request: StreamRequest) -> StreamHandler {
        StreamHandler(match &self.streams {
            Some(streams) => streams(request),
            None => Box::pin(ready(Ok(()))),
        })
    }
}

impl Handlers<NoHandler> {
    /// One handler for requests of both kinds.
    pub(super) fn all<S, F>(service: &Arc<Service>, streams: S) -> Arc<Self>
    where
        S: Fn(StreamRequest) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let streams = move |request| -> Streaming { Box::pin(streams(request)) };
        Arc::new(Self {
            service: Arc::clone(service),
            handler: NoHandler,
            streams: Some(Box::new(streams)),
            all_stream: true,
        })
    }
}

impl Server {
    /// Like [`serve_streams`](Self::serve_streams), with one handler for all requests: that of
    /// [`Client::request`](crate::Client::request) has a complete body, and the client collects the
    /// answer up to its largest message.
    ///
    /// # Errors
    /// Those of [`serve`](Self::serve).
    pub async fn serve_all_streams<S, F>(self, streams: S) -> Result<Report, Error>
    where
        S: Fn(StreamRequest) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let handlers = Handlers::all(&self.service, streams);
        self.run(handlers).await
    }
}

/// In the place of a handler of whole requests. It is never called.
pub(super) struct NoHandler;

impl Handler for NoHandler {
    type Answer = Bytes;
    type Future = Ready<Result<Bytes, HandlerError>>;

    fn handle(&self, _: Request) -> Self::Future {
        ready(Err(Refusal::NotProcessed.into()))
    }
}

impl<H> fmt::Debug for Handlers<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handlers(..)")
    }
}

/// The running handler of an open request. It returns an empty body, which is ignored.
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
pub(super) fn pipe(id: RequestId, halves: Halves<HalfError>, control: &Arc<Control>) -> Arc<Pipe> {
    let control = Arc::clone(control);
    Pipe::new(Box::new(StreamHandle { control, id }), halves)
}
