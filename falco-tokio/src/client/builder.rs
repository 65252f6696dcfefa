//! Settings of a client, and how it is created.

use core::future::Future;
use core::time::Duration;
use std::io;
#[cfg(unix)]
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};

use falco_core::keys::{ClientKeySource, Entropy, Secrets};
use falco_core::mux::Backoff;
use falco_core::{EntropyError, Key, Settings, SettingsBuilder};
use tokio::sync::{Notify, oneshot};

use super::Client;
use super::dial::{Connecting, Dial};
use super::env::{Env, OwnKey};
use super::homing;
use super::places::MOST_PLACES;
use super::servers::Servers;
use super::shared::{Order, Shared};
use super::slot::Slot;
use super::stats::Counters;
use crate::clock::Clock;
use crate::entropy;
use crate::error::Error;
use crate::server::{STREAM_WINDOW, kib};
use crate::socket::Stream;

/// Settings of a [`Client`]. Clones of a builder share its key, so that a process can have several
/// clients under one key. They also share the context and, on the classic wire, the replay cache.
/// The first client that is created fixes both.
///
/// A clone that is kept keeps the key in memory as well, even after the clients have ended or have
/// another key ([`Client::set_key`]). Drop it when the key must be gone.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it connects"]
pub struct ClientBuilder {
    key: ClientKeySource,
    settings: SettingsBuilder,
    connections: usize,
    connect_timeout: Duration,
    request_timeout: Option<Duration>,
    max_outstanding: Option<usize>,
    backoff: Backoff,
    fail_fast: bool,
    stream_window: u16,
    entropy: Entropy,
}

impl Client {
    /// A client of servers that have `key`, on the noise wire: both sides prove that they have the
    /// key, and each connection is encrypted under keys of its own.
    pub fn builder(key: Key) -> ClientBuilder {
        ClientBuilder::new(ClientKeySource::noise(key))
    }

    /// A client that speaks the classic wire, to servers of the published falcotcp 0.1.x and to
    /// [`Server::classic`](crate::Server::classic).
    ///
    /// [`falco_core::classic`] says what that wire does not provide. A connection ends when nothing
    /// was sent for a lifetime, and the next request opens another.
    pub fn classic(key: Key) -> ClientBuilder {
        ClientBuilder::new(ClientKeySource::classic(key, Secrets::DEFAULT_CLIENT_NONCES))
    }
}

impl ClientBuilder {
    fn new(key: ClientKeySource) -> Self {
        Self {
            key,
            settings: SettingsBuilder::new(),
            connections: 1,
            connect_timeout: SettingsBuilder::DEFAULT_CONNECT_TIMEOUT,
            request_timeout: Some(SettingsBuilder::DEFAULT_REQUEST_TIMEOUT),
            max_outstanding: None,
            backoff: Backoff::default(),
            fail_fast: false,
            stream_window: kib(STREAM_WINDOW),
            entropy: entropy::system(),
        }
    }

    /// The name of the service, or any bytes that both sides have agreed on, 65,535 at most. A
    /// server with another context refuses the connection. Empty by default. The classic wire has
    /// no context.
    pub fn context(self, context: impl Into<Vec<u8>>) -> Self {
        self.key.set_context(context.into());
        self
    }

    /// Several settings at once: the largest message, the lifetime, keep-alive, the handshake
    /// timeout and others. A value that was set by its own method takes precedence, before or after
    /// this.
    pub const fn settings(mut self, settings: Settings) -> Self {
        self.settings = self.settings.settings(settings);
        self
    }

    /// The largest message in either direction, in bytes: 16 MiB by default.
    pub const fn max_message(mut self, bytes: u32) -> Self {
        self.settings = self.settings.max_message(bytes);
        self
    }

    /// The idle timeout: how long a connection stays open without a received record (noise), or
    /// without a message or a ping (classic). 60 s by default, 1 s to 49 days. On the noise wire
    /// the smaller value of both sides applies.
    pub const fn lifetime(mut self, lifetime: Duration) -> Self {
        self.settings = self.settings.lifetime(lifetime);
        self
    }

    /// How long a handshake may take: 5 s by default, at least 1 ms.
    pub const fn handshake_timeout(mut self, timeout: Duration) -> Self {
        self.settings = self.settings.handshake_timeout(timeout);
        self
    }

    /// How many connections to spread requests over: 1 by default, and 0 counts as 1. A request
    /// goes to the connection with the fewest outstanding requests. Each is opened when it is first
    /// needed. A connection that fails is opened again, with pauses, even if there are others.
    pub const fn connections(mut self, connections: usize) -> Self {
        self.connections = connections;
        self
    }

    /// How long connecting the socket may take: 5 s by default. The handshake has a [limit of its
    /// own](Self::handshake_timeout).
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a request may take in total: 30 s by default. That includes waiting for a place in
    /// the queue, for a connection, and for the answer. `None` sets no limit.
    pub const fn request_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How many requests may be outstanding at once: 1024 for each connection by default, and 0
    /// counts as 1. Further calls wait for a place before their requests are queued.
    pub const fn max_outstanding(mut self, requests: usize) -> Self {
        self.max_outstanding = Some(requests);
        self
    }

    /// The pauses after failed attempts to connect. Each is random, up to a bound. The bound is
    /// `first` after the first failure, 50 ms by default. It doubles with each further failure, up
    /// to `most`, 10 s by default.
    pub const fn backoff(mut self, first: Duration, most: Duration) -> Self {
        self.backoff = Backoff::new(first, most);
        self
    }

    /// How many bytes of an open answer may arrive before its reader takes them: 256 KiB by
    /// default, at most 64 MiB, rounded up to KiB. It bounds the memory of a [`Call`](crate::Call).
    /// An answer transfers at most one window in each round trip. Open requests are held back so
    /// that their windows fit into [`Settings::with_max_held`], 64 MiB by default. With 0, servers
    /// send no open answers: they collect them, up to the largest message.
    pub const fn stream_window(mut self, bytes: u32) -> Self {
        self.stream_window = kib(bytes);
        self
    }

    /// Whether requests that wait for a connection fail as soon as an attempt to connect fails. By
    /// default they wait for further attempts within their time limit. The client then continues to
    /// connect although no request waits, so that it has a connection as soon as the server is
    /// back.
    pub const fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// How many nonces the replay cache of the classic wire holds, with 20 bytes each: 1024 by
    /// default. With 0 there is none. Replayed answers are rejected if their nonces are in the
    /// cache. The noise wire needs no replay cache.
    pub fn replay_memory(self, nonces: usize) -> Self {
        self.key.set_nonces(nonces);
        self
    }

    /// A source of random numbers instead of the operating system, for tests and simulations. In
    /// production a source that is not cryptographically secure reveals the keys.
    pub fn entropy(mut self, fill: impl Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync + 'static) -> Self {
        self.entropy = Entropy::new(fill);
        self
    }

    /// Connects to a host and port, such as `"db.internal:4287"`, and waits for the handshake. The
    /// name is resolved again for each connection.
    ///
    /// # Errors
    /// [`Error`] of the first attempt, such as
    /// [`ConnectionError::Refused`](crate::ConnectionError::Refused) if the server has another key.
    pub async fn connect(self, address: impl ToString) -> Result<Client, Error> {
        self.open(tcp([address])).await
    }

    /// A client that connects to a host and port when there is something to send.
    ///
    /// # Errors
    /// [`Error::Setup`], [`Error::Settings`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime. The client's tasks run on it.
    pub fn connect_lazy(self, address: impl ToString) -> Result<Client, Error> {
        self.build(tcp([address]))
    }

    /// A client of several servers that answer the same requests, each a host and a port. There are
    /// as many [`connections`](Self::connections) as servers, or more, and they are spread over the
    /// servers. If a server cannot be reached or its connection is lost, its connections go to the
    /// next one at once, and it is not tried again for a while (its [back-off](Self::backoff)).
    /// They return when it can be reached again. No server is preferred. Requests that were not
    /// processed are sent to another server; the others fail, and [`Error::fate`] says so.
    ///
    /// If connecting, with the handshake, takes longer than 250 ms, the client also begins to
    /// connect to the next server, as RFC 8305 describes it for the addresses of a name, and uses
    /// the first connection that is established. A server that hangs delays requests by no more
    /// than that, and one that is merely slow may see a handshake that the client abandons.
    ///
    /// Waits for the first handshake.
    ///
    /// ```no_run
    /// # async fn example(key: falco_tokio::Key) -> Result<(), falco_tokio::Error> {
    /// let servers = ["orders-1.internal:4287", "orders-2.internal:4287"];
    /// let client = falco_tokio::Client::builder(key).connect_any(servers).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error`] of the last server, if none can be reached, or if there is no server.
    pub async fn connect_any(self, servers: impl IntoIterator<Item = impl ToString>) -> Result<Client, Error> {
        self.open(tcp(servers)).await
    }

    /// As [`connect_any`](Self::connect_any), for a client that connects when there is something to
    /// send.
    ///
    /// # Errors
    /// [`Error::Setup`], [`Error::Settings`].
    ///
    /// # Panics
    /// Outside of a Tokio runtime. The client's tasks run on it.
    pub fn connect_any_lazy(self, servers: impl IntoIterator<Item = impl ToString>) -> Result<Client, Error> {
        self.build(tcp(servers))
    }

    /// Connects to a Unix socket, and waits for the handshake.
    ///
    /// # Errors
    /// [`Error`].
    #[cfg(unix)]
    pub async fn connect_unix(self, path: impl AsRef<Path>) -> Result<Client, Error> {
        self.open(vec![Dial::Unix(path.as_ref().to_owned())]).await
    }

    /// Connects with the caller's function, for example through a proxy, and waits for the
    /// handshake. The function is called for each connection.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn connect_with<F, Fut, S>(self, dial: F) -> Result<Client, Error>
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = io::Result<S>> + Send + 'static,
        S: Stream + 'static,
    {
        let dial = move || -> Connecting {
            let dialing = dial();
            Box::pin(async move {
                let stream: Box<dyn Stream> = Box::new(dialing.await?);
                Ok(stream)
            })
        };
        self.open(vec![Dial::With(Box::new(dial))]).await
    }

    /// Uses a stream that is already connected, and waits for the handshake. When the stream ends,
    /// the client cannot connect again, and its requests fail.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn over(mut self, stream: impl Stream + 'static) -> Result<Client, Error> {
        self.connections = 1;
        self.open(vec![Dial::Once(Mutex::new(Some(Box::new(stream))))]).await
    }

    async fn open(self, servers: Vec<Dial>) -> Result<Client, Error> {
        let client = self.build(servers)?;
        let (to, opened) = oneshot::channel();
        let first = client.inner.slots.first().ok_or(Error::Closed)?;
        first.order(Order::Open(to));
        opened.await.unwrap_or(Err(Error::Closed))?;
        Ok(client)
    }

    fn build(self, servers: Vec<Dial>) -> Result<Client, Error> {
        if servers.is_empty() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "there is no server to connect to");
            return Err(Error::io("connecting", error, falco_core::Fate::NotProcessed));
        }
        let servers = Servers::new(servers, self.backoff);
        let settings = self.settings.build()?.with_streams(self.stream_window, 0);
        let mut entropy = self.entropy;
        let keys = self.key.keys(&mut entropy)?;
        let counters = Counters::new(&servers);
        let connections = self.connections.max(servers.len()).max(1);
        let env = Arc::new(Env {
            key: RwLock::new(OwnKey::new(keys)),
            settings,
            clock: Clock::new(),
            entropy,
            servers,
            connect_timeout: self.connect_timeout,
            backoff: self.backoff,
            fail_fast: self.fail_fast,
            spread: connections > 1,
            counters,
            recovered: Notify::new(),
        });
        let slots: Box<[_]> = (0..connections).map(|_| Arc::new(Shared::default())).collect();
        for (home, shared) in slots.iter().enumerate() {
            let home = home % env.servers.len();
            tokio::spawn(Slot::new(Arc::clone(shared), Arc::clone(&env), home));
        }
        if env.servers.len() > 1 {
            let shared = slots.iter().map(Arc::downgrade).collect();
            tokio::spawn(homing::run(shared, Arc::downgrade(&env)));
        }
        let places = self.max_outstanding;
        // For each connection as many as a server allows in flight by default.
        let places = places.unwrap_or(usize::from(Settings::DEFAULT_MAX_IN_FLIGHT).saturating_mul(connections));
        let places = places.clamp(1, MOST_PLACES);
        Ok(Client::new(slots, places, self.request_timeout, env))
    }
}

/// How to connect to hosts and ports.
fn tcp(servers: impl IntoIterator<Item = impl ToString>) -> Vec<Dial> {
    servers
        .into_iter()
        .map(|server| Dial::Tcp(server.to_string()))
        .collect()
}
