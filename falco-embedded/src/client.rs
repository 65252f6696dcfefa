//! A client that asks one request at a time, over a [`Line`]. Nothing here reads, writes or waits;
//! the drivers do.

use core::fmt;

use falco_core::{
    ClientConnection, ClientEvent, ClientKeyRef, ClientSide, CloseReason, Fate, Instant, OutgoingRequest, PingId,
    RequestError, RequestId, SealError, Settings, Status, Storage,
};
use rand_core::TryCryptoRng;

use crate::error::{Buffer, Error, StartError, enough};
use crate::line::{Line, Next};

/// A client's line, and the one request that it may have under way.
///
/// The [crate's page](crate) has a super-loop around it.
pub struct ClientLine<H: ClientKeyRef, I, O> {
    line: Line<ClientSide, H, I, O>,
    /// The request whose end is awaited, or was when its asker went away.
    current: Option<RequestId>,
    /// All of the last request was sealed.
    whole: bool,
    ping: Option<PingId>,
}

/// A request being asked: its body, and the memory for its answer. Both are the caller's, and come
/// back with [`into_parts`](Self::into_parts).
///
/// It is handed in at [every step](ClientLine::step) until it is [`answered`](Self::answered).
/// Whoever gives it up gives the request up, which is then cancelled.
pub struct Ask<B, A> {
    outgoing: OutgoingRequest,
    body: B,
    answer: A,
    /// Bytes of the answer that have come, whether they fitted or not.
    came: usize,
    outcome: Option<Result<(), RequestError>>,
}

impl<B: AsRef<[u8]>, A: AsMut<[u8]>> Ask<B, A> {
    /// How long the answer is, once it is there. It stands at the front of its memory. Of a request
    /// that was [given up](ClientLine::step_idle) there is none, ever.
    ///
    /// # Errors
    /// What befell the request.
    pub fn answered(&mut self) -> Result<Option<usize>, Error> {
        if let Some(failure) = self.outgoing.failure() {
            return Err(Error::Request(failure));
        }
        let room = self.answer.as_mut().len();
        match self.outcome {
            None => Ok(None),
            Some(Err(error)) => Err(Error::Request(error)),
            Some(Ok(())) if self.came > room => Err(Error::AnswerTooLarge {
                length: self.came,
                room,
            }),
            Some(Ok(())) => Ok(Some(self.came)),
        }
    }

    /// The body and the memory.
    pub fn into_parts(self) -> (B, A) {
        (self.body, self.answer)
    }

    fn take(&mut self, part: &[u8]) {
        let room = self.answer.as_mut().get_mut(self.came..).unwrap_or_default();
        if let Some((to, _)) = room.split_at_mut_checked(part.len()) {
            to.copy_from_slice(part);
        }
        self.came = self.came.saturating_add(part.len());
    }
}

impl<B, A> fmt::Debug for Ask<B, A> {
    /// How far it has gone, and none of its bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ask")
            .field("outgoing", &self.outgoing)
            .finish_non_exhaustive()
    }
}

impl<H: ClientKeyRef, I: Storage, O: AsRef<[u8]> + AsMut<[u8]>> ClientLine<H, I, O> {
    /// A client of a connection that begins now, over memory for the unread bytes and for those to
    /// be written.
    ///
    /// # Errors
    /// [`StartError`] where a buffer is too small for the settings, or the generator fails.
    pub fn start<G: TryCryptoRng + ?Sized>(
        key: H,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
        inbox: I,
        outbox: O,
    ) -> Result<Self, StartError> {
        let sizes = ClientConnection::<H>::buffer_sizes(settings);
        enough(Buffer::Inbox, sizes.unread, inbox.limit())?;
        enough(Buffer::Outbox, sizes.output, outbox.as_ref().len())?;
        let machine = ClientConnection::new(key, settings, now, rng)?;
        Ok(Self::new(Line::new(machine, inbox, outbox)))
    }

    /// A client on `line`. It owes its hello.
    pub const fn new(line: Line<ClientSide, H, I, O>) -> Self {
        Self {
            line,
            current: None,
            whole: false,
            ping: None,
        }
    }

    /// The line, to move its bytes.
    pub const fn line(&self) -> &Line<ClientSide, H, I, O> {
        &self.line
    }

    /// The line, to move its bytes.
    pub const fn line_mut(&mut self) -> &mut Line<ClientSide, H, I, O> {
        &mut self.line
    }

    /// Whether the server has proved that it has the key.
    pub fn is_established(&self) -> bool {
        matches!(self.line.machine().status(), Status::Established | Status::Draining)
    }

    /// What may be said of the last request that was [asked](Self::ask), once the connection has
    /// ended without its answer and without a refusal.
    ///
    /// It was not processed where part of it was never sealed, or where the stream
    /// [ended](falco_core::Connection::fate) before a byte had come after the welcome: it may be
    /// sent again on another connection. In every other case a handler may have seen it.
    pub fn fate(&self) -> Fate {
        if !self.whole {
            Fate::NotProcessed
        } else if self.line.is_broken() {
            // What the server sent may be lost.
            Fate::MaybeProcessed
        } else {
            self.line.machine().fate()
        }
    }

    /// A request with this body. Its answer will stand at the front of `answer`.
    ///
    /// One that was given up is cancelled; its answer is never taken for this one's.
    ///
    /// # Errors
    /// [`Error::Request`] where the body is too large, [`Error::Closing`], or what ended the
    /// connection.
    pub fn ask<B: AsRef<[u8]>, A: AsMut<[u8]>>(&mut self, body: B, answer: A) -> Result<Ask<B, A>, Error> {
        self.whole = false;
        let outgoing = self.line.machine_mut().request(body.as_ref().len())?;
        self.give_up();
        Ok(Ask {
            outgoing,
            body,
            answer,
            came: 0,
            outcome: None,
        })
    }

    /// A request that nobody waits for any more is cancelled, so that it takes no place.
    fn give_up(&mut self) {
        if let Some(forgotten) = self.current.take() {
            // Where the connection has ended there is nothing to cancel.
            let _ = self.line.machine_mut().cancel(forgotten);
        }
    }

    /// Owes the server a ping.
    ///
    /// # Errors
    /// [`Error::Closing`], or what ended the connection.
    pub fn ping(&mut self) -> Result<PingId, Error> {
        Ok(self.line.machine_mut().ping()?)
    }

    /// The last ping that was answered. The classic wire has no answers to pings.
    pub const fn last_pong(&self) -> Option<PingId> {
        self.ping
    }

    /// Begins the end: what was begun is finished, nothing new is taken.
    pub fn close(&mut self, now: Instant, reason: CloseReason) {
        self.line.machine_mut().close(now, reason);
    }

    /// A step without a request: one that was asked and has no answer yet is given up.
    ///
    /// # Errors
    /// As of [`step`](Self::step).
    pub fn step_idle(&mut self, now: Instant) -> Result<bool, Error> {
        self.step(now, None::<&mut Ask<&[u8], &mut [u8]>>)
    }

    /// Does one thing: seals what may go, or looks at one frame. Says whether to call again at
    /// once; if not, bytes have to be moved, or the deadline has to come, first.
    ///
    /// # Errors
    /// What ended the connection, once its last words have been taken away; [`Error::Stalled`]
    /// where bytes waited too long to be; [`Error::Output`] with the numbers where the outbox is
    /// too small.
    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the machine goes by the other events itself"
    )]
    pub fn step<B: AsRef<[u8]>, A: AsMut<[u8]>>(
        &mut self,
        now: Instant,
        mut ask: Option<&mut Ask<B, A>>,
    ) -> Result<bool, Error> {
        if ask.is_none() {
            self.give_up();
        }
        self.seal(now, ask.as_deref_mut())?;
        let (current, last_pong) = (&mut self.current, &mut self.ping);
        let next = self.line.look(now, |event| {
            let (id, body, outcome) = match event {
                ClientEvent::Answer { id, body } | ClientEvent::Part { id, body, last: true } => {
                    (id, body, Some(Ok(())))
                }
                ClientEvent::Begin { id, body, .. } | ClientEvent::Part { id, body, .. } => (id, body, None),
                ClientEvent::Refused { id, refusal } => (id, &[][..], Some(Err(RequestError::Refused(refusal)))),
                ClientEvent::Pong { ping } => {
                    *last_pong = Some(ping);
                    return;
                }
                _ => return,
            };
            if let Some(ask) = ask.filter(|ask| ask.outgoing.id() == Some(id)) {
                ask.take(body);
                ask.outcome = outcome;
            }
            if outcome.is_some() && *current == Some(id) {
                *current = None;
            }
        })?;
        Ok(match next {
            Next::Wait => false,
            Next::Again | Next::Event(()) => true,
        })
    }

    fn seal<B: AsRef<[u8]>, A: AsMut<[u8]>>(&mut self, now: Instant, ask: Option<&mut Ask<B, A>>) -> Result<(), Error> {
        let Some(ask) = ask.filter(|ask| !ask.outgoing.is_done()) else {
            self.line.transmit(now)?;
            return Ok(());
        };
        match self.line.seal(now, [(&mut ask.outgoing, ask.body.as_ref())]) {
            // The end is told by the look at the unread bytes, after what is owed has gone.
            Err(SealError::Connection(_)) => {}
            other => {
                other?;
            }
        }
        if let Some(id) = ask.outgoing.id() {
            self.current = Some(id);
            self.whole = ask.outgoing.is_done();
        }
        Ok(())
    }
}

impl<H: ClientKeyRef, I, O> fmt::Debug for ClientLine<H, I, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientLine")
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}
