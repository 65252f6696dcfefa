//! The server side of a connection on the classic wire.

use rand_core::TryCryptoRng;

use super::layout::{self, HELLO_LENGTH, Head};
use super::sealing::{ClassicKey, Nonces, OpenError};
use crate::crypto::Crypto;
use crate::error::{ConnectionError, EntropyError, Misuse, OutputTooSmall, ReplyError, SealError};
#[cfg(feature = "streams")]
use crate::error::{Error, RequestError};
use crate::event::{Received, ServerEvent, ServerReceived, ServerWait};
use crate::life::Life;
use crate::message::{CloseReason, KeyId, Refusal, RequestId, Status};
use crate::outgoing::OutgoingAnswer;
use crate::replay_cache::ReplayCache;
use crate::role::ServerSide;
use crate::session::{self, BufferSizes, Keyed, Session};
use crate::settings::Settings;
use crate::time::Instant;
use crate::unread::Unread;

/// The state of one connection. [`ServerConnection`](crate::ServerConnection) drives it.
#[allow(unnameable_types, reason = "a session has no name outside of this crate")]
#[derive(Debug)]
pub struct ServerSession {
    life: Life,
    nonces: Nonces,
    phase: Phase,
    max_message: u32,
    max_in_flight: u32,
    serial: u32,
    /// The last request received. Answers are sent in the order of the requests, so those from
    /// `completed + 1` to `begun` are unanswered.
    begun: u32,
    completed: u32,
    /// The first request that was refused. Answers before it are still sent, then the connection
    /// ends.
    refused: Option<u32>,
    closing: bool,
}

#[derive(Debug)]
enum Phase {
    Hello,
    /// The client has proved that it has the key. The accept is pending.
    AcceptPending,
    Established,
}

impl ServerSession {
    const fn unanswered(&self) -> u32 {
        self.begun - self.completed
    }

    /// Ends the connection if nothing is left to do on it.
    fn end_if_drained(&mut self) {
        // Numbers start at 1, so this does not underflow.
        if self.refused.is_some_and(|refused| refused - 1 == self.completed) {
            self.life.fail(ConnectionError::HandlerFailed);
        } else if self.closing && self.unanswered() == 0 {
            self.life.fail(ConnectionError::Closed);
        }
    }

    fn recv_hello<L: ReplayCache, C: Crypto>(
        &mut self,
        key: &ClassicKey<L, C>,
        mut unread: Unread<'_, '_>,
    ) -> Result<ServerReceived<'static>, ConnectionError> {
        if let Some(&first) = unread.first()
            && first != layout::HELLO
        {
            return Err(self.life.fail(ConnectionError::UnknownWire { first }));
        }
        let Some(sealed) = layout::hello_text(&mut unread) else {
            return Ok(Received::NeedMore { total: HELLO_LENGTH });
        };
        match key.open(&self.nonces, sealed) {
            Ok(_) => {
                self.phase = Phase::AcceptPending;
                self.life.restart();
                unread.consume(HELLO_LENGTH);
                Ok(Received::Event(ServerEvent::Established))
            }
            Err(OpenError::Inauthentic) => Err(self.life.fail(ConnectionError::Unauthenticated)),
            Err(OpenError::Seen) => Err(self.life.fail(ConnectionError::Replayed)),
        }
    }

    fn recv_frame<'u, L: ReplayCache, C: Crypto>(
        &mut self,
        key: &ClassicKey<L, C>,
        unread: Unread<'u, '_>,
    ) -> Result<ServerReceived<'u>, ConnectionError> {
        if self.closing || self.refused.is_some() {
            return Ok(Received::Wait(ServerWait::AnswerFirst));
        }
        let head = layout::client_frame(&unread, self.max_message).map_err(|error| self.life.fail(error))?;
        let place = match head {
            Head::Short(total) => return Ok(Received::NeedMore { total }),
            Head::Ping => {
                if self.unanswered() == 0 {
                    self.life.restart();
                }
                unread.consume(1);
                return Ok(Received::Event(ServerEvent::Ping));
            }
            Head::Nothing => return Err(self.life.fail(ConnectionError::Tampered)),
            Head::Sealed(place) => place,
        };
        if self.unanswered() >= self.max_in_flight {
            return Ok(Received::Wait(ServerWait::AnswerFirst));
        }
        let total = place.end;
        let Some(sealed) = unread.lend(place) else {
            return Ok(Received::NeedMore { total });
        };
        match key.open(&self.nonces, sealed) {
            Ok(body) => {
                let number = self.begun.checked_add(1);
                self.begun = number.ok_or_else(|| self.life.fail(ConnectionError::RequestIdsExhausted))?;
                // A handler may take longer than a lifetime. Its answer is still sent.
                self.life.suspend();
                let id = RequestId::new(self.serial, self.begun);
                Ok(Received::Event(ServerEvent::Request { id, body }))
            }
            Err(OpenError::Inauthentic) => Err(self.life.fail(ConnectionError::Tampered)),
            Err(OpenError::Seen) => Err(self.life.fail(ConnectionError::Replayed)),
        }
    }

    /// Whether the request `id` of this connection is unanswered.
    const fn is_waiting(&self, id: RequestId) -> bool {
        id.number() > self.completed && id.number() <= self.begun
    }

    /// Checks that `id` is an unanswered request of this connection.
    fn check_waiting(&self, id: RequestId) -> Result<(), ReplyError> {
        if !id.is_of(self.serial) {
            return Err(Misuse::Foreign.into());
        }
        if !self.is_waiting(id) {
            return Err(ReplyError::NotWaiting(id));
        }
        Ok(())
    }

    /// Seals one answer into `out`. `None` if it is not its turn.
    fn seal_one<L: ReplayCache, C: Crypto>(
        &mut self,
        key: &ClassicKey<L, C>,
        message: &mut OutgoingAnswer,
        body: &[u8],
        out: &mut [u8],
    ) -> Result<Option<usize>, SealError> {
        if message.is_done() {
            return Ok(None);
        }
        message.check(self.serial, body)?;
        if !self.is_waiting(message.id()) {
            return Err(SealError::NotWaiting(message.id()));
        }
        if message.id().number() != self.completed + 1 {
            return Ok(None);
        }
        let (needed, given) = (layout::answer_size(body.len()), out.len());
        let sealed = layout::write_answer(out, body.len()).ok_or(OutputTooSmall { needed, given })?;
        key.seal(&mut self.nonces, body, sealed)
            .map_err(|error| self.life.fail(error))?;
        message.seal_whole();
        self.completed += 1;
        if self.unanswered() == 0 {
            self.life.restart();
        }
        self.end_if_drained();
        Ok(Some(needed))
    }
}

impl<L: ReplayCache, C: Crypto> Keyed<ServerSide> for ClassicKey<L, C> {
    type Session = ServerSession;

    fn start<G: TryCryptoRng + ?Sized>(
        &self,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
    ) -> Result<ServerSession, EntropyError> {
        Ok(ServerSession {
            life: Life::new(now, settings),
            nonces: Nonces::draw(rng)?,
            phase: Phase::Hello,
            max_message: settings.max_message(),
            max_in_flight: settings.max_in_flight().into(),
            serial: rng.try_next_u32().map_err(|_| EntropyError::new())?,
            begun: 0,
            completed: 0,
            refused: None,
            closing: false,
        })
    }

    fn recv<'u>(
        &self,
        session: &mut ServerSession,
        now: Instant,
        unread: Unread<'u, '_>,
    ) -> Result<ServerReceived<'u>, ConnectionError> {
        session.life.check(now)?;
        match session.phase {
            Phase::Hello => session.recv_hello(self, unread),
            Phase::AcceptPending | Phase::Established => session.recv_frame(self, unread),
        }
    }

    fn transmit(&self, session: &mut ServerSession, now: Instant, out: &mut [u8]) -> Result<usize, OutputTooSmall> {
        if session.life.check(now).is_err() {
            return Ok(0);
        }
        match session.phase {
            Phase::AcceptPending => {
                *out.first_mut().ok_or(OutputTooSmall { needed: 1, given: 0 })? = layout::ACCEPT;
                session.phase = Phase::Established;
                Ok(1)
            }
            Phase::Hello | Phase::Established => Ok(0),
        }
    }

    fn seal<'m, I>(
        &self,
        session: &mut ServerSession,
        now: Instant,
        messages: I,
        out: &mut [u8],
    ) -> Result<usize, SealError>
    where
        I: IntoIterator<Item = (&'m mut OutgoingAnswer, &'m [u8])>,
    {
        super::seal_each(
            session,
            messages,
            out,
            |session, out| Keyed::<ServerSide>::transmit(self, session, now, out),
            |session, message, body, out| {
                session.life.check(now)?;
                session.seal_one(self, message, body, out)
            },
        )
    }

    fn buffer_sizes(settings: &Settings) -> BufferSizes {
        let message = layout::max_body(settings);
        BufferSizes {
            unread: layout::request_size(message).max(HELLO_LENGTH),
            output: layout::answer_size(message),
        }
    }
}

impl Session for ServerSession {
    fn note_taken(&mut self, _now: Instant) {}

    #[cfg(feature = "alloc")]
    fn shrink(&mut self) {}

    fn channel_binding(&self) -> Option<&[u8; 32]> {
        None
    }

    #[cfg(feature = "streams")]
    fn credit(&mut self, _id: RequestId, _bytes: u32, _waits: bool) -> Result<(), Error> {
        Ok(())
    }

    #[cfg(feature = "streams")]
    fn sendable(&self, _id: RequestId) -> u32 {
        0
    }

    #[cfg(feature = "streams")]
    fn peer_window(&self) -> u32 {
        0
    }

    #[cfg(feature = "streams")]
    fn window(&self) -> u32 {
        0
    }

    fn end_of_stream(&mut self, now: Instant, unread: &[u8]) -> Result<(), ConnectionError> {
        self.life.check(now)?;
        let end = if unread.is_empty() {
            ConnectionError::ClosedByPeer
        } else {
            ConnectionError::Truncated
        };
        Err(self.life.fail(end))
    }

    fn seal_size(&self, length: usize) -> usize {
        let pending = match self.phase {
            Phase::AcceptPending => 1,
            Phase::Hello | Phase::Established => 0,
        };
        layout::answer_size(length).saturating_add(pending)
    }

    fn set_reading(&mut self, now: Instant, reading: bool) {
        if self.life.check(now).is_ok() {
            self.life.set_reading(reading);
        }
    }

    fn handle_late_poll(&mut self, now: Instant) {
        self.life.handle_late_poll(now);
    }

    fn close(&mut self, now: Instant, _reason: CloseReason) {
        if self.life.check(now).is_ok() {
            self.closing = true;
            self.end_if_drained();
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.life.deadline().get()
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.life.check(now)
    }

    fn status(&self) -> Status {
        match (self.life.end(), &self.phase) {
            (Some(_), _) => Status::Ended,
            (None, _) if self.closing || self.refused.is_some() => Status::Draining,
            (None, Phase::AcceptPending | Phase::Established) => Status::Established,
            (None, Phase::Hello) => Status::Handshaking,
        }
    }

    fn was_established(&self) -> bool {
        !matches!(self.phase, Phase::Hello)
    }

    fn end(&self) -> Option<ConnectionError> {
        self.life.end()
    }

    fn in_flight(&self) -> usize {
        usize::try_from(self.unanswered()).unwrap_or(usize::MAX)
    }

    fn lifetime_millis(&self) -> u64 {
        self.life.lifetime().as_millis()
    }
}

impl session::Server for ServerSession {
    #[cfg(feature = "streams")]
    fn open_answer(&mut self, _id: RequestId) -> Result<OutgoingAnswer, ReplyError> {
        Err(RequestError::NoOpenBodies.into())
    }

    #[cfg(feature = "streams")]
    fn discard(&mut self, _id: RequestId) -> Result<(), Error> {
        Ok(())
    }

    fn answer(&mut self, id: RequestId, length: usize) -> Result<OutgoingAnswer, ReplyError> {
        if let Some(end) = self.life.end() {
            return Err(end.into());
        }
        self.check_waiting(id)?;
        // No answer is sent to the refused request or to a later one.
        if self.refused.is_some_and(|refused| refused <= id.number()) {
            return Err(ReplyError::NotWaiting(id));
        }
        layout::check_body(length, self.max_message)?;
        Ok(OutgoingAnswer::new(id, length))
    }

    fn refuse(&mut self, id: RequestId, _refusal: Refusal) -> Result<(), ReplyError> {
        if let Some(end) = self.life.end() {
            return Err(end.into());
        }
        self.check_waiting(id)?;
        self.refused = Some(self.refused.map_or(id.number(), |refused| refused.min(id.number())));
        self.end_if_drained();
        Ok(())
    }

    fn refuses(&self) -> bool {
        false
    }

    fn key_id(&self) -> Option<KeyId> {
        None
    }
}
