//! How a server is set up and bound.

use core::time::Duration;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::UnixListener;
#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;

use falco_core::keys::{Entropy, Secrets};
use falco_core::mux::SharedBudget;
use falco_core::{EntropyError, Fate, Key, Settings, SettingsBuilder};

use super::accept::Listener;
use super::admission::Admission;
use super::pool::Pool;
use super::{Server, Service};
use crate::clock::Clock;
use crate::entropy;
use crate::error::Error;

/// How many handlers run at once by default: they wait more often than they compute.
const WORKERS: usize = 64;
/// How long a request waits for a worker by default.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
/// How many connections there may be by default.
const MAX_CONNECTIONS: usize = 1024;
/// How many of them may be in their handshake by default. Each has a thread, and a handshake takes
/// a fraction of a millisecond.
const MAX_HALF_OPEN: usize = 256;
/// How many nonces a server remembers by default, 1.25 MiB: each request and each answer takes one.
const REPLAY_MEMORY: usize = 65_536;
/// How many bytes requests may hold over all connections by default, 1 GiB.
const MAX_HELD: usize = 1 << 30;

/// Settings of a [`Server`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is bound"]
pub struct ServerBuilder {
    secrets: Secrets,
    settings: SettingsBuilder,
    workers: usize,
    queue_timeout: Duration,
    max_connections: usize,
    max_half_open: usize,
    max_held: usize,
    entropy: Entropy,
}

impl Server {
    /// A server for clients that have `key`. It speaks the noise wire: both sides prove that they
    /// have the key, and keys of their own protect each connection.
    pub fn builder(key: Key) -> ServerBuilder {
        ServerBuilder::new(Secrets {
            noise: vec![key],
            ..Secrets::default()
        })
    }

    /// A server that speaks the classic wire alone, to clients of the published falcotcp 0.1.x and
    /// to [`Client::classic`](crate::Client::classic).
    ///
    /// The wire proves to the server that the client has, or once had a recording of one who had,
    /// the key. What it does not give is told in [`falco_core::classic`].
    pub fn classic(key: Key) -> ServerBuilder {
        ServerBuilder::new(Secrets {
            classic: Some(key),
            ..Secrets::default()
        })
    }
}

impl ServerBuilder {
    fn new(secrets: Secrets) -> Self {
        Self {
            secrets: Secrets {
                nonces: REPLAY_MEMORY,
                ..secrets
            },
            settings: SettingsBuilder::new(),
            workers: WORKERS,
            queue_timeout: QUEUE_TIMEOUT,
            max_connections: MAX_CONNECTIONS,
            max_half_open: MAX_HALF_OPEN,
            max_held: MAX_HELD,
            entropy: entropy::system(),
        }
    }

    /// Takes another key beside those that are there, on the noise wire. Clients of any of them are
    /// let in.
    pub fn key(mut self, key: Key) -> Self {
        self.secrets.noise.push(key);
        self
    }

    /// Speaks the classic wire beside the noise wire on the same port, under a key of its own:
    /// binding fails where the noise wire has the same. What that wire does not give is told in
    /// [`falco_core::classic`].
    pub fn classic(mut self, key: Key) -> Self {
        self.secrets.classic = Some(key);
        self
    }

    /// The name of the service, or any bytes that both owners have agreed on, 65,535 at most: a
    /// client that calls another is refused. Empty by default. The classic wire has none.
    pub fn context(mut self, context: impl Into<Vec<u8>>) -> Self {
        self.secrets.context = context.into();
        self
    }

    /// The largest message, the requests in flight on one connection, the lifetime, how long a
    /// handshake may take. What is set by itself holds, before or after this.
    pub const fn settings(mut self, settings: Settings) -> Self {
        self.settings = self.settings.settings(settings);
        self
    }

    /// The largest message body, in bytes, either way: 16 MiB by default.
    pub const fn max_message(mut self, bytes: u32) -> Self {
        self.settings = self.settings.max_message(bytes);
        self
    }

    /// How long a connection lives without a message or a ping: 60 s by default, 1 s to 49 days.
    /// The smaller of both sides' is in force.
    pub const fn lifetime(mut self, lifetime: Duration) -> Self {
        self.settings = self.settings.lifetime(lifetime);
        self
    }

    /// How long a handshake may take: 5 s by default, at least 1 ms.
    pub const fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings = self.settings.handshake_timeout(timeout);
        self
    }

    /// How many requests of one connection may be unanswered at once: 1024 by default, at least 1.
    /// A client holds those beyond it back.
    pub const fn max_in_flight(mut self, requests: u16) -> Self {
        self.settings = self.settings.max_in_flight(requests);
        self
    }

    /// How many handlers may run at once, 64 by default; 0 counts as 1. Further requests wait for
    /// their turn, for the [queue timeout](Self::queue_timeout) at most. Connections take turns:
    /// however many requests of one connection wait, a request of another waits for one of them.
    pub const fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// How long a request may wait for a worker, 5 s by default. One that has waited longer is
    /// refused as [busy](falco_core::Refusal::Busy): no handler has seen it, and its client may
    /// send it again.
    ///
    /// A burst that 64 workers get done in 5 s waits; a client with the default request timeout of
    /// 30 s is told while it can still turn to another server; and handlers that wait for requests
    /// to their own server, with every worker among them, are told that none is free, and go on.
    /// The classic wire has no word for it: there the answers to the requests before it still go,
    /// and then the connection ends.
    pub const fn queue_timeout(mut self, timeout: Duration) -> Self {
        self.queue_timeout = timeout;
        self
    }

    /// How many connections there may be at once, 1024 by default; 0 counts as 1. Each takes a
    /// thread and a file descriptor.
    ///
    /// When one more comes, it waits in the listener's backlog until a handshake is done or late.
    /// Where all have finished theirs, the newcomer is turned away.
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// How many connections may be in their handshake at once, 256 by default; 0 counts as 1.
    ///
    /// When one more comes, it waits in the listener's backlog until one of them is done, or late
    /// and dropped for it: one whose hello has been waited for 500 ms, or its proof for 3 s after
    /// the hello.
    pub const fn max_half_open(mut self, connections: usize) -> Self {
        self.max_half_open = connections;
        self
    }

    /// How many bytes requests that have had no end may hold over all connections, 1 GiB by
    /// default; [`Settings::with_max_held`] bounds those of one connection. A request over it is
    /// refused as busy.
    pub const fn max_held(mut self, bytes: usize) -> Self {
        self.max_held = bytes;
        self
    }

    /// How many nonces to remember on the classic wire, 20 bytes each, 65,536 by default; 0
    /// remembers none. Each request and each answer takes one. What is replayed from within this
    /// memory is refused. The noise wire needs none.
    pub const fn replay_memory(mut self, nonces: usize) -> Self {
        self.secrets.nonces = nonces;
        self
    }

    /// Where random numbers come from instead of the operating system, for tests and simulations.
    /// In production a source that is not cryptographic gives the keys away.
    pub fn entropy(mut self, fill: impl Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync + 'static) -> Self {
        self.entropy = Entropy::new(fill);
        self
    }

    /// Binds to an address. Port 0 has the system choose one; [`Server::local_addr`] says which. A
    /// burst of up to 4096 connections waits for its turn, where the system allows as many.
    ///
    /// # Errors
    /// [`Error`].
    pub fn bind(self, address: impl ToSocketAddrs) -> Result<Server, Error> {
        self.build(Some(Listener::bind(address).map_err(binding)?))
    }

    /// Takes connections from a listener that is bound already.
    ///
    /// Shutting the server down shuts the listening socket itself down, also for other processes
    /// that have it: one that is shared, as after a hand-over, stops listening everywhere.
    ///
    /// # Errors
    /// [`Error`].
    pub fn from_listener(self, listener: TcpListener) -> Result<Server, Error> {
        self.build(Some(Listener::tcp(listener).map_err(binding)?))
    }

    /// Binds to a Unix socket. The file must not exist, and stays when the server is gone.
    ///
    /// # Errors
    /// [`Error`].
    #[cfg(unix)]
    pub fn bind_unix(self, path: impl AsRef<Path>) -> Result<Server, Error> {
        self.build(Some(Listener::bind_unix(path.as_ref()).map_err(binding)?))
    }

    /// Takes connections from a Unix listener that is bound already.
    ///
    /// Shutting the server down shuts the listening socket itself down, also for other processes
    /// that have it: one that is shared, as after a hand-over, stops listening everywhere.
    ///
    /// # Errors
    /// [`Error`].
    #[cfg(unix)]
    pub fn from_unix_listener(self, listener: UnixListener) -> Result<Server, Error> {
        self.build(Some(Listener::unix(listener).map_err(binding)?))
    }

    /// A server that is bound to nothing, for [`Server::serve_connection`].
    ///
    /// # Errors
    /// [`Error::Entropy`], [`Error::Setup`].
    pub fn unbound(self) -> Result<Server, Error> {
        self.build(None)
    }

    fn build(self, listener: Option<Listener>) -> Result<Server, Error> {
        let settings = self.settings.build()?;
        let mut entropy = self.entropy;
        let keys = self.secrets.into_server(&mut entropy)?;
        let service = Service {
            keys: Arc::new(keys),
            settings,
            entropy,
            queue_timeout: self.queue_timeout,
            clock: Clock::new(),
            admission: Arc::new(Admission::new(self.max_connections.max(1), self.max_half_open.max(1))),
            pool: Arc::new(Pool::new(self.workers.max(1))),
            budget: SharedBudget::new(self.max_held),
            linger: Arc::default(),
        };
        Ok(Server {
            service: Arc::new(service),
            listener: listener.map(Arc::new),
        })
    }
}

fn binding(error: io::Error) -> Error {
    Error::io("binding", error, Fate::NotProcessed)
}
