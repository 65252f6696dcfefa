//! tarpc over rustls, with its bincode transport: one service with one method.

use core::net::SocketAddr;
use std::net::TcpListener;

use bytes::Bytes;
use futures_util::StreamExt as _;
use tarpc::client::Config;
use tarpc::context::{self, Context};
use tarpc::serde_transport::{self, Transport};
use tarpc::server::{BaseChannel, Channel as _};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::tokio_util::codec::LengthDelimitedCodec;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::Resumption;

use super::MAX_MESSAGE;
use super::tls::{Connector, Identity, acceptor};
use crate::Failure;
use crate::load::{Connection, Peer, tasks};
use crate::window::Window;

#[tarpc::service]
trait Echo {
    async fn echo(body: Bytes) -> Bytes;
}

#[derive(Clone)]
struct Echoes;

impl Echo for Echoes {
    async fn echo(self, _: Context, body: Bytes) -> Bytes {
        body
    }
}

/// Room for what the transport adds to a body.
const OVERHEAD: usize = 1 << 10;

fn transport<S, Item, SinkItem>(stream: S) -> Transport<S, Item, SinkItem, Bincode<Item, SinkItem>>
where
    S: AsyncRead + AsyncWrite,
    Item: for<'a> serde::Deserialize<'a>,
    SinkItem: serde::Serialize,
{
    let codec = LengthDelimitedCodec::builder()
        .max_frame_length(MAX_MESSAGE + OVERHEAD)
        .new_framed(stream);
    serde_transport::new(codec, Bincode::default())
}

pub(super) async fn serve(listener: TcpListener, identity: &Identity) -> Result<(), Failure> {
    let acceptor = acceptor(identity)?;
    super::accept(listener, |stream| answer(acceptor.clone(), stream)).await
}

async fn answer(acceptor: TlsAcceptor, stream: tokio::net::TcpStream) -> Result<(), Failure> {
    let channel = BaseChannel::with_defaults(transport(acceptor.accept(stream).await?));
    channel
        .execute(Echoes.serve())
        .for_each(|handler| async {
            tokio::spawn(handler);
        })
        .await;
    Ok(())
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
}

impl Peer for Dialer {
    type Connection = Caller;

    async fn connect(&self) -> Result<Caller, Failure> {
        let transport = transport(self.connector.connect().await?);
        Ok(Caller {
            client: EchoClient::new(Config::default(), transport).spawn(),
        })
    }
}

/// A client with its connection.
#[derive(Debug)]
pub(super) struct Caller {
    client: EchoClient,
}

impl Connection for Caller {
    type Message = Bytes;

    fn message(body: Vec<u8>) -> Bytes {
        body.into()
    }

    async fn call<R: Send>(&mut self, message: &Bytes, look: impl FnOnce(&[u8]) -> R + Send) -> Result<R, Failure> {
        Ok(look(&self.client.echo(context::current(), message.clone()).await?))
    }

    async fn pipeline(&mut self, message: &Bytes, depth: usize, window: Window) -> Result<u64, Failure> {
        let (client, size, message) = (self.client.clone(), message.len(), message.clone());
        tasks(depth, size, window, move || {
            let (client, message) = (client.clone(), message.clone());
            async move { Ok(client.echo(context::current(), message).await?) }
        })
        .await
    }

    async fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}
