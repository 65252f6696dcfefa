//! Keys for one wire or for both. The first byte of a connection selects the wire; nothing is
//! negotiated.

use alloc::boxed::Box;
use core::fmt;

use rand_core::TryCryptoRng;

use super::Provider;
use crate::ClassicKey;
use crate::error::{ConnectionError, EntropyError, Error, OutputTooSmall, ReplyError, SealError};
use crate::event::Received;
use crate::message::{CloseReason, Fate, KeyId, PingId, Refusal, RequestId, Status};
use crate::outgoing::{OutgoingAnswer, OutgoingRequest};
use crate::replay_cache::HeapReplayCache;
use crate::role::Role;
use crate::session::{self, BufferSizes, Keyed, Session};
use crate::settings::Settings;
use crate::time::Instant;
use crate::unread::Unread;
use crate::wipe::with_stack_wiped;

/// The first byte of a classic hello.
const CLASSIC: u8 = 0x00;

/// A classic key that threads can share.
pub(super) type Classic = ClassicKey<HeapReplayCache, Provider>;

/// The keys of one side, which all its connections share: [`ClientKeys`](super::ClientKeys) or
/// [`ServerKeys`](super::ServerKeys).
pub struct Keys<N>(pub(super) Wires<N>);

/// The keys, for each wire that is in use. A client uses one wire.
pub(super) enum Wires<N> {
    Noise(N),
    Classic(Box<Classic>),
    Both(N, Box<Classic>),
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

/// A session on the wire that its connection uses. It is on the heap: a connection that is moved
/// leaves no copy of its ephemeral key and its cipher keys behind.
#[derive(Debug)]
#[allow(unnameable_types, reason = "a session has no name outside of this crate")]
pub enum WireSession<N, K> {
    /// The noise wire. While `classic` is set, no byte has arrived that selects the wire.
    Noise { session: Box<N>, classic: Option<Box<K>> },
    /// The classic wire.
    Classic(Box<K>),
}

impl<N, K> WireSession<N, K> {
    /// Selects the wire by the first byte, unless it is selected already.
    fn select(&mut self, unread: &[u8]) {
        if let (Self::Noise { classic, .. }, Some(first)) = (&mut *self, unread.first())
            && let Some(classic) = classic.take()
            && *first == CLASSIC
        {
            *self = Self::Classic(classic);
        }
    }
}

/// Evaluates `$do` with the session.
macro_rules! with_session {
    ($self:ident, $session:ident => $do:expr) => {
        match $self {
            Self::Noise { session: $session, .. } => $do,
            Self::Classic($session) => $do,
        }
    };
}

/// Evaluates `$do` with the key and the session. The keys that started a session include a key for
/// its wire, so `$other` is never evaluated.
macro_rules! with_key {
    ($self:ident, $both:ident, |$key:ident, $session:ident| $do:expr, else $other:expr) => {
        match $both {
            WireSession::Noise { session: $session, .. } => $self.noise().map_or($other, |$key| $do),
            WireSession::Classic($session) => $self.classic().map_or($other, |$key| $do),
        }
    };
}

impl<R: Role, N: Keyed<R>> Keyed<R> for Keys<N>
where
    Classic: Keyed<R>,
{
    type Session = WireSession<N::Session, <Classic as Keyed<R>>::Session>;

    fn start<G: TryCryptoRng + ?Sized>(
        &self,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
    ) -> Result<Self::Session, EntropyError> {
        // A session generates its ephemeral key before it is moved to the heap.
        with_stack_wiped(|| {
            Ok(match &self.0 {
                Wires::Noise(noise) => WireSession::Noise {
                    session: Box::new(noise.start(settings, now, rng)?),
                    classic: None,
                },
                Wires::Classic(classic) => WireSession::Classic(Box::new(classic.start(settings, now, rng)?)),
                Wires::Both(noise, classic) => WireSession::Noise {
                    session: Box::new(noise.start(settings, now, rng)?),
                    classic: Some(Box::new(classic.start(settings, now, rng)?)),
                },
            })
        })
    }

    fn recv<'u>(
        &self,
        session: &mut Self::Session,
        now: Instant,
        unread: Unread<'u, '_>,
    ) -> Result<Received<R::Event<'u>, R::Wait>, ConnectionError> {
        // A connection that ended before its first byte keeps its session.
        if session.end().is_none() {
            session.select(&unread);
        }
        with_key!(self, session, |key, session| key.recv(session, now, unread), else Err(ConnectionError::Closed))
    }

    fn transmit(&self, session: &mut Self::Session, now: Instant, out: &mut [u8]) -> Result<usize, OutputTooSmall> {
        with_key!(self, session, |key, session| key.transmit(session, now, out), else Ok(0))
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
        with_key!(
            self, session, |key, session| key.seal(session, now, messages, out),
            else Err(ConnectionError::Closed.into())
        )
    }

    /// The sizes that are enough for either wire.
    fn buffer_sizes(settings: &Settings) -> BufferSizes {
        let (noise, classic) = (N::buffer_sizes(settings), Classic::buffer_sizes(settings));
        BufferSizes {
            unread: noise.unread.max(classic.unread),
            output: noise.output.max(classic.output),
        }
    }
}

impl<N: Session, K: Session> Session for WireSession<N, K> {
    fn end_of_stream(&mut self, now: Instant, unread: &[u8]) -> Result<(), ConnectionError> {
        with_session!(self, session => session.end_of_stream(now, unread))
    }

    fn seal_size(&self, length: usize) -> usize {
        with_session!(self, session => session.seal_size(length))
    }

    fn has_pending(&self) -> bool {
        with_session!(self, session => session.has_pending())
    }

    fn set_reading(&mut self, now: Instant, reading: bool) {
        with_session!(self, session => session.set_reading(now, reading));
    }

    fn note_taken(&mut self, now: Instant) {
        with_session!(self, session => session.note_taken(now));
    }

    fn shrink(&mut self) {
        with_session!(self, session => session.shrink());
    }

    fn handle_late_poll(&mut self, now: Instant) {
        with_session!(self, session => session.handle_late_poll(now));
    }

    fn close(&mut self, now: Instant, reason: CloseReason) {
        with_session!(self, session => session.close(now, reason));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        with_session!(self, session => session.poll_timeout())
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectionError> {
        with_session!(self, session => session.handle_timeout(now))
    }

    fn status(&self) -> Status {
        with_session!(self, session => session.status())
    }

    fn end(&self) -> Option<ConnectionError> {
        with_session!(self, session => session.end())
    }

    fn was_established(&self) -> bool {
        with_session!(self, session => session.was_established())
    }

    fn in_flight(&self) -> usize {
        with_session!(self, session => session.in_flight())
    }

    fn lifetime_millis(&self) -> u64 {
        with_session!(self, session => session.lifetime_millis())
    }

    fn channel_binding(&self) -> Option<&[u8; 32]> {
        with_session!(self, session => session.channel_binding())
    }

    #[cfg(feature = "streams")]
    fn credit(&mut self, id: RequestId, bytes: u32, waits: bool) -> Result<(), Error> {
        with_session!(self, session => session.credit(id, bytes, waits))
    }

    #[cfg(feature = "streams")]
    fn sendable(&self, id: RequestId) -> u32 {
        with_session!(self, session => session.sendable(id))
    }

    #[cfg(feature = "streams")]
    fn peer_window(&self) -> u32 {
        with_session!(self, session => session.peer_window())
    }

    #[cfg(feature = "streams")]
    fn window(&self) -> u32 {
        with_session!(self, session => session.window())
    }
}

impl<N: session::Client, K: session::Client> session::Client for WireSession<N, K> {
    fn request(&mut self, length: usize) -> Result<OutgoingRequest, Error> {
        with_session!(self, session => session.request(length))
    }

    #[cfg(feature = "streams")]
    fn open_request(&mut self) -> Result<OutgoingRequest, Error> {
        with_session!(self, session => session.open_request())
    }

    #[cfg(feature = "streams")]
    fn peer_max_open(&self) -> u16 {
        with_session!(self, session => session.peer_max_open())
    }

    fn ping(&mut self) -> Result<PingId, Error> {
        with_session!(self, session => session.ping())
    }

    fn cancel(&mut self, id: RequestId) -> Result<(), Error> {
        with_session!(self, session => session.cancel(id))
    }

    fn answers_pings(&self) -> bool {
        with_session!(self, session => session.answers_pings())
    }

    fn is_confirmed(&self) -> bool {
        with_session!(self, session => session.is_confirmed())
    }

    fn has_closed(&self) -> bool {
        with_session!(self, session => session.has_closed())
    }

    fn fate(&self) -> Fate {
        with_session!(self, session => session.fate())
    }

    fn max_in_flight(&self) -> usize {
        with_session!(self, session => session.max_in_flight())
    }

    fn peer_max_message(&self) -> u32 {
        with_session!(self, session => session.peer_max_message())
    }
}

impl<N: session::Server, K: session::Server> session::Server for WireSession<N, K> {
    fn answer(&mut self, id: RequestId, length: usize) -> Result<OutgoingAnswer, ReplyError> {
        with_session!(self, session => session.answer(id, length))
    }

    #[cfg(feature = "streams")]
    fn open_answer(&mut self, id: RequestId) -> Result<OutgoingAnswer, ReplyError> {
        with_session!(self, session => session.open_answer(id))
    }

    #[cfg(feature = "streams")]
    fn discard(&mut self, id: RequestId) -> Result<(), Error> {
        with_session!(self, session => session.discard(id))
    }

    fn refuse(&mut self, id: RequestId, refusal: Refusal) -> Result<(), ReplyError> {
        with_session!(self, session => session.refuse(id, refusal))
    }

    fn refuses(&self) -> bool {
        with_session!(self, session => session.refuses())
    }

    fn key_id(&self) -> Option<KeyId> {
        with_session!(self, session => session.key_id())
    }
}
