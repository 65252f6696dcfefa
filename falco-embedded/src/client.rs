//! A client with one request at a time, over a [`BufferedConnection`]. Nothing here reads, writes
//! or waits; the drivers do.

use core::fmt;

use falco_core::{
    ClientConnection, ClientEvent, ClientKeyRef, ClientSide, CloseReason, Fate, Instant, OutgoingRequest, PingId,
    RequestError, RequestId, Settings, Storage,
};
use rand_core::TryCryptoRng;

use crate::buffers::Buffers;
use crate::connection::{BufferedConnection, Next, wiped};
use crate::error::{Buffer, Error, StartError, enough};

#[cfg(feature = "streams")]
mod streams;

#[cfg(feature = "streams")]
pub use streams::PendingSubscription;

/// A client over two buffers, with one request in flight at a time. The caller moves bytes
/// between the buffers and the stream.
///
/// The [crate's page](crate) shows it in a super-loop.
pub struct BufferedClient<H: ClientKeyRef, B: Buffers> {
    connection: BufferedConnection<ClientSide, H, B>,
    /// The request that was begun and is not completed.
    in_flight: Option<RequestId>,
    /// The sealed part of the last request may reach a handler.
    reaches_handler: bool,
    last_pong: Option<PingId>,
}

/// A request that is not completed: its body, and the memory for its answer. Both are yours, and
/// [`into_parts`](Self::into_parts) returns them.
///
/// Pass it to [every step](BufferedClient::step) until it is [`answered`](Self::answered). A step
/// that does not receive it cancels the request.
pub struct PendingRequest<B, A> {
    outgoing: OutgoingRequest,
    body: B,
    answer: A,
    /// Bytes of the answer that have arrived, including those that did not fit.
    received: usize,
    outcome: Option<Result<(), RequestError>>,
    #[cfg(feature = "streams")]
    open: streams::OpenAnswer,
}

impl<B: AsRef<[u8]>, A: AsMut<[u8]>> PendingRequest<B, A> {
    /// The length of the answer in bytes, once the whole answer is at the front of the memory for
    /// it; `None` before that. A request that was [cancelled](BufferedClient::step_idle) never
    /// returns a length.
    ///
    /// # Errors
    /// [`Error::Request`], or [`Error::AnswerTooLarge`] if the answer did not fit.
    pub fn answered(&mut self) -> Result<Option<usize>, Error> {
        if let Some(failure) = self.outgoing.failure() {
            return Err(Error::Request(failure));
        }
        let room = self.answer.as_mut().len();
        match self.outcome {
            None => Ok(None),
            Some(Err(error)) => Err(Error::Request(error)),
            Some(Ok(())) if self.received > room => Err(Error::AnswerTooLarge {
                length: self.received,
                room,
            }),
            Some(Ok(())) => Ok(Some(self.received)),
        }
    }

    /// The body and the memory for the answer.
    pub fn into_parts(self) -> (B, A) {
        (self.body, self.answer)
    }

    fn append(&mut self, part: &[u8]) {
        #[cfg(feature = "streams")]
        if !self.make_room(part.len()) {
            return;
        }
        let room = self.answer.as_mut().get_mut(self.received..).unwrap_or_default();
        if let Some((to, _)) = room.split_at_mut_checked(part.len()) {
            to.copy_from_slice(part);
        }
        self.received = self.received.saturating_add(part.len());
    }
}

impl<B, A> fmt::Debug for PendingRequest<B, A> {
    /// Shows its progress and none of its bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingRequest")
            .field("outgoing", &self.outgoing)
            .finish_non_exhaustive()
    }
}

impl<H: ClientKeyRef, B: Buffers> BufferedClient<H, B> {
    /// Starts a connection. `buffers` are for the unread bytes and for the bytes to write. Nothing
    /// is sent yet.
    ///
    /// # Errors
    /// [`StartError`] if a buffer is too small for the settings, or the generator fails.
    pub fn start<G: TryCryptoRng + ?Sized>(
        key: H,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
        buffers: B,
    ) -> Result<Self, StartError> {
        let (inbox, outbox) = buffers.into_parts();
        let sizes = ClientConnection::<H>::buffer_sizes(settings);
        enough(Buffer::Inbox, sizes.unread, inbox.limit())?;
        enough(Buffer::Outbox, sizes.output, outbox.as_ref().len())?;
        let machine = ClientConnection::new(key, settings, now, rng)?;
        Ok(Self::new(BufferedConnection::from_parts(machine, inbox, outbox)))
    }

    /// A client on `connection`.
    pub const fn new(connection: BufferedConnection<ClientSide, H, B>) -> Self {
        Self {
            connection,
            in_flight: None,
            reaches_handler: false,
            last_pong: None,
        }
    }

    /// The connection and its bytes.
    pub const fn connection(&self) -> &BufferedConnection<ClientSide, H, B> {
        &self.connection
    }

    /// The connection, to move its bytes.
    pub const fn connection_mut(&mut self) -> &mut BufferedConnection<ClientSide, H, B> {
        &mut self.connection
    }

    /// Whether the handshake is complete and the connection has not ended. On the noise wire, the
    /// server has then proved that it has the key.
    pub fn is_established(&self) -> bool {
        self.connection.is_established()
    }

    /// The fate of the last [request](Self::request), if the connection ended before it completed.
    ///
    /// It was not processed if it was not sealed whole, or if the stream
    /// [ended](falco_core::Connection::fate) before a byte had arrived after the welcome. Then you
    /// may send it again on another connection. In every other case a handler may have processed
    /// it.
    pub fn fate(&self) -> Fate {
        let broken = self.connection.is_broken();
        self.connection.machine().fate_of(self.reaches_handler, broken)
    }

    /// Creates a request with this body. [`step`](Self::step) sends it, and writes its answer to
    /// the front of `answer`.
    ///
    /// If the previous request is not completed, it is cancelled, and its answer is dropped.
    ///
    /// # Errors
    /// [`Error::Request`] if the body is too large, [`Error::Closing`], or what ended the
    /// connection.
    pub fn request<Q: AsRef<[u8]>, A: AsMut<[u8]>>(
        &mut self,
        body: Q,
        answer: A,
    ) -> Result<PendingRequest<Q, A>, Error> {
        self.reaches_handler = false;
        let outgoing = self.connection.machine_mut().request(body.as_ref().len())?;
        self.cancel();
        Ok(PendingRequest {
            outgoing,
            body,
            answer,
            received: 0,
            outcome: None,
            #[cfg(feature = "streams")]
            open: streams::OpenAnswer::new(false),
        })
    }

    /// Cancels the request that is in flight.
    fn cancel(&mut self) {
        if let Some(id) = self.in_flight.take() {
            // Fails only if the connection has ended. Then there is nothing to cancel.
            let _ = self.connection.machine_mut().cancel(id);
        }
    }

    /// Queues a ping.
    ///
    /// # Errors
    /// [`Error::Closing`], or what ended the connection.
    pub fn ping(&mut self) -> Result<PingId, Error> {
        Ok(self.connection.machine_mut().ping()?)
    }

    /// The last ping that was answered. The classic wire has no answers to pings.
    pub const fn last_pong(&self) -> Option<PingId> {
        self.last_pong
    }

    /// Closes the connection: it accepts no new requests, completes those that have begun, and then
    /// ends.
    pub fn close(&mut self, now: Instant, reason: CloseReason) {
        self.connection.close(now, reason);
    }

    /// A step without a request. It cancels the request that is in flight.
    ///
    /// # Errors
    /// As [`step`](Self::step).
    pub fn step_idle(&mut self, now: Instant) -> Result<bool, Error> {
        self.step(now, None::<&mut PendingRequest<&[u8], &mut [u8]>>)
    }

    /// Seals what can be sent, and processes at most one frame. Returns whether to call it again at
    /// once. If not, move bytes or wait for the deadline first.
    ///
    /// # Errors
    /// What ended the connection, once its last bytes were taken; [`Error::Stalled`] if pending
    /// bytes made no progress for too long; [`Error::Closing`] if you closed the connection before
    /// this request began; [`Error::Output`] if the outbox is too small.
    pub fn step<Q: AsRef<[u8]>, A: AsMut<[u8]>>(
        &mut self,
        now: Instant,
        request: Option<&mut PendingRequest<Q, A>>,
    ) -> Result<bool, Error> {
        wiped(self.take_step(now, request))
    }

    /// Not inlined, because its caller overwrites its stack frame afterwards.
    #[inline(never)]
    #[allow(clippy::wildcard_enum_match_arm, reason = "the other events need no reaction")]
    fn take_step<Q: AsRef<[u8]>, A: AsMut<[u8]>>(
        &mut self,
        now: Instant,
        mut request: Option<&mut PendingRequest<Q, A>>,
    ) -> Result<bool, Error> {
        if request.is_none() {
            self.cancel();
        }
        self.seal(now, request.as_deref_mut())?;
        let (in_flight, last_pong) = (&mut self.in_flight, &mut self.last_pong);
        #[cfg(feature = "streams")]
        let mut collected = None;
        let next = self.connection.recv(now, |event| {
            let (id, body, outcome) = match event {
                ClientEvent::Answer { id, body } | ClientEvent::Part { id, body, last: true } => {
                    (id, body, Some(Ok(())))
                }
                ClientEvent::Begin { id, body, .. } | ClientEvent::Part { id, body, .. } => (id, body, None),
                #[cfg(feature = "streams")]
                ClientEvent::Opened { id, body } => (id, body, None),
                ClientEvent::Refused { id, refusal } => (id, &[][..], Some(Err(RequestError::Refused(refusal)))),
                ClientEvent::Pong { ping } => {
                    *last_pong = Some(ping);
                    return;
                }
                _ => return,
            };
            if let Some(request) = &mut request
                && request.outgoing.id() == Some(id)
            {
                #[cfg(feature = "streams")]
                request.note_beginning(&event);
                request.append(body);
                request.outcome = outcome;
                #[cfg(feature = "streams")]
                {
                    collected = request.is_collected().then_some(body.len());
                }
            }
            if outcome.is_some() && *in_flight == Some(id) {
                *in_flight = None;
            }
        })?;
        #[cfg(feature = "streams")]
        if let (Some(request), Some(part)) = (request, collected) {
            self.collect(request, part);
        }
        Ok(match next {
            Next::Wait => false,
            Next::Again | Next::Event(()) => true,
        })
    }

    fn seal<Q: AsRef<[u8]>, A: AsMut<[u8]>>(
        &mut self,
        now: Instant,
        request: Option<&mut PendingRequest<Q, A>>,
    ) -> Result<(), Error> {
        let Some(request) = request.filter(|request| !request.outgoing.is_done()) else {
            self.connection.transmit(now)?;
            return Ok(());
        };
        self.connection
            .seal(now, Some((&mut request.outgoing, request.body.as_ref())))?;
        if let Some(id) = request.outgoing.id() {
            self.in_flight = Some(id);
            self.reaches_handler = request.outgoing.reaches_handler();
        }
        Ok(())
    }
}

impl<H: ClientKeyRef, B: Buffers> fmt::Debug for BufferedClient<H, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferedClient")
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}
