//! The loop that accepts connections. A connection gets a thread when its client has sent
//! something, so that a flood of silent connections costs no threads. Until then this loop waits
//! for its first bytes.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use falco_core::mux::Source;

use super::Service;
use super::connection;
use super::handler::{HandlerError, Request};
use super::listener::Listener;
use super::silent::{Silent, SilentConnection};
use super::stats::gauge;
use super::streams::Handlers;
use crate::socket::{SharedSocket, Socket};

/// The first and the longest pause after accepting has failed for lack of memory or file
/// descriptors. The first limits how often accepting fails again. The longest limits how long a
/// client waits after another part of the process has freed a descriptor.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

/// How many connections are accepted before the loop checks the silent ones for bytes again: 2 ms
/// of work. Checking 256 of them costs as much as accepting one.
const BATCH: usize = 64;

/// How often the loop checks the silent connections for bytes while it waits for a place.
const LOOK: Duration = Duration::from_millis(2);

/// Accepts connections until the server shuts down. No error delays it for longer than [`PAUSES`].
pub(super) fn accept_until_stopped<H>(listener: &Listener, service: &Arc<Service>, handlers: &Arc<Handlers<H>>)
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    let mut acceptor = Acceptor {
        listener,
        service,
        handlers,
        silent: Silent::default(),
        pause: PAUSES.0,
        short: false,
    };
    while !service.admission.is_stopping() {
        acceptor.turn();
    }
    // Connections that have a thread are counted by that thread.
    let left = gauge(acceptor.silent.len());
    service.admission.counters().unauthenticated.add(left);
}

struct Acceptor<'a, H> {
    listener: &'a Listener,
    service: &'a Arc<Service>,
    handlers: &'a Arc<Handlers<H>>,
    silent: Silent,
    /// How long the next pause is.
    pause: Duration,
    /// No thread could be started, there was no memory for a connection, or the system does not say
    /// which sockets are ready.
    short: bool,
}

impl<H> Acceptor<'_, H>
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    /// Waits until there is something to do, and does it.
    fn turn(&mut self) {
        if self.start_threads(Some(self.listener), None) {
            for _ in 0..BATCH {
                if !self.accept() {
                    break;
                }
            }
        }
        if core::mem::take(&mut self.short) {
            self.relieve_shortage();
        }
    }

    /// Accepts a connection. Returns whether there may be another.
    fn accept(&mut self) -> bool {
        use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
        let accepted = self.listener.accept();
        // The accepted connection may be the one that `wake` has made.
        if self.service.admission.is_stopping() {
            return false;
        }
        let counters = self.service.admission.counters();
        match accepted {
            Ok((socket, peer)) => {
                self.pause = PAUSES.0;
                counters.accepted.add(1);
                let source = peer.map_or(Source::NONE, |peer| Source::of(peer.ip(), self.service.source_prefix));
                // Room is made only now, when it is certain that a connection needs a place.
                self.wait_for_room(source);
                self.admit(socket, peer, source);
                !self.short
            }
            Err(error) if error.kind() == WouldBlock => false,
            Err(error) => {
                counters.accept_errors.add(1);
                // All others are a shortage of memory or file descriptors.
                self.short = !matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted);
                !self.short
            }
        }
    }

    fn admit(&mut self, socket: Socket, peer: Option<SocketAddr>, source: Source) {
        let socket = SharedSocket::new(socket);
        // This fails only for lack of memory or file descriptors.
        let (boxed, streams) = (Box::new(socket.clone()), self.handlers.takes_streams());
        let Ok((conn, stream)) = connection::prepare(self.service, boxed, streams) else {
            self.short = true;
            return;
        };
        let Some((permit, dropped)) = self.service.admission.admit(conn, socket, source) else {
            return;
        };
        self.silent.remove(&dropped);
        let connection = SilentConnection { peer, stream, permit };
        if cfg!(unix) {
            self.silent.insert(connection);
        } else {
            self.start(connection);
        }
    }

    /// Gives a connection a thread.
    fn start(&mut self, connection: SilentConnection) {
        let SilentConnection { peer, stream, permit } = connection;
        // Done only now, so that a silent connection costs less.
        if let Some(socket) = permit.socket() {
            socket.set_nodelay();
        }
        let (service, handlers) = (Arc::clone(self.service), Arc::clone(self.handlers));
        let started = self.service.threads.run(Box::new(move || {
            connection::serve(service, permit, stream, peer, handlers);
        }));
        self.short |= started.is_err();
    }

    /// Gives threads to the connections that have sent something, and ends those whose handshake
    /// deadline has passed. If there are none, waits for them and for a connection on `listener`,
    /// for `limit` at most. Returns whether a connection may be ready to accept.
    fn start_threads(&mut self, listener: Option<&Listener>, limit: Option<Duration>) -> bool {
        let now = self.service.clock.now();
        let left = self.silent.first_deadline().map(|until| until.since(now));
        let limit = limit.into_iter().chain(left).min();
        let waited = self.silent.wait(listener, limit);
        if waited.is_err() {
            self.service.admission.counters().accept_errors.add(1);
            self.short = true;
        }
        let (accept, readable) = waited.unwrap_or_default();
        for connection in readable {
            if connection.permit.keep() {
                self.start(connection);
            }
        }
        let expired = self.silent.take_expired(self.service.clock.now());
        self.service.admission.counters().unauthenticated.add(expired);
        accept
    }

    /// Waits until there is a place for a connection that was accepted from `source`, or all
    /// connections are established. Meanwhile others wait in the listener's backlog, and half-open
    /// connections are dropped.
    fn wait_for_room(&mut self, source: Source) {
        while let Some(shortage) = self.service.admission.make_room(source) {
            if shortage.dropped.is_empty() {
                self.wait_for_change(shortage.seen, shortage.due);
            }
            self.silent.remove(&shortage.dropped);
        }
    }

    /// The system lacks memory or file descriptors: drops a half-open connection that is late, and
    /// waits until a connection has ended, for a pause at most.
    fn relieve_shortage(&mut self) {
        let (until, ended) = (Instant::now() + self.pause, self.service.admission.ended());
        self.pause = (self.pause * 2).min(PAUSES.1);
        while let Some(shortage) = self.service.admission.drop_late(ended) {
            self.silent.remove(&shortage.dropped);
            let limit = until.saturating_duration_since(Instant::now());
            if limit.is_zero() {
                return;
            }
            if shortage.dropped.is_empty() {
                self.wait_for_change(shortage.seen, Some(limit));
            }
        }
    }

    /// Waits for a change in the admission, for `limit` at most.
    fn wait_for_change(&mut self, seen: u64, limit: Option<Duration>) {
        self.start_threads(None, Some(Duration::ZERO));
        let look = (!self.silent.is_empty()).then_some(LOOK);
        let limit = limit.into_iter().chain(look).min();
        self.service.admission.wait_for_change(seen, limit);
    }
}
