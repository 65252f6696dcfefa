//! How a server is set up and bound.

use std::net::{TcpListener, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::UnixListener;
#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;

use falco_core::{Key, Settings};

use super::accept::Listener;
use super::handler::Workers;
use super::seats::Seats;
use super::{Server, Service};
use crate::clock::Clock;
use crate::error::{Error, Fate};
use crate::wire_key::KeySource;

/// How many handlers run at once by default: they wait more often than they compute.
const WORKERS: usize = 64;
/// How many connections there may be by default.
const MAX_CONNECTIONS: usize = 1024;
/// How many nonces a server remembers by default, 1.25 MiB: each request and each answer takes one.
const REPLAY_MEMORY: usize = 65_536;

/// Settings of a [`Server`].
#[derive(Debug)]
#[must_use = "a builder does nothing until it is bound"]
pub struct ServerBuilder {
    key: KeySource,
    settings: Settings,
    workers: usize,
    max_connections: usize,
    replay_memory: usize,
}

impl Server {
    /// A server that speaks the classic wire, to clients of the published falcotcp 0.1.x and to [`Client::classic`](crate::Client::classic).
    ///
    /// The wire proves to the server that the client has, or once had a recording of one who had, the key. What it does not give is told in [`falco_core::classic`].
    pub fn classic(key: Key) -> ServerBuilder {
        ServerBuilder {
            key: KeySource::new(key),
            settings: Settings::new(),
            workers: WORKERS,
            max_connections: MAX_CONNECTIONS,
            replay_memory: REPLAY_MEMORY,
        }
    }
}

impl ServerBuilder {
    /// The largest message, the lifetime, how long a handshake may take.
    pub const fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// How many handlers may run at once, 64 by default; 0 counts as 1. Further requests wait for their turn.
    pub const fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// How many connections there may be at once, 1024 by default; 0 counts as 1. Each takes a thread and a file descriptor.
    ///
    /// When one more comes, the oldest that has not finished its handshake is dropped. Where all have, the newcomer is turned away.
    pub const fn max_connections(mut self, connections: usize) -> Self {
        self.max_connections = connections;
        self
    }

    /// How many nonces to remember, 20 bytes each, 65,536 by default; 0 remembers none. Each request and each answer takes one. What is replayed from within
    /// this memory is refused.
    pub const fn replay_memory(mut self, nonces: usize) -> Self {
        self.replay_memory = nonces;
        self
    }

    /// Binds to an address. Port 0 has the system choose one; [`Server::local_addr`] says which.
    ///
    /// # Errors
    /// [`Error`].
    pub fn bind(self, address: impl ToSocketAddrs) -> Result<Server, Error> {
        let listener = TcpListener::bind(address).and_then(Listener::tcp);
        self.build(Some(
            listener.map_err(|error| Error::io("binding", error, Fate::NotProcessed))?,
        ))
    }

    /// Binds to a Unix socket. The file must not exist, and stays when the server is gone.
    ///
    /// # Errors
    /// [`Error`].
    #[cfg(unix)]
    pub fn bind_unix(self, path: impl AsRef<Path>) -> Result<Server, Error> {
        let listener = UnixListener::bind(path).and_then(Listener::unix);
        self.build(Some(
            listener.map_err(|error| Error::io("binding", error, Fate::NotProcessed))?,
        ))
    }

    /// A server that is bound to nothing, for [`Server::serve_connection`].
    ///
    /// # Errors
    /// [`Error::Entropy`].
    pub fn unbound(self) -> Result<Server, Error> {
        self.build(None)
    }

    fn build(self, listener: Option<Listener>) -> Result<Server, Error> {
        let service = Service {
            key: self.key.get(self.replay_memory)?,
            settings: self.settings,
            clock: Clock::new(),
            seats: Arc::new(Seats::new(self.max_connections.max(1))),
            workers: Workers::new(self.workers.max(1)),
        };
        Ok(Server {
            service: Arc::new(service),
            listener: listener.map(Arc::new),
        })
    }
}
