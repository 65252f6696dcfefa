//! Plain TCP on Tokio: what all others are compared with.

use core::net::SocketAddr;
use std::net::TcpListener;

use tokio::net::TcpStream;

use super::framing::{Framed, Stream, echo};
use crate::Failure;
use crate::load::Peer;

pub(super) async fn serve(listener: TcpListener) -> Result<(), Failure> {
    super::accept(listener, |stream| echo(Stream(stream))).await
}

/// Connects over TCP.
#[derive(Debug)]
pub(super) struct Dialer {
    address: SocketAddr,
}

impl Dialer {
    pub(super) const fn new(address: SocketAddr) -> Self {
        Self { address }
    }
}

impl Peer for Dialer {
    type Connection = Framed<Stream<TcpStream>>;

    async fn connect(&self) -> Result<Self::Connection, Failure> {
        Ok(Framed::new(Stream(connect(self.address).await?)))
    }
}

/// A connection without delay of short writes, as every contender has it.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
