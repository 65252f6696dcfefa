//! A server in an event loop of one's own: `mio` says which sockets are ready, one thread does
//! everything, and the core decides what the bytes mean.
//!
//! `FALCO_KEY=<64 hexadecimal digits> cargo run --example mio -- 127.0.0.1:4287`
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "an example is read, and may end with a panic"
)]

use core::error::Error;
use std::collections::{HashMap, HashSet};
use std::io::{ErrorKind, Read, Write};

use falco_core::keys::{Secrets, ServerKeys};
use falco_core::mux::{ServerMux, ServerStep};
use falco_core::{Instant, Key, RecvBuf, ServerConnection, Settings};
use getrandom::SysRng;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

/// One connection: the socket, the machine with its queues, what was read and not taken, what was
/// sealed and not written.
struct Connection<'k> {
    socket: TcpStream,
    mux: ServerMux<&'k ServerKeys, Vec<u8>, ()>,
    inbox: RecvBuf<Vec<u8>>,
    outbox: Vec<u8>,
    written: usize,
}

impl Connection<'_> {
    /// Does all that can be done now. `Ok`: there is no more until the socket is ready again or the
    /// deadline has come. An error is the end.
    fn advance(&mut self, now: Instant) -> Result<(), Box<dyn Error>> {
        loop {
            let wanted = self.receive(now);
            // What is sealed goes even if the machine has ended: it may be its last word.
            let wrote = self.write(now)?;
            self.mux.set_reading(now, matches!(wanted, Ok(Some(_))));
            let read = wanted?.map_or(Ok(false), |total| self.read(now, total))?;
            if !wrote && !read {
                if self.mux.poll_timeout().is_none_or(|deadline| deadline > now) {
                    return Ok(());
                }
                // Now that all that came was looked at. What it ends is told by the next look.
                let _ = self.mux.handle_timeout(now);
            }
        }
    }

    /// Processes what was read. `Some`: so many bytes are needed in all to go on; `None`: something
    /// has to be written first.
    fn receive(&mut self, now: Instant) -> Result<Option<usize>, Box<dyn Error>> {
        loop {
            match self.mux.recv(now, self.inbox.unread())? {
                ServerStep::NeedMore { total } => return Ok(Some(total)),
                ServerStep::Request { consumed, id, body } => {
                    // Here is where the service does its work; this one shouts.
                    let answer = body.into_vec().to_ascii_uppercase();
                    self.inbox.consume(consumed);
                    // It fails only where the client reads none of that size, and has been told so.
                    let _ = self.mux.answer(id, answer);
                }
                ServerStep::Skip { consumed }
                | ServerStep::Hello { consumed, .. }
                | ServerStep::Established { consumed }
                | ServerStep::Cancelled { consumed, .. }
                | ServerStep::Closing { consumed, .. } => self.inbox.consume(consumed),
                ServerStep::TransmitFirst | ServerStep::AnswerFirst | _ => return Ok(None),
            }
        }
    }

    /// Writes until there is nothing more or the socket takes no more. Says whether something went,
    /// or a request may be handled now.
    fn write(&mut self, now: Instant) -> std::io::Result<bool> {
        let mut wrote = false;
        loop {
            if self.written == self.outbox.len() {
                self.outbox.resize(self.mux.seal_size(), 0);
                let sealed = self.mux.seal(now, &mut self.outbox);
                self.outbox.truncate(sealed.unwrap_or(0));
                self.written = 0;
            }
            if self.outbox.is_empty() {
                self.mux.flushed();
                return Ok(wrote);
            }
            match self.socket.write(&self.outbox[self.written..]) {
                Ok(count) => (self.written, wrote) = (self.written + count, true),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(wrote),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads once; says whether something came.
    fn read(&mut self, now: Instant, total: usize) -> Result<bool, Box<dyn Error>> {
        match self.socket.read(self.inbox.space(total)?) {
            Ok(0) => Ok(self.mux.end_of_stream(now, self.inbox.unread()).map(|()| false)?),
            Ok(count) => {
                self.inbox.filled(count);
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:4287".to_owned());
    let key: Key = std::env::var("FALCO_KEY")?.parse()?;
    let mut secrets = Secrets::default();
    secrets.noise.push(key);
    let (keys, settings) = (secrets.into_server(&mut SysRng)?, Settings::new());
    let start = std::time::Instant::now();
    let clock = || Instant::from_millis(u64::try_from(start.elapsed().as_millis()).unwrap());
    let mut listener = TcpListener::bind(address.parse()?)?;
    let (mut poll, mut events) = (Poll::new()?, Events::with_capacity(256));
    poll.registry().register(&mut listener, Token(0), Interest::READABLE)?;
    println!("listening on {}", listener.local_addr()?);
    let (mut connections, mut last) = (HashMap::new(), Token(0));
    loop {
        let deadlines = connections
            .values()
            .filter_map(|one: &Connection<'_>| one.mux.poll_timeout());
        let wait = deadlines.min().map(|deadline| deadline.since(clock()));
        poll.poll(&mut events, wait)?;
        while let Ok((mut socket, _)) = listener.accept() {
            last = Token(last.0 + 1);
            socket.set_nodelay(true)?;
            poll.registry()
                .register(&mut socket, last, Interest::READABLE | Interest::WRITABLE)?;
            let machine = ServerConnection::new(&keys, &settings, clock(), &mut SysRng)?;
            let connection = Connection {
                socket,
                mux: ServerMux::new(machine, (), &settings),
                inbox: RecvBuf::default(),
                outbox: Vec::new(),
                written: 0,
            };
            connections.insert(last, connection);
        }
        let (now, ready) = (clock(), events.iter().map(Event::token).collect::<HashSet<_>>());
        connections.retain(|token, connection| {
            let due = connection.mux.poll_timeout().is_some_and(|deadline| deadline <= now);
            if !due && !ready.contains(token) {
                return true;
            }
            let advanced = connection.advance(now);
            advanced
                .inspect_err(|end| println!("connection {}: {end}", token.0))
                .is_ok()
        });
    }
}
