//! The settings of a client, and how it is created.

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io;
#[cfg(unix)]
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

use falco_core::keys::{ClientKeySource, Entropy, Secrets};
use falco_core::mux::Backoff;
use falco_core::{EntropyError, Fate, Key, Settings, SettingsBuilder};

use super::address::Address;
use super::connector::{Config, Connector, Wait};
use super::dial::Dial;
use super::{Client, Inner};
use crate::entropy;
use crate::error::Error;
use crate::open::{STREAM_WINDOW, kib};
use crate::stream::{BoxedStream, Stream};

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
    connect_timeout: Duration,
    request_timeout: Option<Duration>,
    backoff: Backoff,
    fail_fast: bool,
    /// In KiB.
    stream_window: u16,
    entropy: Entropy,
    /// The server that the next client belongs to. The first is random.
    turn: Arc<OnceLock<AtomicUsize>>,
}

impl Client {
    /// A client of servers that have `key`, on the noise wire. Both sides prove that they have the
    /// key, and each connection has keys of its own.
    pub fn builder(key: Key) -> ClientBuilder {
        ClientBuilder::new(ClientKeySource::noise(key))
    }

    /// A client of servers of the published falcotcp 0.1.x and of
    /// [`Server::classic`](crate::Server::classic), on the classic wire.
    ///
    /// [`falco_core::classic`] says what that wire does not provide.
    pub fn classic(key: Key) -> ClientBuilder {
        ClientBuilder::new(ClientKeySource::classic(key, Secrets::DEFAULT_CLIENT_NONCES))
    }
}

impl ClientBuilder {
    fn new(key: ClientKeySource) -> Self {
        Self {
            key,
            settings: SettingsBuilder::new(),
            connect_timeout: SettingsBuilder::DEFAULT_CONNECT_TIMEOUT,
            request_timeout: Some(SettingsBuilder::DEFAULT_REQUEST_TIMEOUT),
            backoff: Backoff::default(),
            fail_fast: false,
            stream_window: kib(STREAM_WINDOW),
            entropy: entropy::system(),
            turn: Arc::default(),
        }
    }

    /// The context: the name of the service, or any bytes that both sides have agreed on, 65,535
    /// at most. A server with another context refuses the handshake. Empty by default. The classic
    /// wire has none.
    pub fn context(self, context: impl Into<Vec<u8>>) -> Self {
        self.key.set_context(context.into());
        self
    }

    /// The largest message, the lifetime, keep-alive, the handshake timeout. A value that is set by
    /// its own method, before or after this, takes precedence.
    pub const fn settings(mut self, settings: Settings) -> Self {
        self.settings = self.settings.settings(settings);
        self
    }

    /// The largest body of a request or an answer, in bytes: 16 MiB by default.
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

    /// How long it may take to resolve a name and to connect to one of its addresses, 5 s by
    /// default. The handshake has a [limit](Self::handshake_timeout) of its own.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a request may take in all, 30 s by default, including the time to connect. `None`
    /// sets no limit.
    ///
    /// A request that timed out may still be processed. On the noise wire it is cancelled, and the
    /// connection stays open. On the classic wire, and over a stream that does not
    /// [split](Stream::split), the connection ends, so that no caller receives the late answer.
    pub const fn request_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.request_timeout = timeout;
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

    /// Whether requests that wait for a connection fail with the first failed attempt. By default
    /// they wait for further attempts within their time limit. After a failed attempt the client
    /// then continues to connect on a separate thread although no request waits, so that it has a
    /// connection as soon as the server is back.
    pub const fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// The size of the replay cache on the classic wire, in nonces of 20 bytes, 1024 by default. An
    /// answer whose nonce it contains is rejected. With 0 there is no cache. The noise wire needs
    /// none.
    pub fn replay_memory(self, nonces: usize) -> Self {
        self.key.set_nonces(nonces);
        self
    }

    /// The source of random numbers, for tests and simulations: the operating system by default. A
    /// source that is not cryptographically secure reveals the keys.
    pub fn entropy(mut self, fill: impl Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync + 'static) -> Self {
        self.entropy = Entropy::new(fill);
        self
    }

    /// Connects to a host and port, such as `"db.internal:4287"`, or to the first of several
    /// addresses that answers, and completes the handshake. A name is resolved again for each
    /// connection.
    ///
    /// # Errors
    /// The error of the only attempt, such as
    /// [`ConnectionError::Refused`](crate::ConnectionError::Refused) if the server has another key.
    pub fn connect(self, address: impl Into<Address>) -> Result<Client, Error> {
        self.open([Dial::Tcp(address.into())])
    }

    /// A client that connects with the first request.
    ///
    /// # Errors
    /// [`Error::Setup`], [`Error::Settings`].
    pub fn connect_lazy(self, address: impl Into<Address>) -> Result<Client, Error> {
        self.client([Dial::Tcp(address.into())])
    }

    /// A client of several servers that answer the same requests. Its connection is to one of them;
    /// if that server cannot be reached or the connection is lost, it goes to the next one at once,
    /// and the server is not tried again for a while (its [back-off](Self::backoff)). If
    /// connecting, with the handshake, takes longer than 250 ms, another thread begins to connect
    /// to the next server, as RFC 8305 describes it for the addresses of a name, and the client
    /// uses the first connection that is established. A server that is merely slow may so see a
    /// handshake whose connection is then dropped.
    ///
    /// No server is preferred: a client begins with a random one, and clients of clones of this
    /// builder take turns. It returns there with a later connection, such as after
    /// [`ServerBuilder::max_connection_age`](crate::ServerBuilder::max_connection_age). Requests
    /// that were not processed are sent to another server; the others fail, and [`Error::fate`]
    /// says so.
    ///
    /// Waits for the first handshake. An [`Address`] of several socket addresses is one server that
    /// can be reached in several ways.
    ///
    /// ```no_run
    /// # fn example(key: falco_std::Key) -> Result<(), falco_std::Error> {
    /// let servers = ["orders-1.internal:4287", "orders-2.internal:4287"];
    /// let client = falco_std::Client::builder(key).connect_any(servers)?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error`] of the last server, if none can be reached, or if there is no server.
    pub fn connect_any(self, servers: impl IntoIterator<Item = impl Into<Address>>) -> Result<Client, Error> {
        self.open(tcp(servers))
    }

    /// As [`connect_any`](Self::connect_any), for a client that connects with the first request.
    ///
    /// # Errors
    /// [`Error::Setup`], [`Error::Settings`], or [`Error::Io`] if there is no server.
    pub fn connect_any_lazy(self, servers: impl IntoIterator<Item = impl Into<Address>>) -> Result<Client, Error> {
        self.client(tcp(servers))
    }

    /// Connects to a Unix socket, and completes the handshake.
    ///
    /// # Errors
    /// [`Error`].
    #[cfg(unix)]
    pub fn connect_unix(self, path: impl AsRef<Path>) -> Result<Client, Error> {
        self.open([Dial::Unix(path.as_ref().to_owned())])
    }

    /// Connects with a function, such as one that goes through a proxy, and completes the
    /// handshake. The client calls the function for each connection, on a separate thread. The
    /// function has to limit its time itself.
    ///
    /// # Errors
    /// [`Error`].
    pub fn connect_with<S: Stream + Send + 'static>(
        self,
        dial: impl Fn() -> io::Result<S> + Send + Sync + 'static,
    ) -> Result<Client, Error> {
        let dial = move || dial().map(|stream| -> BoxedStream { Box::new(stream) });
        self.open([Dial::With(Box::new(dial))])
    }

    /// Completes the handshake over a stream that is already connected. When the stream has ended,
    /// the client cannot make another connection, and all requests fail.
    ///
    /// # Errors
    /// [`Error`].
    pub fn over(self, stream: impl Stream + Send + 'static) -> Result<Client, Error> {
        self.open([Dial::Once(Mutex::new(Some(Box::new(stream))))])
    }

    fn open(self, servers: impl Into<Box<[Dial]>>) -> Result<Client, Error> {
        let client = self.client(servers)?;
        client.inner.connector.connection(None, Wait::Attempt)?;
        Ok(client)
    }

    fn client(self, servers: impl Into<Box<[Dial]>>) -> Result<Client, Error> {
        let dials = servers.into();
        let count = u64::try_from(dials.len()).unwrap_or(u64::MAX);
        if count == 0 {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "there is no server to connect to");
            return Err(Error::io("connecting", error, Fate::NotProcessed));
        }
        let settings = self.settings.build()?.with_streams(self.stream_window, 0);
        let mut entropy = self.entropy;
        let keys = self.key.keys(&mut entropy)?;
        let home = if count > 1 {
            let first = || AtomicUsize::new(usize::try_from(entropy.below(count)).unwrap_or_default());
            let turn = self.turn.get_or_init(first).fetch_add(1, Ordering::Relaxed);
            turn % dials.len()
        } else {
            0
        };
        let config = Config {
            settings,
            entropy,
            dials,
            home,
            connect_timeout: self.connect_timeout,
            backoff: self.backoff,
            fail_fast: self.fail_fast,
        };
        Ok(Client {
            inner: Arc::new(Inner {
                connector: Connector::new(config, keys),
                request_timeout: self.request_timeout,
            }),
        })
    }
}

/// How to connect to hosts and ports.
fn tcp(servers: impl IntoIterator<Item = impl Into<Address>>) -> Vec<Dial> {
    servers.into_iter().map(|server| Dial::Tcp(server.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_takes_30_s_at_most_by_default() {
        let builder = Client::builder(Key::from_bytes([7; 32]).expect("it is not zero"));
        assert_eq!(builder.request_timeout, Some(Duration::from_secs(30)));
        assert_eq!(builder.request_timeout(None).request_timeout, None);
    }
}
