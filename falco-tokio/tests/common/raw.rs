//! A client that has the key and sends what a test chooses: a connection of the core, and a socket.
#![allow(clippy::wildcard_enum_match_arm, reason = "what is not asked for is passed over")]

use core::net::SocketAddr;
use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use falco_core::keys::{ClientKeys, Secrets};
use falco_core::mux::{Call, ClientMux, ClientStep};
use falco_core::{Instant, Unread};
use falco_tokio::{Refusal, Settings};
use getrandom::SysRng;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::key;

/// How long an answer may be waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// It keeps no time, and never gives up by itself.
const NOW: Instant = Instant::ZERO;

pub(crate) struct RawPeer {
    pub(crate) stream: TcpStream,
    mux: ClientMux<Arc<ClientKeys>, Bytes, ()>,
    unread: Vec<u8>,
    ticket: u64,
}

impl RawPeer {
    /// Connects, and sends nothing.
    pub(crate) async fn new(address: SocketAddr) -> Self {
        let secrets = Secrets {
            noise: vec![key(1)],
            ..Secrets::default()
        };
        let keys = Arc::new(secrets.into_client(&mut SysRng).unwrap());
        let settings = Settings::new();
        let machine = falco_core::ClientConnection::new(keys, &settings, NOW, &mut SysRng).unwrap();
        Self {
            stream: TcpStream::connect(address).await.unwrap(),
            mux: ClientMux::new(machine, &settings),
            unread: Vec::new(),
            ticket: 0,
        }
    }

    /// Connects and shakes hands.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut peer = Self::new(address).await;
        let hello = peer.pending_output();
        peer.stream.write_all(&hello).await.unwrap();
        peer.established().await;
        let first = peer.pending_output();
        peer.stream.write_all(&first).await.unwrap();
        peer
    }

    /// Waits for the welcome.
    pub(crate) async fn established(&mut self) {
        while !matches!(self.step().await, Some(Came::Established)) {}
    }

    /// All bytes that are to be sent now.
    pub(crate) fn pending_output(&mut self) -> Vec<u8> {
        let (mut bytes, mut out) = (Vec::new(), vec![0; 70_000]);
        loop {
            let sealed = self.mux.seal(NOW, &mut out, |(), _| {}).unwrap();
            if sealed == 0 {
                return bytes;
            }
            bytes.extend_from_slice(out.get(..sealed).unwrap());
        }
    }

    /// The bytes of a request. The caller sends them.
    pub(crate) fn sealed(&mut self, body: impl Into<Bytes>) -> Vec<u8> {
        self.ticket += 1;
        assert!(self.mux.request(Call::new(self.ticket, body.into(), ())).is_ok());
        self.pending_output()
    }

    /// The first part of a request as bytes; [`pending_output`](Self::pending_output) has the rest.
    pub(crate) fn sealed_part(&mut self, body: impl Into<Bytes>, length: usize) -> Vec<u8> {
        self.ticket += 1;
        assert!(self.mux.request(Call::new(self.ticket, body.into(), ())).is_ok());
        let mut part = vec![0; length];
        let sealed = self.mux.seal(NOW, &mut part, |(), _| {}).unwrap();
        part.truncate(sealed);
        part
    }

    /// Sends a ping, so that the connection stays open, and waits for its answer, or for a refusal
    /// if that arrives first.
    pub(crate) async fn ping(&mut self) -> Option<Refusal> {
        self.mux.ping(Call::new(0, (), ())).unwrap();
        // Its record and not a byte more: what else waits is to wait on.
        let mut ping = [0; 33];
        assert_eq!(self.mux.seal(NOW, &mut ping, |(), _| {}), Ok(33));
        self.stream.write_all(&ping).await.unwrap();
        loop {
            match self.step().await.expect("the connection is to live") {
                Came::Pong => return None,
                Came::Refused(refusal) => return Some(refusal),
                Came::Answer(_) | Came::Established | Came::Other => {}
            }
        }
    }

    /// The next answer or refusal. `None` is the end of the connection.
    pub(crate) async fn answer(&mut self) -> Option<Result<Vec<u8>, Refusal>> {
        loop {
            match self.step().await? {
                Came::Answer(body) => return Some(Ok(body)),
                Came::Refused(refusal) => return Some(Err(refusal)),
                Came::Established | Came::Pong | Came::Other => {}
            }
        }
    }

    /// One step of the machine, reading and writing what it needs.
    async fn step(&mut self) -> Option<Came> {
        loop {
            let mut consumed = 0;
            let unread = Unread::new(&mut self.unread, &mut consumed);
            let came = match self.mux.recv(NOW, unread).ok()? {
                ClientStep::NeedMore { .. } => {
                    let reading = self.stream.read_buf(&mut self.unread);
                    let read = tokio::time::timeout(PATIENCE, reading)
                        .await
                        .expect("something is to come");
                    if read.ok()? == 0 {
                        return None;
                    }
                    continue;
                }
                ClientStep::Answer { body, .. } => Came::Answer(body.into_vec()),
                ClientStep::Refused { refusal, .. } => Came::Refused(refusal),
                ClientStep::Established => Came::Established,
                ClientStep::Pong { .. } => Came::Pong,
                _ => Came::Other,
            };
            self.unread.drain(..consumed);
            return Some(came);
        }
    }
}

/// What arrived in one step.
enum Came {
    Established,
    Answer(Vec<u8>),
    Refused(Refusal),
    Pong,
    Other,
}
