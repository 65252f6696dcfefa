//! Open requests as their handlers receive them.

use core::fmt;
use core::net::SocketAddr;
use std::sync::{Arc, Weak};

use falco_core::{KeyId, Refusal};

use super::handler::{HandlerError, Request};
use super::state::Conn;
use crate::open::{Pipe, RecvStream, SendStream};

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
    /// Weak, so that a handler does not keep the stream of a connection that has ended.
    conn: Weak<Conn>,
}

impl StreamRequest {
    pub(super) fn new(pipe: &Arc<Pipe>, request: Request, conn: Weak<Conn>) -> Self {
        let (body, answer) = crate::open::halves(pipe, None);
        Self {
            body,
            answer,
            request,
            is_whole: pipe.update(|halves| halves.is_whole()),
            conn,
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
    pub const fn peer(&self) -> Option<SocketAddr> {
        self.request.peer()
    }

    /// As [`Request::key_id`].
    #[must_use]
    pub const fn key_id(&self) -> Option<KeyId> {
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

    /// Whether the connection takes no new requests and ends once those that have begun have
    /// completed: the server shuts down, the connection has reached its
    /// [age](crate::ServerBuilder::max_connection_age), the key of the client was
    /// [retired](crate::Handle::retire_key), or the client closes. A handler that would run for
    /// long, such as that of a subscription, should then finish its answer. If it does not, it is
    /// cut off one lifetime after its connection began to close, or earlier when the time for a
    /// shutdown is over. Also true if the connection has ended.
    ///
    /// A handler that waits in [`body`](Self::body) is not woken for that.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.conn.upgrade().is_none_or(|conn| conn.lock().state.is_closing())
    }
}

type Streaming = dyn Fn(StreamRequest) -> Result<(), HandlerError> + Send + Sync;

/// The handlers of a server: for requests, and for open ones if it takes any.
pub(super) struct Handlers<H> {
    pub(super) handler: H,
    streams: Option<Box<Streaming>>,
    /// The handler of open requests takes the others as well.
    all_stream: bool,
}

impl<H> Handlers<H> {
    pub(super) fn new(handler: H) -> Arc<Self> {
        Arc::new(Self {
            handler,
            streams: None,
            all_stream: false,
        })
    }

    pub(super) fn with_streams<S>(handler: H, streams: S) -> Arc<Self>
    where
        S: Fn(StreamRequest) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        Arc::new(Self {
            handler,
            streams: Some(Box::new(streams)),
            all_stream: false,
        })
    }

    pub(super) fn takes_streams(&self) -> bool {
        self.streams.is_some()
    }

    pub(super) const fn all_stream(&self) -> bool {
        self.all_stream
    }

    /// Runs the handler of an open request. The mux of a server without one refuses the request.
    pub(super) fn open(&self, request: StreamRequest) -> Result<(), HandlerError> {
        match &self.streams {
            Some(streams) => streams(request),
            None => Ok(()),
        }
    }
}

/// In the place of a handler of whole requests. It is never called.
type Nothing = fn(Request) -> Result<Vec<u8>, HandlerError>;

impl Handlers<Nothing> {
    /// One handler for requests of both kinds.
    pub(super) fn all<S>(streams: S) -> Arc<Self>
    where
        S: Fn(StreamRequest) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        Arc::new(Self {
            handler: |_| Err(Refusal::NotProcessed.into()),
            streams: Some(Box::new(streams)),
            all_stream: true,
        })
    }
}

impl<H> fmt::Debug for Handlers<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handlers(..)")
    }
}
