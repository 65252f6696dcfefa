//! The interface between [`Connection`](crate::Connection), which is the same for every wire and
//! both roles, and the wires. `Connection` documents the methods. Only `has_pending` has a default:
//! `WireSession` has to forward every method, and the compiler would not notice if it did not
//! forward one that has a default. The traits are public because [`KeyRef`](crate::KeyRef) builds
//! on them. They cannot be named outside of this crate.

use core::fmt::Debug;

use rand_core::TryCryptoRng;

use crate::error::{ConnectionError, EntropyError, Error, OutputTooSmall, ReplyError, SealError};
use crate::event::Received;
use crate::message::{CloseReason, Fate, KeyId, PingId, Refusal, RequestId, Status};
use crate::outgoing::{OutgoingAnswer, OutgoingRequest};
use crate::role::Role;
use crate::settings::Settings;
use crate::time::Instant;
use crate::unread::Unread;

/// The smallest buffers with which a connection works, independent of what its peer sends:
/// [`Connection::buffer_sizes`](crate::Connection::buffer_sizes).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BufferSizes {
    /// Size of the buffer for unread bytes, in bytes.
    pub unread: usize,
    /// Size of the buffer for output, in bytes.
    pub output: usize,
}

impl BufferSizes {
    /// Bytes of a request of the classic wire with a body of `body` bytes, which is 37 more, or
    /// `usize::MAX` if that overflows. For the largest message that fits a given buffer.
    #[must_use]
    pub const fn classic_request(body: usize) -> usize {
        crate::classic::request_size(body)
    }
}

/// The calls that need the key, in the role `R`. Each wire implements it for its key.
#[allow(unnameable_types, reason = "this seals the trait")]
pub trait Keyed<R: Role> {
    /// The state of one connection.
    type Session: Session;

    fn start<G: TryCryptoRng + ?Sized>(
        &self,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
    ) -> Result<Self::Session, EntropyError>;
    fn recv<'u>(
        &self,
        session: &mut Self::Session,
        now: Instant,
        unread: Unread<'u, '_>,
    ) -> Result<Received<R::Event<'u>, R::Wait>, ConnectionError>;
    fn transmit(&self, session: &mut Self::Session, now: Instant, out: &mut [u8]) -> Result<usize, OutputTooSmall>;
    fn seal<'m, I>(
        &self,
        session: &mut Self::Session,
        now: Instant,
        messages: I,
        out: &mut [u8],
    ) -> Result<usize, SealError>
    where
        I: IntoIterator<Item = (&'m mut R::Outgoing, &'m [u8])>,
        R::Outgoing: 'm;
    fn buffer_sizes(settings: &Settings) -> BufferSizes;
}

/// The calls that need no key, in both roles.
#[allow(unnameable_types, reason = "this seals the trait")]
pub trait Session: Debug {
    fn end_of_stream(&mut self, now: Instant, unread: &[u8]) -> Result<(), ConnectionError>;
    fn seal_size(&self, length: usize) -> usize;
    /// Whether there may be pending output.
    #[cfg(feature = "alloc")]
    fn has_pending(&self) -> bool {
        true
    }
    fn set_reading(&mut self, now: Instant, reading: bool);
    /// The stream has accepted a whole output, and more messages are queued.
    fn note_taken(&mut self, now: Instant);
    /// Releases memory that is not needed while no request is in flight.
    #[cfg(feature = "alloc")]
    fn shrink(&mut self);
    fn handle_late_poll(&mut self, now: Instant);
    fn close(&mut self, now: Instant, reason: CloseReason);
    fn poll_timeout(&self) -> Option<Instant>;
    fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectionError>;
    fn status(&self) -> Status;
    fn end(&self) -> Option<ConnectionError>;
    /// Whether the handshake has completed. This stays so after the end.
    fn was_established(&self) -> bool;
    fn in_flight(&self) -> usize;
    fn lifetime_millis(&self) -> u64;
    fn channel_binding(&self) -> Option<&[u8; 32]>;
    #[cfg(feature = "streams")]
    fn credit(&mut self, id: RequestId, bytes: u32, waits: bool) -> Result<(), Error>;
    #[cfg(feature = "streams")]
    fn sendable(&self, id: RequestId) -> u32;
    #[cfg(feature = "streams")]
    fn peer_window(&self) -> u32;
    #[cfg(feature = "streams")]
    fn window(&self) -> u32;
}

/// The calls of a client that need no key.
#[allow(unnameable_types, reason = "this seals the trait")]
pub trait Client: Session {
    fn request(&mut self, length: usize) -> Result<OutgoingRequest, Error>;
    #[cfg(feature = "streams")]
    fn open_request(&mut self) -> Result<OutgoingRequest, Error>;
    #[cfg(feature = "streams")]
    fn peer_max_open(&self) -> u16;
    fn ping(&mut self) -> Result<PingId, Error>;
    fn cancel(&mut self, id: RequestId) -> Result<(), Error>;
    fn answers_pings(&self) -> bool;
    fn is_confirmed(&self) -> bool;
    /// Whether this side has closed the connection: by a call of `close`, or because it has no
    /// request ids left.
    fn has_closed(&self) -> bool;
    fn fate(&self) -> Fate;
    fn max_in_flight(&self) -> usize;
    fn peer_max_message(&self) -> u32;
}

/// The calls of a server that need no key.
#[allow(unnameable_types, reason = "this seals the trait")]
pub trait Server: Session {
    fn answer(&mut self, id: RequestId, length: usize) -> Result<OutgoingAnswer, ReplyError>;
    #[cfg(feature = "streams")]
    fn open_answer(&mut self, id: RequestId) -> Result<OutgoingAnswer, ReplyError>;
    #[cfg(feature = "streams")]
    fn discard(&mut self, id: RequestId) -> Result<(), Error>;
    fn refuse(&mut self, id: RequestId, refusal: Refusal) -> Result<(), ReplyError>;
    fn refuses(&self) -> bool;
    fn key_id(&self) -> Option<KeyId>;
}
