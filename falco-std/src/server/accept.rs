//! Listening sockets of both kinds, and the loop that accepts connections.

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

use falco_core::mux::Source;
#[cfg(unix)]
use socket2::SockAddr;
use socket2::{Domain, Protocol, Type};

use super::handler::{HandlerError, Request};
use super::{Service, connection};
use crate::socket::{SharedSocket, Socket};

/// How long the server waits after it could not accept for lack of memory or file descriptors: at
/// first, and at most. The first bounds how often that fails in vain, the second how long a client
/// waits once there is a descriptor that no connection gave back.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// How many connections may wait to be accepted, if the system allows as many. When a server
/// restarts, its clients connect at once, and they wait here while `max_half_open` handshakes are
/// in progress. The system drops further ones without an error, which a client notices after
/// seconds. Linux allows 4096 by default since 5.4 (`net.core.somaxconn`). The standard library
/// uses 128.
const BACKLOG: i32 = 4096;

/// A listening socket, and what wakes a thread that accepts on it.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp {
        listener: TcpListener,
        /// The same socket under a type that can be shut down. That makes a thread in `accept`
        /// return. Made in advance, because later there may be no file descriptor left.
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
        // As in the standard library. On Windows it would allow two listeners on one port.
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Self::tcp(socket.into())
    }

    /// Uses a bound socket.
    pub(super) fn tcp(listener: TcpListener) -> io::Result<Self> {
        // `accept` has to wait.
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

    /// Uses a bound socket.
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
                // A small answer must not wait for the acknowledgement of the one before. If this
                // fails, the connection is slower.
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

    /// Makes `accept` return at once, in this call and in later ones.
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

/// Accepts connections until the server shuts down. No error delays it for longer
/// than [`PAUSES`].
pub(super) fn accept_until_stopped<H>(listener: &Listener, service: &Arc<Service>, handler: &Arc<H>)
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    let mut pause = PAUSES.0;
    while !service.admission.is_stopping() {
        let accepted = listener.accept();
        // This may be the connection that `wake` has made.
        if service.admission.is_stopping() {
            return;
        }
        let counters = service.admission.counters();
        match accepted {
            Ok((socket, peer)) => {
                pause = PAUSES.0;
                counters.accepted.add(1);
                let source = peer.map_or(Source::NONE, |peer| Source::of(peer.ip(), service.source_prefix));
                // Only now is it known that a connection needs a place.
                service.admission.wait_for_room(source);
                admit(socket, (peer, source), service, handler);
            }
            Err(error) => {
                counters.accept_errors.add(1);
                // All others are a shortage of memory or file descriptors.
                if !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted) {
                    service.admission.relieve_shortage(pause);
                    pause = (pause * 2).min(PAUSES.1);
                }
            }
        }
    }
}

fn admit<H>(socket: Socket, (peer, source): (Option<SocketAddr>, Source), service: &Arc<Service>, handler: &Arc<H>)
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    let socket = SharedSocket::new(socket);
    // It fails for lack of memory or file descriptors alone.
    let Ok((conn, stream)) = connection::prepare(service, Box::new(socket.clone())) else {
        return service.admission.relieve_shortage(PAUSES.0);
    };
    let Some(permit) = service.admission.admit(conn, socket, source) else {
        return;
    };
    let (own_service, handler) = (Arc::clone(service), Arc::clone(handler));
    let spawned = thread::Builder::new()
        .name("falco connection".to_owned())
        .spawn(move || {
            // No caller wants to know what ended the connection.
            let _ = connection::serve(&own_service, &permit, stream, peer, &handler);
        });
    if spawned.is_err() {
        service.admission.relieve_shortage(PAUSES.0);
    }
}
