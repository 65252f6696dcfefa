//! A server in an event loop of one's own: `mio` reports which sockets are ready, one thread does
//! all work, and the core interprets the bytes.
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
use std::net::Shutdown;

use falco_core::keys::{Secrets, ServerKeys};
use falco_core::mux::{ServerMux, ServerStep};
use falco_core::{ConnectionError, Ending, Instant, Key, LastStep, RecvBuf, ServerConnection, Settings};
use getrandom::SysRng;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

/// A connection of the server.
struct Connection<'k> {
    socket: TcpStream,
    mux: ServerMux<&'k ServerKeys, Vec<u8>, ()>,
    /// Bytes that were read and not consumed.
    inbox: RecvBuf<Vec<u8>>,
    /// Sealed bytes, the first `written` of which the socket has accepted.
    outbox: Vec<u8>,
    written: usize,
    /// How the stream is closed, once the connection has ended.
    ending: Option<Ending>,
}

/// Why a connection needs no more events.
enum Finished {
    /// The connection has ended, and its stream may be closed.
    Ended,
    /// The stream has failed.
    Broken(Box<dyn Error>),
}

impl<E: Into<Box<dyn Error>>> From<E> for Finished {
    fn from(error: E) -> Self {
        Self::Broken(error.into())
    }
}

impl Connection<'_> {
    /// The next deadline.
    fn poll_timeout(&self) -> Option<Instant> {
        self.ending
            .as_ref()
            .map_or_else(|| self.mux.poll_timeout(), Ending::poll_timeout)
    }

    /// Does all that can be done until the socket is ready again or a deadline passes.
    fn advance(&mut self, now: Instant) -> Result<(), Finished> {
        if self.ending.is_none()
            && let Err(end) = self.run(now)?
        {
            println!("a connection ended: {end}");
            self.ending = Some(self.mux.ending(end, now));
        }
        let Some(mut ending) = self.ending else { return Ok(()) };
        let closed = self.close(&mut ending, now);
        self.ending = Some(ending);
        closed
    }

    /// Reads, writes and applies deadlines. The inner error is what ended the connection.
    fn run(&mut self, now: Instant) -> Result<Result<(), ConnectionError>, Finished> {
        loop {
            let wanted = match self.receive(now) {
                Ok(wanted) => wanted,
                Err(end) => return Ok(Err(end)),
            };
            let wrote = self.write(now)?;
            self.mux.set_reading(now, wanted.is_some());
            let mut read = false;
            if let Some(total) = wanted {
                match self.socket.read(self.inbox.space(total)?) {
                    Ok(0) => {
                        if let Err(end) = self.mux.end_of_stream(now, &self.inbox.unread()) {
                            return Ok(Err(end));
                        }
                    }
                    Ok(count) => {
                        self.inbox.filled(count);
                        read = true;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
            if !wrote && !read {
                if self.mux.poll_timeout().is_none_or(|deadline| deadline > now) {
                    return Ok(Ok(()));
                }
                // A deadline applies only after everything that has arrived was processed.
                if let Err(end) = self.mux.handle_timeout(now) {
                    return Ok(Err(end));
                }
            }
        }
    }

    /// Closes the stream, step by step.
    fn close(&mut self, ending: &mut Ending, now: Instant) -> Result<(), Finished> {
        loop {
            match ending.step(now) {
                LastStep::Write => {
                    self.write(now)?;
                    if !self.outbox.is_empty() {
                        return Ok(());
                    }
                    ending.written();
                }
                LastStep::ShutDown => {
                    self.socket.shutdown(Shutdown::Write)?;
                    ending.shut(now);
                }
                LastStep::DropInput => {
                    if self.drop_arrived() {
                        ending.input_ended();
                    } else {
                        return Ok(());
                    }
                }
                LastStep::DropArrived => {
                    self.socket.shutdown(Shutdown::Write)?;
                    self.drop_arrived();
                    return Err(Finished::Ended);
                }
                LastStep::Close => return Err(Finished::Ended),
            }
        }
    }

    /// Reads and drops what has arrived. Returns whether the client has ended its half.
    fn drop_arrived(&mut self) -> bool {
        loop {
            match self.socket.read(&mut [0; 4096]) {
                Ok(1..) => {}
                Ok(0) => return true,
                Err(error) => return error.kind() != ErrorKind::WouldBlock,
            }
        }
    }

    /// Processes what was read. Returns how many unread bytes the next step needs, or `None` if
    /// something has to be written first.
    fn receive(&mut self, now: Instant) -> Result<Option<usize>, ConnectionError> {
        loop {
            match self.mux.recv(now, self.inbox.unread())? {
                ServerStep::NeedMore { total } => return Ok(Some(total)),
                ServerStep::Request { id, body } => {
                    // The service does its work here.
                    let answer = body.into_vec().to_ascii_uppercase();
                    // This fails if the client does not accept an answer of that size. Then the
                    // request is refused.
                    let _ = self.mux.answer(id, answer);
                }
                ServerStep::Skip
                | ServerStep::Hello { .. }
                | ServerStep::Established
                | ServerStep::Cancelled { .. }
                | ServerStep::Closing { .. } => {}
                ServerStep::TransmitFirst | ServerStep::AnswerFirst | _ => return Ok(None),
            }
        }
    }

    /// Writes until nothing is left or the socket accepts no more. Returns whether something was
    /// written.
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
                Ok(count) => {
                    (self.written, wrote) = (self.written + count, true);
                    self.mux.wrote();
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    // The write deadline begins.
                    self.mux.blocked(now);
                    return Ok(wrote);
                }
                Err(error) => return Err(error),
            }
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
            .filter_map(|one: &Connection<'_>| one.poll_timeout());
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
                ending: None,
            };
            connections.insert(last, connection);
        }
        let (now, ready) = (clock(), events.iter().map(Event::token).collect::<HashSet<_>>());
        connections.retain(|token, connection| {
            let due = connection.poll_timeout().is_some_and(|deadline| deadline <= now);
            if !due && !ready.contains(token) {
                return true;
            }
            match connection.advance(now) {
                Ok(()) => true,
                Err(Finished::Ended) => false,
                Err(Finished::Broken(error)) => {
                    println!("connection {}: {error}", token.0);
                    false
                }
            }
        });
    }
}
