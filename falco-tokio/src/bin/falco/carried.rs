//! Sockets whose bytes a tunnel carries. One that is cut off is reset, so that its program never
//! takes what it has received for all of it.

use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;

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

    /// The other end sees a reset, and no orderly end, once this is dropped. A Unix socket has no
    /// reset.
    pub(crate) fn reset(&self) {
        if let Self::Tcp(stream) = self {
            let _ = socket2::SockRef::from(stream).set_linger(Some(core::time::Duration::ZERO));
        }
    }
}

/// Uses a socket, and resets it if that fails or is dropped.
pub(crate) async fn hold<T>(
    socket: &mut Socket,
    using: impl AsyncFnOnce(&mut Socket) -> io::Result<T>,
) -> io::Result<T> {
    struct ResetOnDrop<'s>(&'s mut Socket, bool);

    impl Drop for ResetOnDrop<'_> {
        fn drop(&mut self) {
            if self.1 {
                self.0.reset();
            }
        }
    }

    let mut held = ResetOnDrop(socket, true);
    let used = using(held.0).await;
    held.1 = used.is_err();
    used
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
