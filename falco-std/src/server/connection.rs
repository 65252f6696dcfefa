//! What happens on one connection of a server: a machine, the pipe through which it talks, and a handler, one request after another.

use core::net::SocketAddr;
use core::ops::Range;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use falco_core::{
    CloseReason, ConnectionError, Error, Received, Refusal, RequestId, ServerConnection, ServerEvent, Settings,
    TRANSMIT_SIZE,
};
use getrandom::SysRng;

use super::Service;
use super::handler::{HandlerError, Request};
use super::seats::Seat;
use crate::pipe::{Filled, Pipe};
use crate::stream::Stream;
use crate::wire_key::WireKey;

/// How often a thread that cannot be woken looks whether it is to stop.
const STOP_POLL: Duration = Duration::from_millis(250);

struct Connection<'a, S> {
    machine: ServerConnection<Arc<WireKey>>,
    pipe: Pipe<S>,
    service: &'a Service,
    seat: &'a Seat,
    peer: Option<SocketAddr>,
    established: bool,
}

/// Serves a connection from its first byte to its last, and says what ended it.
pub(super) fn serve<S, H>(
    service: &Service,
    seat: &Seat,
    stream: S,
    peer: Option<SocketAddr>,
    handler: &H,
) -> io::Result<ConnectionError>
where
    S: Stream,
    H: Fn(Request) -> Result<Vec<u8>, HandlerError>,
{
    let machine = ServerConnection::new(
        Arc::clone(&service.key),
        &service.settings,
        service.clock.now(),
        &mut SysRng,
    );
    let machine = machine.map_err(io::Error::other)?;
    let longest_wait = if seat.can_be_woken() { None } else { Some(STOP_POLL) };
    let pipe = Pipe::new(stream, service.clock, longest_wait);
    let mut connection = Connection {
        machine,
        pipe,
        service,
        seat,
        peer,
        established: false,
    };
    let ended = connection.converse(handler);
    connection.leave(&ended);
    ended
}

impl<S: Stream> Connection<'_, S> {
    fn converse<H>(&mut self, handler: &H) -> io::Result<ConnectionError>
    where
        H: Fn(Request) -> Result<Vec<u8>, HandlerError>,
    {
        loop {
            if self.seat.is_stopping() {
                self.machine.close(self.pipe.now(), CloseReason::ShuttingDown);
            }
            self.transmit()?;
            let now = self.pipe.now();
            match self.machine.recv(now, self.pipe.unread()) {
                Err(end) => return Ok(end),
                Ok(Received::NeedMore { total }) => self.fill(total)?,
                Ok(Received::Event { consumed, event }) => match event {
                    ServerEvent::Request { id, body } => self.handle(id, body, consumed, handler)?,
                    ServerEvent::Established => {
                        self.established = true;
                        self.seat.establish();
                        self.pipe.trust();
                        self.pipe.consume(consumed);
                    }
                    ServerEvent::Ping | _ => self.pipe.consume(consumed),
                },
                Ok(Received::Skip { consumed }) => self.pipe.consume(consumed),
                // What it owes is taken at the top of the loop.
                Ok(Received::TransmitFirst) => {}
                // No answer is ever outstanding here. To look again would be to look for ever.
                Ok(Received::AnswerFirst | _) => {
                    return Err(io::Error::other("the machine waits for an answer that it has had"));
                }
            }
        }
    }

    /// Runs the handler on a request and sends its answer.
    fn handle<H>(&mut self, id: RequestId, body: Range<usize>, consumed: usize, handler: &H) -> io::Result<()>
    where
        H: Fn(Request) -> Result<Vec<u8>, HandlerError>,
    {
        // The range is one of the unread bytes: the core says so.
        let request = Request::new(self.pipe.unread().get(body).unwrap_or_default().to_vec(), self.peer);
        self.pipe.consume(consumed);
        let wanted = || !self.seat.is_cut();
        let answered = self.service.workers.run(handler, request, wanted);
        let answered = answered.map(|body| (self.machine.answer(id, body.len()), body));
        let Some((Ok(mut answer), body)) = answered else {
            self.seat.count_failure();
            // It fails only where the connection has ended, which the next look at it tells.
            let _ = self.machine.refuse(id, Refusal::Failed);
            return Ok(());
        };
        while !answer.is_done() {
            let (now, size) = (self.pipe.now(), self.machine.seal_size(body.len()));
            match self
                .machine
                .seal(now, [(&mut answer, body.as_slice())], self.pipe.out(size))
            {
                // Told again by the next look at the machine.
                Ok(0) | Err(Error::Connection(_)) => return Ok(()),
                Ok(count) => self.send(count)?,
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(())
    }

    /// Waits for bytes.
    fn fill(&mut self, total: usize) -> io::Result<()> {
        if !self.seat.rest() {
            return Ok(());
        }
        let filled = self.pipe.fill(total, self.machine.poll_timeout());
        if !self.seat.wake() {
            return Ok(());
        }
        let now = self.pipe.now();
        // An end that comes of it is told again by the next look at the machine.
        match filled? {
            Filled::Bytes => {}
            Filled::Nothing => _ = self.machine.handle_timeout(now),
            Filled::EndOfStream => _ = self.machine.end_of_stream(now, self.pipe.unread()),
        }
        Ok(())
    }

    /// Sends what the machine owes.
    fn transmit(&mut self) -> io::Result<()> {
        loop {
            let now = self.pipe.now();
            let owed = self
                .machine
                .poll_transmit(now, self.pipe.out(TRANSMIT_SIZE))
                .map_err(io::Error::other)?;
            if owed == 0 {
                return Ok(());
            }
            self.send(owed)?;
        }
    }

    fn send(&mut self, count: usize) -> io::Result<()> {
        let settings: &Settings = &self.service.settings;
        self.pipe.send(count, settings.lifetime(), None)?;
        self.pipe.flush()
    }

    /// Ends the stream as its end deserves.
    fn leave(&mut self, ended: &io::Result<ConnectionError>) {
        // The machine's last word, if it has one; where it cannot be said, the stream is broken and ends all the same.
        let _ = self.transmit();
        let in_order = matches!(ended, Ok(ConnectionError::Closed | ConnectionError::HandlerFailed));
        if self.established && in_order && !self.seat.is_cut() {
            self.pipe.finish();
        } else {
            self.pipe.abort();
        }
    }
}
