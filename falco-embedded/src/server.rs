//! A server that handles one request at a time, over a [`Line`]. Nothing here reads, writes or
//! waits; the drivers do.

use core::fmt;

use falco_core::{
    CloseReason, Instant, OutgoingAnswer, Partial, Reassembly, Refusal, ReplyError, RequestError, RequestId, SealError,
    ServerConnection, ServerEvent, ServerKeyRef, ServerSide, Settings, Status, Storage,
};
use rand_core::TryCryptoRng;

use crate::error::{Buffer, Error, StartError, enough};
use crate::line::{Line, Next};

/// A server's line, and the request that is being handled. `M` is the memory for that request, `A`
/// that for its answer.
///
/// While a request is being handled the line goes on: pings are answered, and what the client has
/// begun besides is refused as busy. The [crate's page](crate) has a super-loop around it.
pub struct ServerLine<H: ServerKeyRef, I, O, M, A> {
    desk: Desk<H, I, O>,
    parts: Reassembly<[Partial<M>; 1]>,
    answer: A,
    stage: Stage,
}

/// The line, and the word on a request that is not taken.
pub(crate) struct Desk<H: ServerKeyRef, I, O> {
    line: Line<ServerSide, H, I, O>,
    /// To be said as soon as it can be; until then nothing is looked at.
    refusal: Option<(RequestId, Refusal)>,
}

/// A request, the memory for its answer, and what goes on meanwhile.
pub(crate) type Taken<'l, H, I, O> = (&'l [u8], &'l mut [u8], &'l mut Desk<H, I, O>);

/// Where a request is.
enum Stage {
    /// There is none.
    Idle,
    /// It comes in parts.
    Comes(RequestId),
    /// It has come.
    Request(RequestId, Waits),
    /// Its answer, which stands in the memory for answers, is being sealed.
    Answer(OutgoingAnswer),
    /// It is to be refused, once no other refusal waits.
    Refuse(RequestId, Refusal),
}

/// What a request waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    /// For the bytes that waited to be written when it came.
    Behind,
    /// For its handler.
    Handler,
    /// For its end: its handler has it.
    End,
}

impl<H, I, O, M, A> ServerLine<H, I, O, M, A>
where
    H: ServerKeyRef,
    I: Storage,
    O: AsRef<[u8]> + AsMut<[u8]>,
    M: Storage,
    A: AsRef<[u8]> + AsMut<[u8]>,
{
    /// The server's side of a connection that begins now, over memory for the unread bytes and for
    /// those to be written, and memory for a request and for an answer. The client is told to have
    /// one request under way at a time.
    ///
    /// # Errors
    /// [`StartError`] where a buffer is too small for the settings, or the generator fails.
    pub fn start<G: TryCryptoRng + ?Sized>(
        key: H,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
        (inbox, outbox): (I, O),
        (message, answer): (M, A),
    ) -> Result<Self, StartError> {
        let sizes = ServerConnection::<H>::buffer_sizes(settings);
        enough(Buffer::Inbox, sizes.unread, inbox.limit())?;
        enough(Buffer::Outbox, sizes.output, outbox.as_ref().len())?;
        let largest = usize::try_from(settings.max_message()).unwrap_or(usize::MAX);
        enough(Buffer::Message, largest, message.limit())?;
        // One is always a number of requests.
        let settings = settings.with_max_in_flight(1).unwrap_or(*settings);
        let machine = ServerConnection::new(key, &settings, now, rng)?;
        Ok(Self::new(Line::new(machine, inbox, outbox), message, answer))
    }

    /// A server on `line`. Requests that do not fit `message` are refused as too large, and so are
    /// answers that do not fit `answer`. Where the settings allow more than one request under way,
    /// those that come beside the one that is handled are refused as busy; the classic wire has no
    /// word for that and ends.
    pub const fn new(line: Line<ServerSide, H, I, O>, message: M, answer: A) -> Self {
        Self {
            desk: Desk { line, refusal: None },
            parts: Reassembly::new([Partial::new(message)]),
            answer,
            stage: Stage::Idle,
        }
    }

    /// The line, to move its bytes.
    pub const fn line(&self) -> &Line<ServerSide, H, I, O> {
        &self.desk.line
    }

    /// The line, to move its bytes.
    pub const fn line_mut(&mut self) -> &mut Line<ServerSide, H, I, O> {
        &mut self.desk.line
    }

    /// Whether the client has proved that it has the key.
    pub fn is_established(&self) -> bool {
        matches!(self.line().machine().status(), Status::Established | Status::Draining)
    }

    /// Begins the end: what was begun is finished, nothing new is taken.
    pub fn close(&mut self, now: Instant, reason: CloseReason) {
        self.desk.line.machine_mut().close(now, reason);
    }

    /// The request that waits for its handler, and the memory for its answer. It waits until
    /// [`answer`](Self::answer) or [`refuse`](Self::refuse) is called, and meanwhile
    /// [`step`](Self::step) goes on.
    ///
    /// There is none until the bytes have gone that waited to be written when it came. The answer
    /// to the client's first ping may be among them, and a client that has heard nothing takes its
    /// request for not processed.
    pub fn request(&mut self) -> Option<(&[u8], &mut [u8])> {
        let (request, answer, _) = self.take_up()?;
        Some((request, answer))
    }

    /// The same, and what goes on meanwhile. The request counts as given to its handler.
    pub(crate) fn take_up(&mut self) -> Option<Taken<'_, H, I, O>> {
        if !self.has_request() {
            return None;
        }
        let Stage::Request(id, waits) = &mut self.stage else {
            return None;
        };
        *waits = Waits::End;
        let request = self.parts.whole(*id).map_or(&[][..], |whole| whole);
        Some((request, self.answer.as_mut(), &mut self.desk))
    }

    /// Whether a request may be given to its handler. None is once the connection has ended: its
    /// answer could not be sent.
    pub(crate) fn has_request(&mut self) -> bool {
        self.look_behind();
        matches!(self.stage, Stage::Request(_, Waits::Handler | Waits::End)) && self.line().machine().end().is_none()
    }

    /// Whether what the request came behind has gone.
    fn look_behind(&mut self) {
        if let Stage::Request(_, waits @ Waits::Behind) = &mut self.stage
            && self.desk.line.is_sent()
        {
            *waits = Waits::Handler;
        }
    }

    /// A request whose handler went away without an end is refused as failed: it may have done half
    /// of its work, and is not given to another.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) fn give_up(&mut self) {
        if matches!(self.stage, Stage::Request(_, Waits::End)) {
            self.refuse(Refusal::Failed);
        }
    }

    /// Answers the request with the first `length` bytes of the memory for answers. An answer too
    /// large for the client, or for the memory, becomes a refusal. Nothing happens where no request
    /// waits, or where the connection has ended, which the next step tells.
    pub fn answer(&mut self, length: usize) {
        let Some(id) = self.finish() else { return };
        let answer = if length > self.answer.as_ref().len() {
            None
        } else {
            match self.desk.line.machine_mut().answer(id, length) {
                Ok(outgoing) => Some(outgoing),
                Err(ReplyError::Request(RequestError::TooLarge { .. })) => None,
                // It has completed, or the connection has.
                Err(_) => return,
            }
        };
        self.stage = answer.map_or(Stage::Refuse(id, Refusal::AnswerTooLarge), Stage::Answer);
    }

    /// Refuses the request. Nothing happens where none waits.
    pub fn refuse(&mut self, refusal: Refusal) {
        if let Some(id) = self.finish() {
            self.stage = Stage::Refuse(id, refusal);
        }
    }

    /// Lets go of the request's bytes.
    fn finish(&mut self) -> Option<RequestId> {
        finish(&mut self.parts, &mut self.stage)
    }

    /// Does one thing: seals what may go, or looks at one frame. Says whether to call again at
    /// once; if not, a request may wait, or else bytes have to be moved, or the deadline has to
    /// come, first.
    ///
    /// # Errors
    /// What ended the connection, once its last words have been taken away; [`Error::Stalled`]
    /// where bytes waited too long to be; [`Error::Output`] with the numbers where the outbox is
    /// too small.
    pub fn step(&mut self, now: Instant) -> Result<bool, Error> {
        self.look_behind();
        match &mut self.stage {
            Stage::Answer(outgoing) => {
                let body = self.answer.as_ref().get(..outgoing.length()).unwrap_or_default();
                match self.desk.line.seal(now, [(&mut *outgoing, body)]) {
                    // The end is told by the look at the unread bytes, after what is owed has gone.
                    Err(SealError::Connection(_)) => {}
                    other => {
                        if other? {
                            self.desk.line.note_answer();
                        }
                    }
                }
                if outgoing.is_done() {
                    self.stage = Stage::Idle;
                }
            }
            Stage::Refuse(id, refusal) if self.desk.refusal.is_none() => {
                self.desk.refusal = Some((*id, *refusal));
                self.stage = Stage::Idle;
            }
            Stage::Idle | Stage::Comes(_) | Stage::Request(..) | Stage::Refuse(..) => {}
        }
        let (parts, stage) = (&mut self.parts, &mut self.stage);
        self.desk.refusal = match self.desk.look(now, |waits, event| take(parts, stage, waits, event))? {
            Next::Event(turned_away) => turned_away,
            Next::Again => return Ok(true),
            Next::Wait => return Ok(false),
        };
        self.desk.settle(now)?;
        Ok(true)
    }
}

/// Lets go of the bytes of a request that waits for its handler, or is with it.
fn finish<M: Storage>(parts: &mut Reassembly<[Partial<M>; 1]>, stage: &mut Stage) -> Option<RequestId> {
    let Stage::Request(id, _) = *stage else {
        return None;
    };
    parts.forget(id);
    *stage = Stage::Idle;
    Some(id)
}

/// An event takes effect. `waits` is what a request that is whole with it waits for. Says which
/// request is refused over it, and why.
#[allow(
    clippy::wildcard_enum_match_arm,
    reason = "the machine goes by the other events itself"
)]
fn take<M: Storage>(
    parts: &mut Reassembly<[Partial<M>; 1]>,
    stage: &mut Stage,
    waits: Waits,
    event: ServerEvent<'_>,
) -> Option<(RequestId, Refusal)> {
    let (id, total, body, whole) = match event {
        ServerEvent::Request { id, body } => (id, u32::try_from(body.len()).unwrap_or(u32::MAX), body, true),
        ServerEvent::Begin { id, total, body } => (id, total, body, false),
        // Of what was refused nothing counts any more.
        ServerEvent::Part { id, .. } | ServerEvent::Abandoned { id } if !matches!(stage, Stage::Comes(comes) if *comes == id) =>
        {
            return None;
        }
        ServerEvent::Part { id, body, last } => {
            let fits = parts.part(id, body).is_ok();
            *stage = match (fits, last) {
                (true, true) => Stage::Request(id, waits),
                (true, false) => return None,
                (false, _) => Stage::Idle,
            };
            return (!fits).then_some((id, Refusal::TooLarge));
        }
        ServerEvent::Abandoned { id } => {
            parts.forget(id);
            *stage = Stage::Idle;
            return None;
        }
        ServerEvent::Cancelled { id } => {
            // Only where its handler has not begun.
            let waits = matches!(stage, Stage::Request(waiting, Waits::Behind | Waits::Handler) if *waiting == id);
            return waits
                .then(|| finish(parts, stage))
                .flatten()
                .map(|id| (id, Refusal::Cancelled));
        }
        _ => return None,
    };
    if !matches!(stage, Stage::Idle) {
        return Some((id, Refusal::Busy));
    }
    if parts.begin(id, total, body).is_err() {
        return Some((id, Refusal::TooLarge));
    }
    *stage = if whole {
        Stage::Request(id, waits)
    } else {
        Stage::Comes(id)
    };
    None
}

impl<H, I, O> Desk<H, I, O>
where
    H: ServerKeyRef,
    I: Storage,
    O: AsRef<[u8]> + AsMut<[u8]>,
{
    /// A step while a request is with its handler: nothing new is taken.
    #[cfg(feature = "async")]
    pub(crate) fn step(&mut self, now: Instant) -> Result<bool, Error> {
        let begun = self.look(now, |_, event| {
            if let ServerEvent::Request { id, .. } | ServerEvent::Begin { id, .. } = event {
                Some(id)
            } else {
                None
            }
        })?;
        match begun {
            Next::Event(Some(id)) => {
                self.refusal = Some((id, Refusal::Busy));
                self.settle(now)?;
            }
            Next::Event(None) | Next::Again => {}
            Next::Wait => return Ok(false),
        }
        Ok(true)
    }

    #[cfg(feature = "async")]
    pub(crate) const fn line_mut(&mut self) -> &mut Line<ServerSide, H, I, O> {
        &mut self.line
    }

    /// The next frame, once everything that is to be said before it is. `take` is told what a
    /// request that comes with it waits for.
    fn look<T>(&mut self, now: Instant, take: impl FnOnce(Waits, ServerEvent<'_>) -> T) -> Result<Next<T>, Error> {
        self.settle(now)?;
        if self.refusal.is_some() && self.line.machine().end().is_none() {
            return self.line.hold(now);
        }
        let waits = if self.line.is_sent() {
            Waits::Handler
        } else {
            Waits::Behind
        };
        self.line.look(now, |event| take(waits, event))
    }

    /// Says what is owed, as far as there is room.
    fn settle(&mut self, now: Instant) -> Result<(), Error> {
        while let Some((id, refusal)) = self.refusal {
            match self.line.machine_mut().refuse(id, refusal) {
                Err(ReplyError::TransmitFirst) => {
                    if !self.line.transmit(now)? {
                        return Ok(());
                    }
                }
                // Where it is one of a connection that has ended, or of a request that has
                // completed, there is nothing to be said.
                _ => self.refusal = None,
            }
        }
        self.line.transmit(now)?;
        Ok(())
    }
}

impl<H: ServerKeyRef, I, O, M, A> fmt::Debug for ServerLine<H, I, O, M, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerLine")
            .field("line", &self.desk.line)
            .finish_non_exhaustive()
    }
}
