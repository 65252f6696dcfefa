//! Open requests and answers, as their callers and handlers use them: two bodies of any length that
//! travel at the same time. `pipe` is what their halves share with the connection.

mod pipe;

use core::any::Any;
use core::fmt;
use core::panic::AssertUnwindSafe;
use std::io::{self, Read, Write};
use std::panic::catch_unwind;
use std::sync::Arc;

use falco_core::RequestError;
use falco_core::mux::LONGEST_PART;

pub(crate) use self::pipe::{ConnectionHandle, HalfError, Pipe, without_unused};
use crate::error::Error;

/// The default window of open bodies.
pub(crate) const STREAM_WINDOW: u32 = 256 << 10;

/// How many bytes [`Write::write`] takes at once.
const PIECE: usize = LONGEST_PART;

/// A number of bytes in KiB, rounded up, as far as settings can have it.
pub(crate) const fn kib(bytes: u32) -> u16 {
    // A const function has no other conversion.
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "it is at most 65,535"
    )]
    if bytes > (u16::MAX as u32) << 10 {
        u16::MAX
    } else {
        bytes.div_ceil(1 << 10) as u16
    }
}

/// What has to live as long as the halves of a request.
pub(crate) type Kept = Arc<dyn Any + Send + Sync>;

/// An open request of a client: the body of the request, which the caller writes, and the body of
/// the answer, which it reads. [`Client::open`](crate::Client::open) returns it.
///
/// ```
/// use falco_std::{Client, Key, Request, Server, StreamRequest};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let key = [7; 32];
/// let builder = Server::builder(Key::from_bytes(key)?).streams(256 << 10, 100);
/// let server = builder.bind("127.0.0.1:0")?;
/// let (address, handle) = (server.local_addr()?, server.handle());
/// let serving = std::thread::spawn(move || {
///     server.serve_streams(
///         |request: Request| Ok(request.into_body()),
///         |mut request: StreamRequest| {
///             while let Some(bytes) = request.body.next() {
///                 request.answer.send(bytes?)?;
///             }
///             request.answer.finish()?;
///             Ok(())
///         },
///     )
/// });
///
/// let client = Client::builder(Key::from_bytes(key)?).connect(address)?;
/// let mut call = client.open("tail ")?;
/// call.send("orders")?;
/// call.finish()?;
/// assert_eq!(call.collect(1 << 20)?, b"tail orders");
/// # client.close();
/// # handle.shutdown();
/// # serving.join().expect("it does not panic")?;
/// # Ok(())
/// # }
/// ```
///
/// If it is dropped before both bodies are complete, the request is cancelled.
#[derive(Debug)]
#[must_use = "if it is dropped, the request is cancelled"]
pub struct Call {
    sending: SendStream,
    receiving: RecvStream,
}

impl Call {
    /// The halves of a request, which share `pipe` with its connection. `kept` is dropped with the
    /// last of them.
    pub(crate) fn new(pipe: &Arc<Pipe>, kept: &Kept) -> Self {
        let (receiving, sending) = halves(pipe, Some(kept));
        Self { sending, receiving }
    }

    /// The two halves, for use by different threads.
    #[must_use = "a half that is dropped cancels the request"]
    pub fn split(self) -> (SendStream, RecvStream) {
        (self.sending, self.receiving)
    }

    /// The half that writes the body of the request.
    pub const fn sending(&mut self) -> &mut SendStream {
        &mut self.sending
    }

    /// The half that reads the body of the answer.
    pub const fn receiving(&mut self) -> &mut RecvStream {
        &mut self.receiving
    }

    /// As [`SendStream::send`].
    ///
    /// # Errors
    /// Those of [`SendStream::send`].
    pub fn send(&mut self, bytes: impl Into<Vec<u8>>) -> Result<(), Error> {
        self.sending.send(bytes)
    }

    /// As [`SendStream::finish`].
    ///
    /// # Errors
    /// Those of [`SendStream::finish`].
    pub fn finish(&mut self) -> Result<(), Error> {
        self.sending.finish()
    }

    /// As [`RecvStream::next`].
    #[expect(clippy::should_implement_trait, reason = "it is the name in falco-tokio")]
    pub fn next(&mut self) -> Option<Result<Vec<u8>, Error>> {
        self.receiving.next()
    }

    /// As [`RecvStream::collect`]. The body of the request stays as it is: call
    /// [`finish`](Self::finish) first, unless the server answers before it has all of it.
    ///
    /// # Errors
    /// Those of [`RecvStream::collect`].
    pub fn collect(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        self.receiving.read_all(limit)
    }
}

/// The halves of a stream.
pub(crate) fn halves(pipe: &Arc<Pipe>, kept: Option<&Kept>) -> (RecvStream, SendStream) {
    let receiving = RecvStream::new(pipe, kept);
    let sending = SendStream {
        pipe: Arc::clone(pipe),
        _kept: kept.cloned(),
    };
    (receiving, sending)
}

/// Writes an open body. It implements [`Write`]. Flushing it does nothing: what was written is sent
/// without that.
///
/// If it is dropped before the body is finished, the body is cut off: a client cancels its request,
/// and the answer of a server fails when its handler returns. The other side never takes it for a
/// whole body.
pub struct SendStream {
    pipe: Arc<Pipe>,
    _kept: Option<Kept>,
}

impl SendStream {
    /// Sends bytes, once there is room for them. At most about 128 KiB of a body are on their way
    /// to the socket. Once the window of the other side is used up, nothing is sent before it has
    /// read something. A body that the other side does not read does not block others.
    ///
    /// At a server, bytes that wait to be sent count as an answer. Unused memory of a chunk does
    /// not count, and is freed if it is much.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the other side takes nothing more; otherwise why the request has
    /// failed.
    pub fn send(&mut self, bytes: impl Into<Vec<u8>>) -> Result<(), Error> {
        self.pipe.send(bytes.into(), false)
    }

    /// Sends the last bytes and ends the body, as [`send`](Self::send) and
    /// [`finish`](Self::finish) do. The answer to a request that was sent as a whole is then sent
    /// as a whole too, if these are all its bytes.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn finish_with(&mut self, bytes: impl Into<Vec<u8>>) -> Result<(), Error> {
        self.pipe.send(bytes.into(), true)
    }

    /// Ends the body. Only then is it complete for the other side.
    ///
    /// # Errors
    /// As for [`send`](Self::send). Repeated calls do nothing.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.pipe.finish()
    }
}

impl Write for SendStream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let piece = buf.get(..PIECE).unwrap_or(buf);
        self.pipe.send(piece.to_vec(), false).map_err(io_error)?;
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        drop_half(|| self.pipe.drop_writer());
    }
}

impl fmt::Debug for SendStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendStream(..)")
    }
}

/// Reads an open body. It implements [`Read`].
///
/// If it is dropped before the end of the body, a client cancels its request, and a server discards
/// the rest.
pub struct RecvStream {
    pipe: Arc<Pipe>,
    /// The end or an error was returned.
    ended: bool,
    _kept: Option<Kept>,
}

impl RecvStream {
    /// The half that reads, which shares `pipe` with the connection of its request. `kept` is
    /// dropped with the last half.
    pub(crate) fn new(pipe: &Arc<Pipe>, kept: Option<&Kept>) -> Self {
        Self {
            pipe: Arc::clone(pipe),
            ended: false,
            _kept: kept.cloned(),
        }
    }

    /// Waits for the next bytes, at least one; `None` at the end of a whole body. Bytes that arrive
    /// wait in a buffer, which is bounded by the window. Reading makes room for more.
    ///
    /// # Errors
    /// Why the body was cut off. At a server [`Error::Cancelled`] if the client has cancelled the
    /// request.
    #[expect(clippy::should_implement_trait, reason = "it is the name in falco-tokio")]
    pub fn next(&mut self) -> Option<Result<Vec<u8>, Error>> {
        if self.ended {
            return None;
        }
        let next = self.pipe.next();
        self.ended = !matches!(next, Some(Ok(_)));
        next
    }

    /// All bytes until the end, if they are at most `limit`.
    ///
    /// # Errors
    /// Those of [`next`](Self::next). [`Error::Request`] if there are more bytes; the rest is then
    /// not read.
    pub fn collect(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        self.read_all(limit)
    }

    fn read_all(&mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let mut whole = Vec::new();
        // Unlike `next`, this returns an error again.
        while let Some(bytes) = self.pipe.next() {
            let bytes = bytes?;
            let length = whole.len().saturating_add(bytes.len());
            if length > limit {
                let [length, limit] = [length, limit].map(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX));
                return Err(Error::Request(RequestError::TooLarge { length, limit }));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }
}

impl Read for RecvStream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        // After an error this returns it again, so that a body that was cut off never looks
        // complete.
        self.pipe.read(buf).unwrap_or(Ok(0)).map_err(io_error)
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        drop_half(|| self.pipe.drop_reader());
    }
}

impl fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvStream")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// Tells the connection that a half was dropped. This may write to a stream of the user's, which
/// may panic, and a panic while another unwinds would end the process.
fn drop_half(tell: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(tell)) {
        core::mem::forget(payload);
    }
}

/// The error with the kind by which users of `Read` and `Write` distinguish errors.
fn io_error(error: Error) -> io::Error {
    let kind = match &error {
        Error::Stopped => io::ErrorKind::BrokenPipe,
        Error::Cancelled => io::ErrorKind::ConnectionAborted,
        Error::Io { source, .. } => source.kind(),
        Error::Connection { .. } => io::ErrorKind::ConnectionReset,
        Error::TimedOut { .. } => io::ErrorKind::TimedOut,
        Error::Request(_) | Error::Closed | Error::Entropy(_) | Error::Setup(_) | Error::Settings(_) => {
            io::ErrorKind::Other
        }
    };
    io::Error::new(kind, error)
}
