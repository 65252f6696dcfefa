//! Noticing that a socket has failed while nothing is read from it.

use core::future::{Future, pending};
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;

use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::{TcpStream, tcp};
#[cfg(unix)]
use tokio::net::{UnixStream, unix};

/// The half of a socket that a tunnel reads. It reports a failure, such as a reset, also while the
/// tunnel does not read, because the other side takes nothing more for now.
///
/// The halves of Tokio's sockets implement it.
pub trait Watched: AsyncRead + Unpin {
    /// Waits until the socket has failed. If the other end has only shut down its sending half,
    /// that is no failure. Bytes that arrived before the failure can still be read. After them, a
    /// read may return the end of the stream instead of the error.
    fn failed(&self) -> impl Future<Output = io::Error> + Send;
}

/// Evaluates to the error of a socket when it has one.
macro_rules! failed {
    ($stream:expr) => {
        match $stream.ready(Interest::ERROR).await.and_then(|_| $stream.take_error()) {
            Ok(Some(error)) | Err(error) => error,
            // Another call has taken it.
            Ok(None) => io::ErrorKind::ConnectionReset.into(),
        }
    };
}

async fn tcp_failed(stream: &TcpStream) -> io::Error {
    failed!(stream)
}

#[cfg(unix)]
async fn unix_failed(stream: &UnixStream) -> io::Error {
    failed!(stream)
}

impl Watched for tcp::ReadHalf<'_> {
    async fn failed(&self) -> io::Error {
        tcp_failed(self.as_ref()).await
    }
}

impl Watched for tcp::OwnedReadHalf {
    async fn failed(&self) -> io::Error {
        tcp_failed(self.as_ref()).await
    }
}

#[cfg(unix)]
impl Watched for unix::ReadHalf<'_> {
    async fn failed(&self) -> io::Error {
        unix_failed(self.as_ref()).await
    }
}

#[cfg(unix)]
impl Watched for unix::OwnedReadHalf {
    async fn failed(&self) -> io::Error {
        unix_failed(self.as_ref()).await
    }
}

/// As [`Watched::failed`]. Takes memory only once it is polled and waits, so that a tunnel that is
/// idle has none for it.
pub(super) async fn failed(half: &impl Watched) -> io::Error {
    Box::pin(half.failed()).await
}

/// A half of a stream of any kind: only reading and writing reports its failure.
pub(super) struct Unwatched<R>(pub(super) R);

impl<R: AsyncRead + Unpin> AsyncRead for Unwatched<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<R: AsyncRead + Unpin> Watched for Unwatched<R> {
    fn failed(&self) -> impl Future<Output = io::Error> + Send {
        pending()
    }
}
