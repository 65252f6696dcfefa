//! TLS 1.3 by rustls, with the raw loop of plain TCP.

use core::net::SocketAddr;
use std::net::TcpListener;

use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;

use super::framing::{Framed, Stream, echo};
use super::tls::{Connector, Identity, acceptor};
use crate::Failure;
use crate::load::Peer;

pub(super) async fn serve(listener: TcpListener, identity: &Identity) -> Result<(), Failure> {
    let acceptor = acceptor(identity)?;
    super::accept(listener, |stream| {
        let accepting = acceptor.accept(stream);
        async { echo(Stream(accepting.await?)).await }
    })
    .await
}

/// Connects over TLS.
pub(super) struct Dialer {
    connector: Connector,
}

impl Dialer {
    pub(super) fn new(address: SocketAddr, certificate: &str) -> Result<Self, Failure> {
        Ok(Self {
            connector: Connector::new(address, certificate, Resumption::default())?,
        })
    }

    /// Each connection makes a handshake as if it were the first.
    pub(super) fn without_resumption(address: SocketAddr, certificate: &str) -> Result<Self, Failure> {
        Ok(Self {
            connector: Connector::new(address, certificate, Resumption::disabled())?,
        })
    }
}

impl Peer for Dialer {
    type Connection = Framed<Stream<TlsStream<TcpStream>>>;

    async fn connect(&self) -> Result<Self::Connection, Failure> {
        Ok(Framed::new(Stream(self.connector.connect().await?)))
    }
}
