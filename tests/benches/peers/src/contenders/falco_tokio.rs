//! `Client` and `Server` of `falco-tokio`.

use core::net::SocketAddr;
use std::net::TcpListener;

use bytes::Bytes;
use falco_tokio::{Client, ClientBuilder, Key, Request, Server};

use super::{KEY, MAX_CONNECTIONS, asynchronous};
use crate::Failure;
use crate::load::{Connection, Peer, tasks};
use crate::window::Window;

pub(super) async fn serve(listener: TcpListener) -> Result<(), Failure> {
    let server = Server::builder(Key::from_bytes(KEY)?)
        .max_connections(MAX_CONNECTIONS)
        .from_listener(asynchronous(listener)?)?;
    server
        .serve(|request: Request| async move { Ok(request.into_body()) })
        .await?;
    Ok(())
}

/// Starts clients with one connection each.
#[derive(Debug)]
pub(super) struct Dialer {
    address: SocketAddr,
    builder: ClientBuilder,
}

impl Dialer {
    pub(super) fn new(address: SocketAddr) -> Result<Self, Failure> {
        Ok(Self {
            address,
            builder: Client::builder(Key::from_bytes(KEY)?),
        })
    }
}

impl Peer for Dialer {
    type Connection = Caller;

    async fn connect(&self) -> Result<Caller, Failure> {
        let client = self.builder.clone().connect(self.address).await?;
        Ok(Caller { client })
    }
}

/// A client with its connection.
#[derive(Debug)]
pub(super) struct Caller {
    client: Client,
}

impl Connection for Caller {
    type Message = Bytes;

    fn message(body: Vec<u8>) -> Bytes {
        body.into()
    }

    async fn call<R: Send>(&mut self, message: &Bytes, look: impl FnOnce(&[u8]) -> R + Send) -> Result<R, Failure> {
        Ok(look(&self.client.request(message.clone()).await?))
    }

    async fn pipeline(&mut self, message: &Bytes, depth: usize, window: Window) -> Result<u64, Failure> {
        let (client, size, message) = (self.client.clone(), message.len(), message.clone());
        tasks(depth, size, window, move || {
            let (client, message) = (client.clone(), message.clone());
            async move { Ok(client.request(message).await?) }
        })
        .await
    }

    async fn close(self) -> Result<(), Failure> {
        self.client.close().await;
        Ok(())
    }
}
