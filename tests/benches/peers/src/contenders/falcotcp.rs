//! The published crate `falcotcp` 0.1.4, on Tokio.

use core::net::SocketAddr;
use core::time::Duration;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::sync::Arc;

use falcotcp::{Client, MessageHandler, Server};

use super::KEY;
use crate::Failure;
use crate::load::{Connection, Peer};
use crate::window::Window;

/// The server looks at one connection after the other and spins where there are none: more workers
/// only burn more.
const WORKERS: usize = 1;

/// The server binds its address itself, after it was announced.
pub(super) async fn serve(listener: TcpListener) -> Result<(), Failure> {
    let address = listener.local_addr()?.to_string();
    drop(listener);
    let handler: MessageHandler = Arc::new(|body| Box::pin(async move { body }));
    Ok(Server::new(address, KEY, handler, WORKERS).await?)
}

/// Connects to the server, which does not offer a choice of socket options: short writes may wait.
#[derive(Debug)]
pub(super) struct Dialer {
    address: String,
}

impl Dialer {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self {
            address: address.to_string(),
        }
    }
}

impl Peer for Dialer {
    type Connection = Caller;

    async fn connect(&self) -> Result<Caller, Failure> {
        for _ in 0..100 {
            match Client::new(&self.address, KEY).await {
                // The server has not bound its address yet.
                Err(error) if matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset) => {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                other => return Ok(Caller { client: other? }),
            }
        }
        Err("the server cannot be reached".into())
    }
}

/// A client with its connection.
pub(super) struct Caller {
    client: Client,
}

impl Connection for Caller {
    type Message = Vec<u8>;

    fn message(body: Vec<u8>) -> Vec<u8> {
        body
    }

    async fn call<R: Send>(&mut self, message: &Vec<u8>, look: impl FnOnce(&[u8]) -> R + Send) -> Result<R, Failure> {
        Ok(look(&self.client.message(message.clone()).await?))
    }

    async fn pipeline(&mut self, _: &Vec<u8>, _: usize, _: Window) -> Result<u64, Failure> {
        Err("a client has one request at a time".into())
    }

    async fn close(self) -> Result<(), Failure> {
        Ok(())
    }
}
