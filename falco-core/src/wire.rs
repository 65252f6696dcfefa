//! The wall between the machine, which is the same on every wire and on both sides of it, and the wires. Sealed: the wires are those of this
//! crate.

use core::fmt::Debug;

use rand_core::TryCryptoRng;

use crate::error::{ConnectionError, EntropyError, Error, Misuse};
use crate::event::{ClientEvent, Received, ServerEvent};
use crate::message::{CloseReason, Fate, KeyId, PingId, Refusal, RequestId, Status};
use crate::outgoing::{Outgoing, OutgoingAnswer, OutgoingRequest};
use crate::settings::Settings;
use crate::time::Instant;

pub(crate) mod private {
    /// Keeps the traits of this file this crate's own.
    #[allow(unnameable_types, reason = "that is what seals")]
    pub trait Sealed {}
}

/// Which side of a connection a machine is: [`Client`] or [`Server`].
pub trait Role: private::Sealed {
    /// What happens to this side.
    type Event: Debug + Clone + PartialEq + Eq;
    /// What this side sends.
    type Outgoing: Debug + Outgoing;
}

/// The side that connects, sends requests and gets answers.
#[derive(Debug)]
#[non_exhaustive]
pub struct Client;

/// The side that is connected to, gets requests and sends answers.
#[derive(Debug)]
#[non_exhaustive]
pub struct Server;

impl private::Sealed for Client {}
impl private::Sealed for Server {}

impl Role for Client {
    type Event = ClientEvent;
    type Outgoing = OutgoingRequest;
}

impl Role for Server {
    type Event = ServerEvent;
    type Outgoing = OutgoingAnswer;
}

/// The least memory with which a connection gets on, whatever its peer sends: [`Connection::buffer_sizes`](crate::Connection::buffer_sizes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BufferSizes {
    /// Bytes for what has come and is not taken.
    pub unread: usize,
    /// Bytes for what is sealed and not sent.
    pub output: usize,
}

/// A key with the wire on which it is used in the role `R`, such as [`ClassicKey`](crate::ClassicKey). What the methods do is told at
/// [`Connection`](crate::Connection), which calls them and adds nothing that a wire could see.
#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "told at Connection; the trait is sealed"
)]
pub trait Wire<R: Role>: private::Sealed {
    /// What is remembered of one connection.
    type Session: Debug;

    fn start<G: TryCryptoRng + ?Sized>(
        &self,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
    ) -> Result<Self::Session, EntropyError>;
    fn recv(
        &self,
        session: &mut Self::Session,
        now: Instant,
        unread: &mut [u8],
    ) -> Result<Received<R::Event>, ConnectionError>;
    fn end_of_stream(&self, session: &mut Self::Session, now: Instant, unread: &[u8]) -> Result<(), ConnectionError>;
    fn transmit(&self, session: &mut Self::Session, now: Instant, out: &mut [u8]) -> Result<usize, Misuse>;
    fn seal<'m, I>(
        &self,
        session: &mut Self::Session,
        now: Instant,
        messages: I,
        out: &mut [u8],
    ) -> Result<usize, Error>
    where
        I: IntoIterator<Item = (&'m mut R::Outgoing, &'m [u8])>,
        R::Outgoing: 'm;
    fn seal_size(&self, session: &Self::Session, length: usize) -> usize;
    fn set_reading(&self, session: &mut Self::Session, now: Instant, reading: bool);
    fn was_away(&self, session: &mut Self::Session, now: Instant);
    fn close(&self, session: &mut Self::Session, now: Instant, reason: CloseReason);
    fn poll_timeout(&self, session: &Self::Session) -> Option<Instant>;
    fn handle_timeout(&self, session: &mut Self::Session, now: Instant) -> Result<(), ConnectionError>;
    fn status(&self, session: &Self::Session) -> Status;
    fn end(&self, session: &Self::Session) -> Option<ConnectionError>;
    fn in_flight(&self, session: &Self::Session) -> usize;
    fn lifetime_millis(&self, session: &Self::Session) -> u64;
    fn buffer_sizes(settings: &Settings) -> BufferSizes;
}

/// A wire on which one can be a client.
#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "told at Connection; the trait is sealed"
)]
pub trait ClientWire: Wire<Client> {
    fn request(&self, session: &mut Self::Session, length: usize) -> Result<OutgoingRequest, Error>;
    fn ping(&self, session: &mut Self::Session) -> Result<PingId, Error>;
    fn cancel(&self, session: &mut Self::Session, id: RequestId) -> Result<(), Error>;
    fn answers_pings(&self) -> bool;
    fn is_confirmed(&self, session: &Self::Session) -> bool;
    fn fate(&self, session: &Self::Session) -> Fate;
    fn max_in_flight(&self, session: &Self::Session) -> usize;
    fn peer_max_message(&self, session: &Self::Session) -> u32;
}

/// A wire on which one can be a server.
#[allow(
    missing_docs,
    clippy::missing_errors_doc,
    reason = "told at Connection; the trait is sealed"
)]
pub trait ServerWire: Wire<Server> {
    fn answer(&self, session: &mut Self::Session, id: RequestId, length: usize) -> Result<OutgoingAnswer, Error>;
    fn refuse(&self, session: &mut Self::Session, id: RequestId, refusal: Refusal) -> Result<(), Error>;
    fn key_id(&self, session: &Self::Session) -> Option<KeyId>;
}
