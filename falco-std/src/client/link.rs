//! One connection of a client: a machine, and the pipe through which it talks.

use core::time::Duration;
use std::io;
use std::sync::Arc;

use falco_core::{
    ClientConnection, ClientEvent, CloseReason, Instant, OutgoingRequest, Received, Refusal, RequestError, RequestId,
    Settings, Status, TRANSMIT_SIZE,
};
use getrandom::SysRng;

use crate::clock::Clock;
use crate::error::{Error, Fate};
use crate::pipe::{Filled, Pipe, is_timeout};
use crate::stream::Stream;
use crate::wire_key::WireKey;

pub(super) type BoxedStream = Box<dyn Stream + Send>;

pub(super) struct Link {
    machine: ClientConnection<Arc<WireKey>>,
    pipe: Pipe<BoxedStream>,
    /// A write that makes no progress for this long fails.
    stall: Duration,
}

/// What came of one look at the unread bytes.
enum Step {
    Answer {
        id: RequestId,
        body: Vec<u8>,
    },
    Refused {
        id: RequestId,
        refusal: Refusal,
    },
    NeedMore {
        total: usize,
    },
    /// Something that concerns no request; look again.
    Again,
}

/// What is being done, for the errors: words, and what a failure now means for the request.
#[derive(Clone, Copy)]
struct Doing {
    what: &'static str,
    fate: Fate,
}

impl Doing {
    const HANDSHAKE: Self = Self {
        what: "shaking hands",
        fate: Fate::NotProcessed,
    };
    const CATCHING_UP: Self = Self {
        what: "reading",
        fate: Fate::NotProcessed,
    };
    const PING: Self = Self {
        what: "sending a ping",
        fate: Fate::NotProcessed,
    };
    /// A request that has not gone whole cannot be decrypted, and so not be processed.
    const SENDING: Self = Self {
        what: "sending the request",
        fate: Fate::NotProcessed,
    };
    const WAITING: Self = Self {
        what: "waiting for the answer",
        fate: Fate::MaybeProcessed,
    };

    const fn io(self, error: io::Error) -> Error {
        Error::io(self.what, error, self.fate)
    }

    fn core(self, error: impl Into<falco_core::Error>) -> Error {
        Error::from_core(error.into(), self.fate)
    }
}

impl Link {
    /// Shakes hands over a stream that is connected.
    pub(super) fn open(stream: BoxedStream, key: Arc<WireKey>, settings: &Settings) -> Result<Self, Error> {
        let clock = Clock::new();
        let machine = ClientConnection::new(key, settings, clock.now(), &mut SysRng)?;
        let mut link = Self {
            machine,
            pipe: Pipe::new(stream, clock, None),
            stall: settings.handshake_timeout(),
        };
        while link.machine.status() == Status::Handshaking {
            link.transmit(Doing::HANDSHAKE)?;
            if let Step::NeedMore { total } = link.step(Doing::HANDSHAKE)? {
                link.fill(total, None, Doing::HANDSHAKE)?;
            }
        }
        link.pipe.trust();
        link.stall = settings.lifetime();
        Ok(link)
    }

    /// Takes what has come since the last call, without waiting. An error means that the connection has ended.
    pub(super) fn catch_up(&mut self) -> Result<(), Error> {
        let doing = Doing::CATCHING_UP;
        loop {
            let Step::NeedMore { total } = self.step(doing)? else {
                continue;
            };
            match self.pipe.fill_ready(total).map_err(|error| doing.io(error))? {
                Filled::Bytes => {}
                Filled::Nothing => return Ok(()),
                Filled::EndOfStream => self.end_of_stream(doing)?,
            }
        }
    }

    /// Sends a request and waits for its answer, for `limit` at most.
    pub(super) fn request(&mut self, body: &[u8], limit: Option<Duration>) -> Result<Vec<u8>, Error> {
        let until = limit.map(|limit| self.pipe.now() + limit);
        let mut doing = Doing::SENDING;
        let answer = self.exchange(body, until, &mut doing);
        match answer {
            // The limit that the caller set is told apart from those of the connection.
            Err(Error::Io { source, .. }) if is_timeout(&source) && self.is_past(until) => Err(Error::TimedOut {
                doing: doing.what,
                limit: limit.unwrap_or_default(),
                fate: doing.fate,
            }),
            answer => answer,
        }
    }

    fn exchange(&mut self, body: &[u8], until: Option<Instant>, doing: &mut Doing) -> Result<Vec<u8>, Error> {
        let mut request = self.machine.request(body.len()).map_err(|error| doing.core(error))?;
        loop {
            if !request.is_done() {
                self.seal(&mut request, body, until, *doing)?;
            }
            if request.is_done() && doing.fate == Fate::NotProcessed {
                *doing = Doing::WAITING;
                self.pipe.flush().map_err(|error| doing.io(error))?;
            }
            match self.step(*doing)? {
                Step::Answer { id, body } if Some(id) == request.id() => return Ok(body),
                Step::Refused { id, refusal } if Some(id) == request.id() => {
                    return Err(Error::Request(RequestError::Refused(refusal)));
                }
                // An answer to a request that nobody waits for any more is dropped.
                Step::Answer { .. } | Step::Refused { .. } | Step::Again => {}
                Step::NeedMore { .. } if self.is_past(until) => return Err(doing.io(io::ErrorKind::TimedOut.into())),
                Step::NeedMore { total } => self.fill(total, until, *doing)?,
            }
        }
    }

    pub(super) fn ping(&mut self) -> Result<(), Error> {
        self.machine.ping().map_err(|error| Doing::PING.core(error))?;
        self.transmit(Doing::PING)
    }

    /// Ends in good order.
    pub(super) fn close(&mut self) {
        let now = self.pipe.now();
        self.machine.close(now, CloseReason::Done);
        let _ = self.transmit(Doing::CATCHING_UP);
        self.pipe.finish();
    }

    /// Ends at once.
    pub(super) fn abort(&mut self) {
        self.pipe.abort();
    }

    fn is_past(&self, until: Option<Instant>) -> bool {
        until.is_some_and(|until| self.pipe.now() >= until)
    }

    /// Sends what the machine owes.
    fn transmit(&mut self, doing: Doing) -> Result<(), Error> {
        loop {
            let now = self.pipe.now();
            let count = self
                .machine
                .poll_transmit(now, self.pipe.out(TRANSMIT_SIZE))
                .map_err(Error::Misuse)?;
            if count == 0 {
                return Ok(());
            }
            self.pipe
                .send(count, self.stall, None)
                .map_err(|error| doing.io(error))?;
            self.pipe.flush().map_err(|error| doing.io(error))?;
        }
    }

    /// Seals and sends as much of the request as may go now.
    fn seal(
        &mut self,
        request: &mut OutgoingRequest,
        body: &[u8],
        until: Option<Instant>,
        doing: Doing,
    ) -> Result<(), Error> {
        loop {
            let (now, size) = (self.pipe.now(), self.machine.seal_size(body.len()));
            let sealed = self.machine.seal(now, [(&mut *request, body)], self.pipe.out(size));
            let count = sealed.map_err(|error| doing.core(error))?;
            if count == 0 {
                return Ok(());
            }
            self.pipe
                .send(count, self.stall, until)
                .map_err(|error| doing.io(error))?;
        }
    }

    /// Looks once at the unread bytes.
    fn step(&mut self, doing: Doing) -> Result<Step, Error> {
        let now = self.pipe.now();
        let received = self
            .machine
            .recv(now, self.pipe.unread())
            .map_err(|end| doing.core(end))?;
        match received {
            Received::NeedMore { total } => Ok(Step::NeedMore { total }),
            Received::Event { consumed, event } => {
                let step = match event {
                    ClientEvent::Answer { id, body } => {
                        // The range is one of the unread bytes: the core says so.
                        let body = self.pipe.unread().get(body).unwrap_or_default().to_vec();
                        Step::Answer { id, body }
                    }
                    ClientEvent::Refused { id, refusal } => Step::Refused { id, refusal },
                    ClientEvent::Established | _ => Step::Again,
                };
                self.pipe.consume(consumed);
                Ok(step)
            }
            Received::Skip { consumed } => {
                self.pipe.consume(consumed);
                Ok(Step::Again)
            }
            Received::TransmitFirst => self.transmit(doing).map(|()| Step::Again),
            // A client gives no answers. To look again would be to look for ever.
            Received::AnswerFirst | _ => {
                Err(doing.io(io::Error::other("the machine waits for what a client cannot give")))
            }
        }
    }

    /// Waits for bytes, until `until` or the machine's own deadline.
    fn fill(&mut self, total: usize, until: Option<Instant>, doing: Doing) -> Result<(), Error> {
        let deadline = self.machine.poll_timeout();
        let until = match (until, deadline) {
            (Some(until), Some(deadline)) => Some(until.min(deadline)),
            (until, deadline) => until.or(deadline),
        };
        match self.pipe.fill(total, until).map_err(|error| doing.io(error))? {
            Filled::Bytes => Ok(()),
            Filled::Nothing => self
                .machine
                .handle_timeout(self.pipe.now())
                .map_err(|end| doing.core(end)),
            Filled::EndOfStream => self.end_of_stream(doing),
        }
    }

    fn end_of_stream(&mut self, doing: Doing) -> Result<(), Error> {
        let now = self.pipe.now();
        self.machine
            .end_of_stream(now, self.pipe.unread())
            .map_err(|end| doing.core(end))
    }
}
