//! Accepts connections. After an error of accepting, the server tries again.

use core::future::Future;
use core::net::SocketAddr;
use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;
use std::sync::Arc;

use falco_core::keys::ServerKeys;
use falco_core::mux::Source;
use falco_core::{ConnectionError, ServerConnection};
#[cfg(unix)]
use tokio::net::UnixListener;
use tokio::net::{TcpListener, TcpSocket, ToSocketAddrs, lookup_host};
use tracing::{debug, warn, warn_span};

use super::connection::Connection;
use super::control::Control;
use super::handler::Handler;
use super::headers::headers;
use super::place::Place;
use super::registry::Admitted;
use super::streams::{Handlers, StreamRequest};
use super::{Server, Service};
use crate::error::HandlerError;
use crate::socket::{Socket, Stream};

/// The first and the longest pause after accepting has failed for lack of file descriptors, or for
/// another reason that does not concern a single connection. The first limits how often accepting
/// fails again. The longest limits how long a client waits after another part of the process has
/// freed a descriptor.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// The task of an accepted connection. It discards the connection's result. The runtime aligns
/// tasks to 128 bytes: with the connection in a box and no result to store, a task has the smallest
/// size.
struct ConnectionTask<H: Handler>(Box<Connection<H>>);

impl<H: Handler> Future for ConnectionTask<H> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut *self.0).poll(cx).map(drop)
    }
}

#[derive(Debug)]
pub(crate) enum Listener {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix(UnixListener),
}

/// How many connections may wait in the listener's backlog, if the system allows as many. After a
/// restart, all clients that reconnect wait there. If the backlog is full, the system drops the
/// packets of further clients, which send them again seconds later. Linux allows 4096 by default
/// since 5.4 (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// Binds to the first of the addresses that the system allows.
pub(super) async fn bind(address: impl ToSocketAddrs) -> io::Result<TcpListener> {
    let mut failed = io::Error::new(io::ErrorKind::InvalidInput, "the name has no address");
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
    // With this option a server that is restarted can bind its port at once. On Windows it would
    // let another process bind the port too.
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

    /// Accepts a connection. Its socket is [set up](Socket::set_up) only when the connection is
    /// established, so that one that ends earlier costs less.
    async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Socket::Tcp(stream), Some(peer)))
            }
            #[cfg(unix)]
            Self::Unix(listener) => Ok((Socket::Unix(listener.accept().await?.0), None)),
        }
    }
}

/// Accepts connections until the server is to stop, and gives each a task. The listener is closed
/// then.
pub(super) async fn until_stopped<H: Handler>(listener: Listener, handlers: &Arc<Handlers<H>>) {
    let service = &handlers.service;
    let mut pause = PAUSES.0;
    let (headers, mut named) = headers(service);
    loop {
        let accepted = tokio::select! {
            biased;
            () = service.registry.stopping() => return,
            Some((socket, peer)) = named.recv() => {
                enter(socket, Some(peer), handlers).await;
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((socket, peer)) => {
                pause = PAUSES.0;
                service.counters.accepted.add(1);
                let read = tokio::select! {
                    biased;
                    () = service.registry.stopping() => return,
                    read = headers.read(socket, peer) => read,
                };
                let Some((socket, peer)) = read else { continue };
                enter(socket, peer, handlers).await;
            }
            Err(error) if is_of_one_connection(&error) => {
                service.counters.accept_errors.add(1);
                debug!(%error, "a connection ended before it was accepted");
            }
            Err(error) => {
                service.counters.accept_errors.add(1);
                if let Some(left_out) = service.warnings.accepting.due() {
                    warn!(%error, left_out, "accepting a connection failed; trying again after a pause");
                }
                tokio::select! {
                    () = service.registry.stopping() => return,
                    () = service.registry.relief(pause) => {}
                }
                pause = (pause * 2).min(PAUSES.1);
            }
        }
    }
}

/// Makes room for a connection, and gives it a task.
async fn enter<H: Handler>(socket: Socket, peer: Option<SocketAddr>, handlers: &Arc<Handlers<H>>) {
    match admit(socket, peer, handlers).await {
        Ok(Some(connection)) => drop(tokio::spawn(ConnectionTask(Box::new(connection)))),
        Ok(None) => {}
        Err(error) => {
            if let Some(left_out) = handlers.service.warnings.setup.due() {
                warn!(%error, left_out, "a connection could not be set up");
            }
        }
    }
}

/// A connection on a stream that the user passed in. Boxed, because the compiler could not show
/// that a future that names the type of the handler's future is `Send`.
pub(super) type PassedIn = Pin<Box<dyn Future<Output = io::Result<ConnectionError>> + Send>>;

/// A connection that counts towards no limit, on a stream that the user passed in.
pub(super) fn guest<H: Handler>(stream: impl Stream + 'static, handlers: &Arc<Handlers<H>>) -> io::Result<PassedIn> {
    let service = &handlers.service;
    let machine = machine(service, handlers.takes_streams())?;
    let control = Arc::new(Control::new(None));
    let number = service.registry.admit_guest(&control);
    let socket = Socket::Other(Box::new(stream));
    let place = Place::of_guest(number);
    Ok(Box::pin(connection(socket, machine, control, place, handlers)))
}

impl Server {
    /// Like [`serve_connection`](Self::serve_connection), with one handler for all requests, as
    /// [`serve_all_streams`](Self::serve_all_streams) has.
    ///
    /// # Errors
    /// Those of the stream.
    pub async fn serve_connection_all_streams<C, S, F>(&self, stream: C, streams: S) -> io::Result<ConnectionError>
    where
        C: Stream + 'static,
        S: Fn(StreamRequest) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        guest(stream, &Handlers::all(&self.service, streams))?.await
    }
}

/// A connection that counts towards all limits, on a stream that the user passed in. Such streams
/// wait for a place one after the other, as in a listener's backlog. `None` if there is no place
/// for it, too many others wait, or the server is stopping.
pub(super) async fn counted<H: Handler>(
    stream: impl Stream + 'static,
    peer: SocketAddr,
    handlers: &Arc<Handlers<H>>,
) -> io::Result<Option<PassedIn>> {
    let service = &handlers.service;
    service.counters.accepted.add(1);
    let Some(_turn) = service.registry.turn().await else {
        reject(service, Some(peer));
        return Ok(None);
    };
    let connection = admit(Socket::Other(Box::new(stream)), Some(peer), handlers).await?;
    Ok(connection.map(|connection| -> PassedIn { Box::pin(connection) }))
}

/// Waits for a place for a connection. `None` if there is none, or the server is stopping.
async fn admit<H: Handler>(
    socket: Socket,
    peer: Option<SocketAddr>,
    handlers: &Arc<Handlers<H>>,
) -> io::Result<Option<Connection<H>>> {
    let service = &handlers.service;
    let source = peer.map_or(Source::NONE, |peer| Source::of(peer.ip(), service.source_prefix));
    loop {
        // Others are dropped for this connection only now, when it is certain that it needs a
        // place.
        tokio::select! {
            biased;
            () = service.registry.stopping() => return Ok(None),
            () = service.registry.room(source) => {}
        }
        let machine = machine(service, handlers.takes_streams())?;
        let control = Arc::new(Control::new(peer));
        match service.registry.admit(&control, source) {
            Admitted::As { number } => {
                let place = Place::new(number);
                return Ok(Some(connection(socket, machine, control, place, handlers)));
            }
            Admitted::Wait => {}
            Admitted::Full => {
                reject(service, peer);
                return Ok(None);
            }
            Admitted::Stopping => return Ok(None),
        }
    }
}

/// Counts and logs a connection that is closed at once.
fn reject(service: &Service, peer: Option<SocketAddr>) {
    service.counters.rejected.add(1);
    if let Some(left_out) = service.warnings.no_place.due() {
        warn!(
            peer = peer.map(tracing::field::display),
            left_out, "closed a connection at once: there is no place for it"
        );
    }
}

/// The state machine of a new connection. `streams` says whether there is a handler for open
/// requests.
fn machine(service: &Service, streams: bool) -> io::Result<ServerConnection<Arc<ServerKeys>>> {
    let (mut entropy, now) = (service.entropy.clone(), service.clock.now());
    let settings = service.settings.with_stream_handler(streams);
    let machine = ServerConnection::new(Arc::clone(&service.keys), &settings, now, &mut entropy);
    machine.map_err(io::Error::other)
}

fn connection<H: Handler>(
    socket: Socket,
    machine: ServerConnection<Arc<ServerKeys>>,
    control: Arc<Control>,
    place: Place,
    handlers: &Arc<Handlers<H>>,
) -> Connection<H> {
    let span = warn_span!(
        "connection",
        number = place.number(),
        peer = control.peer.map(tracing::field::display),
        key = tracing::field::Empty,
        label = tracing::field::Empty
    );
    debug!(parent: &span, "accepted");
    let metrics = &handlers.service.counters.metrics;
    metrics.connections.up();
    metrics.half_open.up();
    Connection::new(socket, machine, control, place, Arc::clone(handlers), span)
}

/// Whether an error of accepting concerns one connection only, so that the next can be accepted at
/// once.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}
