//! A connection of a client on which requests go one after another: on the classic wire, and over
//! streams that cannot be split. No thread of its own; also the handshake of every connection.

use core::time::Duration;
use std::io;
use std::sync::Arc;

use falco_core::keys::{ClientKeys, Entropy};
use falco_core::mux::Attempts;
use falco_core::{ClientConnection, CloseReason, ConnectionError, Fate, Instant, Settings, Status};

use super::limit::Limit;
use super::outcome::Outcome;
use super::state::{End, Look, Past, Slot, State};
use crate::clock::Clock;
use crate::error::Error;
use crate::line::Source;
use crate::pipe::{Filled, Pipe, is_timeout};
use crate::stream::BoxedStream;

pub(super) struct Serial {
    state: State,
    pipe: Pipe<BoxedStream>,
    /// A write that makes no progress for this long fails.
    stall: Duration,
    doing: Doing,
}

/// What is being done, for the errors: words, and what a failure now means for the request.
#[derive(Clone, Copy, PartialEq)]
struct Doing {
    what: &'static str,
    fate: Fate,
}

impl Doing {
    const HANDSHAKE: Self = Self::harmless("shaking hands");
    const CATCHING_UP: Self = Self::harmless("reading");
    const PING: Self = Self::harmless("sending a ping");
    /// A request that has not gone whole cannot be decrypted, and so not be processed.
    const SENDING: Self = Self::harmless("sending the request");
    const WAITING: Self = Self {
        what: "waiting for the answer",
        fate: Fate::MaybeProcessed,
    };

    const fn harmless(what: &'static str) -> Self {
        let fate = Fate::NotProcessed;
        Self { what, fate }
    }

    const fn io(self, error: io::Error) -> Error {
        Error::io(self.what, error, self.fate)
    }

    const fn end(self, end: ConnectionError) -> Error {
        let fate = self.fate;
        Error::Connection { end, fate }
    }
}

impl Serial {
    /// Shakes hands over a stream that is connected.
    pub(super) fn open(
        stream: BoxedStream,
        key: Arc<ClientKeys>,
        settings: &Settings,
        entropy: &Entropy,
        clock: Clock,
    ) -> Result<Self, Error> {
        let machine = ClientConnection::new(key, settings, clock.now(), &mut entropy.clone())?;
        let mut serial = Self {
            state: State::new(machine, usize::try_from(settings.max_held()).unwrap_or(usize::MAX)),
            pipe: Pipe::new(stream, clock, None),
            stall: settings.handshake_timeout(),
            doing: Doing::HANDSHAKE,
        };
        while serial.status() == Status::Handshaking {
            serial.write(None)?;
            if let Some(total) = serial.look()? {
                serial.fill(total, None)?;
            }
        }
        // The proof that the welcome could be read: until it has come, the server gives no more
        // time than for a handshake.
        serial.write(None)?;
        serial.pipe.trust();
        serial.stall = serial.state.mux.machine().lifetime();
        Ok(serial)
    }

    /// The state and the pipe, for a connection that goes on otherwise.
    pub(super) fn into_parts(self) -> (State, Pipe<BoxedStream>) {
        (self.state, self.pipe)
    }

    pub(super) const fn past(&self) -> Past {
        self.state.past()
    }

    fn status(&self) -> Status {
        self.state.mux.machine().status()
    }

    /// Takes what has come since the last call, without waiting. An error means that the connection
    /// has ended.
    pub(super) fn catch_up(&mut self) -> Result<(), Error> {
        self.doing = Doing::CATCHING_UP;
        loop {
            let Some(total) = self.look()? else { continue };
            let filled = self.pipe.fill_ready(total);
            match filled.map_err(|error| self.doing.io(error))? {
                Filled::Bytes => {}
                Filled::Nothing if self.status() == Status::Established => return Ok(()),
                Filled::Nothing => return Err(self.doing.end(ConnectionError::Closed)),
                Filled::EndOfStream => self.end_of_stream()?,
            }
        }
    }

    /// Sends a request and waits for its answer, for `limit` at most.
    pub(super) fn request(&mut self, body: &[u8], attempts: Attempts, limit: Option<Limit>) -> Outcome<Vec<u8>> {
        let slot = match self.state.add(body, attempts) {
            Ok(Some(slot)) => slot,
            Ok(None) => return Outcome::Retry(attempts, None),
            Err(error) => return Outcome::Failed(error),
        };
        self.doing = Doing::SENDING;
        self.outcome(&slot, limit, |body| body)
    }

    /// Sends a ping; where the wire answers it, waits for that, and says how long it took.
    pub(super) fn ping(
        &mut self,
        answered: bool,
        attempts: Attempts,
        limit: Option<Limit>,
    ) -> Outcome<Option<Duration>> {
        let start = std::time::Instant::now();
        let Some(slot) = self.state.ping(attempts) else {
            return Outcome::Retry(attempts, None);
        };
        self.doing = Doing::PING;
        if answered {
            return self.outcome(&slot, limit, |_| Some(start.elapsed()));
        }
        self.state.leave(&slot);
        self.write(None).map_or_else(Outcome::Failed, |()| Outcome::Done(None))
    }

    /// Waits for what comes of a request or a ping, and makes something of an answer.
    fn outcome<T>(&mut self, slot: &Slot, limit: Option<Limit>, done: impl FnOnce(Vec<u8>) -> T) -> Outcome<T> {
        let until = limit.map(|limit| self.pipe.now() + limit.left());
        match (self.wait(slot, until), limit) {
            (Ok(end), _) => Outcome::of(end, done),
            // The limit that the caller set is told apart from those of the connection.
            (Err(Error::Io { doing, source, fate }), Some(limit)) if is_timeout(&source) && self.is_past(until) => {
                Outcome::Failed(limit.error(doing, fate))
            }
            (Err(error), _) => {
                let unprocessed = error.fate() == Fate::NotProcessed || self.state.is_unprocessed(slot);
                let error = if unprocessed {
                    error.again(Fate::NotProcessed)
                } else {
                    error
                };
                Outcome::of(slot.lost(error.fate(), error), done)
            }
        }
    }

    /// What comes of a request or a ping.
    fn wait(&mut self, slot: &Slot, until: Option<Instant>) -> Result<End, Error> {
        loop {
            self.write(until)?;
            if let Some(end) = slot.take() {
                return Ok(end);
            }
            match self.look()? {
                Some(_) if self.is_past(until) => return Err(self.doing.io(io::ErrorKind::TimedOut.into())),
                Some(total) => self.fill(total, until)?,
                None => {}
            }
        }
    }

    /// Ends in good order.
    pub(super) fn close(&mut self) {
        let now = self.pipe.now();
        self.state.mux.close(now, CloseReason::Done);
        let _ = self.write(None);
        let mut ending = self.state.mux.ending(ConnectionError::Closed, self.pipe.now());
        self.pipe.end(&mut ending);
    }

    /// Ends at once.
    pub(super) fn abort(&mut self) {
        self.pipe.abort();
    }

    fn is_past(&self, until: Option<Instant>) -> bool {
        until.is_some_and(|until| self.pipe.now() >= until)
    }

    /// Sends whatever can go now.
    fn write(&mut self, until: Option<Instant>) -> Result<(), Error> {
        loop {
            let now = self.pipe.now();
            let count = self.state.seal(now, self.pipe.out());
            if count == 0 {
                return Ok(());
            }
            // Nothing is read meanwhile, so a lifetime must not run out over it.
            self.state.mux.set_reading(now, false);
            let sent = self.pipe.send(count, self.stall, until);
            self.state.mux.set_reading(self.pipe.now(), true);
            sent.map_err(|error| {
                // The stream has had a lifetime; the caller's own limit is told apart from that.
                let stalled = is_timeout(&error) && self.status() == Status::Established && !self.is_past(until);
                if stalled {
                    self.doing.end(ConnectionError::Stalled)
                } else {
                    self.doing.io(error)
                }
            })?;
            if self.doing == Doing::SENDING && !self.state.mux.has_unsent() {
                // Before the machine is asked anything more: whatever it says now, the whole
                // request has gone.
                self.doing = Doing::WAITING;
            }
            self.pipe.flush().map_err(|error| self.doing.io(error))?;
        }
    }

    /// Looks once at the unread bytes. Says how many there have to be in all for the next look to
    /// see more, where it is not enough to write what is owed.
    fn look(&mut self) -> Result<Option<usize>, Error> {
        let now = self.pipe.now();
        match self.state.recv(now, self.pipe.unread()) {
            Ok(Look::NeedMore(total)) => return Ok(Some(total)),
            Ok(Look::Taken(consumed)) => self.pipe.consume(consumed),
            Ok(Look::WriteFirst) => self.write(None)?,
            Err(end) => return Err(self.doing.end(end)),
        }
        Ok(None)
    }

    /// Waits for bytes, until `until` or the machine's own deadline.
    fn fill(&mut self, total: usize, until: Option<Instant>) -> Result<(), Error> {
        let until = until.into_iter().chain(self.state.mux.poll_timeout()).min();
        let filled = self.pipe.fill(total, until);
        match filled.map_err(|error| self.doing.io(error))? {
            Filled::Bytes => Ok(()),
            Filled::Nothing => {
                let late = self.state.mux.handle_timeout(self.pipe.now());
                late.map_err(|end| self.doing.end(end))
            }
            Filled::EndOfStream => self.end_of_stream(),
        }
    }

    fn end_of_stream(&mut self) -> Result<(), Error> {
        let now = self.pipe.now();
        let ended = self.state.mux.end_of_stream(now, self.pipe.unread());
        ended.map_err(|end| self.doing.end(end))
    }
}
