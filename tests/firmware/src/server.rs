//! The role of the server: it answers each request with its own body, until its client has closed or its lifetime has run out.

use cortex_m::singleton;
use falco_core::{ConnectionError, Instant, Refusal, ServerConnection};
use falco_embedded::{Error, Line, ServerLine};
use heapless::Vec;

use crate::board::{self, Entropy, Uart};
use crate::wire::{BUFFER, MAX_MESSAGE, ServerKey, settings};
use crate::{Task, Wake};

type Bytes = &'static mut [u8];

pub(crate) struct Server<'k> {
    line: ServerLine<&'k ServerKey, Vec<u8, BUFFER>, Bytes, Bytes, Bytes>,
    answered: usize,
    established: bool,
}

impl<'k> Server<'k> {
    #[inline(never)]
    pub(crate) fn new(key: &'k ServerKey, mut entropy: &Entropy, now: Instant) -> Option<Self> {
        let settings = settings()?;
        let machine = ServerConnection::new(key, &settings, now, &mut entropy).ok()?;
        let output = singleton!(: [u8; BUFFER] = [0; BUFFER])?;
        let request = singleton!(: [u8; MAX_MESSAGE] = [0; MAX_MESSAGE])?;
        let answer = singleton!(: [u8; MAX_MESSAGE] = [0; MAX_MESSAGE])?;
        let line = Line::new(machine, Vec::new(), &mut output[..]);
        Some(Self {
            line: ServerLine::new(line, request, answer),
            answered: 0,
            established: false,
        })
    }

    #[inline(never)]
    fn step(&mut self, now: Instant, uart: &Uart) -> Result<bool, Error> {
        let line = self.line.line_mut();
        let read = uart.read(line.space()?);
        line.filled(read);
        let written = uart.write(line.unsent());
        line.sent(now, written);
        line.handle_timeout(now);
        if self.line.step(now)? {
            return Ok(true);
        }
        if let Some((request, answer)) = self.line.request() {
            let length = request.len();
            match answer.get_mut(..length) {
                Some(place) => {
                    place.copy_from_slice(request);
                    self.line.answer(now, length)?;
                    self.answered += 1;
                }
                None => self.line.refuse(now, Refusal::AnswerTooLarge),
            }
            return Ok(true);
        }
        Ok(read > 0 || written > 0)
    }
}

impl Task for Server<'_> {
    fn poll(&mut self, now: Instant, uart: &Uart) -> Wake {
        let step = self.step(now, uart);
        if !self.established && self.line.is_established() {
            self.established = true;
            board::say("handshake_stack", board::stack_used());
        }
        match step {
            Ok(true) => Wake::Now,
            Ok(false) => Wake::At(self.line.line().poll_timeout()),
            Err(error) => {
                board::say("answered", self.answered);
                // On the classic wire nobody says that he closes: there the lifetime runs out.
                let end = if cfg!(feature = "noise") {
                    ConnectionError::Closed
                } else {
                    ConnectionError::Expired
                };
                let fine = error == Error::Connection(end);
                Wake::Over(if fine && self.answered >= 200 { 0 } else { 20 })
            }
        }
    }
}
