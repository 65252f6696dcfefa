//! Errors of this crate.

use core::convert::Infallible;
use core::fmt;

use falco_core::{
    ConnectionError, EntropyError, Error as CoreError, Misuse, OutputTooSmall, RequestError, SealError, StorageFull,
};

/// Why a call failed. `E` is the error of the stream. Without a stream it is [`Infallible`].
///
/// ```
/// use core::fmt::Debug;
/// use falco_embedded::Error;
/// use falco_embedded::falco_core::ConnectionError;
///
/// /// What a device does next.
/// fn after<E: Debug>(error: &Error<E>) -> &'static str {
///     match error {
///         // The connection stays open.
///         Error::Request(_) | Error::AnswerTooLarge { .. } | Error::NoPongs => "go on",
///         // A wrong key, or a server that starts, stops or is full.
///         Error::Connection(ConnectionError::Refused) => "reconnect with growing pauses",
///         // A mistake in the device's own code. The error has the numbers.
///         Error::Misuse(_) | Error::Output(_) | Error::Buffer(_) => "report",
///         // The connection is over.
///         _ => "reconnect",
///     }
/// }
/// assert_eq!(after(&Error::<()>::Stalled), "reconnect");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error<E = Infallible> {
    /// Why one request failed. The connection stays open.
    Request(RequestError),
    /// The answer is larger than the memory for it, and was dropped. The connection stays open.
    AnswerTooLarge {
        /// Bytes in the answer. Of an open answer: those that had arrived.
        length: usize,
        /// Bytes of memory.
        room: usize,
    },
    /// The memory of a subscription is smaller than the window that this side has announced, or the
    /// window is 0: see [`Settings::with_streams`](falco_core::Settings::with_streams). Nothing was
    /// sent, and the connection stays open.
    #[cfg(feature = "streams")]
    Window {
        /// Bytes of the window.
        window: u32,
        /// Bytes of memory.
        room: usize,
    },
    /// The classic wire has no answers to pings. The connection stays open.
    NoPongs,
    /// What ended the connection. Later calls return the same error.
    ///
    /// While one side is closing, a driver returns [`Closed`](ConnectionError::Closed) for a new
    /// request even before the end. `idle` and `close` wait for the end.
    Connection(ConnectionError),
    /// One side is closing: the connection accepts no new requests, and completes those that have
    /// begun.
    Closing,
    /// API misuse. No state changed, and the error has the numbers.
    Misuse(Misuse),
    /// The outbox is too small for the next bytes to send.
    /// [`BufferedClient::start`](crate::BufferedClient::start) and
    /// [`BufferedServer::start`](crate::BufferedServer::start) check for that.
    Output(OutputTooSmall),
    /// The inbox is too small for what the settings allow.
    /// [`BufferedClient::start`](crate::BufferedClient::start) and
    /// [`BufferedServer::start`](crate::BufferedServer::start) check for that.
    Buffer(StorageFull),
    /// A write made no progress for a lifetime. The connection is over.
    Stalled,
    /// The stream accepts no more bytes. The connection is over.
    WriteZero,
    /// The stream's error. The connection is over.
    Io(E),
}

#[cfg(any(feature = "async", feature = "blocking"))]
impl Error {
    /// Converts it to the error type of a connection with a stream.
    pub(crate) fn widen<E>(self) -> Error<E> {
        match self {
            Self::Request(error) => Error::Request(error),
            Self::AnswerTooLarge { length, room } => Error::AnswerTooLarge { length, room },
            #[cfg(feature = "streams")]
            Self::Window { window, room } => Error::Window { window, room },
            Self::NoPongs => Error::NoPongs,
            Self::Connection(error) => Error::Connection(error),
            Self::Closing => Error::Closing,
            Self::Misuse(error) => Error::Misuse(error),
            Self::Output(error) => Error::Output(error),
            Self::Buffer(error) => Error::Buffer(error),
            Self::Stalled => Error::Stalled,
            Self::WriteZero => Error::WriteZero,
            Self::Io(infallible) => match infallible {},
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
            // Cannot happen: the core has no other error.
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
            // Cannot happen: a server has one answer at a time, and nothing else completes its
            // request while that is being sealed.
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
                write!(f, "the answer has {}, but its memory has only {room}", Bytes(*length))
            }
            #[cfg(feature = "streams")]
            Self::Window { window, room } => {
                write!(f, "the window has {window} bytes, and the memory for it {room}")
            }
            Self::NoPongs => f.write_str("the classic wire has no answers to pings"),
            Self::Connection(error) => error.fmt(f),
            Self::Closing => f.write_str("the connection is closing and accepts no new requests"),
            Self::Misuse(error) => error.fmt(f),
            Self::Output(error) => error.fmt(f),
            Self::Buffer(error) => error.fmt(f),
            Self::Stalled => f.write_str("a write made no progress for one idle timeout (lifetime)"),
            Self::WriteZero => f.write_str("the stream accepts no more bytes"),
            Self::Io(error) => write!(f, "the stream failed: {error}"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> core::error::Error for Error<E> {}

/// So many bytes, as a text.
struct Bytes(usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 byte"),
            count => write!(f, "{count} bytes"),
        }
    }
}

/// Why a connection did not start. Nothing was sent.
///
/// ```
/// use falco_embedded::falco_core::{Instant, Key, RustCrypto, Settings};
/// use falco_embedded::{Buffer, BufferedClient, NoiseClientKey, StartError};
/// # use falco_embedded::falco_core::testing::CountingRng;
/// # let mut trng = CountingRng::new(1);
///
/// let key = NoiseClientKey::new(Key::from_bytes([7; 32])?, b"", RustCrypto)?;
/// let settings = Settings::new().with_max_record(512)?;
/// let (now, buffers) = (Instant::ZERO, ([0; 500], [0; 300]));
/// let small = BufferedClient::start(&key, &settings, now, &mut trng, buffers);
/// let Err(error) = small else { unreachable!("a record of 512 bytes takes 514 with its length") };
/// assert_eq!(error, StartError::TooSmall { buffer: Buffer::Inbox, needed: 514, given: 500 });
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartError {
    /// The random number generator failed.
    Entropy(EntropyError),
    /// A buffer is too small for the [settings](falco_core::Settings): provide a larger one, or
    /// lower the limits.
    TooSmall {
        /// The buffer.
        buffer: Buffer,
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
}

/// A buffer that you provide for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Buffer {
    /// For unread bytes.
    Inbox,
    /// For bytes to write.
    Outbox,
    /// For the body of the request that a server handles.
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
                write!(f, "the {name} needs {} and has {given}", Bytes(*needed))
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
