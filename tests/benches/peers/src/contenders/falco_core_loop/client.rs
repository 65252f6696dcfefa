//! The client's loop.

use core::convert::Infallible;
use core::net::SocketAddr;
use std::sync::Arc;

use falco_core::keys::{ClientKeys, Secrets};
use falco_core::{
    BufferSizes, ClientConnection, ClientEvent, CloseReason, HeapPartials, Key, OutgoingRequest, Reassembly, Received,
    Settings, Status,
};
use getrandom::SysRng;

use super::socket::{Clock, Read, Socket};
use crate::Failure;
use crate::contenders::{KEY, plain};
use crate::load::{Connection, Peer};
use crate::window::Window;

/// Connects, and waits until the connection is established.
pub(in super::super) struct Dialer {
    address: SocketAddr,
    keys: Arc<ClientKeys>,
}

impl Dialer {
    pub(in super::super) fn new(address: SocketAddr) -> Result<Self, Failure> {
        let mut secrets = Secrets::default();
        secrets.noise.push(Key::from_bytes(KEY)?);
        Ok(Self {
            address,
            keys: Arc::new(secrets.into_client(&mut SysRng)?),
        })
    }
}

impl Peer for Dialer {
    type Connection = Client;

    async fn connect(&self) -> Result<Client, Failure> {
        let socket = Socket::new(plain::connect(self.address).await?, Clock::start());
        let now = socket.clock.now();
        let connection = ClientConnection::new(Arc::clone(&self.keys), &Settings::new(), now, &mut SysRng)?;
        let mut client = Client {
            connection,
            socket,
            requests: Vec::new(),
            partial: Reassembly::default(),
            wanted: Some(0),
        };
        while client.connection.status() == Status::Handshaking {
            client.turn(&[]).await?;
            client.receive(|_| ())?;
        }
        Ok(client)
    }
}

/// One connection.
pub(in super::super) struct Client {
    connection: ClientConnection<Arc<ClientKeys>>,
    socket: Socket,
    /// Requests that are not sealed yet. All have the same body.
    requests: Vec<OutgoingRequest>,
    /// An answer that has arrived in part.
    partial: Reassembly<HeapPartials>,
    /// How many unread bytes are needed in all, unless something has to be written first.
    wanted: Option<usize>,
}

impl Client {
    /// Writes pending output and the requests, and reads once.
    async fn turn(&mut self, body: &[u8]) -> Result<(), Failure> {
        loop {
            let length = self.requests.len() * (FRAME + body.len());
            let now = self.socket.clock.now();
            let out = self
                .socket
                .out(BufferSizes::TRANSMIT + self.connection.seal_size(length));
            let requests = self.requests.iter_mut().map(|request| (request, body));
            let count = self.connection.seal(now, requests, out)?;
            if count == 0 {
                break;
            }
            self.requests.retain(|request| !request.is_done());
            self.socket.write(count).await?;
        }
        let Some(wanted) = self.wanted else { return Ok(()) };
        let read = self.socket.read(wanted, self.connection.poll_timeout()).await?;
        let now = self.socket.clock.now();
        match read {
            Read::Bytes => {}
            Read::End => self.connection.end_of_stream(now, &self.socket.inbox.unread())?,
            Read::Deadline => self.connection.handle_timeout(now)?,
        }
        Ok(())
    }

    /// Processes the unread bytes, and shows each answer.
    fn receive(&mut self, mut look: impl FnMut(&[u8])) -> Result<(), Failure> {
        let now = self.socket.clock.now();
        loop {
            match self.connection.recv(now, self.socket.inbox.unread())? {
                Received::Event(event) => match event {
                    ClientEvent::Answer { body, .. } => look(body),
                    ClientEvent::Begin { id, total, body } => self.partial.begin(id, total, body)?,
                    ClientEvent::Part { id, body, last } => {
                        self.partial.part(id, body)?;
                        if last {
                            look(self.partial.whole(id).ok_or("an answer is not complete")?);
                            self.partial.forget(id);
                        }
                    }
                    ClientEvent::Refused { refusal, .. } => return Err(format!("refused: {refusal:?}").into()),
                    ClientEvent::Closing { reason } => return Err(format!("closing: {reason:?}").into()),
                    ClientEvent::Established | ClientEvent::Pong { .. } | _ => {}
                },
                Received::Skip => {}
                Received::NeedMore { total } => {
                    self.wanted = Some(total);
                    return Ok(());
                }
                Received::Wait(_) | _ => {
                    self.wanted = None;
                    return Ok(());
                }
            }
        }
    }
}

impl Connection for Client {
    type Message = Vec<u8>;

    fn message(body: Vec<u8>) -> Vec<u8> {
        body
    }

    async fn call<R: Send>(&mut self, message: &Vec<u8>, look: impl FnOnce(&[u8]) -> R + Send) -> Result<R, Failure> {
        self.requests.push(self.connection.request(message.len())?);
        let (mut look, mut looked) = (Some(look), None);
        loop {
            self.turn(message).await?;
            self.receive(|answer| looked = look.take().map(|look| look(answer)))?;
            if let Some(looked) = looked {
                return Ok(looked);
            }
        }
    }

    async fn pipeline(&mut self, message: &Vec<u8>, depth: usize, window: Window) -> Result<u64, Failure> {
        let (mut free, mut total) = (depth, 0);
        while free < depth || window.is_open() {
            if window.is_open() {
                for _ in 0..core::mem::take(&mut free) {
                    self.requests.push(self.connection.request(message.len())?);
                }
            }
            self.turn(message).await?;
            let (mut answered, mut wrong) = (0, false);
            self.receive(|answer| {
                answered += 1;
                wrong |= answer.len() != message.len();
            })?;
            if wrong {
                return Err("an answer has not the length of its request".into());
            }
            free += answered;
            total += u64::try_from(answered)?;
        }
        Ok(total)
    }

    async fn idle(mut self) -> Result<Infallible, Failure> {
        loop {
            self.turn(&[]).await?;
            self.receive(|_| ())?;
        }
    }

    async fn close(mut self) -> Result<(), Failure> {
        let now = self.socket.clock.now();
        self.connection.close(now, CloseReason::Done);
        let count = self
            .connection
            .poll_transmit(now, self.socket.out(BufferSizes::TRANSMIT))?;
        self.socket.write(count).await?;
        self.socket.end().await
    }
}

/// What the header of each message in a record takes.
const FRAME: usize = 7;
