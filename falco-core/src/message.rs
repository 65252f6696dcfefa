//! Types without behaviour: ids of requests, pings and keys, refusals, reasons, states.

use core::fmt;

/// Identifies a request and its connection. Other connections reject it as
/// [`Misuse::Foreign`](crate::Misuse::Foreign).
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

    /// A number that is unique among the requests of all connections with different serials.
    #[cfg(feature = "alloc")]
    #[expect(clippy::as_conversions, reason = "`From` is not const")]
    pub(crate) const fn key(self) -> u64 {
        (self.serial as u64) << 32 | self.number as u64
    }

    /// The id whose [`key`](Self::key) this is.
    #[cfg(all(feature = "alloc", feature = "streams"))]
    pub(crate) const fn from_key(key: u64) -> Self {
        let [a, b, c, d, number @ ..] = key.to_be_bytes();
        Self::new(u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes(number))
    }

    #[inline]
    pub(crate) const fn is_of(self, serial: u32) -> bool {
        self.serial == serial
    }
}

/// Bytes of a key id.
pub(crate) const KEY_ID_LENGTH: usize = 8;

/// Eight bytes that are derived from a key and identify it. They are sent in clear, and reveal
/// nothing about the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId([u8; KEY_ID_LENGTH]);

impl KeyId {
    /// The eight bytes, as they are sent in a hello.
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

/// The number of a ping within its connection, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PingId(pub(crate) u64);

impl PingId {
    /// Whether a PONG with the number `pong` answers this ping: it also answers all earlier ones.
    #[inline]
    #[must_use]
    pub const fn is_answered_by(self, pong: Self) -> bool {
        self.0 <= pong.0
    }
}

/// Why a server did not answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The server has reached a limit, or the handler returned this and has done nothing. The
    /// request was not processed and may be sent again.
    Busy,
    /// The request is larger than the server reads. It was not processed.
    TooLarge,
    /// The handler failed. It may have done part of its work.
    Failed,
    /// The client cancelled the request. The handler may have done part of its work.
    Cancelled,
    /// The request was not processed and may be sent again.
    NotProcessed,
    /// The handler has done its work, but the answer is larger than the client reads or the server
    /// sends, or too many answers wait at the server.
    AnswerTooLarge,
}

impl Refusal {
    /// Whether the request was certainly not processed, so that it is safe to send again. Either it
    /// reached no handler, or the handler returned this refusal to report that it has done nothing.
    #[must_use]
    pub const fn is_unprocessed(self) -> bool {
        matches!(self, Self::Busy | Self::TooLarge | Self::NotProcessed)
    }

    /// What to report in place of this refusal, for a request that has `reached` its handler or
    /// not. A request that has reached it may have been processed, whatever the refusal says.
    #[cfg(feature = "streams")]
    pub(crate) const fn of_reached(self, reached: bool) -> Self {
        if reached && self.is_unprocessed() {
            Self::Failed
        } else {
            self
        }
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

/// A handler may return a refusal as its error. The client then receives that refusal.
impl core::error::Error for Refusal {}

/// Whether a request that failed may have been processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// No handler has processed the request and none will. It is safe to send again.
    NotProcessed,
    /// A handler may have processed the request, may be running, or may never receive it. This side
    /// cannot know.
    MaybeProcessed,
}

impl Fate {
    /// The fate of any ping that has failed: no handler processes a ping.
    pub const OF_PING: Self = Self::NotProcessed;
}

/// Why a side closes a connection. The classic wire does not send the reason: the stream only ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// The side has no more requests.
    Done,
    /// The process shuts down.
    ShuttingDown,
    /// The key was retired.
    KeyRetired,
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The handshake is not complete.
    Handshaking,
    /// The handshake is complete. Messages go both ways.
    Established,
    /// Closing: requests that have begun are completed, and new ones are not accepted.
    Draining,
    /// Ended. Send pending output, then close the stream.
    Ended,
}
