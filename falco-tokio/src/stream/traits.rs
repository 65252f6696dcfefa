//! The halves of a stream implement the traits of Tokio and of the crates of `futures`.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io;

use bytes::Bytes;
use falco_core::mux::LONGEST_PART;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Call, RecvStream, SendStream};
use crate::error::Error;

impl RecvStream {
    /// The next bytes that have arrived. `None` after the end or an error.
    pub(super) fn poll_bytes(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Bytes, Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let next = ready!(self.pipe.poll_next(cx, usize::MAX));
        self.ended = !matches!(next, Some(Ok(_)));
        Poll::Ready(next)
    }
}

/// The error with the kind by which users of `AsyncRead` and `AsyncWrite` distinguish errors.
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

impl AsyncRead for RecvStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // An error is returned again, so that a body that was cut off is never taken for whole.
        if let Some(next) = ready!(self.pipe.poll_next(cx, buf.remaining())) {
            buf.put_slice(&next.map_err(io_error)?);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for SendStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.pipe.poll_ready(cx)).map_err(io_error)?;
        let count = bytes.len().min(LONGEST_PART);
        let bytes = bytes.get(..count).unwrap_or_default();
        self.pipe.send(Bytes::copy_from_slice(bytes)).map_err(io_error)?;
        Poll::Ready(Ok(count))
    }

    /// Does nothing: written bytes are sent without a flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.pipe.finish().map_err(io_error))
    }
}

impl futures_core::Stream for RecvStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_bytes(cx)
    }
}

#[cfg(feature = "http-body")]
impl http_body::Body for RecvStream {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Error>>> {
        self.poll_bytes(cx).map_ok(http_body::Frame::data)
    }
}

impl futures_sink::Sink<Bytes> for SendStream {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.pipe.poll_ready(cx)
    }

    fn start_send(self: Pin<&mut Self>, bytes: Bytes) -> Result<(), Error> {
        self.pipe.send(bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(self.pipe.finish())
    }
}

impl AsyncRead for Call {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().receiving).poll_read(cx, buf)
    }
}

impl AsyncWrite for Call {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().sending).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().sending).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().sending).poll_shutdown(cx)
    }
}
