//! How connections come in. An error of accepting ends nothing but the attempt.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use falco_core::ServerConnection;
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::net::{TcpListener, TcpSocket, ToSocketAddrs, lookup_host};
use tracing::{debug, debug_span, warn};

use super::Service;
use super::connection::{Connection, ConnectionTask, Place};
use super::control::Control;
use super::handler::Handler;
use super::registry::Admission;
use crate::socket::{Socket, Stream};

/// How long to wait after an error of accepting that is not one connection's, such as no file
/// descriptors left: at first, and at the most.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

/// Connections that may wait in the system to be accepted, where it allows as many: those of a
/// whole fleet that comes back at once, while as many handshakes are under way as there may be.
/// Beyond that the system loses them without a word, and a client finds out seconds later. It is
/// what Linux allows by default since 5.4 (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// Binds to the first of the addresses that can be bound.
pub(super) async fn bind(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "the name stands for no address");
    for address in lookup_host(address).await? {
        match bind_one(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // A server that is started again finds its port free; on Windows this would let others take it.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

impl Listener {
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            #[cfg(unix)]
            Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    async fn accept(&self, lifetime: Duration) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Socket::tcp(stream, lifetime), Some(peer)))
            }
            #[cfg(unix)]
            Self::Unix(listener) => Ok((Socket::Unix(listener.accept().await?.0), None)),
        }
    }
}

/// Takes connections until the server is to stop, and gives each a task. The listener is closed
/// then.
pub(super) async fn until_stopped<H: Handler>(listener: Listener, service: &Arc<Service>, handler: &Arc<H>) {
    let mut pause = PAUSES.0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = service.registry.stopping() => return,
            accepted = async {
                service.registry.room().await;
                listener.accept(service.settings.lifetime()).await
            } => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                pause = PAUSES.0;
                service.counters.accepted.add(1);
                match admit(service, socket, peer, false, handler) {
                    Ok(Some(connection)) => drop(tokio::spawn(ConnectionTask(Box::new(connection)))),
                    Ok(None) => {}
                    Err(error) => warn!(%error, "a connection could not be taken"),
                }
            }
            Err(error) if is_of_one_connection(&error) => {
                service.counters.accept_errors.add(1);
                debug!(%error, "a connection was gone before it was taken");
            }
            Err(error) => {
                service.counters.accept_errors.add(1);
                warn!(%error, "accepting failed; it is tried again after a pause");
                tokio::select! {
                    () = service.registry.stopping() => return,
                    // A descriptor that a stranger sits on is of more use elsewhere.
                    () = service.registry.relief(pause) => {}
                }
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

/// A connection that was accepted elsewhere; none where the server is stopping.
pub(super) fn guest<H: Handler>(
    service: &Arc<Service>,
    stream: impl Stream + 'static,
    handler: &Arc<H>,
) -> io::Result<Option<Connection<H>>> {
    admit(service, Socket::Other(Box::new(stream)), None, true, handler)
}

fn admit<H: Handler>(
    service: &Arc<Service>,
    socket: Socket,
    peer: Option<SocketAddr>,
    guest: bool,
    handler: &Arc<H>,
) -> io::Result<Option<Connection<H>>> {
    let mut entropy = service.entropy.clone();
    let now = service.clock.now();
    let machine = ServerConnection::new(Arc::clone(&service.keys), &service.settings, now, &mut entropy);
    let machine = machine.map_err(io::Error::other)?;
    let control = Arc::new(Control::new(peer));
    let number = match service.registry.admit(&control, guest) {
        Admission::In { number } => number,
        Admission::Full => {
            service.counters.turned_away.add(1);
            warn!(
                peer = peer.map(tracing::field::display),
                "turned away: there are as many connections as there may be"
            );
            return Ok(None);
        }
        Admission::Stopping => return Ok(None),
    };
    let span = debug_span!(
        "connection",
        number,
        peer = peer.map(tracing::field::display),
        key = tracing::field::Empty
    );
    debug!(parent: &span, "accepted");
    let (service, handler) = (Arc::clone(service), Arc::clone(handler));
    let place = Place { number, guest };
    Ok(Some(Connection::new(
        socket, machine, control, place, service, handler, span,
    )))
}

/// Whether an error of accepting is one connection's, so that the next can be taken at once.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
