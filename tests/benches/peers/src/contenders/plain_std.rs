//! Plain TCP with blocking sockets: what `falco-std` is compared with.

use core::net::SocketAddr;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use super::framing::{HEADER, Inbox, frames};
use crate::Failure;
use crate::blocking_load::{self, Connection};
use crate::window::Window;

/// The stack of each thread.
const STACK: usize = 128 << 10;

pub(super) fn serve(listener: &TcpListener) -> Result<(), Failure> {
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        // How a connection ends is up to the client, which notices.
        thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || drop(echo(&stream)))?;
    }
}

/// Sends every message back, all that have arrived in one write.
fn echo(mut stream: &TcpStream) -> Result<(), Failure> {
    let mut inbox = Inbox::default();
    loop {
        let (length, _) = inbox.complete()?;
        if length > 0 {
            stream.write_all(inbox.unread().get(..length).unwrap_or_default())?;
            inbox.consume(length);
        }
        read(stream, &mut inbox)?;
    }
}

fn read(mut stream: &TcpStream, inbox: &mut Inbox) -> Result<(), Failure> {
    let wanted = inbox.wanted()?;
    let count = stream.read(inbox.space(wanted))?;
    if count == 0 {
        return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into());
    }
    inbox.fill(count);
    Ok(())
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

impl blocking_load::Peer for Dialer {
    type Connection = Framed;

    fn connect(&self) -> Result<Framed, Failure> {
        let stream = TcpStream::connect(self.address)?;
        stream.set_nodelay(true)?;
        Ok(Framed {
            stream,
            inbox: Inbox::default(),
        })
    }
}

/// The client's end of a stream.
#[derive(Debug)]
pub(super) struct Framed {
    stream: TcpStream,
    inbox: Inbox,
}

impl Connection for Framed {
    /// With its header, so that sending it copies nothing.
    type Message = Vec<u8>;

    fn message(body: Vec<u8>) -> Vec<u8> {
        frames(&body, 1)
    }

    fn call<R>(&mut self, message: &Vec<u8>, look: impl FnOnce(&[u8]) -> R) -> Result<R, Failure> {
        self.stream.write_all(message)?;
        loop {
            read(&self.stream, &mut self.inbox)?;
            let (length, count) = self.inbox.complete()?;
            if count > 0 {
                let looked = look(self.inbox.unread().get(HEADER..length).unwrap_or_default());
                self.inbox.consume(length);
                return Ok(looked);
            }
        }
    }

    fn pipeline(&mut self, message: &Vec<u8>, depth: usize, window: Window) -> Result<u64, Failure> {
        let batch = message.repeat(depth);
        let (mut free, mut answered) = (depth, 0);
        while free < depth || window.is_open() {
            if free > 0 && window.is_open() {
                self.stream
                    .write_all(batch.get(..free * message.len()).unwrap_or_default())?;
                free = 0;
            }
            read(&self.stream, &mut self.inbox)?;
            let (length, count) = self.inbox.complete()?;
            if length != count * message.len() {
                return Err("an answer has not the length of its request".into());
            }
            self.inbox.consume(length);
            free += count;
            answered += u64::try_from(count)?;
        }
        Ok(answered)
    }

    fn close(self) -> Result<(), Failure> {
        Ok(self.stream.shutdown(Shutdown::Both)?)
    }
}
