//! The role of the server: it answers each request with its own body, until its client has closed
//! or its lifetime has run out.

use cortex_m::singleton;
use falco_core::{ConnectionError, Instant, Refusal, ServerConnection};
use falco_embedded::{Error, Line, ServerLine};
use heapless::Vec;

use crate::board::{self, Entropy, Uart};
use crate::wire::{BUFFER, MAX_MESSAGE, ServerKey, settings};
use crate::{Task, Wake};

type Bytes = &'static mut [u8];

type Connection = ServerLine<&'static ServerKey, Vec<u8, BUFFER>, Bytes, Bytes, Bytes>;

pub(crate) struct Server {
    key: &'static ServerKey,
    entropy: &'static Entropy,
    /// There is one from its first byte on: a serial line has no other word for it.
    line: Option<&'static mut Connection>,
    answered: usize,
    established: bool,
}

/// A connection in the one place for it. In a function of its own, so that what making it takes of
/// the stack is given back.
#[inline(never)]
#[allow(clippy::mut_from_ref, reason = "what is lent is memory of its own, once")]
fn connect(key: &'static ServerKey, mut entropy: &Entropy, now: Instant) -> Option<&'static mut Connection> {
    let settings = settings()?;
    let output = singleton!(: [u8; BUFFER] = [0; BUFFER])?;
    let request: Bytes = singleton!(: [u8; MAX_MESSAGE] = [0; MAX_MESSAGE])?;
    let answer: Bytes = singleton!(: [u8; MAX_MESSAGE] = [0; MAX_MESSAGE])?;
    let machine = ServerConnection::new(key, &settings, now, &mut entropy).ok()?;
    singleton!(: Connection = ServerLine::new(Line::new(machine, Vec::new(), &mut output[..]), request, answer))
}

impl Server {
    pub(crate) const fn new(key: &'static ServerKey, entropy: &'static Entropy) -> Self {
        Self {
            key,
            entropy,
            line: None,
            answered: 0,
            established: false,
        }
    }

    fn work(&mut self, now: Instant, uart: &Uart) -> Result<Wake, Error> {
        let Some(line) = &mut self.line else {
            if !uart.has_byte() {
                return Ok(Wake::At {
                    time: None,
                    writes: false,
                });
            }
            self.line = connect(self.key, self.entropy, now);
            return Ok(if self.line.is_some() { Wake::Now } else { Wake::Over(21) });
        };
        let more = step(line, now, uart, &mut self.answered)?;
        if !self.established && line.is_established() {
            self.established = true;
            board::say("handshake_stack", board::stack_used());
        }
        let line = line.line();
        Ok(if more {
            Wake::Now
        } else {
            Wake::At {
                time: line.poll_timeout(),
                writes: !line.unsent().is_empty(),
            }
        })
    }
}

#[inline(never)]
fn step(server: &mut Connection, now: Instant, uart: &Uart, answered: &mut usize) -> Result<bool, Error> {
    let line = server.line_mut();
    let read = uart.read(line.space()?);
    line.filled(read);
    let written = uart.write(line.unsent());
    line.sent(now, written);
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
    // What has come has been looked at before the time is.
    let due = read == 0 && server.line().poll_timeout().is_some_and(|due| due <= now);
    if due {
        server.line_mut().handle_timeout(now);
    }
    Ok(due || read > 0 || written > 0)
}

impl Task for Server {
    fn poll(&mut self, now: Instant, uart: &Uart) -> Wake {
        self.work(now, uart).unwrap_or_else(|error| {
            board::say("answered", self.answered);
            // On the classic wire nobody says that he closes: there the lifetime runs out.
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
