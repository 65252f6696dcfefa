//! How a client opens a stream.

use core::fmt;
use core::time::Duration;
use std::io;
#[cfg(unix)]
use std::os::fd::OwnedFd;
#[cfg(unix)]
use std::os::unix::net::UnixStream;
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
#[cfg(unix)]
use std::time::Instant;

use falco_core::Fate;
#[cfg(unix)]
use socket2::{Domain, SockAddr, Type};

use super::address::Address;
use crate::error::Error;
use crate::socket::{SharedSocket, Socket};
use crate::stream::BoxedStream;

type DialWith = dyn Fn() -> io::Result<BoxedStream> + Send + Sync;

/// How a client gets a stream.
pub(super) enum Dial {
    Tcp(Address),
    #[cfg(unix)]
    Unix(PathBuf),
    With(Box<DialWith>),
    /// One stream that is already connected.
    Once(Mutex<Option<BoxedStream>>),
}

impl Dial {
    /// Whether the only stream was used.
    pub(super) fn is_spent(&self) -> bool {
        match self {
            Self::Once(stream) => stream.lock().unwrap_or_else(PoisonError::into_inner).is_none(),
            #[cfg(unix)]
            Self::Unix(_) => false,
            Self::Tcp(_) | Self::With(_) => false,
        }
    }

    /// Connects a stream within `limit`.
    pub(super) fn dial(&self, limit: Duration) -> Result<BoxedStream, Error> {
        let dialed = match self {
            Self::Tcp(address) => address.connect(limit).map(|stream| boxed(Socket::Tcp(stream))),
            #[cfg(unix)]
            Self::Unix(path) => connect_unix(path, limit).map(|stream| boxed(Socket::Unix(stream))),
            Self::With(dial) => dial(),
            Self::Once(stream) => {
                let stream = stream.lock().unwrap_or_else(PoisonError::into_inner).take();
                stream.ok_or_else(|| {
                    io::Error::new(
                        io::ErrorKind::NotConnected,
                        "the stream has ended, and the client cannot make another",
                    )
                })
            }
        };
        let (doing, fate) = ("connecting", Fate::NotProcessed);
        dialed.map_err(|error| {
            if error.kind() == io::ErrorKind::TimedOut {
                Error::TimedOut { doing, limit, fate }
            } else {
                Error::io(doing, error, fate)
            }
        })
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.debug_tuple("Tcp").field(address).finish(),
            #[cfg(unix)]
            Self::Unix(path) => f.debug_tuple("Unix").field(path).finish(),
            Self::With(_) => f.write_str("With(..)"),
            Self::Once(_) => f.write_str("Once(..)"),
        }
    }
}

fn boxed(socket: Socket) -> BoxedStream {
    Box::new(SharedSocket::new(socket))
}

/// Connects to a Unix socket. If its backlog is full, the system waits for room, for as long as the
/// socket's write timeout.
#[cfg(unix)]
fn connect_unix(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let address = SockAddr::unix(path)?;
    let start = Instant::now();
    loop {
        let left = limit.saturating_sub(start.elapsed());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        // Zero would set no limit.
        socket.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
        match socket.connect(&address) {
            Ok(()) => {
                socket.set_write_timeout(None)?;
                return Ok(OwnedFd::from(socket).into());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) => return Err(error),
        }
    }
}
