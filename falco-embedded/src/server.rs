//! A server that handles one request at a time, over a [`Line`]. Nothing here reads, writes or waits; the drivers do.

use core::fmt;
use core::ops::{Deref, Range};

use falco_core::{
    CloseReason, EntropyError, Error as CoreError, Instant, Misuse, OutgoingAnswer, Partial, Reassembly, Refusal,
    RequestError, RequestId, Server, ServerConnection, ServerEvent, ServerWire, Settings, Status, Storage,
};
use rand_core::TryCryptoRng;

use crate::error::Error;
use crate::line::{Line, Next};

/// A server's line, and the request that is being handled. `M` is the memory for requests that come in parts, `A` that for answers.
pub struct ServerLine<H: Deref<Target: ServerWire>, I, O, M, A> {
    line: Line<Server, H, I, O>,
    parts: Reassembly<[Partial<M>; 1]>,
    answer: A,
    stage: Stage,
}

/// Where a request is.
enum Stage {
    /// There is none.
    Idle,
    /// It waits for its handler. It stands among the unread bytes, or was put together from parts; so many of the unread bytes are to be consumed.
    Request {
        id: RequestId,
        body: Option<Range<usize>>,
        consumed: usize,
    },
    /// Its answer, which stands in the memory for answers, is being sealed.
    Answer(OutgoingAnswer),
    /// It is to be refused, once that can be said.
    Refuse(RequestId, Refusal),
}

impl<H, I, O, M, A> ServerLine<H, I, O, M, A>
where
    H: Deref<Target: ServerWire>,
    I: Storage,
    O: AsRef<[u8]> + AsMut<[u8]>,
    M: Storage,
    A: AsRef<[u8]> + AsMut<[u8]>,
{
    /// The server's side of a connection that begins now, over memory for the unread bytes and for those to be written, and memory for a request in parts and for an
    /// answer.
    ///
    /// # Errors
    /// [`EntropyError`] where the generator fails.
    pub fn start<G: TryCryptoRng + ?Sized>(
        key: H,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
        (inbox, outbox): (I, O),
        (message, answer): (M, A),
    ) -> Result<Self, EntropyError> {
        let machine = ServerConnection::new(key, settings, now, rng)?;
        let line = Line::new(machine, inbox, outbox, settings.lifetime());
        Ok(Self::new(line, message, answer))
    }

    /// A server on `line`. Requests that do not fit `message` are refused as too large, answers that do not fit `answer` cannot be given.
    pub const fn new(line: Line<Server, H, I, O>, message: M, answer: A) -> Self {
        Self {
            line,
            parts: Reassembly::new([Partial::new(message)]),
            answer,
            stage: Stage::Idle,
        }
    }

    /// The line, to move its bytes.
    pub const fn line(&self) -> &Line<Server, H, I, O> {
        &self.line
    }

    /// The line, to move its bytes.
    pub const fn line_mut(&mut self) -> &mut Line<Server, H, I, O> {
        &mut self.line
    }

    /// Whether the client has proved that it has the key.
    pub fn is_established(&self) -> bool {
        matches!(self.line.machine().status(), Status::Established | Status::Draining)
    }

    /// Begins the end: what was begun is finished, nothing new is taken.
    pub fn close(&mut self, now: Instant, reason: CloseReason) {
        self.line.machine_mut().close(now, reason);
    }

    /// The request that waits for its handler, and the memory for its answer. It waits until [`answer`](Self::answer) or [`refuse`](Self::refuse) is called.
    pub fn request(&mut self) -> Option<(&[u8], &mut [u8])> {
        let Stage::Request { id, body, .. } = &self.stage else {
            return None;
        };
        let request = match body {
            Some(range) => self.line.unread().get(range.clone()).unwrap_or_default(),
            None => self.parts.whole(*id).map_or(&[][..], |whole| whole),
        };
        Some((request, self.answer.as_mut()))
    }

    /// Answers the request with the first `length` bytes of the memory for answers. An answer too large for the client, or for the memory, becomes a refusal.
    ///
    /// # Errors
    /// What ended the connection. Nothing happens where no request waits.
    pub fn answer(&mut self, now: Instant, length: usize) -> Result<(), Error> {
        let Some(id) = self.finish(now) else { return Ok(()) };
        let length = length.min(self.answer.as_ref().len());
        self.stage = match self.line.machine_mut().answer(id, length) {
            Ok(outgoing) => Stage::Answer(outgoing),
            Err(CoreError::Request(RequestError::TooLarge { .. })) => Stage::Refuse(id, Refusal::AnswerTooLarge),
            Err(error) => return Err(error.into()),
        };
        Ok(())
    }

    /// Refuses the request.
    pub fn refuse(&mut self, now: Instant, refusal: Refusal) {
        if let Some(id) = self.finish(now) {
            self.stage = Stage::Refuse(id, refusal);
        }
    }

    /// Lets go of the request's bytes. While its answer is being sealed, nothing further is looked at.
    fn finish(&mut self, now: Instant) -> Option<RequestId> {
        let Stage::Request { id, consumed, .. } = self.stage else {
            return None;
        };
        self.line.consume(consumed);
        self.parts.forget(id);
        self.stage = Stage::Idle;
        self.line.machine_mut().set_reading(now, false);
        Some(id)
    }

    /// Does one thing: seals what may go, or looks at one frame. Says whether to call again at once; if not, a request waits, or bytes have to be moved, or the
    /// deadline has to come, first.
    ///
    /// # Errors
    /// What ended the connection, once its last words have been taken away; [`Error::Misuse`] with the numbers where the outbox is too small.
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the machine goes by the other events itself; a request that was cancelled is answered all the same"
    )]
    pub fn step(&mut self, now: Instant) -> Result<bool, Error> {
        if !self.seal(now)? {
            return Ok(false);
        }
        let (consumed, event) = match self.line.look(now)? {
            Next::Wait => return Ok(false),
            Next::Again => return Ok(true),
            Next::Event(consumed, event) => (consumed, event),
        };
        match event {
            ServerEvent::Request { id, body } => {
                self.stage = Stage::Request {
                    id,
                    body: Some(body),
                    consumed,
                };
                return Ok(false);
            }
            ServerEvent::Begin { id, total, body } => {
                let first = self.line.unread().get(body).unwrap_or_default();
                if self.parts.begin(id, total, first).is_err() {
                    self.stage = Stage::Refuse(id, Refusal::Busy);
                }
            }
            ServerEvent::Part { id, body, last } => {
                let part = self.line.unread().get(body).unwrap_or_default();
                if self.parts.part(id, part).is_err() {
                    self.stage = Stage::Refuse(id, Refusal::TooLarge);
                } else if last {
                    self.stage = Stage::Request {
                        id,
                        body: None,
                        consumed,
                    };
                    return Ok(false);
                }
            }
            ServerEvent::Abandoned { id } => self.parts.forget(id),
            _ => {}
        }
        self.line.consume(consumed);
        Ok(true)
    }

    /// Seals what may go, and says whether the next frame may be looked at.
    fn seal(&mut self, now: Instant) -> Result<bool, Error> {
        let Self {
            line, answer, stage, ..
        } = self;
        match stage {
            Stage::Idle => {
                line.transmit(now)?;
                return Ok(true);
            }
            Stage::Request { .. } => {
                line.transmit(now)?;
                return Ok(false);
            }
            Stage::Answer(outgoing) => {
                let body = answer.as_ref().get(..outgoing.length()).unwrap_or_default();
                match line.seal(now, [(&mut *outgoing, body)]) {
                    // The end is told by the look at the unread bytes, after what is owed has gone.
                    Err(CoreError::Connection(_)) => return Ok(true),
                    other => {
                        other?;
                    }
                }
                if !outgoing.is_done() {
                    return Ok(false);
                }
            }
            Stage::Refuse(id, refusal) => match line.machine_mut().refuse(*id, *refusal) {
                Err(CoreError::Misuse(Misuse::TransmitFirst)) => {
                    line.transmit(now)?;
                    return Ok(false);
                }
                Err(CoreError::Connection(_)) => return Ok(true),
                // A request that has had its end needs no other.
                _ => {}
            },
        }
        self.stage = Stage::Idle;
        self.line.machine_mut().set_reading(now, true);
        Ok(true)
    }
}

impl<H: Deref<Target: ServerWire>, I, O, M, A> fmt::Debug for ServerLine<H, I, O, M, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerLine")
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}
