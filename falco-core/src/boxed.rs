//! A wire whose sessions lie in boxes: for a wire that most connections do not speak, so that they do not hold room for it.

use alloc::boxed::Box;
use core::fmt;

use rand_core::TryCryptoRng;

use crate::error::{ConnectionError, EntropyError, Error, Misuse};
use crate::event::Received;
use crate::message::{CloseReason, Fate, KeyId, PingId, Refusal, RequestId, Status};
use crate::outgoing::{OutgoingAnswer, OutgoingRequest};
use crate::settings::Settings;
use crate::time::Instant;
use crate::wire::{BufferSizes, Client, ClientWire, Role, Server, ServerWire, Wire, private};

/// The wire inside, as it is, but for where its sessions lie.
pub struct Boxed<W>(pub(crate) W);

impl<W> private::Sealed for Boxed<W> {}

impl<W: fmt::Debug> fmt::Debug for Boxed<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<R: Role, W: Wire<R>> Wire<R> for Boxed<W> {
    type Session = Box<W::Session>;

    fn start<G: TryCryptoRng + ?Sized>(
        &self,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
    ) -> Result<Self::Session, EntropyError> {
        self.0.start(settings, now, rng).map(Box::new)
    }

    fn recv(
        &self,
        session: &mut Self::Session,
        now: Instant,
        unread: &mut [u8],
    ) -> Result<Received<R::Event>, ConnectionError> {
        self.0.recv(session, now, unread)
    }

    fn end_of_stream(&self, session: &mut Self::Session, now: Instant, unread: &[u8]) -> Result<(), ConnectionError> {
        self.0.end_of_stream(session, now, unread)
    }

    fn transmit(&self, session: &mut Self::Session, now: Instant, out: &mut [u8]) -> Result<usize, Misuse> {
        self.0.transmit(session, now, out)
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
        self.0.seal(session, now, messages, out)
    }

    fn seal_size(&self, session: &Self::Session, length: usize) -> usize {
        self.0.seal_size(session, length)
    }

    fn set_reading(&self, session: &mut Self::Session, now: Instant, reading: bool) {
        self.0.set_reading(session, now, reading);
    }

    fn was_away(&self, session: &mut Self::Session, now: Instant) {
        self.0.was_away(session, now);
    }

    fn close(&self, session: &mut Self::Session, now: Instant, reason: CloseReason) {
        self.0.close(session, now, reason);
    }

    fn poll_timeout(&self, session: &Self::Session) -> Option<Instant> {
        self.0.poll_timeout(session)
    }

    fn handle_timeout(&self, session: &mut Self::Session, now: Instant) -> Result<(), ConnectionError> {
        self.0.handle_timeout(session, now)
    }

    fn status(&self, session: &Self::Session) -> Status {
        self.0.status(session)
    }

    fn end(&self, session: &Self::Session) -> Option<ConnectionError> {
        self.0.end(session)
    }

    fn in_flight(&self, session: &Self::Session) -> usize {
        self.0.in_flight(session)
    }

    fn lifetime_millis(&self, session: &Self::Session) -> u64 {
        self.0.lifetime_millis(session)
    }

    fn buffer_sizes(settings: &Settings) -> BufferSizes {
        W::buffer_sizes(settings)
    }
}

impl<W: ClientWire> ClientWire for Boxed<W> {
    fn request(&self, session: &mut <Self as Wire<Client>>::Session, length: usize) -> Result<OutgoingRequest, Error> {
        self.0.request(session, length)
    }

    fn ping(&self, session: &mut <Self as Wire<Client>>::Session) -> Result<PingId, Error> {
        self.0.ping(session)
    }

    fn cancel(&self, session: &mut <Self as Wire<Client>>::Session, id: RequestId) -> Result<(), Error> {
        self.0.cancel(session, id)
    }

    fn answers_pings(&self) -> bool {
        self.0.answers_pings()
    }

    fn is_confirmed(&self, session: &<Self as Wire<Client>>::Session) -> bool {
        self.0.is_confirmed(session)
    }

    fn fate(&self, session: &<Self as Wire<Client>>::Session) -> Fate {
        self.0.fate(session)
    }

    fn max_in_flight(&self, session: &<Self as Wire<Client>>::Session) -> usize {
        self.0.max_in_flight(session)
    }

    fn peer_max_message(&self, session: &<Self as Wire<Client>>::Session) -> u32 {
        self.0.peer_max_message(session)
    }
}

impl<W: ServerWire> ServerWire for Boxed<W> {
    fn answer(
        &self,
        session: &mut <Self as Wire<Server>>::Session,
        id: RequestId,
        length: usize,
    ) -> Result<OutgoingAnswer, Error> {
        self.0.answer(session, id, length)
    }

    fn refuse(
        &self,
        session: &mut <Self as Wire<Server>>::Session,
        id: RequestId,
        refusal: Refusal,
    ) -> Result<(), Error> {
        self.0.refuse(session, id, refusal)
    }

    fn key_id(&self, session: &<Self as Wire<Server>>::Session) -> Option<KeyId> {
        self.0.key_id(session)
    }
}
