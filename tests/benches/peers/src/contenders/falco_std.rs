//! `Client` and `Server` of `falco-std`.

use core::net::SocketAddr;
use std::net::TcpListener;

use falco_std::{Client, ClientBuilder, Key, Request, Server};

use super::{KEY, MAX_CONNECTIONS};
use crate::Failure;
use crate::blocking_load::{Connection, Peer, threads};
use crate::window::{Window, verify_length};

pub(super) fn serve(listener: TcpListener) -> Result<(), Failure> {
    let server = Server::builder(Key::from_bytes(KEY)?)
        .max_connections(MAX_CONNECTIONS)
        .from_listener(listener)?;
    server.serve(|request: Request| Ok(request.into_body()))?;
    Ok(())
}

/// Starts clients.
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

    fn connect(&self) -> Result<Caller, Failure> {
        Ok(Caller {
            client: self.builder.clone().connect(self.address)?,
        })
    }
}

/// A client with its connection.
#[derive(Debug)]
pub(super) struct Caller {
    client: Client,
}

impl Connection for Caller {
    type Message = Vec<u8>;

    fn message(body: Vec<u8>) -> Vec<u8> {
        body
    }

    fn call<R>(&mut self, message: &Vec<u8>, look: impl FnOnce(&[u8]) -> R) -> Result<R, Failure> {
        Ok(look(&self.client.request(message.as_slice())?))
    }

    /// Threads share the client.
    fn pipeline(&mut self, message: &Vec<u8>, depth: usize, window: Window) -> Result<u64, Failure> {
        threads(0..depth, |_| {
            let mut count = 0;
            while window.is_open() {
                verify_length(message.len(), &self.client.request(message.as_slice())?)?;
                count += 1;
            }
            Ok(count)
        })
    }

    fn close(self) -> Result<(), Failure> {
        self.client.close();
        Ok(())
    }
}
