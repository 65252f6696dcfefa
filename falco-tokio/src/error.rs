//! The errors of calls. Each says whether the request may have been processed.

use core::error;
use core::fmt;
use core::time::Duration;
use std::io;

use falco_core::keys::SetupError;
use falco_core::mux::AttemptEnd;
use falco_core::{ConnectionError, EntropyError, Fate, LostRequest, RequestError, SettingsError};

/// The error of a handler. If it is a [`Refusal`](crate::Refusal), the request is refused with that
/// reason. Otherwise the request is refused as [failed](crate::Refusal::Failed), and the client
/// does not receive the error. The classic wire has no refusals: there the connection ends.
pub type HandlerError = Box<dyn error::Error + Send + Sync>;

/// Why a call failed. No error contains a byte of a key or of a message.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The request was refused: by the client before anything was sent, or by the server. The
    /// connection stays open.
    Request(RequestError),
    /// The connection ended.
    Connection {
        /// What ended it.
        end: ConnectionError,
        /// Whether the request may have been processed.
        fate: Fate,
    },
    /// The operating system reported an error.
    Io {
        /// What the client or the server was doing.
        doing: &'static str,
        /// The error.
        source: io::Error,
        /// Whether the request may have been processed.
        fate: Fate,
    },
    /// A time limit has passed.
    TimedOut {
        /// What the client was doing.
        doing: &'static str,
        /// The limit.
        limit: Duration,
        /// Whether the request may have been processed.
        fate: Fate,
    },
    /// Nothing more of an open body is taken: it was finished, or its request has completed or was
    /// cancelled.
    Stopped,
    /// The client has cancelled the open request that a handler reads.
    Cancelled,
    /// The client was closed, or its runtime is gone, before the request was sent.
    Closed,
    /// The source of random numbers failed. Nothing was sent.
    Entropy(EntropyError),
    /// The keys and settings of the builder do not fit together. Nothing was sent.
    Setup(SetupError),
    /// A setting is out of its range; nothing was sent.
    Settings(SettingsError),
}

impl Error {
    /// Whether the request may have been processed. Errors that do not concern a request return
    /// [`Fate::NotProcessed`].
    #[must_use]
    pub const fn fate(&self) -> Fate {
        match self {
            Self::Entropy(_) | Self::Setup(_) | Self::Settings(_) | Self::Closed => Fate::NotProcessed,
            Self::Stopped | Self::Cancelled => Fate::MaybeProcessed,
            Self::Request(error) => error.fate(),
            Self::Connection { fate, .. } | Self::Io { fate, .. } | Self::TimedOut { fate, .. } => *fate,
        }
    }

    /// Whether the connection ended before the server had proved that it has the key. The server
    /// may have another key or context, or not be a FalcoTCP server. It, or a proxy in front of it,
    /// may also be starting, stopping or full. See [`ConnectionError::Refused`].
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        matches!(self, Self::Connection { end, .. } if end.is_refused())
    }

    /// How an attempt to connect has ended, if it failed with this error.
    pub(crate) fn attempt_end(&self) -> AttemptEnd {
        match self {
            Self::Connection { end, .. } => AttemptEnd::Connection(*end),
            Self::Io { source, .. } => AttemptEnd::of_io(source),
            Self::Entropy(_) | Self::Setup(_) => AttemptEnd::Unusable,
            Self::TimedOut { .. }
            | Self::Request(_)
            | Self::Stopped
            | Self::Cancelled
            | Self::Closed
            | Self::Settings(_) => AttemptEnd::Stream,
        }
    }

    pub(crate) const fn lost(LostRequest { end, fate, .. }: LostRequest) -> Self {
        Self::Connection { end, fate }
    }

    pub(crate) const fn io(doing: &'static str, source: io::Error, fate: Fate) -> Self {
        Self::Io { doing, source, fate }
    }

    pub(crate) const fn connection(end: ConnectionError, fate: Fate) -> Self {
        Self::Connection { end, fate }
    }

    /// The same error for a request whose fate is `fate`.
    pub(crate) fn again(&self, fate: Fate) -> Self {
        match self {
            Self::Request(error) => Self::Request(*error),
            Self::Connection { end, .. } => Self::Connection { end: *end, fate },
            Self::Io { doing, source, .. } => Self::Io {
                doing,
                source: copy(source),
                fate,
            },
            Self::TimedOut { doing, limit, .. } => Self::TimedOut {
                doing,
                limit: *limit,
                fate,
            },
            Self::Stopped => Self::Stopped,
            Self::Cancelled => Self::Cancelled,
            Self::Closed => Self::Closed,
            Self::Entropy(error) => Self::Entropy(*error),
            Self::Setup(error) => Self::Setup(*error),
            Self::Settings(error) => Self::Settings(*error),
        }
    }
}

/// Copies an error of the operating system exactly, and any other with its kind and message.
pub(crate) fn copy(error: &io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    }
}

impl From<EntropyError> for Error {
    fn from(error: EntropyError) -> Self {
        Self::Entropy(error)
    }
}

impl From<SettingsError> for Error {
    fn from(error: SettingsError) -> Self {
        Self::Settings(error)
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
            Self::TimedOut { doing, limit, .. } => write!(f, "{doing}: timed out after {limit:?}"),
            Self::Stopped => f.write_str("the other side takes nothing more of this body"),
            Self::Cancelled => f.write_str("the client has cancelled the request"),
            Self::Closed => f.write_str("the client is closed"),
            Self::Entropy(error) => error.fmt(f),
            Self::Setup(error) => error.fmt(f),
            Self::Settings(error) => error.fmt(f),
        }
    }
}

impl error::Error for Error {
    fn source(&self) -> Option<&(dyn error::Error + 'static)> {
        match self {
            Self::Request(error) => Some(error),
            Self::Connection { end, .. } => Some(end),
            Self::Io { source, .. } => Some(source),
            Self::TimedOut { .. } | Self::Stopped | Self::Cancelled | Self::Closed => None,
            Self::Entropy(error) => Some(error),
            Self::Setup(error) => Some(error),
            Self::Settings(error) => Some(error),
        }
    }
}
