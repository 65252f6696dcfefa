//! The words of a connection: numbers of requests and pings, refusals, reasons, statuses. Nothing
//! here does anything.

use core::fmt;

/// Which request of which connection. A number of one connection means nothing to another, and is
/// refused there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    serial: u32,
    number: u32,
}

impl RequestId {
    #[inline]
    pub(crate) const fn new(serial: u32, number: u32) -> Self {
        Self { serial, number }
    }

    /// The number of the request within its connection, from 1.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.number
    }

    #[inline]
    pub(crate) const fn is_of(self, serial: u32) -> bool {
        self.serial == serial
    }
}

/// Bytes of a key id.
pub(crate) const KEY_ID_LENGTH: usize = 8;

/// The bytes by which a key is named in the clear, derived from it; they say nothing of the secret.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; KEY_ID_LENGTH]);

impl KeyId {
    /// The eight bytes, as they stand in a hello.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; KEY_ID_LENGTH] {
        &self.0
    }

    #[cfg(feature = "noise")]
    pub(crate) const fn from_bytes(bytes: [u8; KEY_ID_LENGTH]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// Which ping of a connection, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PingId(pub(crate) u64);

/// Why a server did not answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The server has as much to do as it allows. It never reached a handler and may be sent again.
    Busy,
    /// The request is larger than the server reads. It never reached a handler.
    TooLarge,
    /// The handler failed. It may have done part of its work.
    Failed,
    /// The client cancelled it. The handler may have done part of its work.
    Cancelled,
    /// It never reached a handler and may be sent again.
    NotProcessed,
    /// The handler has done its work, but the answer is larger than the client reads or the server
    /// sends.
    AnswerTooLarge,
}

impl Refusal {
    /// Whether the request is known never to have reached a handler, so that sending it again does
    /// nothing twice.
    #[must_use]
    pub const fn is_unprocessed(self) -> bool {
        matches!(self, Self::Busy | Self::TooLarge | Self::NotProcessed)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Busy => "the server is busy",
            Self::TooLarge => "the request is too large for the server",
            Self::Failed => "the handler failed",
            Self::Cancelled => "it was cancelled",
            Self::NotProcessed => "it was not processed",
            Self::AnswerTooLarge => "the answer is too large",
        })
    }
}

/// So that a handler may fail with it: its request is then refused in these words.
impl core::error::Error for Refusal {}

/// Whether a request that failed has reached a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// No handler has seen the request, and none will: sending it again cannot do its work twice.
    NotProcessed,
    /// A handler may have seen the request, may be at it, or may never see it. Nobody on this side
    /// can tell.
    MaybeProcessed,
}

/// Why a connection is closed in good order. The classic wire has no word for it; there the stream
/// just ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// There is nothing more to say.
    Done,
    /// The process stops.
    ShuttingDown,
    /// The key was taken out of service.
    KeyRetired,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The peer has not yet proved that it has the key.
    Handshaking,
    /// Messages go both ways.
    Established,
    /// Closing: what was begun is being finished, nothing new is taken.
    Draining,
    /// Over. Take away what is still owed, then close the stream.
    Ended,
}
