//! The server and its handle. `accept` and `registry` decide which connections there are,
//! `connection` drives one.

mod accept;
mod builder;
mod connection;
mod control;
mod descriptors;
mod handler;
mod headers;
mod holder;
mod place;
#[cfg(feature = "proxy-protocol")]
mod proxied;
mod registry;
mod request;
mod running;
mod stats;
mod streams;
mod warning;

use core::future::Future;
use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use falco_core::keys::{Entropy, ServerKeys, SetupError};
use falco_core::mux::SharedBudget;
use falco_core::{ConnectionError, Key, KeyId, Settings};
use tower::Service as TowerService;

use self::accept::Listener;
use self::handler::ServiceHandler;
use self::holder::Holders;
use self::registry::Registry;
use self::stats::Counters;
use self::streams::Handlers;
use self::warning::Warnings;
use crate::clock::Clock;
use crate::error::{Error, HandlerError};
use crate::socket::Stream;

pub use self::builder::ServerBuilder;
pub(crate) use self::builder::{STREAM_WINDOW, kib};
pub use self::handler::Handler;
pub use self::request::Request;
pub use self::stats::ServerStats;
pub use self::streams::StreamRequest;

/// What happens to the handler of a request that the client has cancelled or whose connection has
/// ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnCancel {
    /// The handler's future is dropped, as in hyper and tonic. Put work that must not stop halfway
    /// on a task of its own.
    #[default]
    Drop,
    /// The handler runs to its end, and can check [`Request::is_cancelled`]. If it answers after
    /// all, the answer is sent.
    Signal,
}

/// A server: it accepts connections, and runs a handler for each request.
///
/// A connection is one task. A handler is polled once on its connection's task; if it is not ready
/// then, it gets a task of its own. Handlers of one connection run concurrently, up to
/// [`Settings::with_max_in_flight`], and are answered as they finish; on the classic wire in the
/// order of their requests.
///
/// ```
/// use falco_tokio::{Request, Server};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder(falco_tokio::generate_key()?).bind("127.0.0.1:0").await?;
/// let handle = server.handle();
/// # handle.shutdown();
/// let report = server
///     .serve(|request: Request| async move {
///         // An error fails this request, and nothing else.
///         let text = str::from_utf8(request.body())?;
///         Ok(text.to_uppercase())
///     })
///     .await?;
/// println!("{report:?}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    listener: Option<Listener>,
}

/// What all connections of a server share.
#[derive(Debug)]
pub(crate) struct Service {
    keys: Arc<ServerKeys>,
    settings: Settings,
    clock: Clock,
    entropy: Entropy,
    budget: SharedBudget,
    registry: Registry,
    counters: Counters,
    holders: Holders,
    warnings: Warnings,
    source_prefix: (u8, u8),
    #[cfg(feature = "proxy-protocol")]
    proxies: proxied::Proxies,
    /// How many connections may wait for the header of a proxy.
    headers: usize,
    max_connection_age: Option<Duration>,
    on_cancel: OnCancel,
    spawn_handlers: bool,
    /// When a shutdown ends at the latest, if one has begun and has a limit.
    limit: tokio::sync::watch::Sender<Option<tokio::time::Instant>>,
}

/// The counters of a server at the end of its shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Its counters.
    pub stats: ServerStats,
    /// Connections that were ended at once because the time limit of a shutdown had passed, or that
    /// ended during the shutdown with requests unanswered.
    pub cut_connections: u64,
    /// Unanswered requests on these connections.
    pub cut_requests: u64,
}

impl Server {
    /// The address that the server is bound to.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if it is not an internet address, or if the
    /// server is [bound to nothing](ServerBuilder::unbound).
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let listener = self.listener.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        listener.local_addr()
    }

    /// A handle that stops the server, changes its keys and reads its counters.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            service: Arc::clone(&self.service),
        }
    }

    /// Accepts connections and runs `handler` for their requests, until a [`Handle`] shuts the
    /// server down.
    ///
    /// A handler that returns an error or panics fails its own request and nothing else; on the
    /// classic wire, which has no refusal, it ends the connection of that request. A server that is
    /// bound to nothing ([`ServerBuilder::unbound`]) waits to be shut down.
    ///
    /// When this future is dropped before it is ready, all connections end at once.
    ///
    /// # Errors
    /// None at present: errors of accepting are counted, and the server continues.
    pub async fn serve<H: Handler>(self, handler: H) -> Result<Report, Error> {
        let handlers = Handlers::new(&self.service, handler);
        self.run(handlers).await
    }

    /// Like [`serve`](Self::serve), and also takes open requests, which clients begin with
    /// [`Client::open`](crate::Client::open). `streams` runs for each of them, on a task of its
    /// own, reads its body as it arrives, and writes its answer piece by piece.
    /// [`Call`](crate::Call) has an example. [`ServerBuilder::streams`] has the limits.
    ///
    /// # Errors
    /// Those of [`serve`](Self::serve).
    pub async fn serve_streams<H, S, F>(self, handler: H, streams: S) -> Result<Report, Error>
    where
        H: Handler,
        S: Fn(StreamRequest) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let handlers = Handlers::with_streams(&self.service, handler, streams);
        self.run(handlers).await
    }

    async fn run<H: Handler>(self, handlers: Arc<Handlers<H>>) -> Result<Report, Error> {
        let Self { service, listener } = self;
        service.note_holders();
        let cut = CutOnDrop(&service);
        if let Some(listener) = listener {
            accept::until_stopped(listener, &handlers).await;
        } else {
            service.registry.stopping().await;
        }
        service.drain().await;
        core::mem::forget(cut);
        service.warnings.report();
        let (cut_connections, cut_requests) = service.registry.cut_counts();
        Ok(Report {
            stats: service.stats(),
            cut_connections,
            cut_requests,
        })
    }

    /// Like [`serve`](Self::serve), with a Tower service, which is cloned and called for each
    /// request once it is ready. If the service sheds load, the request is refused as busy, that
    /// is, as not processed.
    ///
    /// ```
    /// use falco_tokio::{Request, Server};
    /// use tower::ServiceBuilder;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::builder(falco_tokio::generate_key()?).bind("127.0.0.1:0").await?;
    /// # server.handle().shutdown();
    /// let service = ServiceBuilder::new()
    ///     .load_shed()
    ///     .concurrency_limit(100)
    ///     .timeout(std::time::Duration::from_secs(2))
    ///     .service_fn(|request: Request| async move {
    ///         Ok::<_, falco_tokio::HandlerError>(request.into_body())
    ///     });
    /// server.serve_service(service).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of [`serve`](Self::serve).
    pub async fn serve_service<S>(self, service: S) -> Result<Report, Error>
    where
        S: TowerService<Request, Response = Bytes> + Clone + Send + 'static,
        S::Error: Into<HandlerError>,
        S::Future: Send + 'static,
    {
        self.serve(ServiceHandler(Mutex::new(service))).await
    }

    /// Serves one connection over any stream, in this task, and returns what ended it.
    ///
    /// This needs a Tokio runtime, because handlers that are not ready at once get tasks of their
    /// own.
    ///
    /// The connection does not count towards
    /// [`max_connections`](ServerBuilder::max_connections) and the other limits on connections, and
    /// is never dropped for others. A shutdown ends it as it does others, even one that
    /// began before this call.
    ///
    /// ```
    /// use falco_tokio::{Client, ConnectionError, Key, Request, Server};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (near, far) = tokio::io::duplex(4096);
    /// let server = Server::builder(Key::from_bytes([7; 32])?).unbound()?;
    /// let serving = tokio::spawn(async move {
    ///     let echo = |request: Request| async move { Ok(request.into_body()) };
    ///     server.serve_connection(far, echo).await
    /// });
    ///
    /// let client = Client::builder(Key::from_bytes([7; 32])?).over(near).await?;
    /// assert_eq!(client.request("over anything").await?, "over anything");
    /// client.close().await;
    /// assert_eq!(serving.await??, ConnectionError::Closed);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn serve_connection<S, H>(&self, stream: S, handler: H) -> io::Result<ConnectionError>
    where
        S: Stream + 'static,
        H: Handler,
    {
        accept::guest(stream, &Handlers::new(&self.service, handler))?.await
    }

    /// Like [`serve_connection`](Self::serve_connection), and also takes open requests, as
    /// [`serve_streams`](Self::serve_streams) does.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn serve_connection_streams<C, H, S, F>(
        &self,
        stream: C,
        handler: H,
        streams: S,
    ) -> io::Result<ConnectionError>
    where
        C: Stream + 'static,
        H: Handler,
        S: Fn(StreamRequest) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        accept::guest(stream, &Handlers::with_streams(&self.service, handler, streams))?.await
    }
}

impl Server {
    /// Serves one connection over any stream as [`serve_connection`](Self::serve_connection) does,
    /// on behalf of a client at `peer`. That is the [peer](Request::peer) of its requests, and the
    /// connection counts towards all limits like one that the server has accepted. While it is
    /// half-open, it may be dropped to make room for another, and another may be dropped to make
    /// room for it. It waits for a place. If all connections are established, or 4096 streams
    /// already wait, it is closed at once.
    ///
    /// # Errors
    /// Those of the stream. [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) if the server
    /// has no place for the connection or is stopping.
    pub async fn serve_connection_from<S, H>(
        &self,
        stream: S,
        peer: SocketAddr,
        handler: H,
    ) -> io::Result<ConnectionError>
    where
        S: Stream + 'static,
        H: Handler,
    {
        let handlers = Handlers::new(&self.service, handler);
        match accept::counted(stream, peer, &handlers).await? {
            Some(connection) => connection.await,
            None => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }
}

struct CutOnDrop<'s>(&'s Arc<Service>);

impl Drop for CutOnDrop<'_> {
    fn drop(&mut self) {
        self.0.registry.stop();
        self.0.registry.cut();
    }
}

impl Service {
    /// Creates the metrics of all keys, under their present labels.
    fn note_holders(&self) {
        for (id, label) in self.keys.labels() {
            self.holders.find(Some(id), label);
        }
    }

    fn add_key(&self, key: Key, label: Option<Arc<str>>) -> Result<KeyId, SetupError> {
        let id = self.keys.add(key, label.clone())?;
        self.holders.find(Some(id), label);
        self.share_by_key();
        Ok(id)
    }

    /// The server has several keys: what one of them takes must leave room for the others.
    fn share_by_key(&self) {
        self.budget.share_by_key();
    }

    fn stats(&self) -> ServerStats {
        let (connections, half_open) = self.registry.counts();
        self.counters.read(connections, half_open, &self.registry.limits())
    }

    /// Waits until all connections have ended; at the limit it cuts off the rest.
    async fn drain(&self) {
        let mut limit = self.limit.subscribe();
        loop {
            let until = *limit.borrow_and_update();
            let late = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => core::future::pending().await,
                }
            };
            tokio::select! {
                () = self.registry.empty() => return,
                () = late => break,
                // The sender is part of `self`, so this is never an error.
                _ = limit.changed() => {}
            }
        }
        self.registry.cut();
        self.registry.empty().await;
    }
}

/// Stops a [`Server`], changes its keys and reads its counters. Clones belong to the same server.
#[derive(Clone, Debug)]
pub struct Handle {
    service: Arc<Service>,
}

impl Handle {
    /// Shuts the server down gracefully: it accepts no more connections, notifies its clients,
    /// completes the requests that have begun, and closes. This returns at once. [`Server::serve`]
    /// returns when all connections have ended: on the noise wire after at most one idle timeout
    /// (`lifetime`), on the classic wire when all running handlers have finished.
    ///
    /// A connection that has nothing more to do waits up to a second for its client to end as well.
    pub fn shutdown(&self) {
        self.service.registry.stop();
    }

    /// Like [`shutdown`](Self::shutdown), but connections that have not ended within `limit` are
    /// ended at once. If this is called several times, the earliest limit applies.
    pub fn shutdown_within(&self, limit: Duration) {
        // An overflowing deadline means no limit.
        if let Some(until) = tokio::time::Instant::now().checked_add(limit) {
            self.service.limit.send_modify(|now| {
                *now = Some(now.map_or(until, |now| now.min(until)));
            });
        }
        self.shutdown();
    }

    /// Accepts another key on the noise wire from now on.
    ///
    /// # Errors
    /// [`SetupError`]; then nothing has changed.
    pub fn add_key(&self, key: Key) -> Result<KeyId, SetupError> {
        self.service.add_key(key, None)
    }

    /// Accepts another key on the noise wire, as [`add_key`](Self::add_key) does, with a label that
    /// names its holder. Handlers see it as [`Request::key_label`], and log events have it. It is
    /// not secret and is never sent.
    ///
    /// # Errors
    /// [`SetupError`]; then nothing has changed.
    pub fn add_labeled_key(&self, label: impl Into<Arc<str>>, key: Key) -> Result<KeyId, SetupError> {
        self.service.add_key(key, Some(label.into()))
    }

    /// Changes the label of a key of the noise wire; `None` removes it. Connections that are
    /// established keep the label they have. Returns whether there was such a key.
    pub fn set_key_label(&self, id: KeyId, label: Option<&str>) -> bool {
        let label = label.map(Arc::<str>::from);
        let renamed = self.service.keys.set_label(id, label.clone());
        if renamed {
            self.service.holders.find(Some(id), label);
        }
        renamed
    }

    /// Removes a key of the noise wire, and returns whether there was such a key. Hellos under it
    /// are refused from now on. Its connections drain: they accept no more requests, complete those
    /// that have begun, and end. Clients receive the reason.
    ///
    /// If the key may have leaked, use [`revoke_key`](Self::revoke_key).
    #[expect(
        clippy::must_use_candidate,
        reason = "a caller who knows that it was there need not ask"
    )]
    pub fn retire_key(&self, id: KeyId) -> bool {
        let retired = self.service.keys.retire(id);
        if retired {
            self.service.holders.forget(id);
            self.service.registry.retire(id);
        }
        retired
    }

    /// Removes a key of the noise wire as [`retire_key`](Self::retire_key) does, and ends its
    /// connections at once. Nothing more is read from them and no answer is sent.
    /// [`ServerBuilder::on_cancel`] determines what happens to running handlers.
    ///
    /// A client receives the reason if its stream accepts it without waiting. Requests that had
    /// begun may have been processed.
    ///
    /// Called for a key that is retired already, it ends the connections that still drain, and
    /// returns false.
    #[expect(
        clippy::must_use_candidate,
        reason = "a caller who knows that it was there need not ask"
    )]
    pub fn revoke_key(&self, id: KeyId) -> bool {
        let service = &self.service;
        let removed = service.keys.retire(id);
        service.holders.forget(id);
        let ended = u64::try_from(service.registry.revoke(id)).unwrap_or(u64::MAX);
        service.counters.revoked.add(ended);
        removed
    }

    /// What the server has counted.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        self.service.stats()
    }
}
