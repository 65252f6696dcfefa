//! Where connections come from: listening sockets of both kinds, the loop that accepts, and how it
//! is woken.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
#[cfg(unix)]
use std::net::Shutdown;
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::fd::OwnedFd;
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;
use std::thread;

#[cfg(unix)]
use socket2::SockAddr;
use socket2::{Domain, Protocol, Type};

use super::handler::{HandlerError, Request};
use super::{Service, connection};
use crate::socket::{SharedSocket, Socket};

/// How long accepting rests when the system is short of something.
const PAUSE: Duration = Duration::from_millis(10);

/// Connections that may wait in the system to be accepted, where it allows as many: those of a
/// whole fleet that comes back at once, while as many handshakes are under way as there may be.
/// Beyond that the system loses them without a word, and a client finds out seconds later. It is
/// what Linux allows by default since 5.4 (`net.core.somaxconn`); the standard library's 128 are
/// soon full.
const BACKLOG: i32 = 4096;

/// A listening socket, with what wakes a thread that accepts on it.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp {
        listener: TcpListener,
        /// The same socket under another type, which can be shut down: a thread in `accept` then
        /// returns. Made ahead, because there may be no file descriptor left when it is needed.
        #[cfg(unix)]
        waker: TcpStream,
    },
    #[cfg(unix)]
    Unix { listener: UnixListener, waker: UnixStream },
}

impl Listener {
    /// Binds to the first of the addresses that can be bound.
    pub(super) fn bind(address: impl ToSocketAddrs) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name stands for no address");
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
        // As the standard library does: elsewhere it means that two may listen.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Self::tcp(socket.into())
    }

    /// One that is bound already.
    pub(super) fn tcp(listener: TcpListener) -> io::Result<Self> {
        // A thread waits in `accept`.
        listener.set_nonblocking(false)?;
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

    /// One that is bound already.
    #[cfg(unix)]
    pub(super) fn unix(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(false)?;
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

    fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp { listener, .. } => {
                let (stream, peer) = listener.accept()?;
                // An answer is one small write: it must not wait for the acknowledgement of the one
                // before. Where that cannot be had, it is slow and right.
                let _ = stream.set_nodelay(true);
                Ok((Socket::Tcp(stream), Some(peer)))
            }
            #[cfg(unix)]
            Self::Unix { listener, .. } => {
                let (stream, _) = listener.accept()?;
                Ok((Socket::Unix(stream), None))
            }
        }
    }

    /// Makes a thread that is in `accept` return, and those return at once that come later.
    pub(super) fn wake(&self) {
        match self {
            #[cfg(unix)]
            Self::Tcp { listener, waker } => {
                if waker.shutdown(Shutdown::Both).is_err() {
                    knock(listener);
                }
            }
            #[cfg(not(unix))]
            Self::Tcp { listener } => knock(listener),
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

/// Connects to a listening socket, for systems on which such a socket cannot be shut down.
fn knock(listener: &TcpListener) {
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

/// Accepts until the server is to stop. No connection, and no error, holds it up for longer than
/// [`PAUSE`].
pub(super) fn accept_until_stopped<H>(listener: &Listener, service: &Arc<Service>, handler: &Arc<H>)
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    while !service.admission.is_stopping() {
        let accepted = listener.accept();
        // What wakes a thread that is to stop was nobody's wish to connect.
        if service.admission.is_stopping() {
            return;
        }
        let counters = service.admission.counters();
        match accepted {
            Ok((socket, peer)) => {
                counters.accepted.add(1);
                admit(socket, peer, service, handler);
            }
            Err(error) => {
                counters.accept_errors.add(1);
                // Some are the peer's trouble, or nobody's; others ours: no file descriptors, no
                // memory.
                if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
                    service.admission.relieve_shortage(PAUSE);
                }
            }
        }
    }
}

fn admit<H>(socket: Socket, peer: Option<SocketAddr>, service: &Arc<Service>, handler: &Arc<H>)
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    // What fails here is a shortage, and the newcomer's loss.
    let Ok((conn, stream)) = connection::prepare(service, Box::new(SharedSocket::new(socket))) else {
        return service.admission.relieve_shortage(PAUSE);
    };
    let Some(permit) = service.admission.admit(conn) else {
        return;
    };
    let (own_service, handler) = (Arc::clone(service), Arc::clone(handler));
    let spawned = thread::Builder::new()
        .name("falco connection".to_owned())
        .spawn(move || {
            // Nobody is there to be told what ended it.
            let _ = connection::serve(&own_service, &permit, stream, peer, &handler);
        });
    if spawned.is_err() {
        service.admission.relieve_shortage(PAUSE);
    }
}
