//! The client side of a connection on the classic wire.

use core::fmt;

use rand_core::TryCryptoRng;

use super::layout::{self, HELLO_LENGTH, HELLO_RANDOM, Head};
use super::sealing::{ClassicKey, Nonces, OpenError};
use crate::crypto::Crypto;
#[cfg(feature = "streams")]
use crate::error::RequestError;
use crate::error::{ConnectionError, EntropyError, Error, Misuse, OutputTooSmall, SealError};
use crate::event::{ClientEvent, ClientReceived, ClientWait, Received};
use crate::life::Life;
use crate::message::{CloseReason, Fate, PingId, Refusal, RequestId, Status};
use crate::outgoing::OutgoingRequest;
use crate::replay_cache::ReplayCache;
use crate::role::ClientSide;
use crate::session::{self, BufferSizes, Keyed, Session};
use crate::settings::Settings;
use crate::time::Instant;
use crate::unread::Unread;

/// The state of one connection. [`ClientConnection`](crate::ClientConnection) drives it.
#[allow(unnameable_types, reason = "a session has no name outside of this crate")]
#[derive(Debug)]
pub struct ClientSession {
    life: Life,
    nonces: Nonces,
    phase: Phase,
    max_message: u32,
    max_in_flight: u32,
    serial: u32,
    /// The last request that has begun. Answers arrive in the order of the requests, so those from
    /// `completed + 1` to `begun` are in flight.
    begun: u32,
    completed: u32,
    pings: u64,
    ping_pending: bool,
    closing: bool,
}

enum Phase {
    /// The hello is pending. It seals these random bytes.
    Hello([u8; HELLO_RANDOM]),
    Accept,
    Established,
}

impl fmt::Debug for Phase {
    /// Does not show the random bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hello(_) => "Hello",
            Self::Accept => "Accept",
            Self::Established => "Established",
        })
    }
}

impl ClientSession {
    const fn unanswered(&self) -> u32 {
        self.begun - self.completed
    }

    fn end_if_drained(&mut self) {
        if self.closing && self.unanswered() == 0 {
            self.life.fail(ConnectionError::Closed);
        }
    }

    fn recv_accept(&mut self, unread: Unread<'_, '_>) -> Result<ClientReceived<'static>, ConnectionError> {
        match unread.first() {
            None => Ok(Received::NeedMore { total: 1 }),
            Some(&layout::ACCEPT) => {
                self.phase = Phase::Established;
                self.life.restart();
                unread.consume(1);
                Ok(Received::Event(ClientEvent::Established))
            }
            Some(_) => Err(self.life.fail(ConnectionError::Refused)),
        }
    }

    fn recv_answer<'u, L: ReplayCache, C: Crypto>(
        &mut self,
        key: &ClassicKey<L, C>,
        unread: Unread<'u, '_>,
    ) -> Result<ClientReceived<'u>, ConnectionError> {
        let head = layout::server_frame(&unread, self.max_message).map_err(|error| self.life.fail(error))?;
        let place = match head {
            Head::Short(total) => return Ok(Received::NeedMore { total }),
            Head::Nothing | Head::Ping => return Ok(self.recv_nothing(unread)),
            Head::Sealed(place) => place,
        };
        if self.unanswered() == 0 {
            return Err(self.life.fail(ConnectionError::UnexpectedAnswer));
        }
        let total = place.end;
        let Some(sealed) = unread.lend(place) else {
            return Ok(Received::NeedMore { total });
        };
        match key.open(&self.nonces, sealed) {
            Ok(body) => {
                self.completed += 1;
                self.life.restart();
                self.end_if_drained();
                let id = RequestId::new(self.serial, self.completed);
                Ok(Received::Event(ClientEvent::Answer { id, body }))
            }
            Err(OpenError::Inauthentic) => Err(self.life.fail(ConnectionError::Tampered)),
            Err(OpenError::Seen) => Err(self.life.fail(ConnectionError::Replayed)),
        }
    }

    /// A length of zero. The published Python server sends it for a request that it could not
    /// serve, and without a request when the connection was idle for a while. While a request is in
    /// flight, the client cannot distinguish the two. In the second case the answer to the request
    /// is still to come, and would be matched to the next request. So the connection ends.
    fn recv_nothing(&mut self, unread: Unread<'_, '_>) -> ClientReceived<'static> {
        unread.consume(layout::NOTHING_LENGTH);
        if self.unanswered() == 0 {
            return Received::Skip;
        }
        self.completed += 1;
        self.life.fail(ConnectionError::AnswersOutOfStep);
        let id = RequestId::new(self.serial, self.completed);
        Received::Event(ClientEvent::Refused {
            id,
            refusal: Refusal::Failed,
        })
    }

    /// Seals one request into `out`. `None` if it may not begin now.
    fn seal_one<L: ReplayCache, C: Crypto>(
        &mut self,
        key: &ClassicKey<L, C>,
        message: &mut OutgoingRequest,
        body: &[u8],
        out: &mut [u8],
    ) -> Result<Option<usize>, SealError> {
        if message.is_done() || self.unanswered() >= self.max_in_flight {
            return Ok(None);
        }
        message.check(self.serial, body)?;
        if self.closing {
            return Err(SealError::Closing);
        }
        let number = self
            .begun
            .checked_add(1)
            .ok_or_else(|| self.life.fail(ConnectionError::RequestIdsExhausted))?;
        let (needed, given) = (layout::request_size(body.len()), out.len());
        let sealed = layout::write_request(out, body.len()).ok_or(OutputTooSmall { needed, given })?;
        key.seal(&mut self.nonces, body, sealed)
            .map_err(|error| self.life.fail(error))?;
        self.begun = number;
        message.seal_whole(number);
        self.life.restart();
        Ok(Some(needed))
    }
}

impl<L: ReplayCache, C: Crypto> Keyed<ClientSide> for ClassicKey<L, C> {
    type Session = ClientSession;

    fn start<G: TryCryptoRng + ?Sized>(
        &self,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
    ) -> Result<ClientSession, EntropyError> {
        let mut random = [0; HELLO_RANDOM];
        rng.try_fill_bytes(&mut random).map_err(|_| EntropyError::new())?;
        Ok(ClientSession {
            life: Life::new(now, settings),
            nonces: Nonces::draw(rng)?,
            phase: Phase::Hello(random),
            max_message: settings.max_message(),
            max_in_flight: settings.max_in_flight().into(),
            serial: rng.try_next_u32().map_err(|_| EntropyError::new())?,
            begun: 0,
            completed: 0,
            pings: 0,
            ping_pending: false,
            closing: false,
        })
    }

    fn recv<'u>(
        &self,
        session: &mut ClientSession,
        now: Instant,
        unread: Unread<'u, '_>,
    ) -> Result<ClientReceived<'u>, ConnectionError> {
        session.life.check(now)?;
        match session.phase {
            Phase::Hello(_) => Ok(Received::Wait(ClientWait::TransmitFirst)),
            Phase::Accept => session.recv_accept(unread),
            Phase::Established => session.recv_answer(self, unread),
        }
    }

    fn transmit(&self, session: &mut ClientSession, now: Instant, out: &mut [u8]) -> Result<usize, OutputTooSmall> {
        if session.life.check(now).is_err() {
            return Ok(0);
        }
        match session.phase {
            Phase::Hello(ref random) => {
                let given = out.len();
                let sealed = layout::write_hello(out);
                let sealed = sealed.ok_or(OutputTooSmall {
                    needed: HELLO_LENGTH,
                    given,
                })?;
                if let Err(error) = self.seal(&mut session.nonces, random, sealed) {
                    session.life.fail(error);
                    return Ok(0);
                }
                session.phase = Phase::Accept;
                Ok(HELLO_LENGTH)
            }
            Phase::Established if session.ping_pending => {
                *out.first_mut().ok_or(OutputTooSmall { needed: 1, given: 0 })? = layout::PING;
                session.ping_pending = false;
                session.life.restart();
                Ok(1)
            }
            Phase::Accept | Phase::Established => Ok(0),
        }
    }

    fn seal<'m, I>(
        &self,
        session: &mut ClientSession,
        now: Instant,
        messages: I,
        out: &mut [u8],
    ) -> Result<usize, SealError>
    where
        I: IntoIterator<Item = (&'m mut OutgoingRequest, &'m [u8])>,
    {
        super::seal_each(
            session,
            messages,
            out,
            |session, out| Keyed::<ClientSide>::transmit(self, session, now, out),
            |session, message, body, out| {
                session.life.check(now)?;
                match session.phase {
                    Phase::Hello(_) | Phase::Accept => Ok(None),
                    Phase::Established => session.seal_one(self, message, body, out),
                }
            },
        )
    }

    fn buffer_sizes(settings: &Settings) -> BufferSizes {
        let message = layout::max_body(settings);
        BufferSizes {
            unread: layout::answer_size(message),
            output: layout::request_size(message).max(HELLO_LENGTH),
        }
    }
}

impl Session for ClientSession {
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
        Err(self.life.fail(match self.phase {
            Phase::Hello(_) | Phase::Accept => ConnectionError::Refused,
            Phase::Established if unread.is_empty() => ConnectionError::ClosedByPeer,
            Phase::Established => ConnectionError::Truncated,
        }))
    }

    fn seal_size(&self, length: usize) -> usize {
        let pending = match self.phase {
            Phase::Hello(_) => HELLO_LENGTH,
            Phase::Accept | Phase::Established => usize::from(self.ping_pending),
        };
        layout::request_size(length).saturating_add(pending)
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
            (None, _) if self.closing => Status::Draining,
            (None, Phase::Established) => Status::Established,
            (None, Phase::Hello(_) | Phase::Accept) => Status::Handshaking,
        }
    }

    fn was_established(&self) -> bool {
        matches!(self.phase, Phase::Established)
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

impl session::Client for ClientSession {
    #[cfg(feature = "streams")]
    fn open_request(&mut self) -> Result<OutgoingRequest, Error> {
        Err(RequestError::NoOpenBodies.into())
    }

    #[cfg(feature = "streams")]
    fn peer_max_open(&self) -> u16 {
        0
    }

    fn has_closed(&self) -> bool {
        false
    }

    fn request(&mut self, length: usize) -> Result<OutgoingRequest, Error> {
        if let Some(end) = self.life.end() {
            return Err(end.into());
        }
        if self.closing {
            return Err(Error::Closing);
        }
        layout::check_body(length, self.max_message)?;
        Ok(OutgoingRequest::new(self.serial, length))
    }

    fn ping(&mut self) -> Result<PingId, Error> {
        if let Some(end) = self.life.end() {
            return Err(end.into());
        }
        if self.closing {
            return Err(Error::Closing);
        }
        if !self.ping_pending {
            self.ping_pending = true;
            self.pings = self.pings.saturating_add(1);
        }
        Ok(PingId(self.pings))
    }

    fn cancel(&mut self, id: RequestId) -> Result<(), Error> {
        if let Some(end) = self.life.end() {
            return Err(end.into());
        }
        if !id.is_of(self.serial) {
            return Err(Misuse::Foreign.into());
        }
        Ok(())
    }

    fn answers_pings(&self) -> bool {
        false
    }

    fn is_confirmed(&self) -> bool {
        matches!(self.phase, Phase::Established)
    }

    fn fate(&self) -> Fate {
        // Requests begin after the accept. The server then sends nothing before its first answer,
        // so no byte shows whether a handler has received a request.
        if self.is_confirmed() {
            Fate::MaybeProcessed
        } else {
            Fate::NotProcessed
        }
    }

    fn max_in_flight(&self) -> usize {
        usize::try_from(self.max_in_flight).unwrap_or(usize::MAX)
    }

    fn peer_max_message(&self) -> u32 {
        self.max_message
    }
}
