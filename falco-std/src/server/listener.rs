//! Listening sockets of both kinds.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
#[cfg(unix)]
use std::net::Shutdown;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
#[cfg(unix)]
use std::path::Path;

#[cfg(unix)]
use socket2::SockAddr;
use socket2::{Domain, Protocol, Type};

use crate::socket::Socket;

/// How many connections may wait to be accepted, if the system allows as many. When a server
/// restarts, its clients connect at once, and they wait here while `max_half_open` handshakes are
/// in progress. The system drops further ones without an error, which a client notices after
/// seconds. Linux allows 4096 by default since 5.4 (`net.core.somaxconn`). The standard library
/// uses 128.
const BACKLOG: i32 = 4096;

/// A listening socket, and the handle that wakes a thread that accepts on it.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp {
        listener: TcpListener,
        /// The same socket under a type that can be shut down. That wakes the thread that waits for
        /// connections. Made in advance, because later there may be no file descriptor left.
        #[cfg(unix)]
        waker: TcpStream,
    },
    #[cfg(unix)]
    Unix { listener: UnixListener, waker: UnixStream },
}

impl Listener {
    /// Binds to the first of the addresses that can be bound.
    pub(super) fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
        for address in address.to_socket_addrs()? {
            match Self::bind_at(address) {
                Err(error) => last = error,
                bound => return bound,
            }
        }
        Err(last)
    }

    fn bind_at(address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        // As in the standard library. On Windows this option would allow two listeners on one port.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Self::tcp(socket.into())
    }

    /// Uses a bound socket.
    pub(super) fn tcp(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(cfg!(unix))?;
        Ok(Self::Tcp {
            #[cfg(unix)]
            waker: OwnedFd::from(listener.try_clone()?).into(),
            listener,
        })
    }

    #[cfg(unix)]
    pub(super) fn bind_unix(path: &Path) -> io::Result<Self> {
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        socket.listen(BACKLOG)?;
        Self::unix(OwnedFd::from(socket).into())
    }

    /// Uses a bound socket.
    #[cfg(unix)]
    pub(super) fn unix(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::Unix {
            waker: OwnedFd::from(listener.try_clone()?).into(),
            listener,
        })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp { listener, .. } => listener.local_addr(),
            #[cfg(unix)]
            Self::Unix { .. } => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Accepts a connection. On Unix it does not wait for one, elsewhere it does.
    pub(super) fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp { listener, .. } => {
                let (stream, peer) = listener.accept()?;
                // On some systems an accepted socket inherits the mode of the listener.
                #[cfg(all(unix, not(target_os = "linux")))]
                stream.set_nonblocking(false)?;
                Ok((Socket::Tcp(stream), Some(peer)))
            }
            #[cfg(unix)]
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept()?;
                #[cfg(not(target_os = "linux"))]
                stream.set_nonblocking(false)?;
                Ok((Socket::Unix(stream), None))
            }
        }
    }

    /// Ends the present wait for connections and all later ones.
    pub(super) fn wake(&self) {
        match self {
            #[cfg(unix)]
            Self::Tcp { listener, waker } => {
                if waker.shutdown(Shutdown::Both).is_err() {
                    connect_once(listener);
                }
            }
            #[cfg(not(unix))]
            Self::Tcp { listener } => connect_once(listener),
            #[cfg(unix)]
            Self::Unix { listener, waker } => {
                if waker.shutdown(Shutdown::Both).is_err()
                    && let Ok(address) = listener.local_addr()
                {
                    let _ = UnixStream::connect_addr(&address);
                }
            }
        }
    }
}

#[cfg(unix)]
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp { listener, .. } => listener.as_fd(),
            Self::Unix { listener, .. } => listener.as_fd(),
        }
    }
}

/// Connects to a listening socket, on systems where it cannot be shut down.
fn connect_once(listener: &TcpListener) {
    if let Ok(mut address) = listener.local_addr() {
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => core::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => core::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
    }
}
