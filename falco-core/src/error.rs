//! Errors of one request, of a connection, and of API misuse. None contains bytes of a key or a
//! message.

use core::fmt;
use core::time::Duration;

use crate::counted::bytes;
use crate::message::{Fate, Refusal, RequestId};
use crate::time::Span;

/// What ended a connection. Later calls return the same error again.
///
/// On the classic wire the peer is not notified: its stream is shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The first byte belongs to no wire that this side speaks.
    UnknownWire {
        /// That byte.
        first: u8,
    },
    /// A version of the noise wire that this side does not speak.
    UnknownVersion {
        /// That version.
        found: u8,
    },
    /// The hello does not decrypt: the peer has another key or context, or no key.
    Unauthenticated,
    /// The connection ended, or other bytes than those of the handshake arrived, before the server
    /// proved that it has the key.
    ///
    /// The server has another key or context, speaks another wire, or is not a FalcoTCP server; or
    /// it, or a proxy in front of it, is starting, stopping or full. A client cannot tell these
    /// apart: a server sends nothing to an unauthenticated client.
    Refused,
    /// The handshake did not complete before its deadline.
    HandshakeTimeout,
    /// The idle timeout (`lifetime`) passed without a message or a ping. On the noise wire any
    /// received record restarts it.
    Expired,
    /// A message does not decrypt although the peer has proved that it has the key: it was modified
    /// in transit, or the caller of `recv` has not dropped exactly the consumed bytes.
    Tampered,
    /// A hello or a message arrived that was received before or was sent by this side: it was
    /// replayed or reflected.
    Replayed,
    /// A frame's length is out of range.
    FrameLength {
        /// The length that the frame claims.
        length: u64,
        /// The least that the wire allows.
        min: u32,
        /// The most that the settings allow.
        max: u64,
    },
    /// A frame of a type that the wire does not have.
    UnknownType {
        /// Its type.
        found: u8,
    },
    /// An answer arrived although no request was in flight.
    UnexpectedAnswer,
    /// The server sent an empty reply in place of an answer. On the classic wire it is then unknown
    /// which later answer belongs to which request.
    AnswersOutOfStep,
    /// A frame broke the rules of the wire. The peer was notified.
    Protocol,
    /// The peer reports that this side broke the rules of the wire.
    PeerReportsProtocolError,
    /// The peer ended the connection because its own idle timeout had passed.
    PeerExpired,
    /// Nothing arrived for a third of a lifetime after a ping.
    PeerDead,
    /// A write made no progress for a lifetime.
    Stalled,
    /// The handler failed. The classic wire can report that only by ending the connection.
    HandlerFailed,
    /// The key has reached its seal limit, or a nonce would repeat. Replace the key.
    KeyExhausted,
    /// All request ids of the connection are used. Make a new connection. Only the classic wire
    /// returns this: on the noise wire a client that has no ids left closes the connection.
    RequestIdsExhausted,
    /// The stream ended inside a record, or without a CLOSE.
    Truncated,
    /// The stream ended between two frames.
    ClosedByPeer,
    /// This side closed the connection, and all requests are completed.
    Closed,
}

/// How long to wait for the peer to end its stream as well after a
/// [graceful](ConnectionError::is_graceful) end: 1 s.
pub(crate) const LINGER: Duration = Duration::from_millis(LINGER_SPAN.as_millis());
pub(crate) const LINGER_SPAN: Span = Span::from_millis_const(1_000);

impl ConnectionError {
    /// Whether what was sent before the end should arrive: shut down the sending half, then read
    /// and drop until the stream ends, for [`Settings::LINGER`](crate::Settings::LINGER) at most.
    /// Closing with unread bytes makes TCP reset the connection, which can destroy the last
    /// answers. After any other end, close the stream.
    ///
    /// For an unauthenticated client, close the stream in any case.
    ///
    /// ```
    /// use falco_core::ConnectionError;
    ///
    /// assert!(ConnectionError::Closed.is_graceful());
    /// assert!(!ConnectionError::Tampered.is_graceful());
    /// ```
    #[must_use]
    pub const fn is_graceful(self) -> bool {
        matches!(
            self,
            Self::Closed | Self::Expired | Self::HandlerFailed | Self::PeerDead | Self::Protocol
        )
    }

    /// Whether this end still holds for the caller if the stream has not accepted the last bytes.
    /// `with_answer` says whether they may contain a server's answer, `input_ended` whether the
    /// peer had ended its half of the stream.
    ///
    /// [`Closed`](Self::Closed) is an orderly end, so it does not hold if an answer was lost, or if
    /// the peer left before it could receive this side's CLOSE. Report the failed write instead.
    /// Every other end is an error already.
    ///
    /// ```
    /// use falco_core::ConnectionError;
    ///
    /// assert!(ConnectionError::Closed.holds_after_loss(false, false));
    /// assert!(!ConnectionError::Closed.holds_after_loss(true, false));
    /// assert!(!ConnectionError::Closed.holds_after_loss(false, true));
    /// assert!(ConnectionError::Expired.holds_after_loss(true, true));
    /// ```
    #[must_use]
    pub const fn holds_after_loss(self, with_answer: bool, input_ended: bool) -> bool {
        !self.is_orderly() || !(with_answer || input_ended)
    }

    /// Whether this is the orderly end, which is no error for a driver that closes or serves a
    /// connection: this side closed it, and all requests are completed.
    ///
    /// ```
    /// use falco_core::ConnectionError;
    ///
    /// assert!(ConnectionError::Closed.is_orderly());
    /// assert!(!ConnectionError::ClosedByPeer.is_orderly());
    /// ```
    #[must_use]
    pub const fn is_orderly(self) -> bool {
        matches!(self, Self::Closed)
    }

    /// What ends a connection whose stream has failed while bytes were written, and that has not
    /// ended otherwise. `None` before its input has ended as well (`input_ended`): the bytes that
    /// have arrived may contain the reason, such as a CLOSE.
    ///
    /// ```
    /// use falco_core::ConnectionError;
    ///
    /// assert_eq!(ConnectionError::of_failed_output(false), None);
    /// assert_eq!(ConnectionError::of_failed_output(true), Some(ConnectionError::Truncated));
    /// ```
    #[must_use]
    pub const fn of_failed_output(input_ended: bool) -> Option<Self> {
        if input_ended { Some(Self::Truncated) } else { None }
    }

    /// Whether the handshake was refused: the connection ended before the server proved that it has
    /// the key. See [`Refused`](Self::Refused) for the possible causes.
    ///
    /// ```
    /// use falco_core::ConnectionError;
    ///
    /// assert!(ConnectionError::Refused.is_refused());
    /// assert!(!ConnectionError::HandshakeTimeout.is_refused());
    /// ```
    #[must_use]
    pub const fn is_refused(self) -> bool {
        matches!(self, Self::Refused)
    }
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownWire { first } => write!(f, "the first byte, {first:#04x}, belongs to no wire that this side accepts"),
            Self::UnknownVersion { found } => write!(f, "version {found} of the noise wire is not supported"),
            Self::Unauthenticated => f.write_str("the hello does not decrypt: the client has another key or context"),
            Self::Refused => f.write_str(
                "the handshake was refused: the server has another key, context or wire, or is not a FalcoTCP server; or the server, or a proxy in front of it, is starting, stopping or full",
            ),
            Self::HandshakeTimeout => f.write_str("the handshake did not complete before its deadline"),
            Self::Expired => f.write_str("the idle timeout (lifetime) passed without a message or a ping"),
            Self::Tampered => f.write_str("a message does not decrypt: it was modified in transit"),
            Self::Replayed => f.write_str("a message was replayed or reflected"),
            Self::FrameLength { length, min, max } => {
                write!(f, "a frame claims {}; {min} to {max} are allowed", bytes(*length))
            }
            Self::UnknownType { found } => write!(f, "a frame of unknown type {found:#04x}"),
            Self::UnexpectedAnswer => f.write_str("an answer arrived although no request was in flight"),
            Self::AnswersOutOfStep => {
                f.write_str("the server sent an empty reply, and on this wire later answers can no longer be matched to requests")
            }
            Self::Protocol => f.write_str("a frame of the peer broke the rules of the wire"),
            Self::PeerReportsProtocolError => {
                f.write_str("the peer reports that a frame of this side broke the rules of the wire")
            }
            Self::PeerExpired => f.write_str("the peer ended the connection because its idle timeout (lifetime) passed"),
            Self::PeerDead => f.write_str("the peer did not answer a ping"),
            Self::Stalled => f.write_str("a write made no progress for one idle timeout (lifetime)"),
            Self::HandlerFailed => f.write_str("the handler failed"),
            Self::KeyExhausted => f.write_str("the key has reached its limit of messages: replace the key"),
            Self::RequestIdsExhausted => f.write_str("all request ids of the connection are used: open another connection"),
            Self::Truncated => f.write_str("the connection was cut off without an orderly close"),
            Self::ClosedByPeer => f.write_str("the peer closed the stream"),
            Self::Closed => f.write_str("the connection is closed"),
        }
    }
}

impl core::error::Error for ConnectionError {}

/// What is known of a request whose connection ended before it completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LostRequest {
    /// What ended the connection.
    pub end: ConnectionError,
    /// Whether the request may have been processed.
    pub fate: Fate,
}

impl LostRequest {
    /// The connection was dropped and could not report the outcome of the request, for example
    /// because its stream panicked or its runtime was shut down.
    pub const DROPPED: Self = Self::after(ConnectionError::Closed);

    /// The connection has ended with `end`, and it is not known whether the request was processed.
    #[must_use]
    pub const fn after(end: ConnectionError) -> Self {
        let fate = Fate::MaybeProcessed;
        Self { end, fate }
    }
}

/// Why one request failed. The connection stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// The body is larger than a message may be. Nothing was sent.
    TooLarge {
        /// Bytes in the body.
        length: u64,
        /// Bytes that a message may have.
        limit: u64,
    },
    /// The server refused it.
    Refused(Refusal),
    /// The other side takes no open bodies. Nothing was sent.
    #[cfg(feature = "streams")]
    NoOpenBodies,
}

impl RequestError {
    /// Whether the request may have been processed.
    ///
    /// ```
    /// use falco_core::{Fate, Refusal, RequestError};
    ///
    /// let too_large = RequestError::TooLarge { length: 9, limit: 8 };
    /// assert_eq!(too_large.fate(), Fate::NotProcessed);
    /// assert_eq!(RequestError::Refused(Refusal::Busy).fate(), Fate::NotProcessed);
    /// assert_eq!(RequestError::Refused(Refusal::Failed).fate(), Fate::MaybeProcessed);
    /// ```
    #[must_use]
    pub const fn fate(self) -> Fate {
        match self {
            Self::TooLarge { .. } => Fate::NotProcessed,
            #[cfg(feature = "streams")]
            Self::NoOpenBodies => Fate::NotProcessed,
            Self::Refused(refusal) if refusal.is_unprocessed() => Fate::NotProcessed,
            Self::Refused(_) => Fate::MaybeProcessed,
        }
    }
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { length, limit } => {
                write!(
                    f,
                    "a message of {} is over the limit of {}",
                    bytes(*length),
                    bytes(*limit)
                )
            }
            Self::Refused(refusal) => write!(f, "the request was refused: {refusal}"),
            #[cfg(feature = "streams")]
            Self::NoOpenBodies => f.write_str("the other side takes no bodies of unknown length (streams)"),
        }
    }
}

impl core::error::Error for RequestError {}

/// API misuse: a call that the API forbids. It changes no state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misuse {
    /// The body passed to `seal` does not have the announced length.
    BodyLength {
        /// Bytes announced.
        announced: usize,
        /// Bytes given.
        given: usize,
    },
    /// The request or message belongs to another connection.
    Foreign,
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BodyLength { announced, given } => {
                write!(
                    f,
                    "the body has {}, but its announced length is {announced}",
                    bytes(*given)
                )
            }
            Self::Foreign => f.write_str("the request or message belongs to another connection"),
        }
    }
}

impl core::error::Error for Misuse {}

/// The output is too small for the next bytes to send. No state changed: call again with a larger
/// slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "it has only these two numbers")]
pub struct OutputTooSmall {
    /// Bytes needed.
    pub needed: usize,
    /// Bytes given.
    pub given: usize,
}

impl fmt::Display for OutputTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, given } = self;
        write!(f, "the output needs {} and has {given}", bytes(*needed))
    }
}

impl core::error::Error for OutputTooSmall {}

/// Why a call of a client failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The request cannot be sent. The connection stays open.
    Request(RequestError),
    /// One side is closing: the connection accepts no new requests and completes those that have
    /// begun.
    Closing,
    /// What ended the connection.
    Connection(ConnectionError),
    /// The API forbids this call.
    Misuse(Misuse),
}

impl Error {
    /// What ends the connection for a caller that wants no more than this request or ping: while
    /// one side is closing, that is [`ConnectionError::Closed`], although requests that have begun
    /// still complete. `None` if only this call has failed.
    ///
    /// ```
    /// use falco_core::{ConnectionError, Error, Misuse};
    ///
    /// assert_eq!(Error::Closing.end(), Some(ConnectionError::Closed));
    /// let expired = ConnectionError::Expired;
    /// assert_eq!(Error::Connection(expired).end(), Some(expired));
    /// assert_eq!(Error::Misuse(Misuse::Foreign).end(), None);
    /// ```
    #[must_use]
    pub const fn end(self) -> Option<ConnectionError> {
        match self {
            Self::Closing => Some(ConnectionError::Closed),
            Self::Connection(end) => Some(end),
            Self::Request(_) | Self::Misuse(_) => None,
        }
    }
}

/// Why a call of a server did not complete a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplyError {
    /// The answer is larger than the client accepts or than this side may send. The request is
    /// still open, for another answer or a refusal.
    Request(RequestError),
    /// The request is not open: it is completed, its answer has begun, or it has arrived only in
    /// part.
    NotWaiting(RequestId),
    /// Too many refusals are pending: call `seal` or `poll_transmit`, then repeat the call.
    TransmitFirst,
    /// What ended the connection.
    Connection(ConnectionError),
    /// The API forbids this call.
    Misuse(Misuse),
}

impl ReplyError {
    /// Whether the same call may succeed after output was sealed. If
    /// [`refuse`](crate::ServerConnection::refuse) returns another error, the request has completed
    /// or cannot be refused any more, and there is nothing left to do.
    #[must_use]
    pub const fn waits_for_output(self) -> bool {
        matches!(self, Self::TransmitFirst)
    }
}

/// Why nothing was sealed although there was a message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealError {
    /// The output is too small for the next bytes to send.
    OutputTooSmall(OutputTooSmall),
    /// This request is completed, or another answer to it has begun: drop this answer.
    NotWaiting(RequestId),
    /// The connection was asked to close before this request began.
    Closing,
    /// What ended the connection.
    Connection(ConnectionError),
    /// The API forbids this call.
    Misuse(Misuse),
}

/// Implements `From`, `Display` and `Error` for an error that wraps others.
macro_rules! wraps {
    ($error:ident: $($variant:ident($of:ty)),*; $($unit:ident $(($bound:ident))? => $words:literal),*) => {
        $(impl From<$of> for $error {
            fn from(error: $of) -> Self {
                Self::$variant(error)
            }
        })*

        impl fmt::Display for $error {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant(error) => error.fmt(f),)*
                    $(Self::$unit $(($bound))? => write!(f, $words $(, $bound.number())?),)*
                }
            }
        }

        impl core::error::Error for $error {}
    };
}

wraps!(Error: Request(RequestError), Connection(ConnectionError), Misuse(Misuse);
    Closing => "the connection is closing and accepts no new requests");
wraps!(ReplyError: Request(RequestError), Connection(ConnectionError), Misuse(Misuse);
    NotWaiting(id) => "request {} is not waiting for an answer",
    TransmitFirst => "too many refusals are pending: call `seal` or `poll_transmit`, then repeat the call");
wraps!(SealError: OutputTooSmall(OutputTooSmall), Connection(ConnectionError), Misuse(Misuse);
    NotWaiting(id) => "request {} is not waiting for an answer",
    Closing => "the connection is closing and accepts no new requests");

/// The random number generator of the caller failed. Nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntropyError;

impl EntropyError {
    /// For an adapter with its own source of entropy.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Default for EntropyError {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for EntropyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the random number generator failed")
    }
}

impl core::error::Error for EntropyError {}
