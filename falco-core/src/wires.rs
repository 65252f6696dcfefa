//! Several wires behind one key: which one a connection speaks is settled by its first byte, and nothing is negotiated.

use core::fmt;

use rand_core::TryCryptoRng;

use crate::error::{ConnectionError, EntropyError, Error, Misuse};
use crate::event::Received;
use crate::message::{CloseReason, Fate, KeyId, PingId, Refusal, RequestId, Status};
use crate::outgoing::{OutgoingAnswer, OutgoingRequest};
use crate::settings::Settings;
use crate::time::Instant;
use crate::wire::{BufferSizes, Client, ClientWire, Role, Server, ServerWire, Wire, private};

/// The first byte of a classic hello.
const CLASSIC: u8 = 0x00;

/// The noise wire, the classic wire, or for a server both, each with keys of its own. For adapters, which learn only when they run what their owner wants.
///
/// A client speaks the one wire that it was made with.
pub struct Wires<N, K> {
    noise: Option<N>,
    classic: Option<K>,
}

impl<N, K> Wires<N, K> {
    /// The noise wire alone.
    pub const fn noise(noise: N) -> Self {
        Self {
            noise: Some(noise),
            classic: None,
        }
    }

    /// The classic wire alone.
    pub const fn classic(classic: K) -> Self {
        Self {
            noise: None,
            classic: Some(classic),
        }
    }

    /// The keys on the noise wire, if it is spoken.
    pub const fn as_noise(&self) -> Option<&N> {
        self.noise.as_ref()
    }

    /// The key on the classic wire, if it is spoken.
    pub const fn as_classic(&self) -> Option<&K> {
        self.classic.as_ref()
    }
}

impl<N: ServerWire, K: ServerWire> Wires<N, K> {
    /// Both wires, for a server: a client's first byte says which it speaks.
    pub const fn both(noise: N, classic: K) -> Self {
        Self {
            noise: Some(noise),
            classic: Some(classic),
        }
    }
}

impl<N, K> private::Sealed for Wires<N, K> {}

impl<N: fmt::Debug, K: fmt::Debug> fmt::Debug for Wires<N, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wires")
            .field("noise", &self.noise)
            .field("classic", &self.classic)
            .finish()
    }
}

/// What is remembered of a connection on one of several wires: of each that it may still be on.
#[derive(Debug)]
pub struct WiresSession<A, B> {
    noise: Option<A>,
    classic: Option<B>,
}

impl<A, B> WiresSession<A, B> {
    /// Settles the wire, if it is open, by the first byte there is.
    fn settle(&mut self, unread: &[u8]) {
        if let (Some(_), Some(_), Some(first)) = (&self.noise, &self.classic, unread.first()) {
            if *first == CLASSIC {
                self.noise = None;
            } else {
                self.classic = None;
            }
        }
    }
}

/// Evaluates `$do` with the wire that is spoken and its session, on the noise wire while that is open.
macro_rules! spoken {
    ($self:ident, $session:ident, |$wire:ident, $inner:ident| $do:expr, else $none:expr) => {
        if let (Some($wire), Some($inner)) = (&$self.noise, &mut $session.noise) {
            $do
        } else if let (Some($wire), Some($inner)) = (&$self.classic, &mut $session.classic) {
            $do
        } else {
            $none
        }
    };
    ($self:ident, ref $session:ident, |$wire:ident, $inner:ident| $do:expr, else $none:expr) => {
        if let (Some($wire), Some($inner)) = (&$self.noise, &$session.noise) {
            $do
        } else if let (Some($wire), Some($inner)) = (&$self.classic, &$session.classic) {
            $do
        } else {
            $none
        }
    };
}

impl<R: Role, N: Wire<R>, K: Wire<R>> Wire<R> for Wires<N, K> {
    type Session = WiresSession<N::Session, K::Session>;

    fn start<G: TryCryptoRng + ?Sized>(
        &self,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
    ) -> Result<Self::Session, EntropyError> {
        let noise = self
            .noise
            .as_ref()
            .map(|wire| wire.start(settings, now, rng))
            .transpose()?;
        let classic = self
            .classic
            .as_ref()
            .map(|wire| wire.start(settings, now, rng))
            .transpose()?;
        Ok(WiresSession { noise, classic })
    }

    fn recv(
        &self,
        session: &mut Self::Session,
        now: Instant,
        unread: &mut [u8],
    ) -> Result<Received<R::Event>, ConnectionError> {
        // What has ended while the wire was open stays ended, whatever comes.
        if Wire::<R>::end(self, session).is_none() {
            session.settle(unread);
        }
        spoken!(self, session, |wire, inner| wire.recv(inner, now, unread), else Err(ConnectionError::Closed))
    }

    fn end_of_stream(&self, session: &mut Self::Session, now: Instant, unread: &[u8]) -> Result<(), ConnectionError> {
        spoken!(self, session, |wire, inner| wire.end_of_stream(inner, now, unread), else Err(ConnectionError::Closed))
    }

    fn transmit(&self, session: &mut Self::Session, now: Instant, out: &mut [u8]) -> Result<usize, Misuse> {
        spoken!(self, session, |wire, inner| wire.transmit(inner, now, out), else Ok(0))
    }

    fn seal<'m, I>(
        &self,
        session: &mut Self::Session,
        now: Instant,
        messages: I,
        out: &mut [u8],
    ) -> Result<usize, Error>
    where
        I: IntoIterator<Item = (&'m mut R::Outgoing, &'m [u8])>,
        R::Outgoing: 'm,
    {
        let none = Err(ConnectionError::Closed.into());
        spoken!(self, session, |wire, inner| wire.seal(inner, now, messages, out), else none)
    }

    fn seal_size(&self, session: &Self::Session, length: usize) -> usize {
        spoken!(self, ref session, |wire, inner| wire.seal_size(inner, length), else length)
    }

    fn set_reading(&self, session: &mut Self::Session, now: Instant, reading: bool) {
        spoken!(self, session, |wire, inner| wire.set_reading(inner, now, reading), else ());
    }

    fn was_away(&self, session: &mut Self::Session, now: Instant) {
        spoken!(self, session, |wire, inner| wire.was_away(inner, now), else ());
    }

    fn close(&self, session: &mut Self::Session, now: Instant, reason: CloseReason) {
        spoken!(self, session, |wire, inner| wire.close(inner, now, reason), else ());
    }

    fn poll_timeout(&self, session: &Self::Session) -> Option<Instant> {
        spoken!(self, ref session, |wire, inner| wire.poll_timeout(inner), else None)
    }

    fn handle_timeout(&self, session: &mut Self::Session, now: Instant) -> Result<(), ConnectionError> {
        spoken!(self, session, |wire, inner| wire.handle_timeout(inner, now), else Err(ConnectionError::Closed))
    }

    fn status(&self, session: &Self::Session) -> Status {
        spoken!(self, ref session, |wire, inner| wire.status(inner), else Status::Ended)
    }

    fn end(&self, session: &Self::Session) -> Option<ConnectionError> {
        spoken!(self, ref session, |wire, inner| wire.end(inner), else Some(ConnectionError::Closed))
    }

    fn in_flight(&self, session: &Self::Session) -> usize {
        spoken!(self, ref session, |wire, inner| wire.in_flight(inner), else 0)
    }

    fn lifetime_millis(&self, session: &Self::Session) -> u64 {
        spoken!(self, ref session, |wire, inner| wire.lifetime_millis(inner), else 0)
    }

    /// Enough for either.
    fn buffer_sizes(settings: &Settings) -> BufferSizes {
        let (noise, classic) = (N::buffer_sizes(settings), K::buffer_sizes(settings));
        BufferSizes {
            unread: noise.unread.max(classic.unread),
            output: noise.output.max(classic.output),
        }
    }
}

impl<N: ClientWire, K: ClientWire> ClientWire for Wires<N, K> {
    fn request(&self, session: &mut <Self as Wire<Client>>::Session, length: usize) -> Result<OutgoingRequest, Error> {
        spoken!(self, session, |wire, inner| wire.request(inner, length), else Err(ConnectionError::Closed.into()))
    }

    fn ping(&self, session: &mut <Self as Wire<Client>>::Session) -> Result<PingId, Error> {
        spoken!(self, session, |wire, inner| wire.ping(inner), else Err(ConnectionError::Closed.into()))
    }

    fn cancel(&self, session: &mut <Self as Wire<Client>>::Session, id: RequestId) -> Result<(), Error> {
        spoken!(self, session, |wire, inner| wire.cancel(inner, id), else Err(ConnectionError::Closed.into()))
    }

    fn answers_pings(&self) -> bool {
        match (&self.noise, &self.classic) {
            (Some(wire), _) => wire.answers_pings(),
            (None, Some(wire)) => wire.answers_pings(),
            (None, None) => false,
        }
    }

    fn is_confirmed(&self, session: &<Self as Wire<Client>>::Session) -> bool {
        spoken!(self, ref session, |wire, inner| wire.is_confirmed(inner), else false)
    }

    fn fate(&self, session: &<Self as Wire<Client>>::Session) -> Fate {
        spoken!(self, ref session, |wire, inner| wire.fate(inner), else Fate::NotProcessed)
    }

    fn max_in_flight(&self, session: &<Self as Wire<Client>>::Session) -> usize {
        spoken!(self, ref session, |wire, inner| wire.max_in_flight(inner), else 0)
    }

    fn peer_max_message(&self, session: &<Self as Wire<Client>>::Session) -> u32 {
        spoken!(self, ref session, |wire, inner| wire.peer_max_message(inner), else 0)
    }
}

impl<N: ServerWire, K: ServerWire> ServerWire for Wires<N, K> {
    fn answer(
        &self,
        session: &mut <Self as Wire<Server>>::Session,
        id: RequestId,
        length: usize,
    ) -> Result<OutgoingAnswer, Error> {
        spoken!(self, session, |wire, inner| wire.answer(inner, id, length), else Err(ConnectionError::Closed.into()))
    }

    fn refuse(
        &self,
        session: &mut <Self as Wire<Server>>::Session,
        id: RequestId,
        refusal: Refusal,
    ) -> Result<(), Error> {
        spoken!(self, session, |wire, inner| wire.refuse(inner, id, refusal), else Err(ConnectionError::Closed.into()))
    }

    fn key_id(&self, session: &<Self as Wire<Server>>::Session) -> Option<KeyId> {
        spoken!(self, ref session, |wire, inner| wire.key_id(inner), else None)
    }
}
