//! A connection of a client on which requests go one after another: on the classic wire, and over streams that cannot be split. No thread of its own; also
//! the handshake of every connection.

use core::time::Duration;
use std::io;
use std::sync::Arc;

use falco_core::keys::ClientKeys;
use falco_core::{
    ClientConnection, ClientEvent, CloseReason, Fate, Instant, OutgoingRequest, Partial, PingId, Reassembly, Received,
    Refusal, RequestError, RequestId, Settings, Status, TRANSMIT_SIZE,
};
use getrandom::SysRng;

use crate::clock::Clock;
use crate::error::Error;
use crate::pipe::{Filled, Pipe, is_timeout};
use crate::stream::BoxedStream;

pub(super) type Machine = ClientConnection<Arc<ClientKeys>>;

pub(super) struct Serial {
    machine: ClientConnection<Arc<ClientKeys>>,
    pipe: Pipe<BoxedStream>,
    parts: Reassembly<Vec<Partial<Vec<u8>>>>,
    /// The request that is waited for; what comes of others is dropped.
    wanted: Option<RequestId>,
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
    Pong(PingId),
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

impl Serial {
    /// Shakes hands over a stream that is connected.
    pub(super) fn open(
        stream: BoxedStream,
        key: Arc<ClientKeys>,
        settings: &Settings,
        clock: Clock,
    ) -> Result<Self, Error> {
        let machine = ClientConnection::new(key, settings, clock.now(), &mut SysRng)?;
        let mut link = Self {
            machine,
            pipe: Pipe::new(stream, clock, None),
            parts: Reassembly::default(),
            wanted: None,
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

    /// The machine and the pipe, for a connection that goes on otherwise.
    pub(super) fn into_parts(self) -> (Machine, Pipe<BoxedStream>) {
        (self.machine, self.pipe)
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
                Filled::Nothing if self.machine.status() == Status::Established => return Ok(()),
                Filled::Nothing => return Err(doing.core(falco_core::ConnectionError::Closed)),
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
            self.transmit(*doing)?;
            if !request.is_done() {
                self.seal(&mut request, body, until, *doing)?;
                self.wanted = request.id();
            }
            if let Some(failure) = request.failure() {
                return Err(Error::Request(failure));
            }
            if request.is_done() && doing.fate == Fate::NotProcessed {
                // Before the machine is asked anything more: whatever it says now, the whole request has gone.
                *doing = Doing::WAITING;
                self.pipe.flush().map_err(|error| doing.io(error))?;
            }
            match self.step(*doing)? {
                Step::Answer { id, body } if Some(id) == request.id() => return Ok(body),
                Step::Refused { id, refusal } if Some(id) == request.id() => {
                    return Err(Error::Request(RequestError::Refused(refusal)));
                }
                // An answer to a request that nobody waits for any more is dropped.
                Step::Answer { .. } | Step::Refused { .. } | Step::Pong(_) | Step::Again => {}
                Step::NeedMore { .. } if self.is_past(until) => return Err(doing.io(io::ErrorKind::TimedOut.into())),
                Step::NeedMore { total } => self.fill(total, until, *doing)?,
            }
        }
    }

    /// Sends a ping; where the wire answers it, waits for that, and says how long it took.
    pub(super) fn ping(&mut self, answered: bool) -> Result<Option<Duration>, Error> {
        let doing = Doing::PING;
        let start = std::time::Instant::now();
        let own = self.machine.ping().map_err(|error| doing.core(error))?;
        self.transmit(doing)?;
        if !answered {
            return Ok(None);
        }
        loop {
            match self.step(doing)? {
                Step::Pong(ping) if ping >= own => return Ok(Some(start.elapsed())),
                Step::NeedMore { total } => self.fill(total, None, doing)?,
                Step::Answer { .. } | Step::Refused { .. } | Step::Pong(_) | Step::Again => self.transmit(doing)?,
            }
        }
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
            // Nothing is read meanwhile, so a lifetime must not run out over it.
            self.machine.set_reading(now, false);
            let sent = self.pipe.send(count, self.stall, until);
            self.machine.set_reading(self.pipe.now(), true);
            sent.map_err(|error| doing.io(error))?;
            if request.is_done() {
                return Ok(());
            }
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
                // Ranges are of the unread bytes: the core says so.
                let unread = self.pipe.unread();
                let bytes = |range| unread.get(range).unwrap_or_default();
                let step = match event {
                    ClientEvent::Answer { id, body } => Step::Answer {
                        id,
                        body: bytes(body).to_vec(),
                    },
                    ClientEvent::Begin { id, total, body } => {
                        if self.wanted == Some(id) {
                            // A vector has room, and the machine has judged the parts.
                            let _ = self.parts.begin(id, total, bytes(body));
                        }
                        Step::Again
                    }
                    ClientEvent::Part { id, body, last } => {
                        let _ = self.parts.part(id, bytes(body));
                        match self.parts.take(id).filter(|_| last) {
                            Some((body, _)) => Step::Answer { id, body },
                            None => Step::Again,
                        }
                    }
                    ClientEvent::Refused { id, refusal } => {
                        self.parts.forget(id);
                        Step::Refused { id, refusal }
                    }
                    ClientEvent::Pong { ping } => Step::Pong(ping),
                    ClientEvent::Established | ClientEvent::Closing { .. } | _ => Step::Again,
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
