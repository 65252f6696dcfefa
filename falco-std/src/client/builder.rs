//! How a client is set up and how it gets a stream.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use falco_core::{Key, Settings};

use super::Client;
use super::link::{BoxedStream, Link};
use crate::error::{Error, Fate};
use crate::stream::Stream;
use crate::wire_key::KeySource;

/// How long connecting may take by default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How many nonces a client remembers by default: each request and each answer takes one.
const REPLAY_MEMORY: usize = 1024;

/// Settings of a [`Client`]. Clients made from one builder share the key and its memory of nonces.
#[derive(Debug)]
#[must_use = "a builder does nothing until it connects"]
pub struct ClientBuilder {
    key: KeySource,
    settings: Settings,
    connect_timeout: Duration,
    request_timeout: Option<Duration>,
    replay_memory: usize,
}

impl Client {
    /// A client that speaks the classic wire, to servers of the published falcotcp 0.1.x and to [`Server::classic`](crate::Server::classic).
    pub fn classic(key: Key) -> ClientBuilder {
        ClientBuilder {
            key: KeySource::new(key),
            settings: Settings::new(),
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: None,
            replay_memory: REPLAY_MEMORY,
        }
    }
}

impl ClientBuilder {
    /// The largest message, the lifetime, how long a handshake may take.
    pub const fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// How long connecting the socket may take in all, 5 s by default. The handshake has its own limit in the settings.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long to wait for an answer; by default as long as the lifetime lasts. It counts from when the request's turn has come and there is a
    /// connection.
    ///
    /// A request that timed out may still be processed. Its connection is given up, so that its late answer can reach nobody.
    pub const fn request_timeout(mut self, timeout: Duration) -> Self {
        self.request_timeout = Some(timeout);
        self
    }

    /// How many nonces to remember, 20 bytes each, 1024 by default; 0 remembers none. Answers that are replayed from within this memory are
    /// refused. The first connection that is made from this builder fixes it.
    pub const fn replay_memory(mut self, nonces: usize) -> Self {
        self.replay_memory = nonces;
        self
    }

    /// Connects to the first of the addresses that answers, and shakes hands. The addresses are resolved once; the client connects to them again
    /// when its connection has ended.
    ///
    /// # Errors
    /// [`Error`]: [`ConnectionError::Refused`](crate::ConnectionError::Refused) where the server has another key.
    pub fn connect(&self, address: impl ToSocketAddrs) -> Result<Client, Error> {
        let resolved = address
            .to_socket_addrs()
            .map_err(|error| Error::io("resolving", error, Fate::NotProcessed))?;
        self.open(Dial::Tcp {
            addresses: resolved.collect(),
            timeout: self.connect_timeout,
        })
    }

    /// Connects to a Unix socket, and shakes hands; again when the connection has ended.
    ///
    /// # Errors
    /// [`Error`].
    #[cfg(unix)]
    pub fn connect_unix(&self, path: impl AsRef<Path>) -> Result<Client, Error> {
        self.open(Dial::Unix(path.as_ref().to_owned()))
    }

    /// Shakes hands over a stream that is already connected. Once that has ended, so has the client: it cannot make another.
    ///
    /// # Errors
    /// [`Error`].
    pub fn over(&self, stream: impl Stream + Send + 'static) -> Result<Client, Error> {
        let key = self.key.get(self.replay_memory)?;
        let link = Link::open(Box::new(stream), Arc::clone(&key), &self.settings)?;
        Ok(self.client(key, Dial::Never, link))
    }

    fn open(&self, dial: Dial) -> Result<Client, Error> {
        let key = self.key.get(self.replay_memory)?;
        let no_address = || Error::io("connecting", io::ErrorKind::AddrNotAvailable.into(), Fate::NotProcessed);
        let stream = dial.dial()?.ok_or_else(no_address)?;
        let link = Link::open(stream, Arc::clone(&key), &self.settings)?;
        Ok(self.client(key, dial, link))
    }

    fn client(&self, key: Arc<crate::wire_key::WireKey>, dial: Dial, link: Link) -> Client {
        Client {
            key,
            settings: self.settings,
            request_timeout: self.request_timeout,
            dial,
            link: Mutex::new(Some(link)),
        }
    }
}

/// Where a client gets its streams from.
#[derive(Debug)]
pub(super) enum Dial {
    Tcp {
        addresses: Vec<SocketAddr>,
        timeout: Duration,
    },
    #[cfg(unix)]
    Unix(PathBuf),
    Never,
}

impl Dial {
    /// A new stream; none where there can be none.
    pub(super) fn dial(&self) -> Result<Option<BoxedStream>, Error> {
        match self {
            Self::Tcp { addresses, timeout } => connect_tcp(addresses, *timeout).map(|stream| Some(boxed(stream))),
            #[cfg(unix)]
            Self::Unix(path) => match UnixStream::connect(path) {
                Ok(stream) => Ok(Some(boxed(stream))),
                Err(error) => Err(Error::io("connecting", error, Fate::NotProcessed)),
            },
            Self::Never => Ok(None),
        }
    }
}

fn boxed(stream: impl Stream + Send + 'static) -> BoxedStream {
    Box::new(stream)
}

/// Tries the addresses in turn; `timeout` bounds them all together.
fn connect_tcp(addresses: &[SocketAddr], timeout: Duration) -> Result<TcpStream, Error> {
    let start = Instant::now();
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        let left = timeout.saturating_sub(start.elapsed());
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, left) {
            Ok(stream) => {
                // A request is one small write: it must not wait for the acknowledgement of the one before.
                let prepared = stream.set_nodelay(true);
                return prepared
                    .map(|()| stream)
                    .map_err(|error| Error::io("connecting", error, Fate::NotProcessed));
            }
            Err(error) => last = error,
        }
    }
    if start.elapsed() >= timeout || last.kind() == io::ErrorKind::TimedOut {
        return Err(Error::TimedOut {
            doing: "connecting",
            limit: timeout,
            fate: Fate::NotProcessed,
        });
    }
    Err(Error::io("connecting", last, Fate::NotProcessed))
}
