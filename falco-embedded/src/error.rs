//! What can go wrong on a device, by whose it is.

use core::convert::Infallible;
use core::fmt;

use falco_core::{
    ConnectionError, EntropyError, Error as CoreError, Misuse, OutputTooSmall, RequestError, SealError, StorageFull,
};

/// Why something was not done. `E` is the error of the stream; without one, nothing here can be the
/// stream's.
///
/// ```
/// use core::fmt::Debug;
/// use falco_embedded::Error;
/// use falco_embedded::falco_core::ConnectionError;
///
/// /// What a device does next.
/// fn after<E: Debug>(error: &Error<E>) -> &'static str {
///     match error {
///         // The connection lives.
///         Error::Request(_) | Error::AnswerTooLarge { .. } | Error::NoPongs => "go on",
///         Error::Connection(ConnectionError::Refused) => "no server with this key, or one that starts, stops or is full: connect again, later each time",
///         // To be mended in the device's own code; the numbers say what.
///         Error::Misuse(_) | Error::Output(_) | Error::Buffer(_) => "report",
///         // The connection is over. So is everything that was under way on it.
///         _ => "connect again",
///     }
/// }
/// assert_eq!(after(&Error::<()>::Stalled), "connect again");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error<E = Infallible> {
    /// What befell one request. The connection lives.
    Request(RequestError),
    /// The answer is larger than the memory that was given for it, and was dropped. The connection
    /// lives.
    AnswerTooLarge {
        /// Bytes in the answer.
        length: usize,
        /// Bytes of memory.
        room: usize,
    },
    /// The wire of this connection has no answers to pings: the classic one. The connection lives.
    NoPongs,
    /// What ended the connection. Every later call says so again; but a request that is told
    /// [`Closed`](ConnectionError::Closed) because the other side takes no more comes before the
    /// end itself, for which `idle` or `close` can wait.
    Connection(ConnectionError),
    /// The connection is closing and takes nothing new; what was begun is finished.
    Closing,
    /// The call was not a fitting one; the numbers in it say what to mend.
    Misuse(Misuse),
    /// The output buffer is smaller than the next thing to be sent. What
    /// [`ClientLine::start`](crate::ClientLine::start) and
    /// [`ServerLine::start`](crate::ServerLine::start) have made has one that is large enough.
    Output(OutputTooSmall),
    /// The receive buffer is smaller than what the settings allow to come. What
    /// [`ClientLine::start`](crate::ClientLine::start) and
    /// [`ServerLine::start`](crate::ServerLine::start) have made has one that is large enough.
    Buffer(StorageFull),
    /// The peer took no byte for a lifetime. The connection is over.
    Stalled,
    /// The stream took no byte, and never will. The connection is over.
    WriteZero,
    /// The stream's error. The connection is over.
    Io(E),
}

#[cfg(any(feature = "async", feature = "blocking"))]
impl Error {
    /// The same among the errors of a stream.
    pub(crate) fn widen<E>(self) -> Error<E> {
        match self {
            Self::Request(error) => Error::Request(error),
            Self::AnswerTooLarge { length, room } => Error::AnswerTooLarge { length, room },
            Self::NoPongs => Error::NoPongs,
            Self::Connection(error) => Error::Connection(error),
            Self::Closing => Error::Closing,
            Self::Misuse(error) => Error::Misuse(error),
            Self::Output(error) => Error::Output(error),
            Self::Buffer(error) => Error::Buffer(error),
            Self::Stalled => Error::Stalled,
            Self::WriteZero => Error::WriteZero,
            Self::Io(never) => match never {},
        }
    }
}

impl<E> From<CoreError> for Error<E> {
    fn from(error: CoreError) -> Self {
        match error {
            CoreError::Request(error) => Self::Request(error),
            CoreError::Misuse(error) => Self::Misuse(error),
            CoreError::Closing => Self::Closing,
            CoreError::Connection(error) => Self::Connection(error),
            _ => Self::Connection(ConnectionError::Truncated),
        }
    }
}

impl<E> From<ConnectionError> for Error<E> {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

impl<E> From<SealError> for Error<E> {
    fn from(error: SealError) -> Self {
        match error {
            SealError::OutputTooSmall(error) => Self::Output(error),
            SealError::Misuse(error) => Self::Misuse(error),
            SealError::Closing => Self::Closing,
            SealError::Connection(error) => Self::Connection(error),
            // An answer whose request has completed: a line has one at a time, and drops it then.
            SealError::NotWaiting(_) | _ => Self::Connection(ConnectionError::Truncated),
        }
    }
}

impl<E> From<OutputTooSmall> for Error<E> {
    fn from(error: OutputTooSmall) -> Self {
        Self::Output(error)
    }
}

impl<E> From<StorageFull> for Error<E> {
    fn from(error: StorageFull) -> Self {
        Self::Buffer(error)
    }
}

impl<E: fmt::Display> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::AnswerTooLarge { length, room } => {
                write!(f, "an answer of {length} bytes came, and there is memory for {room}")
            }
            Self::NoPongs => f.write_str("this wire has no answers to pings"),
            Self::Connection(error) => error.fmt(f),
            Self::Closing => f.write_str("the connection is closing and takes nothing new"),
            Self::Misuse(error) => error.fmt(f),
            Self::Output(error) => error.fmt(f),
            Self::Buffer(error) => error.fmt(f),
            Self::Stalled => f.write_str("the peer took no byte for a lifetime"),
            Self::WriteZero => f.write_str("the stream takes no more bytes"),
            Self::Io(error) => write!(f, "the stream failed: {error}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for Error<E> {}

/// Why a connection was not begun. Nothing was sent.
///
/// ```
/// use falco_embedded::falco_core::{Instant, Key, RustCrypto, Settings};
/// use falco_embedded::{Buffer, ClientLine, NoiseClientKey, StartError};
/// # use falco_embedded::falco_core::testing::CountingRng;
/// # let mut trng = CountingRng::new(1);
///
/// let key = NoiseClientKey::new(Key::from_bytes([7; 32])?, b"", RustCrypto)?;
/// let settings = Settings::new().with_max_record(512)?;
/// let small = ClientLine::start(&key, &settings, Instant::ZERO, &mut trng, [0; 500], [0; 300]);
/// let Err(error) = small else { unreachable!("a record of 512 bytes with its length takes 514") };
/// assert_eq!(error, StartError::TooSmall { buffer: Buffer::Inbox, needed: 514, given: 500 });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartError {
    /// The generator gave no random bytes.
    Entropy(EntropyError),
    /// A buffer is too small for what the settings allow: give more, or [allow
    /// less](falco_core::Settings).
    TooSmall {
        /// Which one.
        buffer: Buffer,
        /// Bytes that it has to have.
        needed: usize,
        /// Bytes that it has.
        given: usize,
    },
}

/// The memory of a connection that its owner provides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Buffer {
    /// For what has come and is not taken.
    Inbox,
    /// For what is to be written.
    Outbox,
    /// For the request that a server handles.
    Message,
}

impl From<EntropyError> for StartError {
    fn from(error: EntropyError) -> Self {
        Self::Entropy(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entropy(error) => error.fmt(f),
            Self::TooSmall { buffer, needed, given } => {
                let name = match buffer {
                    Buffer::Inbox => "inbox",
                    Buffer::Outbox => "outbox",
                    Buffer::Message => "memory for a request",
                };
                write!(f, "the {name} has {given} bytes, and {needed} are needed")
            }
        }
    }
}

impl core::error::Error for StartError {}

/// Whether a buffer is large enough.
pub(crate) const fn enough(buffer: Buffer, needed: usize, given: usize) -> Result<(), StartError> {
    if given < needed {
        return Err(StartError::TooSmall { buffer, needed, given });
    }
    Ok(())
}
