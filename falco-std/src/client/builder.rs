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

use falco_core::keys::{ClientKeys, Secrets};
use falco_core::{Fate, Key, Settings};

use super::Client;
use super::connection::Connection;
use crate::error::Error;
use crate::socket::{Shared, Socket};
use crate::stream::{BoxedStream, Stream};
use crate::wire_key::KeySource;

/// How long connecting may take by default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take by default, as in falco-tokio.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
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
}

impl Client {
    /// A client of servers that have `key`. It speaks the noise wire: both sides prove that they have the key, and keys of their own protect each connection.
    pub fn builder(key: Key) -> ClientBuilder {
        ClientBuilder::new(Secrets {
            noise: vec![key],
            ..Secrets::default()
        })
    }

    /// A client that speaks the classic wire, to servers of the published falcotcp 0.1.x and to [`Server::classic`](crate::Server::classic).
    ///
    /// What that wire does not give is told in [`falco_core::classic`].
    pub fn classic(key: Key) -> ClientBuilder {
        ClientBuilder::new(Secrets {
            classic: Some(key),
            nonces: REPLAY_MEMORY,
            ..Secrets::default()
        })
    }
}

impl ClientBuilder {
    fn new(secrets: Secrets) -> Self {
        Self {
            key: KeySource::new(secrets),
            settings: Settings::new(),
            connect_timeout: CONNECT_TIMEOUT,
            request_timeout: Some(REQUEST_TIMEOUT),
        }
    }

    /// The name of the service called, or any bytes that both owners have agreed on, 65,535 at most: a server of another context does not take the hello. Empty by
    /// default. The classic wire has none.
    pub fn context(mut self, context: impl Into<Vec<u8>>) -> Self {
        self.key = self.key.change(|secrets| secrets.context = context.into());
        self
    }

    /// The largest message, the lifetime, how long a handshake may take.
    pub const fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// How long connecting the socket may take in all, 5 s by default. The handshake has its own limit in the settings.
    ///
    /// It bounds TCP only: the standard library connects a Unix socket without a limit, so that `connect_unix` waits as long as the system does.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a request may take, 30 s by default. `None` sets no limit.
    ///
    /// A request that timed out may still be processed. On the noise wire the server is told that it
    /// is cancelled, and the connection lives on; on the classic wire, and over a stream that cannot
    /// be [split](Stream::split), the connection is given up, so that the late answer reaches nobody.
    pub const fn request_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.request_timeout = timeout;
        self
    }

    /// How many nonces to remember on the classic wire, 20 bytes each, 1024 by default; 0 remembers none. Answers that are replayed from within this memory are
    /// refused. The first connection that is made from this builder fixes it. The noise wire needs none.
    pub fn replay_memory(mut self, nonces: usize) -> Self {
        self.key = self.key.change(|secrets| secrets.nonces = nonces);
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
        let key = self.key.get()?;
        let connection = Connection::open(Box::new(stream), Arc::clone(&key), &self.settings)?;
        Ok(self.client(key, Dial::Never, connection))
    }

    fn open(&self, dial: Dial) -> Result<Client, Error> {
        let key = self.key.get()?;
        let no_address = || Error::io("connecting", io::ErrorKind::AddrNotAvailable.into(), Fate::NotProcessed);
        let stream = dial.dial()?.ok_or_else(no_address)?;
        let connection = Connection::open(stream, Arc::clone(&key), &self.settings)?;
        Ok(self.client(key, dial, connection))
    }

    fn client(&self, key: Arc<ClientKeys>, dial: Dial, connection: Connection) -> Client {
        Client {
            key,
            settings: self.settings,
            request_timeout: self.request_timeout,
            dial,
            current: Mutex::new(Some(Arc::new(connection))),
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
            Self::Tcp { addresses, timeout } => {
                connect_tcp(addresses, *timeout).map(|stream| Some(boxed(Socket::Tcp(stream))))
            }
            #[cfg(unix)]
            Self::Unix(path) => match UnixStream::connect(path) {
                Ok(stream) => Ok(Some(boxed(Socket::Unix(stream)))),
                Err(error) => Err(Error::io("connecting", error, Fate::NotProcessed)),
            },
            Self::Never => Ok(None),
        }
    }
}

fn boxed(socket: Socket) -> BoxedStream {
    Box::new(Shared::new(socket))
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
