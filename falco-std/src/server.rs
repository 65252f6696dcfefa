//! The server. `builder` has its settings, `accept` accepts sockets, `admission` decides which
//! connections are served, `connection` serves one, and `pool` bounds and runs handlers.

mod accept;
mod admission;
mod builder;
mod connection;
mod descriptors;
mod handler;
mod linger;
mod listener;
mod pool;
mod queue;
mod silent;
mod state;
mod stats;
mod streams;
mod threads;

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::{Arc, Weak};

use falco_core::keys::{Entropy, ServerKeys, SetupError};
use falco_core::mux::SharedBudget;
use falco_core::{CloseReason, ConnectionError, Key, KeyId, Settings};

use self::admission::Admission;
use self::linger::LingerTimer;
use self::listener::Listener;
use self::pool::Pool;
use self::state::State;
use self::state::streams::OpenPlaces;
use self::streams::Handlers;
use self::threads::Threads;
use crate::clock::Clock;
use crate::error::Error;
use crate::stream::Stream;

pub use self::builder::ServerBuilder;
pub use self::handler::{HandlerError, Request};
pub use self::stats::{Report, ServerStats};
pub use self::streams::StreamRequest;

/// A server. It accepts connections, and runs a handler for each request.
///
/// Each connection has a thread. The number of connections is limited
/// ([`ServerBuilder::max_connections`]), and so is the number of handlers that run at once
/// ([`ServerBuilder::workers`]). Handlers for several requests of one connection run at once. A
/// handler runs on the thread of its connection if its request is the only one there and the
/// previous handler was short. Otherwise it runs on a worker thread. Each request is answered when
/// its handler returns, on the classic wire in the order of the requests.
///
/// ```
/// use falco_std::{Request, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder(falco_std::generate_key()?).workers(8).bind("127.0.0.1:0")?;
/// let handle = server.handle();
/// # handle.shutdown();
/// let report = server.serve(|request: Request| {
///     let text = str::from_utf8(request.body())?; // an error fails this request alone
///     Ok(text.to_uppercase().into_bytes())
/// })?;
/// println!("{report:?}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    listener: Option<Arc<Listener>>,
}

/// What the connections of a server share.
#[derive(Debug)]
struct Service {
    keys: Arc<ServerKeys>,
    settings: Settings,
    entropy: Entropy,
    queue_timeout: Duration,
    clock: Clock,
    admission: Arc<Admission>,
    source_prefix: (u8, u8),
    threads: Arc<Threads>,
    pool: Arc<Pool>,
    open_places: OpenPlaces,
    budget: SharedBudget,
    max_connection_age: Option<Duration>,
    linger: Arc<LingerTimer<State>>,
}

impl Service {
    /// The server has several keys: what one of them takes must leave room for the others.
    fn share_by_key(&self) {
        self.budget.share_by_key();
        self.open_places.share_by_key();
    }
}

impl Server {
    /// The socket address that the server is bound to.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if the server is bound to a Unix socket or to
    /// nothing.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let listener = self.listener.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        listener.local_addr()
    }

    /// A handle to shut the server down, to change its keys and to read its counters.
    #[must_use]
    pub fn handle(&self) -> Handle {
        let listener = self.listener.as_ref().map_or_else(Weak::new, Arc::downgrade);
        Handle {
            service: Arc::clone(&self.service),
            listener,
        }
    }

    /// Accepts connections and runs `handler` for their requests, until a [`Handle`] shuts the
    /// server down. Returns the server's counters.
    ///
    /// If a handler returns an error or panics, its request is refused. The classic wire has no
    /// refusals: there the connection of that request ends. A server that is bound to nothing
    /// ([`ServerBuilder::unbound`]) waits until it is shut down.
    ///
    /// This returns when all connections have ended, or when the limit of
    /// [`Handle::shutdown_within`] has passed. A handler that still runs then cannot be
    /// interrupted: its thread continues without a connection.
    ///
    /// # Errors
    /// None at present. Errors of accepting are counted, and the server continues.
    pub fn serve<H>(self, handler: H) -> Result<Report, Error>
    where
        H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
    {
        self.run(&Handlers::new(handler))
    }

    /// Like [`serve`](Self::serve), and also takes open requests, which clients begin with
    /// [`Client::open`](crate::Client::open). `streams` runs for each of them, reads its body as it
    /// arrives, and writes its answer piece by piece. [`Call`](crate::Call) has an example.
    /// [`ServerBuilder::streams`] has the limits.
    ///
    /// Each open request takes a [worker](ServerBuilder::workers) until its handler returns. Such
    /// handlers take at most half of the workers, or the only one. Further open requests wait at
    /// their client, or are refused as busy.
    ///
    /// # Errors
    /// Those of [`serve`](Self::serve).
    pub fn serve_streams<H, S>(self, handler: H, streams: S) -> Result<Report, Error>
    where
        H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
        S: Fn(StreamRequest) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        self.run(&Handlers::with_streams(handler, streams))
    }

    /// Like [`serve_streams`](Self::serve_streams), with one handler for all requests. It may also
    /// answer a request of [`Client::request`](crate::Client::request) piece by piece. The body of
    /// such a request is complete from the beginning, and the client collects the answer up to its
    /// largest message. All requests take workers as open requests do.
    ///
    /// # Errors
    /// Those of [`serve`](Self::serve).
    pub fn serve_all_streams<S>(self, streams: S) -> Result<Report, Error>
    where
        S: Fn(StreamRequest) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        self.run(&Handlers::all(streams))
    }

    #[expect(clippy::unnecessary_wraps, reason = "that is what `serve` returns")]
    fn run<H>(self, handlers: &Arc<Handlers<H>>) -> Result<Report, Error>
    where
        H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
    {
        if let Some(listener) = &self.listener {
            accept::accept_until_stopped(listener, &self.service, handlers);
        }
        Ok(self.service.admission.wait_until_empty())
    }

    /// Serves one connection over any stream, on this thread. Returns what ended the connection.
    /// Over a stream that does not [split](Stream::split), requests are handled one after another,
    /// and deadlines take effect between them.
    ///
    /// The connection is a guest: it does not count towards
    /// [`max_connections`](ServerBuilder::max_connections), and is never dropped to make room. When
    /// the server shuts down, the connection notices within a quarter of a second, if the stream
    /// has timeouts. If the server shuts down already, the connection is closed
    /// ([`ConnectionError::Closed`]).
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// use std::os::unix::net::UnixStream;
    /// use falco_std::{Client, ConnectionError, Key, Request, Server};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (near, far) = UnixStream::pair()?;
    /// let server = Server::builder(Key::from_bytes([7; 32])?).unbound()?;
    /// let echo = |request: Request| Ok(request.into_body());
    /// let serving = std::thread::spawn(move || server.serve_connection(far, echo));
    ///
    /// let client = Client::builder(Key::from_bytes([7; 32])?).over(near)?;
    /// assert_eq!(client.request("over anything")?, b"over anything");
    /// client.close();
    /// assert_eq!(serving.join().expect("it does not panic")?, ConnectionError::Closed);
    /// # Ok(())
    /// # }
    /// # main().unwrap();
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of the stream.
    pub fn serve_connection<S, H>(&self, stream: S, handler: H) -> io::Result<ConnectionError>
    where
        S: Stream + Send + 'static,
        H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
    {
        self.run_guest(stream, &Handlers::new(handler))
    }

    /// Like [`serve_connection`](Self::serve_connection), and also takes open requests, as
    /// [`serve_streams`](Self::serve_streams) does. A stream that does not [split](Stream::split)
    /// has none.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn serve_connection_streams<C, H, S>(&self, stream: C, handler: H, streams: S) -> io::Result<ConnectionError>
    where
        C: Stream + Send + 'static,
        H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
        S: Fn(StreamRequest) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        self.run_guest(stream, &Handlers::with_streams(handler, streams))
    }

    /// Like [`serve_connection_streams`](Self::serve_connection_streams), with one handler for all
    /// requests, as [`serve_all_streams`](Self::serve_all_streams) has.
    ///
    /// # Errors
    /// Those of the stream.
    pub fn serve_connection_all_streams<C, S>(&self, stream: C, streams: S) -> io::Result<ConnectionError>
    where
        C: Stream + Send + 'static,
        S: Fn(StreamRequest) -> Result<(), HandlerError> + Send + Sync + 'static,
    {
        self.run_guest(stream, &Handlers::all(streams))
    }

    fn run_guest<H>(
        &self,
        stream: impl Stream + Send + 'static,
        handlers: &Arc<Handlers<H>>,
    ) -> io::Result<ConnectionError>
    where
        H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
    {
        let (conn, stream) = connection::prepare(&self.service, Box::new(stream), handlers.takes_streams())?;
        let permit = self.service.admission.guest(conn);
        connection::serve_guest(&self.service, permit, stream, handlers)
    }
}

/// Shuts a [`Server`] down, changes its keys and reads its counters, from any thread. Clones are
/// handles of the same server.
#[derive(Clone, Debug)]
pub struct Handle {
    service: Arc<Service>,
    /// Weak, so that a handle does not keep the address bound.
    listener: Weak<Listener>,
}

impl Handle {
    /// Shuts the server down gracefully. It accepts no more connections and no more requests, and
    /// each connection ends when its requests in flight are answered. This returns at once, and
    /// [`Server::serve`] returns when all connections have ended.
    ///
    /// On the noise wire clients are notified, and requests that they have begun to send are still
    /// handled. Each connection then waits up to a second for its client to end it too.
    pub fn shutdown(&self) {
        self.shutdown_at(None);
    }

    /// Shuts the server down in the same way, and ends at once the connections that have not ended
    /// within `limit`. If this is called several times, the earliest limit applies.
    pub fn shutdown_within(&self, limit: Duration) {
        self.shutdown_at(Some(limit));
    }

    /// Adds a key on the noise wire. The server accepts it at once.
    ///
    /// # Errors
    /// [`SetupError`]. Then nothing has changed.
    pub fn add_key(&self, key: Key) -> Result<KeyId, SetupError> {
        let added = self.service.keys.add(key, None)?;
        self.service.share_by_key();
        Ok(added)
    }

    /// Accepts another key on the noise wire, as [`add_key`](Self::add_key) does, with a label that
    /// names its holder. Handlers see it as [`Request::key_label`]. It is not secret and is never
    /// sent.
    ///
    /// # Errors
    /// [`SetupError`]; then nothing has changed.
    pub fn add_labeled_key(&self, label: impl Into<Arc<str>>, key: Key) -> Result<KeyId, SetupError> {
        let added = self.service.keys.add(key, Some(label.into()))?;
        self.service.share_by_key();
        Ok(added)
    }

    /// Changes the label of a key of the noise wire; `None` removes it. Connections that are
    /// established keep the label they have. Returns whether there was such a key.
    pub fn set_key_label(&self, id: KeyId, label: Option<&str>) -> bool {
        self.service.keys.set_label(id, label.map(Arc::from))
    }

    /// Retires a key on the noise wire, and returns whether the server had it. Handshakes under it
    /// are refused from now on. Its connections accept no more requests and end when those in
    /// flight are answered. Their clients receive the reason.
    ///
    /// If the key may have leaked, use [`revoke_key`](Self::revoke_key).
    #[expect(clippy::must_use_candidate, reason = "a caller may know that the server has the key")]
    pub fn retire_key(&self, id: KeyId) -> bool {
        let retired = self.service.keys.retire(id);
        if retired {
            for conn in self.service.admission.under(id) {
                conn.close(CloseReason::KeyRetired);
            }
        }
        retired
    }

    /// Removes a key of the noise wire as [`retire_key`](Self::retire_key) does, and ends its
    /// connections at once. Nothing more is read from them and no answer is sent. Handlers that run
    /// cannot be interrupted: their requests are cancelled
    /// ([`Request::is_cancelled`]), and what they return is discarded.
    ///
    /// A client receives the reason if its stream accepts it without waiting. Requests that had
    /// begun may have been processed.
    ///
    /// Called for a key that is retired already, it ends the connections that still drain, and
    /// returns false.
    #[expect(clippy::must_use_candidate, reason = "a caller may know that the server has the key")]
    pub fn revoke_key(&self, id: KeyId) -> bool {
        let service = &self.service;
        let removed = service.keys.retire(id);
        for conn in service.admission.under(id) {
            conn.revoke();
            service.admission.counters().revoked.add(1);
        }
        removed
    }

    /// The server's counters.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        self.service.admission.stats()
    }

    fn shutdown_at(&self, limit: Option<Duration>) {
        self.service.admission.stop(limit);
        if let Some(listener) = self.listener.upgrade() {
            listener.wake();
        }
    }
}
