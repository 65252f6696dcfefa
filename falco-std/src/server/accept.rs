//! The loop that accepts connections.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::Arc;
use std::thread;

use falco_core::mux::Source;

use super::handler::{HandlerError, Request};
use super::listener::Listener;
use super::{Service, connection};
use crate::socket::{SharedSocket, Socket};

/// How long the server waits after it could not accept for lack of memory or file descriptors: at
/// first, and at most. The first bounds how often that fails in vain, the second how long a client
/// waits once there is a descriptor that no connection gave back.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(100));

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
