//! Open requests and answers, as their callers and handlers use them: two bodies of any length that
//! travel at the same time. `pipe` is what their halves share with the task of the connection.

mod pipe;
mod traits;

use core::fmt;
use core::future::poll_fn;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use falco_core::RequestError;

pub(crate) use self::pipe::{ConnectionHandle, HalfError, PIECE, Pipe, without_unused};
use crate::error::Error;

/// An open request of a client: the body of the request, which the caller writes, and the body of
/// the answer, which it reads. [`Client::open`](crate::Client::open) returns it.
///
/// ```
/// use falco_tokio::{Client, Key, Request, Server, StreamRequest};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let key = [7; 32];
/// let server = Server::builder(Key::from_bytes(key)?).streams(256 << 10, 100);
/// let server = server.bind("127.0.0.1:0").await?;
/// let (address, handle) = (server.local_addr()?, server.handle());
/// let serving = tokio::spawn(server.serve_streams(
///     |request: Request| async move { Ok(request.into_body()) },
///     |mut request: StreamRequest| async move {
///         while let Some(bytes) = request.body.next().await {
///             request.answer.send(bytes?).await?;
///         }
///         request.answer.finish()?;
///         Ok(())
///     },
/// ));
///
/// let client = Client::builder(Key::from_bytes(key)?).connect(address).await?;
/// let mut call = client.open("tail ").await?;
/// call.send("orders").await?;
/// call.finish()?;
/// assert_eq!(call.collect(1 << 20).await?, "tail orders");
/// # client.close().await;
/// # handle.shutdown();
/// # serving.await??;
/// # Ok(())
/// # }
/// ```
///
/// It is an [`AsyncRead`](tokio::io::AsyncRead) and [`AsyncWrite`](tokio::io::AsyncWrite) too. If
/// it is dropped before both bodies are complete, the request is cancelled.
#[derive(Debug)]
#[must_use = "if it is dropped, the request is cancelled"]
pub struct Call {
    sending: SendStream,
    receiving: RecvStream,
}

impl Call {
    /// The halves of a request, which share `pipe` with its connection.
    pub(crate) fn new(pipe: &Arc<Pipe>) -> Self {
        let (receiving, sending) = halves(pipe);
        Self { sending, receiving }
    }

    /// The two halves, for use by different tasks.
    #[must_use]
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
    pub async fn send(&mut self, bytes: impl Into<Bytes>) -> Result<(), Error> {
        self.sending.send(bytes).await
    }

    /// As [`SendStream::finish`].
    ///
    /// # Errors
    /// Those of [`SendStream::finish`].
    pub fn finish(&mut self) -> Result<(), Error> {
        self.sending.finish()
    }

    /// As [`RecvStream::next`].
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        self.receiving.next().await
    }

    /// As [`RecvStream::collect`]. The body of the request stays as it is: call
    /// [`finish`](Self::finish) first, unless the server answers before it has all of it.
    ///
    /// # Errors
    /// Those of [`RecvStream::collect`].
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, Error> {
        self.receiving.read_all(limit).await
    }

    /// Waits until the request has begun.
    pub(crate) async fn begun(&self) -> Result<(), Error> {
        self.receiving.begun().await
    }
}

/// The halves of a stream.
pub(crate) fn halves(pipe: &Arc<Pipe>) -> (RecvStream, SendStream) {
    let receiving = RecvStream::new(pipe);
    let sending = SendStream { pipe: Arc::clone(pipe) };
    (receiving, sending)
}

/// Writes an open body. It implements [`AsyncWrite`](tokio::io::AsyncWrite), where shutting down
/// means to [`finish`](Self::finish), and [`Sink`](futures_sink::Sink).
///
/// If it is dropped before the body is finished, the body is cut off: a client cancels its request,
/// and the answer of a server fails when its handler returns. The other side never takes it for a
/// whole body.
pub struct SendStream {
    pipe: Arc<Pipe>,
}

impl SendStream {
    /// Sends bytes, once there is room for them. At most about 128 KiB of a body are on their way
    /// to the socket. Once the window of the other side is used up, nothing is sent before it has
    /// read something. A body that the other side does not read does not block others.
    ///
    /// At a server, bytes that wait to be sent count as an answer. Unused memory of a chunk does
    /// not count. It is freed if it is much, unless the caller has the bytes as well.
    ///
    /// Dropping the future before it is ready sends nothing.
    ///
    /// # Errors
    /// [`Error::Stopped`] if the other side takes nothing more; otherwise why the request has
    /// failed.
    pub async fn send(&mut self, bytes: impl Into<Bytes>) -> Result<(), Error> {
        poll_fn(|cx| self.pipe.poll_ready(cx)).await?;
        self.pipe.send(bytes.into())
    }

    /// Sends the last bytes and ends the body, as [`send`](Self::send) and
    /// [`finish`](Self::finish) do. The answer to a request that was sent as a whole is then sent
    /// as a whole too, if these are all its bytes.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub async fn finish_with(&mut self, bytes: impl Into<Bytes>) -> Result<(), Error> {
        poll_fn(|cx| self.pipe.poll_ready(cx)).await?;
        self.pipe.finish_with(bytes.into())
    }

    /// Ends the body. Only then is it complete for the other side. Repeated calls do nothing.
    /// Neither does a call after a whole answer has arrived.
    ///
    /// # Errors
    /// As for [`send`](Self::send).
    pub fn finish(&mut self) -> Result<(), Error> {
        self.pipe.finish()
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        self.pipe.drop_writer();
    }
}

impl fmt::Debug for SendStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SendStream(..)")
    }
}

/// Reads an open body. It implements [`AsyncRead`](tokio::io::AsyncRead) and
/// [`Stream`](futures_core::Stream), and with the feature `http-body` `http_body::Body`.
///
/// If it is dropped before the end of the body, a client cancels its request, and a server discards
/// the rest.
pub struct RecvStream {
    pipe: Arc<Pipe>,
    /// The end or an error was returned.
    ended: bool,
}

impl RecvStream {
    /// The half of a request that shares `pipe` with its connection.
    pub(crate) fn new(pipe: &Arc<Pipe>) -> Self {
        let pipe = Arc::clone(pipe);
        Self { pipe, ended: false }
    }

    /// Waits until the request has begun, or the answer if the request is not open.
    pub(crate) async fn begun(&self) -> Result<(), Error> {
        poll_fn(|cx| self.pipe.poll_begun(cx)).await
    }

    /// The next bytes, at least one; `None` at the end of a whole body. Bytes that arrive wait in a
    /// buffer, which is bounded by the window. Reading makes room for more.
    ///
    /// Dropping the future before it is ready loses nothing.
    ///
    /// # Errors
    /// Why the body was cut off. At a server [`Error::Cancelled`] if the client has cancelled the
    /// request.
    pub async fn next(&mut self) -> Option<Result<Bytes, Error>> {
        poll_fn(|cx| self.poll_bytes(cx)).await
    }

    /// All bytes until the end, if they are at most `limit`.
    ///
    /// # Errors
    /// Those of [`next`](Self::next). [`Error::Request`] if there are more bytes; the rest is then
    /// not read.
    pub async fn collect(mut self, limit: usize) -> Result<Bytes, Error> {
        self.read_all(limit).await
    }

    async fn read_all(&mut self, limit: usize) -> Result<Bytes, Error> {
        let mut whole = BytesMut::new();
        // Unlike `next`, this returns an error again.
        while let Some(bytes) = poll_fn(|cx| self.pipe.poll_next(cx, usize::MAX)).await {
            let bytes = bytes?;
            let length = whole.len().saturating_add(bytes.len());
            if length > limit {
                let [length, limit] = [length, limit].map(|bytes| u64::try_from(bytes).unwrap_or(u64::MAX));
                return Err(Error::Request(RequestError::TooLarge { length, limit }));
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        self.pipe.drop_reader();
    }
}

impl fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecvStream")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}
