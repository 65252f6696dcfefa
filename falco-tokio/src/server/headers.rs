//! Reads the PROXY header of connections from trusted proxies, before these connections count.

use core::net::SocketAddr;
use std::sync::Arc;

use falco_core::mux::AdmissionLimits;
use tokio::sync::mpsc::{Receiver, channel};

use super::Service;
use crate::socket::Socket;

/// A connection that a proxy has passed on, with the address of its client.
type Named = (Socket, SocketAddr);

/// How many such connections may wait for the accept loop, unless descriptors are scarce.
const NAMED: usize = 64;

/// How many connections whose header was not read are wanted, which includes those that wait for
/// the accept loop.
pub(super) fn wanted(limits: &AdmissionLimits, trusts_proxies: bool) -> usize {
    if trusts_proxies {
        limits.max_half_open.saturating_add(NAMED)
    } else {
        0
    }
}

/// Reads the headers of connections from trusted proxies.
#[derive(Debug)]
pub(super) struct Headers {
    #[cfg(feature = "proxy-protocol")]
    reader: reader::Reader,
    #[cfg(not(feature = "proxy-protocol"))]
    _to: tokio::sync::mpsc::Sender<Named>,
}

/// The reader of headers, and the channel on which it returns connections with their headers read.
pub(super) fn headers(service: &Arc<Service>) -> (Headers, Receiver<Named>) {
    let (to, named) = channel(NAMED.min(service.headers / 2).max(1));
    #[cfg(feature = "proxy-protocol")]
    let headers = Headers {
        reader: reader::Reader::new(service, to),
    };
    #[cfg(not(feature = "proxy-protocol"))]
    let headers = Headers { _to: to };
    (headers, named)
}

#[cfg(not(feature = "proxy-protocol"))]
impl Headers {
    /// Returns the connection.
    pub(super) async fn read(&self, socket: Socket, peer: Option<SocketAddr>) -> Option<(Socket, Option<SocketAddr>)> {
        let _ = self;
        core::future::ready(Some((socket, peer))).await
    }
}

#[cfg(feature = "proxy-protocol")]
impl Headers {
    /// Returns the connection, unless it comes from a trusted proxy: then its header is read on a
    /// task of its own.
    pub(super) async fn read(&self, socket: Socket, peer: Option<SocketAddr>) -> Option<(Socket, Option<SocketAddr>)> {
        self.reader.read(socket, peer).await
    }
}

#[cfg(feature = "proxy-protocol")]
mod reader {
    use core::net::SocketAddr;
    use std::sync::Arc;

    use tokio::sync::Semaphore;
    use tokio::sync::mpsc::Sender;
    use tracing::debug;

    use super::super::Service;
    use super::super::proxied::{NoClient, client_of};
    use super::super::warning::warn_limited;
    use super::Named;
    use crate::socket::Socket;

    #[derive(Debug)]
    pub(super) struct Reader {
        service: Arc<Service>,
        /// How many headers are read at once.
        reading: Arc<Semaphore>,
        to: Sender<Named>,
    }

    impl Reader {
        pub(super) fn new(service: &Arc<Service>, to: Sender<Named>) -> Self {
            let most = service.headers.saturating_sub(to.max_capacity());
            Self {
                service: Arc::clone(service),
                reading: Arc::new(Semaphore::new(most.clamp(1, Semaphore::MAX_PERMITS))),
                to,
            }
        }

        pub(super) async fn read(
            &self,
            socket: Socket,
            peer: Option<SocketAddr>,
        ) -> Option<(Socket, Option<SocketAddr>)> {
            let (mut stream, proxy) = match (socket, peer) {
                (Socket::Tcp(stream), Some(peer)) if self.service.proxies.trusts(peer.ip()) => (stream, peer),
                (socket, peer) => return Some((socket, peer)),
            };
            // While this waits, new connections wait in the backlog: no longer than a header may
            // take.
            let reading = Arc::clone(&self.reading).acquire_owned().await.ok()?;
            let (to, service) = (self.to.clone(), Arc::clone(&self.service));
            tokio::spawn(async move {
                let (limit, warnings) = (service.settings.handshake_timeout(), &service.warnings);
                let read = tokio::time::timeout(limit, client_of(&mut stream, proxy));
                let warnings = &warnings.header;
                match read.await {
                    Ok(Ok(client)) => _ = to.send((Socket::Tcp(stream), client)).await,
                    Ok(Err(NoClient::NoHeader)) => {
                        warn_limited!(warnings, %proxy, "closed a connection: it has no PROXY header");
                    }
                    Ok(Err(NoClient::TooLong)) => {
                        warn_limited!(warnings, %proxy, "closed a connection: its PROXY header is longer than 16,384 bytes");
                    }
                    // A health check of the proxy may end like this.
                    Ok(Err(NoClient::Io(error))) => {
                        debug!(%proxy, %error, "a connection ended before its PROXY header");
                    }
                    Err(_) => {
                        warn_limited!(warnings, %proxy, "closed a connection: its PROXY header has not arrived");
                    }
                }
                drop(reading);
            });
            None
        }
    }
}
