//! What can go wrong on a device, by whose it is.

use core::convert::Infallible;
use core::fmt;

use falco_core::{ConnectionError, Error as CoreError, Misuse, RequestError, StorageFull};

/// Why something was not done. `E` is the error of the stream; without one, nothing here can be the stream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error<E = Infallible> {
    /// What befell one request. The connection lives.
    Request(RequestError),
    /// The answer is larger than the memory that was given for it, and was dropped. The connection lives.
    AnswerTooLarge {
        /// Bytes in the answer.
        length: usize,
        /// Bytes of memory.
        room: usize,
    },
    /// What ended the connection.
    Connection(ConnectionError),
    /// The call was not a fitting one; the numbers in it say what to mend.
    Misuse(Misuse),
    /// The receive buffer is smaller than what the settings allow to come.
    Buffer(StorageFull),
    /// The peer took no byte for too long. The connection is of no more use.
    Stalled,
    /// The stream's error. The connection is of no more use.
    Io(E),
}

impl Error {
    /// The same among the errors of a stream.
    #[must_use]
    pub fn widen<E>(self) -> Error<E> {
        match self {
            Self::Request(error) => Error::Request(error),
            Self::AnswerTooLarge { length, room } => Error::AnswerTooLarge { length, room },
            Self::Connection(error) => Error::Connection(error),
            Self::Misuse(error) => Error::Misuse(error),
            Self::Buffer(error) => Error::Buffer(error),
            Self::Stalled => Error::Stalled,
            Self::Io(never) => match never {},
        }
    }
}

impl<E> From<CoreError> for Error<E> {
    fn from(error: CoreError) -> Self {
        match error {
            CoreError::Request(error) => Self::Request(error),
            CoreError::Misuse(error) => Self::Misuse(error),
            CoreError::Connection(error) => Self::Connection(error),
            _ => Self::Connection(ConnectionError::Closed),
        }
    }
}

impl<E> From<ConnectionError> for Error<E> {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}

impl<E> From<Misuse> for Error<E> {
    fn from(error: Misuse) -> Self {
        Self::Misuse(error)
    }
}

impl<E> From<StorageFull> for Error<E> {
    fn from(error: StorageFull) -> Self {
        Self::Buffer(error)
    }
}

impl<E: fmt::Debug> fmt::Display for Error<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request(error) => error.fmt(f),
            Self::AnswerTooLarge { length, room } => {
                write!(f, "an answer of {length} bytes came, and there is memory for {room}")
            }
            Self::Connection(error) => error.fmt(f),
            Self::Misuse(error) => error.fmt(f),
            Self::Buffer(error) => error.fmt(f),
            Self::Stalled => f.write_str("the peer took no byte for too long"),
            Self::Io(error) => write!(f, "the stream failed: {error:?}"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for Error<E> {}
