//! One wire or both behind the keys of a service. A connection's first byte says which one it
//! speaks; nothing is negotiated.

use alloc::boxed::Box;
use core::fmt;

use rand_core::TryCryptoRng;

use crate::classic::ClassicKey;
use crate::error::{ConnectionError, EntropyError, Error, OutputTooSmall, ReplyError, SealError};
use crate::event::Received;
use crate::message::{CloseReason, Fate, KeyId, PingId, Refusal, RequestId, Status};
use crate::outgoing::{OutgoingAnswer, OutgoingRequest};
use crate::replay_cache::HeapReplayCache;
use crate::role::Role;
use crate::session::{self, BufferSizes, Keyed, Session};
use crate::settings::Settings;
use crate::time::Instant;

/// The first byte of a classic hello.
const CLASSIC: u8 = 0x00;

/// A classic key for threads to share.
pub(super) type Classic = ClassicKey<HeapReplayCache>;

/// The keys of one side, expanded once, for all its connections to share:
/// [`ClientKeys`](super::ClientKeys) or [`ServerKeys`](super::ServerKeys).
pub struct Keys<N>(pub(super) Wires<N>);

/// The keys by the wires that are spoken. A client speaks one.
pub(super) enum Wires<N> {
    Noise(N),
    Classic(Classic),
    Both(N, Classic),
}

impl<N> Keys<N> {
    pub(super) const fn noise(&self) -> Option<&N> {
        match &self.0 {
            Wires::Noise(noise) | Wires::Both(noise, _) => Some(noise),
            Wires::Classic(_) => None,
        }
    }

    const fn classic(&self) -> Option<&Classic> {
        match &self.0 {
            Wires::Classic(classic) | Wires::Both(_, classic) => Some(classic),
            Wires::Noise(_) => None,
        }
    }
}

impl<N: fmt::Debug> fmt::Debug for Keys<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys")
            .field("noise", &self.noise())
            .field("classic", &self.classic())
            .finish()
    }
}

/// A session on the wire that its connection speaks. Sessions of the classic wire, which few
/// connections speak, are on the heap, so that the others hold no room for one.
#[derive(Debug)]
#[allow(unnameable_types, reason = "a session has no name outside of this crate")]
pub enum Spoken<N, K> {
    /// The noise wire. Where `classic` is there as well, no byte has come that says which it is.
    Noise { session: N, classic: Option<Box<K>> },
    /// The classic wire.
    Classic(Box<K>),
}

impl<N, K> Spoken<N, K> {
    /// Decides on a wire, where that is open, by the first byte there is.
    fn decide(&mut self, unread: &[u8]) {
        if let (Self::Noise { classic, .. }, Some(first)) = (&mut *self, unread.first())
            && let Some(classic) = classic.take()
            && *first == CLASSIC
        {
            *self = Self::Classic(classic);
        }
    }
}

/// Evaluates `$do` with the session of the wire that is spoken.
macro_rules! spoken {
    ($self:ident, $session:ident => $do:expr) => {
        match $self {
            Self::Noise { session: $session, .. } => $do,
            Self::Classic($session) => $do,
        }
    };
}

/// Evaluates `$do` with the key and the session of the wire that is spoken. A session is of the key
/// that made it, so that `$other` is never evaluated.
macro_rules! keyed {
    ($self:ident, $both:ident, |$key:ident, $session:ident| $do:expr, else $other:expr) => {
        match $both {
            Spoken::Noise { session: $session, .. } => $self.noise().map_or($other, |$key| $do),
            Spoken::Classic($session) => $self.classic().map_or($other, |$key| $do),
        }
    };
}

impl<R: Role, N: Keyed<R>> Keyed<R> for Keys<N>
where
    Classic: Keyed<R>,
{
    type Session = Spoken<N::Session, <Classic as Keyed<R>>::Session>;

    fn start<G: TryCryptoRng + ?Sized>(
        &self,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
    ) -> Result<Self::Session, EntropyError> {
        Ok(match &self.0 {
            Wires::Noise(noise) => Spoken::Noise {
                session: noise.start(settings, now, rng)?,
                classic: None,
            },
            Wires::Classic(classic) => Spoken::Classic(Box::new(classic.start(settings, now, rng)?)),
            Wires::Both(noise, classic) => Spoken::Noise {
                session: noise.start(settings, now, rng)?,
                classic: Some(Box::new(classic.start(settings, now, rng)?)),
            },
        })
    }

    fn recv<'u>(
        &self,
        session: &mut Self::Session,
        now: Instant,
        unread: &'u mut [u8],
    ) -> Result<Received<R::Event<'u>, R::Wait>, ConnectionError> {
        // What has ended before a byte came stays ended, whatever comes.
        if session.end().is_none() {
            session.decide(unread);
        }
        keyed!(self, session, |key, session| key.recv(session, now, unread), else Err(ConnectionError::Closed))
    }

    fn transmit(&self, session: &mut Self::Session, now: Instant, out: &mut [u8]) -> Result<usize, OutputTooSmall> {
        keyed!(self, session, |key, session| key.transmit(session, now, out), else Ok(0))
    }

    fn seal<'m, I>(
        &self,
        session: &mut Self::Session,
        now: Instant,
        messages: I,
        out: &mut [u8],
    ) -> Result<usize, SealError>
    where
        I: IntoIterator<Item = (&'m mut R::Outgoing, &'m [u8])>,
        R::Outgoing: 'm,
    {
        keyed!(
            self, session, |key, session| key.seal(session, now, messages, out),
            else Err(ConnectionError::Closed.into())
        )
    }

    /// Enough for either wire.
    fn buffer_sizes(settings: &Settings) -> BufferSizes {
        let (noise, classic) = (N::buffer_sizes(settings), Classic::buffer_sizes(settings));
        BufferSizes {
            unread: noise.unread.max(classic.unread),
            output: noise.output.max(classic.output),
        }
    }
}

impl<N: Session, K: Session> Session for Spoken<N, K> {
    fn end_of_stream(&mut self, now: Instant, unread: &[u8]) -> Result<(), ConnectionError> {
        spoken!(self, session => session.end_of_stream(now, unread))
    }

    fn seal_size(&self, length: usize) -> usize {
        spoken!(self, session => session.seal_size(length))
    }

    fn set_reading(&mut self, now: Instant, reading: bool) {
        spoken!(self, session => session.set_reading(now, reading));
    }

    fn handle_late_poll(&mut self, now: Instant) {
        spoken!(self, session => session.handle_late_poll(now));
    }

    fn close(&mut self, now: Instant, reason: CloseReason) {
        spoken!(self, session => session.close(now, reason));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        spoken!(self, session => session.poll_timeout())
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectionError> {
        spoken!(self, session => session.handle_timeout(now))
    }

    fn status(&self) -> Status {
        spoken!(self, session => session.status())
    }

    fn end(&self) -> Option<ConnectionError> {
        spoken!(self, session => session.end())
    }

    fn in_flight(&self) -> usize {
        spoken!(self, session => session.in_flight())
    }

    fn lifetime_millis(&self) -> u64 {
        spoken!(self, session => session.lifetime_millis())
    }
}

impl<N: session::Client, K: session::Client> session::Client for Spoken<N, K> {
    fn request(&mut self, length: usize) -> Result<OutgoingRequest, Error> {
        spoken!(self, session => session.request(length))
    }

    fn ping(&mut self) -> Result<PingId, Error> {
        spoken!(self, session => session.ping())
    }

    fn cancel(&mut self, id: RequestId) -> Result<(), Error> {
        spoken!(self, session => session.cancel(id))
    }

    fn answers_pings(&self) -> bool {
        spoken!(self, session => session.answers_pings())
    }

    fn is_confirmed(&self) -> bool {
        spoken!(self, session => session.is_confirmed())
    }

    fn fate(&self) -> Fate {
        spoken!(self, session => session.fate())
    }

    fn max_in_flight(&self) -> usize {
        spoken!(self, session => session.max_in_flight())
    }

    fn peer_max_message(&self) -> u32 {
        spoken!(self, session => session.peer_max_message())
    }
}

impl<N: session::Server, K: session::Server> session::Server for Spoken<N, K> {
    fn answer(&mut self, id: RequestId, length: usize) -> Result<OutgoingAnswer, ReplyError> {
        spoken!(self, session => session.answer(id, length))
    }

    fn refuse(&mut self, id: RequestId, refusal: Refusal) -> Result<(), ReplyError> {
        spoken!(self, session => session.refuse(id, refusal))
    }

    fn key_id(&self) -> Option<KeyId> {
        spoken!(self, session => session.key_id())
    }
}
