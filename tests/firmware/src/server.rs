//! The server: it answers each request with its own body, until its client has closed or the
//! lifetime has run out.

use cortex_m::singleton;
use falco_core::{ConnectionError, Instant, Refusal, ServerConnection};
use falco_embedded::{BufferedConnection, BufferedServer, Error};
use heapless::Vec;

use crate::board::{self, Entropy, Uart};
use crate::wire::{BUFFER, MAX_MESSAGE, ServerKey, settings};
use crate::{Task, Wake};

type Bytes = &'static mut [u8];

type Connection = BufferedServer<&'static ServerKey, (Vec<u8, BUFFER>, Bytes), (Bytes, Bytes)>;

pub(crate) struct Server {
    key: &'static ServerKey,
    entropy: &'static Entropy,
    /// Created at the first byte: a serial line does not report a new connection otherwise.
    connection: Option<&'static mut Connection>,
    answered: usize,
    established: bool,
}

/// Starts a connection in static memory. It is a function of its own, so that the stack that this
/// needs is free again.
#[inline(never)]
#[allow(clippy::mut_from_ref, reason = "the reference is to a static, and returned once")]
fn connect(key: &'static ServerKey, mut entropy: &Entropy, now: Instant) -> Option<&'static mut Connection> {
    let settings = settings()?;
    let output = singleton!(: [u8; BUFFER] = [0; BUFFER])?;
    let request: Bytes = singleton!(: [u8; MAX_MESSAGE] = [0; MAX_MESSAGE])?;
    let answer: Bytes = singleton!(: [u8; MAX_MESSAGE] = [0; MAX_MESSAGE])?;
    let machine = ServerConnection::new(key, &settings, now, &mut entropy).ok()?;
    singleton!(: Connection = {
        let connection = BufferedConnection::new(machine, (Vec::new(), &mut output[..]));
        BufferedServer::new(connection, (request, answer))
    })
}

impl Server {
    pub(crate) const fn new(key: &'static ServerKey, entropy: &'static Entropy) -> Self {
        Self {
            key,
            entropy,
            connection: None,
            answered: 0,
            established: false,
        }
    }

    fn work(&mut self, now: Instant, uart: &Uart) -> Result<Wake, Error> {
        let Some(server) = &mut self.connection else {
            if !uart.has_byte() {
                return Ok(Wake::At {
                    time: None,
                    writes: false,
                });
            }
            self.connection = connect(self.key, self.entropy, now);
            return Ok(if self.connection.is_some() {
                Wake::Now
            } else {
                Wake::Over(21)
            });
        };
        let more = step(server, now, uart, &mut self.answered)?;
        if !self.established && server.is_established() {
            self.established = true;
            board::say("handshake_stack", board::stack_used());
        }
        let connection = server.connection();
        Ok(if more {
            Wake::Now
        } else {
            Wake::At {
                time: connection.poll_timeout(),
                writes: !connection.unsent().is_empty(),
            }
        })
    }
}

#[inline(never)]
fn step(server: &mut Connection, now: Instant, uart: &Uart, answered: &mut usize) -> Result<bool, Error> {
    let connection = server.connection_mut();
    let read = uart.read(connection.space()?);
    connection.filled(read);
    let written = uart.write(connection.unsent());
    connection.sent(now, written);
    if server.step(now)? {
        return Ok(true);
    }
    if let Some((request, answer)) = server.request() {
        let length = request.len();
        match answer.get_mut(..length) {
            Some(place) => {
                place.copy_from_slice(request);
                server.answer(length);
                *answered += 1;
            }
            None => server.refuse(Refusal::AnswerTooLarge),
        }
        return Ok(true);
    }
    // Deadlines are checked only after everything that has come was processed.
    let due = read == 0 && server.connection().poll_timeout().is_some_and(|due| due <= now);
    if due {
        server.connection_mut().handle_timeout(now);
    }
    Ok(due || read > 0 || written > 0)
}

impl Task for Server {
    fn poll(&mut self, now: Instant, uart: &Uart) -> Wake {
        self.work(now, uart).unwrap_or_else(|error| {
            board::say("answered", self.answered);
            // The classic wire has no CLOSE. There the lifetime runs out.
            let end = if cfg!(feature = "noise") {
                ConnectionError::Closed
            } else {
                ConnectionError::Expired
            };
            let fine = error == Error::Connection(end);
            Wake::Over(if fine && self.answered >= 200 { 0 } else { 20 })
        })
    }
}
