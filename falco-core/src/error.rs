//! What can go wrong, by whose it is: one request's, the connection's, or the caller's. No error holds a byte of a key or of a message.

use core::fmt;
use core::time::Duration;

use crate::message::{Refusal, RequestId};

/// What ended a connection. Sticky: once a connection has ended, every call that could have gone on says so again, in the same words.
///
/// A peer learns nothing of it on the classic wire: its stream is shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The first byte belongs to no wire that is spoken here.
    UnknownWire {
        /// That byte.
        first: u8,
    },
    /// A version of the noise wire that is not spoken here.
    UnknownVersion {
        /// That version.
        found: u8,
    },
    /// The hello does not decrypt: the peer has another key, or none.
    Unauthenticated,
    /// The connection ended, or foreign bytes came, before the server had proved that it has the key.
    ///
    /// It has another key or context, speaks another wire, or is no FalcoTCP server; or it, or a
    /// proxy in front of it, is starting, stopping or full. Nothing tells these apart: a server says
    /// nothing to whom it does not know.
    Refused,
    /// The handshake was not over by its deadline.
    HandshakeTimeout,
    /// No message and no ping came for a lifetime.
    Expired,
    /// A message does not decrypt, although the peer had proved that it has the key: something changed it on its way.
    Tampered,
    /// A hello or a message that was seen before, or one's own came back: something on the way replays or reflects.
    Replayed,
    /// A frame's length is out of range.
    FrameLength {
        /// The length that the frame claims.
        length: u64,
        /// The least there is.
        min: u64,
        /// The most that the settings allow.
        max: u64,
    },
    /// A frame of a type that the wire does not have.
    UnknownType {
        /// Its type.
        found: u8,
    },
    /// An answer came although no request waited for one.
    UnexpectedAnswer,
    /// A request was refused in a way that leaves open which answer belongs to which request, so that none can be trusted after it.
    AnswersOutOfStep,
    /// A frame broke the rules of the wire; the peer was told so.
    Protocol,
    /// The peer says that this side broke the rules of the wire.
    PeerReportsProtocolError,
    /// The peer ended the connection because its lifetime had run out there.
    PeerExpired,
    /// Nothing came for a third of a lifetime after a ping.
    PeerDead,
    /// The peer took nothing of what was to be written for a lifetime.
    Stalled,
    /// The handler failed, and this wire has no other way to say so than to end.
    HandlerFailed,
    /// The key has sealed as often as it may, or its nonces would repeat. It has to be replaced.
    KeyExhausted,
    /// All request numbers of the connection are used; a new connection starts anew.
    NumbersExhausted,
    /// The stream ended inside a record, or without the CLOSE that an orderly end has.
    Truncated,
    /// The stream ended between two frames.
    ClosedByPeer,
    /// The connection was closed on this side, and everything owed was done.
    Closed,
}

/// How long the other side is given to see an end and to end as well, where an end is [graceful](ConnectionError::is_graceful): 1 s.
pub const LINGER: Duration = Duration::from_secs(1);

impl ConnectionError {
    /// Whether what was sent before the end is to arrive: the sending half is shut down, and what still comes is read and dropped until the stream ends or for [`LINGER`]. A plain
    /// close with bytes unread makes TCP reset the connection, which can destroy the last answers. At any other end the stream is closed as it is.
    ///
    /// It says nothing of a peer that has proved nothing: a stranger is waited for by nobody.
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
}

impl fmt::Display for ConnectionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownWire { first } => write!(f, "first byte {first:#04x} belongs to no wire that is spoken here"),
            Self::UnknownVersion { found } => write!(f, "version {found} of the noise wire is not spoken here"),
            Self::Unauthenticated => f.write_str("the hello does not decrypt under our key"),
            Self::Refused => f.write_str(
                "refused before the handshake was done: the server has another key, context or wire, or it (or a proxy before it) is starting, stopping, full, or no FalcoTCP server",
            ),
            Self::HandshakeTimeout => f.write_str("the handshake was not over by its deadline"),
            Self::Expired => f.write_str("no message and no ping for a lifetime"),
            Self::Tampered => f.write_str("a message does not decrypt: it was changed on its way"),
            Self::Replayed => f.write_str("a message came a second time: something replays or reflects the traffic"),
            Self::FrameLength { length, min, max } => {
                write!(f, "a frame claims {length} bytes; allowed are {min} to {max}")
            }
            Self::UnknownType { found } => write!(f, "a frame of unknown type {found:#04x}"),
            Self::UnexpectedAnswer => f.write_str("an answer came that no request waited for"),
            Self::AnswersOutOfStep => {
                f.write_str("after a refused request, answers can no longer be told apart on this wire")
            }
            Self::Protocol => f.write_str("a frame of the peer broke the rules of the wire"),
            Self::PeerReportsProtocolError => {
                f.write_str("the peer says that a frame of ours broke the rules of the wire")
            }
            Self::PeerExpired => f.write_str("the lifetime ran out on the peer's side"),
            Self::PeerDead => f.write_str("the peer does not answer a ping"),
            Self::Stalled => f.write_str("the peer has taken nothing for a lifetime: the write was given up"),
            Self::HandlerFailed => f.write_str("the handler failed"),
            Self::KeyExhausted => f.write_str("the key has sealed as often as it may: replace it"),
            Self::NumbersExhausted => f.write_str("the connection has used all request numbers: open another"),
            Self::Truncated => f.write_str("the connection was cut off without an orderly close"),
            Self::ClosedByPeer => f.write_str("the peer closed the stream"),
            Self::Closed => f.write_str("the connection is closed"),
        }
    }
}

impl core::error::Error for ConnectionError {}

/// What befell one request. The connection lives.
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
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { length, limit } => {
                write!(f, "a message of {length} bytes is over the limit of {limit} bytes")
            }
            Self::Refused(refusal) => write!(f, "the request was refused: {refusal}"),
        }
    }
}

impl core::error::Error for RequestError {}

/// The caller has made a mistake. Nothing has changed, and the numbers say what to mend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misuse {
    /// The body handed to `seal` has not the length that was announced for it.
    BodyLength {
        /// Bytes announced.
        announced: usize,
        /// Bytes given.
        given: usize,
    },
    /// The request or message is one of another connection.
    Foreign,
}

impl fmt::Display for Misuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BodyLength { announced, given } => {
                write!(f, "a body of {given} bytes was given where {announced} were announced")
            }
            Self::Foreign => f.write_str("the request belongs to another connection"),
        }
    }
}

impl core::error::Error for Misuse {}

/// The output slice is too small for the next thing to be sent. Nothing has changed: call again with
/// a larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "two numbers say it all")]
pub struct OutputTooSmall {
    /// Bytes needed.
    pub needed: usize,
    /// Bytes given.
    pub given: usize,
}

impl fmt::Display for OutputTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { needed, given } = self;
        write!(f, "{needed} bytes of output are needed, {given} were given")
    }
}

impl core::error::Error for OutputTooSmall {}

/// Why a client's call began nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The request cannot go. The connection lives.
    Request(RequestError),
    /// Either side is closing: the connection takes nothing new, and finishes what was begun.
    Closing,
    /// What ended the connection.
    Connection(ConnectionError),
    /// The caller's mistake.
    Misuse(Misuse),
}

/// Why a server's call did not give a request its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplyError {
    /// The client reads no answer of this size. The request still waits for another, or to be refused.
    Request(RequestError),
    /// The request waits for nothing: it has had its end, or its answer has begun, or it is not whole.
    NotWaiting(RequestId),
    /// As many refusals are owed as the connection remembers: call `seal` or `poll_transmit`, then this
    /// again.
    TransmitFirst,
    /// What ended the connection.
    Connection(ConnectionError),
    /// The caller's mistake.
    Misuse(Misuse),
}

/// Why nothing was sealed although there was a message to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SealError {
    /// The output does not hold the least that can go.
    OutputTooSmall(OutputTooSmall),
    /// This request has had its end: drop the answer to it.
    NotWaiting(RequestId),
    /// The connection was asked to close before this request began.
    Closing,
    /// What ended the connection.
    Connection(ConnectionError),
    /// The caller's mistake.
    Misuse(Misuse),
}

/// Makes one error of others, and prints it in their words.
macro_rules! made_of {
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

made_of!(Error: Request(RequestError), Connection(ConnectionError), Misuse(Misuse);
    Closing => "the connection is closing and takes nothing new");
made_of!(ReplyError: Request(RequestError), Connection(ConnectionError), Misuse(Misuse);
    NotWaiting(id) => "request {} is not waiting for an answer",
    TransmitFirst => "what is owed has to be taken first");
made_of!(SealError: OutputTooSmall(OutputTooSmall), Connection(ConnectionError), Misuse(Misuse);
    NotWaiting(id) => "request {} is not waiting for an answer",
    Closing => "the connection is closing and takes nothing new");

/// The random number generator that the caller passed in failed. Without entropy nothing is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EntropyError;

impl EntropyError {
    /// For adapters that draw entropy of their own.
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
