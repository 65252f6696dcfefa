//! The server: what it is made of and how it is run. How connections are let in is in `registry`
//! and `accept`, what happens on one in `connection`.

mod accept;
mod builder;
mod connection;
mod control;
mod half_open;
mod handler;
mod registry;
mod request;
mod running;
mod stats;

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
use self::registry::Registry;
use self::stats::Counters;
use crate::clock::Clock;
use crate::error::{Error, HandlerError};
use crate::socket::Stream;

pub use self::builder::ServerBuilder;
pub use self::handler::{Handler, IntoBytes};
pub use self::request::Request;
pub use self::stats::ServerStats;

/// What becomes of the handler of a request that its client no longer wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnCancel {
    /// Its future is dropped where it stands, as hyper and tonic do it: work that nobody waits for
    /// stops. What must not stop halfway belongs on a task of its own.
    #[default]
    Drop,
    /// It runs on, and may ask its request whether it is still wanted. If it answers all the same,
    /// the answer is sent.
    Signal,
}

/// A server: it takes connections, and runs a handler for each request.
///
/// A connection is one task. A handler is polled once on its connection's task, and if it is not
/// ready then it gets a task of its own; so handlers of one connection run at once, up to
/// [`Settings::with_max_in_flight`], and are answered as they finish; on the classic wire in the
/// order of their requests.
///
/// ```
/// use falco_tokio::{Request, Server};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder(falco_tokio::generate_key()?).bind("127.0.0.1:0").await?;
/// let handle = server.handle();
/// # handle.shutdown();
/// let report = server
///     .serve(|request: Request| async move {
///         let text = str::from_utf8(request.body())?; // an error fails this request, and nothing else
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
    on_cancel: OnCancel,
    spawn_handlers: bool,
    /// How long a shutdown may last, once it is under way and bounded.
    limit: tokio::sync::watch::Sender<Option<tokio::time::Instant>>,
}

/// What a server did until it was stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// What it has counted.
    pub stats: ServerStats,
    /// Connections that were ended at once because the limit of a shutdown had run out.
    pub cut_connections: u64,
    /// Requests on them that had not been answered.
    pub cut_requests: u64,
}

impl Server {
    /// The address that the server is bound to.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) where that is not an address of the internet.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let listener = self.listener.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        listener.local_addr()
    }

    /// What stops the server, changes its keys and reads its counters, from anywhere.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle {
            service: Arc::clone(&self.service),
        }
    }

    /// Takes connections and runs `handler` for their requests, until a [`Handle`] shuts the server
    /// down; then says what has been.
    ///
    /// A handler that returns an error or panics costs its own request; on the classic wire, which
    /// has no other word for it, the connection of that request, and nothing else. A server that is
    /// bound to nothing ([`ServerBuilder::unbound`]) just waits to be shut down.
    ///
    /// When this future is dropped before it is done, all connections end at once.
    ///
    /// # Errors
    /// None at present: errors of accepting are survived, and counted.
    pub async fn serve<H: Handler>(self, handler: H) -> Result<Report, Error> {
        let Self { service, listener } = self;
        let cut = CutOnDrop(&service);
        if let Some(listener) = listener {
            accept::until_stopped(listener, &service, &Arc::new(handler)).await;
        } else {
            service.registry.stopping().await;
        }
        service.drain().await;
        core::mem::forget(cut);
        let (cut_connections, cut_requests) = service.registry.cut_counts();
        Ok(Report {
            stats: service.stats(),
            cut_connections,
            cut_requests,
        })
    }

    /// The same with a Tower service, which is cloned, made ready for and called for each request.
    /// Where it sheds load, clients are told that the server is busy, and that their requests were
    /// not processed.
    ///
    /// ```
    /// use falco_tokio::{Request, Server};
    /// use tower::ServiceBuilder;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let server = Server::builder(falco_tokio::generate_key()?).bind("127.0.0.1:0").await?;
    /// # server.handle().shutdown();
    /// let service = ServiceBuilder::new()
    ///     .load_shed()
    ///     .concurrency_limit(100)
    ///     .timeout(std::time::Duration::from_secs(2))
    ///     .service_fn(|request: Request| async move { Ok::<_, falco_tokio::HandlerError>(request.into_body()) });
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

    /// Serves one connection over any stream, in this task, and says what ended it.
    ///
    /// Handlers that are not ready at once get tasks of their own, so it takes a Tokio runtime as
    /// all else here does.
    ///
    /// It takes no place of the [`max_connections`](ServerBuilder::max_connections), and is never
    /// dropped to make room; a shutdown ends it as it does others.
    ///
    /// ```
    /// use falco_tokio::{Client, ConnectionError, Key, Request, Server};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (near, far) = tokio::io::duplex(4096);
    /// let server = Server::builder(Key::from_bytes([7; 32])?).unbound()?;
    /// let serving = tokio::spawn(async move {
    ///     server.serve_connection(far, |request: Request| async move { Ok(request.into_body()) }).await
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
        let connection = accept::guest(&self.service, stream, &Arc::new(handler))?;
        match connection {
            Some(connection) => connection.await,
            None => Ok(ConnectionError::Closed),
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
    fn stats(&self) -> ServerStats {
        let (connections, half_open) = self.registry.counts();
        self.counters.read(connections, half_open)
    }

    /// Waits until all connections have ended; those that have not at the limit are cut off.
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
                // The sender is `self`'s: it is there.
                _ = limit.changed() => {}
            }
        }
        self.registry.cut();
        self.registry.empty().await;
    }
}

/// Stops a [`Server`], changes its keys and reads its counters, from anywhere. Clones do so to the
/// same server.
#[derive(Clone, Debug)]
pub struct Handle {
    service: Arc<Service>,
}

impl Handle {
    /// Shuts the server down in good order: it takes no more connections, tells its clients, lets
    /// the requests that have begun finish, sends their answers, and closes. This returns at once;
    /// [`Server::serve`] returns when it is done: on the noise wire after a lifetime at the most,
    /// on the classic wire when all handlers that run are done.
    ///
    /// A connection that has nothing more to do waits up to a second for its client to end as well.
    pub fn shutdown(&self) {
        self.service.registry.stop();
    }

    /// The same, but what is not done within `limit` is cut off. Of several limits the earliest
    /// counts.
    pub fn shutdown_within(&self, limit: Duration) {
        // An overflowing deadline means no limit.
        if let Some(until) = tokio::time::Instant::now().checked_add(limit) {
            self.service.limit.send_modify(|now| {
                *now = Some(now.map_or(until, |now| now.min(until)));
            });
        }
        self.shutdown();
    }

    /// Takes another key into service on the noise wire, at once.
    ///
    /// # Errors
    /// [`SetupError`]; then nothing has changed.
    pub fn add_key(&self, key: Key) -> Result<KeyId, SetupError> {
        self.service.keys.ring().ok_or(SetupError::NoRing)?.add(key)
    }

    /// Takes a key out of service on the noise wire, and says whether it was in it. Hellos under it
    /// are refused from now on. Its connections take no more requests, and end when those that have
    /// begun have had their answers; their clients are told why.
    #[expect(
        clippy::must_use_candidate,
        reason = "a caller who knows that it was there need not ask"
    )]
    pub fn retire_key(&self, id: KeyId) -> bool {
        let retired = self.service.keys.ring().is_some_and(|ring| ring.retire(id));
        if retired {
            self.service.registry.retire(id);
        }
        retired
    }

    /// What the server has counted.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        self.service.stats()
    }
}
