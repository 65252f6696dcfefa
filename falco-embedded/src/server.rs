//! A server that handles one request at a time, over a [`BufferedConnection`]. Nothing here reads,
//! writes or waits; the drivers do.

use core::fmt;

use falco_core::{
    CloseReason, Greeting, Instant, NoAnswer, OutgoingAnswer, Partial, Reassembly, Refusal, ReplyError, RequestId,
    ServerConnection, ServerEvent, ServerKeyRef, ServerSide, Settings, Storage,
};
use rand_core::TryCryptoRng;

use crate::buffers::Buffers;
use crate::connection::{BufferedConnection, Next, wiped};
use crate::error::{Buffer, Error, StartError, enough};

/// A server's side of one connection over two buffers `B`, with one request at a time in the
/// buffers `M`: one for the request, one for its answer. You move bytes between the buffers `B` and
/// the stream.
///
/// While a request waits for its answer, [`step`](Self::step) answers pings, and refuses further
/// requests of the client as busy. The [crate's page](crate) shows it in a super-loop.
pub struct BufferedServer<H: ServerKeyRef, B: Buffers, M: Buffers> {
    incoming: Incoming<H, B>,
    body: Body<M::Input>,
    answer: M::Output,
    stage: Stage,
}

type Body<S> = Reassembly<[Partial<S>; 1]>;

/// The connection, and the refusal that is pending. It can be driven while a handler has the
/// request.
pub(crate) struct Incoming<H: ServerKeyRef, B: Buffers> {
    connection: BufferedConnection<ServerSide, H, B>,
    greeting: Greeting,
    /// A refusal that the core has not accepted yet. Until it has, no frame is processed.
    refusal: Option<(RequestId, Refusal)>,
    /// The number of the request that the client has cancelled last, or 0.
    cancelled: u32,
}

/// A request, the memory for its answer, and the connection, to drive while a handler runs.
pub(crate) type Handling<'l, H, B> = (&'l [u8], &'l mut [u8], &'l mut Incoming<H, B>);

/// The state of the request.
enum Stage {
    /// There is no request.
    Idle,
    /// A part of the request has arrived.
    Receiving(RequestId),
    /// The whole request has arrived, and its handler has not begun.
    Received(RequestId),
    /// Its handler has begun.
    Handling(RequestId),
    /// The answer, which is in the memory for answers, is being sealed.
    Answering(OutgoingAnswer),
    /// The request is to be refused, after the refusal that is pending.
    Refusing(RequestId, Refusal),
}

impl<H: ServerKeyRef, B: Buffers, M: Buffers> BufferedServer<H, B, M> {
    /// Starts the server's side of a connection. `buffers` are for the unread bytes and for the
    /// bytes to write, `bodies` for a request and for its answer. The in-flight limit of the
    /// connection is one request.
    ///
    /// # Errors
    /// [`StartError`] if a buffer is too small for the settings, or the generator fails.
    pub fn start<G: TryCryptoRng + ?Sized>(
        key: H,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
        buffers: B,
        bodies: M,
    ) -> Result<Self, StartError> {
        let ((inbox, outbox), (body, answer)) = (buffers.into_parts(), bodies.into_parts());
        let sizes = ServerConnection::<H>::buffer_sizes(settings);
        enough(Buffer::Inbox, sizes.unread, inbox.limit())?;
        enough(Buffer::Outbox, sizes.output, outbox.as_ref().len())?;
        let largest = usize::try_from(settings.max_message()).unwrap_or(usize::MAX);
        enough(Buffer::Message, largest, body.limit())?;
        // Cannot fail: one is a valid limit.
        let settings = settings.with_max_in_flight(1).unwrap_or(*settings);
        // It takes no open requests.
        #[cfg(feature = "streams")]
        let settings = settings.with_streams(0, 0);
        let machine = ServerConnection::new(key, &settings, now, rng)?;
        let connection = BufferedConnection::from_parts(machine, inbox, outbox);
        Ok(Self::from_parts(connection, body, answer))
    }

    /// A server on `connection`. It refuses requests and answers that do not fit `bodies` as too
    /// large.
    ///
    /// If the settings of the connection allow several requests in flight, the server refuses
    /// requests that arrive while it has one, as busy. The classic wire cannot refuse; there the
    /// connection ends.
    pub fn new(connection: BufferedConnection<ServerSide, H, B>, bodies: M) -> Self {
        let (body, answer) = bodies.into_parts();
        Self::from_parts(connection, body, answer)
    }

    const fn from_parts(connection: BufferedConnection<ServerSide, H, B>, body: M::Input, answer: M::Output) -> Self {
        Self {
            incoming: Incoming {
                connection,
                greeting: Greeting::new(),
                refusal: None,
                cancelled: 0,
            },
            body: Reassembly::new([Partial::new(body)]),
            answer,
            stage: Stage::Idle,
        }
    }

    /// The connection and its bytes.
    pub const fn connection(&self) -> &BufferedConnection<ServerSide, H, B> {
        &self.incoming.connection
    }

    /// The connection, to move its bytes.
    pub const fn connection_mut(&mut self) -> &mut BufferedConnection<ServerSide, H, B> {
        &mut self.incoming.connection
    }

    /// Whether the client has proved that it has the key, and the connection has not ended.
    pub fn is_established(&self) -> bool {
        self.connection().is_established()
    }

    /// Closes the connection: it accepts no new requests, completes those that have begun, and then
    /// ends.
    pub fn close(&mut self, now: Instant, reason: CloseReason) {
        self.incoming.connection.close(now, reason);
    }

    /// The request to handle, and the memory for its answer. Call [`answer`](Self::answer) or
    /// [`refuse`](Self::refuse) when it is handled, and [`step`](Self::step) meanwhile.
    ///
    /// No request is returned before the stream has accepted the [greeting](Greeting), or after the
    /// connection has ended.
    pub fn request(&mut self) -> Option<(&[u8], &mut [u8])> {
        let (request, answer, _) = self.begin_handler()?;
        Some((request, answer))
    }

    /// As [`request`](Self::request). Also returns the connection, which is driven meanwhile.
    pub(crate) fn begin_handler(&mut self) -> Option<Handling<'_, H, B>> {
        if !self.has_request() {
            return None;
        }
        let (Stage::Received(id) | Stage::Handling(id)) = self.stage else {
            return None;
        };
        let request = self.body.whole(id)?;
        self.stage = Stage::Handling(id);
        Some((request, self.answer.as_mut(), &mut self.incoming))
    }

    /// Whether there is a request to handle. Once the connection has ended there is none, because
    /// its answer could not be sent.
    pub(crate) fn has_request(&self) -> bool {
        matches!(self.stage, Stage::Received(_) | Stage::Handling(_)) && self.connection().machine().end().is_none()
    }

    /// Refuses the request whose handler was dropped. The handler may have done part of its work,
    /// so the request must not be handled again.
    #[cfg(any(feature = "async", feature = "blocking"))]
    pub(crate) fn refuse_dropped(&mut self) {
        if matches!(self.stage, Stage::Handling(_)) {
            self.refuse(NoAnswer::Dropped.refusal(false));
        }
    }

    /// Answers the request with the first `length` bytes of the memory for answers. An answer that
    /// is too large for the client, or for that memory, becomes a refusal. Without a request, or
    /// after the connection has ended, this does nothing.
    // Not inlined on a device, to save flash.
    #[cfg_attr(target_os = "none", inline(never))]
    pub fn answer(&mut self, length: usize) {
        let Some(id) = release(&mut self.body, &mut self.stage) else {
            return;
        };
        let failure = if length > self.answer.as_ref().len() {
            Some(NoAnswer::NoRoom)
        } else {
            match self.incoming.connection.machine_mut().answer(id, length) {
                Ok(outgoing) => {
                    self.stage = Stage::Answering(outgoing);
                    None
                }
                Err(error) => NoAnswer::after(error),
            }
        };
        if let Some(failure) = failure {
            self.stage = Stage::Refusing(id, failure.refusal(false));
        }
    }

    /// Refuses the request, as cancelled if the client has cancelled it. Without a request this
    /// does nothing.
    pub fn refuse(&mut self, refusal: Refusal) {
        if let Some(id) = release(&mut self.body, &mut self.stage) {
            let cancelled = self.incoming.cancelled == id.number();
            self.stage = Stage::Refusing(id, NoAnswer::Refused(refusal).refusal(cancelled));
        }
    }

    /// Seals what can be sent, and processes at most one frame. Returns whether to call it again at
    /// once. If not, look for a [`request`](Self::request), then move bytes or wait for the
    /// deadline.
    ///
    /// # Errors
    /// What ended the connection, once the stream has accepted its last bytes; [`Error::Stalled`]
    /// if pending bytes made no progress for too long; [`Error::Output`] if the outbox is too
    /// small.
    pub fn step(&mut self, now: Instant) -> Result<bool, Error> {
        wiped(self.take_step(now))
    }

    /// Not inlined, because its caller overwrites its stack frame afterwards.
    #[inline(never)]
    fn take_step(&mut self, now: Instant) -> Result<bool, Error> {
        match &mut self.stage {
            Stage::Answering(outgoing) => {
                let body = self.answer.as_ref().get(..outgoing.length()).unwrap_or_default();
                if self.incoming.connection.seal(now, Some((&mut *outgoing, body)))? {
                    self.incoming.connection.note_answer();
                }
                if outgoing.is_done() {
                    self.stage = Stage::Idle;
                }
            }
            Stage::Refusing(id, refusal) if self.incoming.refusal.is_none() => {
                self.incoming.refusal = Some((*id, *refusal));
                self.stage = Stage::Idle;
            }
            Stage::Idle | Stage::Receiving(_) | Stage::Received(_) | Stage::Handling(_) | Stage::Refusing(..) => {}
        }
        let (body, stage) = (&mut self.body, &mut self.stage);
        let next = self.incoming.recv(now, |event| handle(body, stage, event))?;
        match next {
            // The next step passes it to the core.
            Next::Event(refused) => self.incoming.refusal = refused,
            Next::Again => {}
            Next::Wait => return Ok(false),
        }
        Ok(true)
    }
}

/// Drops the bytes of a request that waits for its handler, or whose handler runs.
fn release<S: Storage>(body: &mut Body<S>, stage: &mut Stage) -> Option<RequestId> {
    let (Stage::Received(id) | Stage::Handling(id)) = *stage else {
        return None;
    };
    body.forget(id);
    *stage = Stage::Idle;
    Some(id)
}

/// Processes an event. Returns which request is to be refused, and why.
#[allow(clippy::wildcard_enum_match_arm, reason = "the other events need no reaction")]
fn handle<S: Storage>(kept: &mut Body<S>, stage: &mut Stage, event: ServerEvent<'_>) -> Option<(RequestId, Refusal)> {
    let (id, total, body, whole) = match event {
        ServerEvent::Request { id, body } => (id, u32::try_from(body.len()).unwrap_or(u32::MAX), body, true),
        ServerEvent::Begin { id, total, body } => (id, total, body, false),
        #[cfg(feature = "streams")]
        ServerEvent::Opened { id, .. } => return Some((id, NoAnswer::OpenBody.refusal(false))),
        // The rest of a request that was refused.
        ServerEvent::Part { id, .. } | ServerEvent::Abandoned { id } if !matches!(stage, Stage::Receiving(receiving) if *receiving == id) =>
        {
            return None;
        }
        ServerEvent::Part { id, body, last } => {
            let fits = kept.part(id, body).is_ok();
            *stage = match (fits, last) {
                (true, true) => Stage::Received(id),
                (true, false) => return None,
                (false, _) => Stage::Idle,
            };
            return (!fits).then_some((id, NoAnswer::TooLarge.refusal(false)));
        }
        ServerEvent::Abandoned { id } => {
            kept.forget(id);
            *stage = Stage::Idle;
            return None;
        }
        ServerEvent::Cancelled { id } => {
            // A handler that has begun completes.
            let waits = matches!(stage, Stage::Received(received) if *received == id);
            return waits
                .then(|| release(kept, stage))
                .flatten()
                .map(|id| (id, NoAnswer::Cancelled.refusal(false)));
        }
        _ => return None,
    };
    if !matches!(stage, Stage::Idle) {
        return Some((id, NoAnswer::Busy.refusal(false)));
    }
    if kept.begin(id, total, body).is_err() {
        return Some((id, NoAnswer::TooLarge.refusal(false)));
    }
    *stage = if whole {
        Stage::Received(id)
    } else {
        Stage::Receiving(id)
    };
    None
}

impl<H: ServerKeyRef, B: Buffers> Incoming<H, B> {
    /// A step while a handler has the request. Further requests are refused.
    #[cfg(feature = "async")]
    pub(crate) fn step(&mut self, now: Instant) -> Result<bool, Error> {
        wiped(self.take_step(now))
    }

    #[cfg(feature = "async")]
    #[allow(clippy::wildcard_enum_match_arm, reason = "the other events need no reaction")]
    #[inline(never)]
    fn take_step(&mut self, now: Instant) -> Result<bool, Error> {
        let refused = self.recv(now, |event| match event {
            ServerEvent::Request { id, .. } | ServerEvent::Begin { id, .. } => {
                Some((id, NoAnswer::Busy.refusal(false)))
            }
            #[cfg(feature = "streams")]
            ServerEvent::Opened { id, .. } => Some((id, NoAnswer::OpenBody.refusal(false))),
            _ => None,
        })?;
        match refused {
            Next::Event(refused) => self.refusal = refused,
            Next::Again => {}
            Next::Wait => return Ok(false),
        }
        Ok(true)
    }

    #[cfg(feature = "async")]
    pub(crate) const fn connection_mut(&mut self) -> &mut BufferedConnection<ServerSide, H, B> {
        &mut self.connection
    }

    /// Processes at most one frame, after the greeting and the refusal that is pending. `take`
    /// receives the event.
    fn recv<T>(&mut self, now: Instant, take: impl FnOnce(ServerEvent<'_>) -> T) -> Result<Next<T>, Error> {
        self.transmit(now)?;
        if self.connection.is_sent() {
            self.greeting.flushed();
        }
        let waits = self.refusal.is_some() || self.greeting.is_pending();
        if waits && self.connection.machine().end().is_none() {
            return self.connection.pause(now);
        }
        let (greeting, cancelled) = (&mut self.greeting, &mut self.cancelled);
        self.connection.recv(now, |event| {
            if matches!(event, ServerEvent::Established) {
                greeting.established();
            }
            if let ServerEvent::Cancelled { id } = event {
                *cancelled = id.number();
            }
            take(event)
        })
    }

    /// Passes the pending refusal to the core, and takes the core's pending output, as far as there
    /// is room.
    fn transmit(&mut self, now: Instant) -> Result<(), Error> {
        loop {
            if let Some((id, refusal)) = self.refusal {
                let refused = self.connection.machine_mut().refuse(id, refusal);
                if !refused.is_err_and(ReplyError::waits_for_output) {
                    self.refusal = None;
                }
            }
            if !self.connection.transmit(now)? || self.refusal.is_none() {
                return Ok(());
            }
        }
    }
}

impl<H: ServerKeyRef, B: Buffers, M: Buffers> fmt::Debug for BufferedServer<H, B, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferedServer")
            .field("connection", &self.incoming.connection)
            .finish_non_exhaustive()
    }
}
