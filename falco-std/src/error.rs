//! What a caller is told when something went wrong, and whether its request may have been processed.

use core::error;
use core::fmt;
use core::time::Duration;
use std::io;

use falco_core::noise::{ContextTooLong, KeyId, RingError};
use falco_core::{ConnectionError, EntropyError, Misuse, RequestError};

/// Whether a request that failed has reached a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// No handler has seen the request, and none will: sending it again cannot do its work twice.
    NotProcessed,
    /// A handler may have seen the request, may be at it, or may never see it. Nobody on this side can tell.
    MaybeProcessed,
}

/// What went wrong. No error holds a byte of a key or of a message.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The request was refused, by this side before anything was sent, or by the server. The connection was in order.
    Request(RequestError),
    /// The connection ended.
    Connection {
        /// What ended it.
        end: ConnectionError,
        /// What that means for the request.
        fate: Fate,
    },
    /// The operating system reported an error.
    Io {
        /// What was being done.
        doing: &'static str,
        /// The error.
        source: io::Error,
        /// What that means for the request.
        fate: Fate,
    },
    /// A time limit that the caller set ran out.
    TimedOut {
        /// What was being done.
        doing: &'static str,
        /// The limit.
        limit: Duration,
        /// What that means for the request.
        fate: Fate,
    },
    /// There was no entropy; nothing was sent.
    Entropy(EntropyError),
    /// What was set does not go together; nothing was sent.
    Setup(SetupError),
    /// This crate held the core wrong: a mistake here, not the caller's. The connection is given up.
    Misuse(Misuse),
}

impl Error {
    /// Whether the request that failed may have been processed. Errors that befall no request say [`Fate::NotProcessed`].
    #[must_use]
    pub const fn fate(&self) -> Fate {
        match self {
            Self::Request(RequestError::TooLarge { .. }) | Self::Entropy(_) | Self::Setup(_) | Self::Misuse(_) => {
                Fate::NotProcessed
            }
            Self::Request(RequestError::Refused(refusal)) if refusal.is_unprocessed() => Fate::NotProcessed,
            // A refusal whose meaning is not known here promises nothing.
            Self::Request(_) => Fate::MaybeProcessed,
            Self::Connection { fate, .. } | Self::Io { fate, .. } | Self::TimedOut { fate, .. } => *fate,
        }
    }

    pub(crate) const fn io(doing: &'static str, source: io::Error, fate: Fate) -> Self {
        Self::Io { doing, source, fate }
    }

    /// The core's error, with what it means for the request at hand.
    pub(crate) fn from_core(error: falco_core::Error, fate: Fate) -> Self {
        match error {
            falco_core::Error::Request(error) => Self::Request(error),
            falco_core::Error::Connection(end) => Self::Connection { end, fate },
            falco_core::Error::Misuse(misuse) => Self::Misuse(misuse),
            // A kind of error that this crate does not know ends what it befell.
            _ => Self::Connection {
                end: ConnectionError::Closed,
                fate,
            },
        }
    }
}

impl From<EntropyError> for Error {
    fn from(error: EntropyError) -> Self {
        Self::Entropy(error)
    }
}

impl From<SetupError> for Error {
    fn from(error: SetupError) -> Self {
        Self::Setup(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::Connection { end, .. } => write!(f, "the connection ended: {end}"),
            Self::Io { doing, source, .. } => write!(f, "{doing}: {source}"),
            Self::TimedOut { doing, limit, .. } => write!(f, "{doing}: not done within {limit:?}"),
            Self::Entropy(error) => error.fmt(f),
            Self::Setup(error) => error.fmt(f),
            Self::Misuse(misuse) => write!(f, "the core was held wrong: {misuse}"),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Request(error) => Some(error),
            Self::Connection { end, .. } => Some(end),
            Self::Io { source, .. } => Some(source),
            Self::TimedOut { .. } => None,
            Self::Entropy(error) => Some(error),
            Self::Setup(error) => Some(error),
            Self::Misuse(misuse) => Some(misuse),
        }
    }
}

/// Keys or a context that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SetupError {
    /// There is no key.
    NoKey,
    /// The ring has this key already.
    DuplicateKey(KeyId),
    /// The same secret on the noise wire and on the classic wire. The classic wire would give away what the noise wire protects.
    KeyOnBothWires(KeyId),
    /// The ring has as many keys as it has places for.
    TooManyKeys,
    /// The server does not speak the noise wire, which is the only one with a ring.
    NoRing,
    /// The context is too long.
    Context(ContextTooLong),
    /// The operating system gave no random numbers.
    Entropy,
}

impl SetupError {
    pub(crate) const fn of_ring(error: RingError) -> Self {
        match error {
            RingError::Duplicate(id) => Self::DuplicateKey(id),
            RingError::Entropy => Self::Entropy,
            RingError::Full | _ => Self::TooManyKeys,
        }
    }
}

impl fmt::Display for SetupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey => f.write_str("there is no key"),
            Self::DuplicateKey(id) => write!(f, "the key {id} is there already"),
            Self::KeyOnBothWires(id) => write!(f, "the key {id} is to serve on both wires: each needs one of its own"),
            Self::TooManyKeys => f.write_str("there is no place for another key"),
            Self::NoRing => f.write_str("the server speaks the classic wire alone, which has one key"),
            Self::Context(error) => error.fmt(f),
            Self::Entropy => f.write_str("the random number generator failed"),
        }
    }
}

impl error::Error for SetupError {}
