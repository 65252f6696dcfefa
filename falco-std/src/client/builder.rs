//! How a client is set up.

use core::time::Duration;
use std::io;
#[cfg(unix)]
use std::path::Path;
use std::sync::{Arc, Mutex};

use falco_core::keys::{ClientKeySource, Entropy};
use falco_core::{EntropyError, Key, Settings, SettingsBuilder};

use super::address::Address;
use super::connector::{Config, Connector, Wait};
use super::dial::{Backoff, Dial};
use super::{Client, Inner};
use crate::entropy;
use crate::error::Error;
use crate::stream::{BoxedStream, Stream};

/// How long connecting may take by default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take by default, as in falco-tokio.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How many nonces a client remembers by default: each request and each answer takes one.
const REPLAY_MEMORY: usize = 1024;
/// The pauses between attempts to connect, as in falco-tokio.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_millis(50),
    most: Duration::from_secs(10),
};

/// Settings of a [`Client`]. Clones of a builder share its key, so that a process can have several
/// clients under one key: with the key they share the context and, on the classic wire, the memory
/// of nonces, which the first client fixes.
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until it connects"]
pub struct ClientBuilder {
    key: ClientKeySource,
    settings: SettingsBuilder,
    connect_timeout: Duration,
    request_timeout: Option<Duration>,
    backoff: Backoff,
    fail_fast: bool,
    entropy: Entropy,
}

impl Client {
    /// A client of servers that have `key`. It speaks the noise wire: both sides prove that they
    /// have the key, and keys of their own protect each connection.
    pub fn builder(key: Key) -> ClientBuilder {
        ClientBuilder::new(ClientKeySource::noise(key))
    }

    /// A client that speaks the classic wire, to servers of the published falcotcp 0.1.x and to
    /// [`Server::classic`](crate::Server::classic).
    ///
    /// What that wire does not give is told in [`falco_core::classic`].
    pub fn classic(key: Key) -> ClientBuilder {
        ClientBuilder::new(ClientKeySource::classic(key, REPLAY_MEMORY))
    }
}

impl ClientBuilder {
    fn new(key: ClientKeySource) -> Self {
        Self {
            key,
            settings: SettingsBuilder::new(),
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: Some(REQUEST_TIMEOUT),
            backoff: BACKOFF,
            fail_fast: false,
            entropy: entropy::system(),
        }
    }

    /// The name of the service called, or any bytes that both owners have agreed on, 65,535 at
    /// most: a server of another context does not take the hello. Empty by default. The classic
    /// wire has none.
    pub fn context(self, context: impl Into<Vec<u8>>) -> Self {
        self.key.set_context(context.into());
        self
    }

    /// The largest message, the lifetime, whether to ping so that a connection stays, how long a
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

    /// How long connecting the socket may take in all, 5 s by default: resolving a name, and all
    /// attempts at its addresses. The handshake has its own limit in the settings.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a request may take in all, 30 s by default: waiting for a connection and for the
    /// answer. `None` sets no limit.
    ///
    /// A request that timed out may still be processed. On the noise wire the server is told that
    /// it is cancelled, and the connection lives on; on the classic wire, and over a stream that
    /// cannot be [split](Stream::split), the connection is given up, so that the late answer
    /// reaches nobody.
    pub const fn request_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// The pauses after attempts to connect that failed: each is a random part of a bound, which is
    /// `first` at first, doubles with each attempt, and is `most` at the most. 50 ms and 10 s by
    /// default.
    pub const fn backoff(mut self, first: Duration, most: Duration) -> Self {
        self.backoff = Backoff { first, most };
        self
    }

    /// Whether requests that find no connection fail as soon as an attempt to connect has failed.
    /// By default they wait for another attempt until their time has run out.
    pub const fn fail_fast(mut self, fail_fast: bool) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// How many nonces to remember on the classic wire, 20 bytes each, 1024 by default; 0 remembers
    /// none. Answers that are replayed from within this memory are refused. The noise wire needs
    /// none.
    pub fn replay_memory(self, nonces: usize) -> Self {
        self.key.set_nonces(nonces);
        self
    }

    /// Where random numbers come from instead of the operating system, for tests and simulations.
    /// In production a source that is not cryptographic gives the keys away.
    pub fn entropy(mut self, fill: impl Fn(&mut [u8]) -> Result<(), EntropyError> + Send + Sync + 'static) -> Self {
        self.entropy = Entropy::new(fill);
        self
    }

    /// Connects to a host and port, such as `"db.internal:4287"`, or to the first of several
    /// addresses that answers, and shakes hands. A name is resolved anew for each connection.
    ///
    /// # Errors
    /// [`Error`]: what the one attempt failed with, such as
    /// [`ConnectionError::Refused`](crate::ConnectionError::Refused) where the server has another
    /// key.
    pub fn connect(self, address: impl Into<Address>) -> Result<Client, Error> {
        self.open(Dial::Tcp(address.into()))
    }

    /// A client that connects when it first has something to send.
    ///
    /// # Errors
    /// [`Error::Setup`], [`Error::Settings`].
    pub fn connect_lazy(self, address: impl Into<Address>) -> Result<Client, Error> {
        self.client(Dial::Tcp(address.into()))
    }

    /// Connects to a Unix socket, and shakes hands; again when the connection has ended.
    ///
    /// # Errors
    /// [`Error`].
    #[cfg(unix)]
    pub fn connect_unix(self, path: impl AsRef<Path>) -> Result<Client, Error> {
        self.open(Dial::Unix(path.as_ref().to_owned()))
    }

    /// Connects by a function of the caller's, such as one that goes through a proxy, and shakes
    /// hands. It is called for each connection, on a thread of the client's, and bounds its own
    /// time.
    ///
    /// # Errors
    /// [`Error`].
    pub fn connect_with<S: Stream + Send + 'static>(
        self,
        dial: impl Fn() -> io::Result<S> + Send + Sync + 'static,
    ) -> Result<Client, Error> {
        let dial = move || dial().map(|stream| -> BoxedStream { Box::new(stream) });
        self.open(Dial::With(Box::new(dial)))
    }

    /// Shakes hands over a stream that is already connected. Once that has ended, so has the
    /// client: it cannot make another.
    ///
    /// # Errors
    /// [`Error`].
    pub fn over(self, stream: impl Stream + Send + 'static) -> Result<Client, Error> {
        self.open(Dial::Once(Mutex::new(Some(Box::new(stream)))))
    }

    fn open(self, dial: Dial) -> Result<Client, Error> {
        let client = self.client(dial)?;
        client.inner.connector.connection(None, Wait::Attempt)?;
        Ok(client)
    }

    fn client(self, dial: Dial) -> Result<Client, Error> {
        let settings = self.settings.build()?;
        let mut entropy = self.entropy;
        let (keys, key_options) = self.key.keys(&mut entropy)?;
        let config = Config {
            key_options,
            settings,
            entropy,
            dial,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_takes_30_s_at_most_unless_told_otherwise() {
        let builder = Client::builder(Key::from_bytes([7; 32]).expect("it is not zero"));
        assert_eq!(builder.request_timeout, Some(Duration::from_secs(30)));
        assert_eq!(builder.request_timeout(None).request_timeout, None);
    }
}
