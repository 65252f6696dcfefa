//! Streams of every kind under one type, and what is set on sockets.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tracing::debug;

/// Any stream of bytes that a connection can be on.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    Other(Box<dyn Stream>),
}

impl Socket {
    /// A connected TCP socket, set so that small messages go at once, and that a peer which is gone is noticed by the system too. `lifetime` is how long sent bytes may stay
    /// unacknowledged.
    pub(crate) fn tcp(stream: TcpStream, lifetime: Duration) -> Self {
        let socket = SockRef::from(&stream);
        let keep_alive = TcpKeepalive::new().with_time(lifetime.max(Duration::from_secs(1)));
        // A request is one small write: it must not wait for the acknowledgement of the one before.
        let set = stream
            .set_nodelay(true)
            .and_then(|()| socket.set_tcp_keepalive(&keep_alive));
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        let set = set.and_then(|()| socket.set_tcp_user_timeout(Some(lifetime)));
        if let Err(error) = set {
            // On some systems that of a socket whose peer has gone already; the first read tells.
            debug!(%error, "a socket could not be set up");
        }
        Self::Tcp(stream)
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut dyn Stream> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream),
            Self::Other(stream) => Pin::new(stream),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}
