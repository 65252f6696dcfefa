//! Sockets whose bytes a tunnel carries. One that is cut off is reset, so that its program never
//! takes what it has received for all of it.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use crate::values::Address;

/// A socket of a program here, or of a target.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        // The other end decides what is sent together.
        let _ = stream.set_nodelay(true);
        Self::Tcp(stream)
    }

    /// Connects to an address.
    pub(crate) async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(name) => Ok(Self::tcp(TcpStream::connect(name).await?)),
            #[cfg(unix)]
            Address::Unix(path) => Ok(Self::Unix(UnixStream::connect(path).await?)),
            #[cfg(not(unix))]
            Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The other end sees a reset, and no orderly end, once this is closed. A Unix socket has no
    /// reset.
    pub(crate) fn reset(&self) {
        self.set_linger(Some(Duration::ZERO));
    }

    fn set_linger(&self, linger: Option<Duration>) {
        match self {
            Self::Tcp(stream) => _ = SockRef::from(stream).set_linger(linger),
            #[cfg(unix)]
            Self::Unix(_) => {}
        }
    }
}

/// Uses a socket. If that fails or is dropped, or if the process is killed, the socket is reset:
/// the system closes it as it was set up before.
pub(crate) async fn hold<T>(
    socket: &mut Socket,
    using: impl AsyncFnOnce(&mut Socket) -> io::Result<T>,
) -> io::Result<T> {
    socket.reset();
    let used = using(socket).await?;
    socket.set_linger(None);
    Ok(used)
}

/// Evaluates `$do` with the stream.
macro_rules! with_stream {
    ($self:ident, $stream:ident => $do:expr) => {
        match $self.get_mut() {
            Self::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $do
            }
            #[cfg(unix)]
            Self::Unix(stream) => {
                let $stream = Pin::new(stream);
                $do
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        with_stream!(self, stream => stream.poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        with_stream!(self, stream => stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self, stream => stream.poll_shutdown(cx))
    }
}
