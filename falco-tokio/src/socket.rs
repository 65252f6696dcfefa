//! Streams of every kind under one type, and the options of sockets.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io::{self, Read};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;
use tracing::debug;

/// The largest values that systems accept: for the TCP keep-alive time, 15 bits of seconds; for the
/// TCP user timeout, 31 bits of milliseconds.
const LONGEST: (Duration, Duration) = (Duration::from_secs(32_767), Duration::from_millis(2_147_483_647));

/// A byte stream that a connection can use.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    Other(Box<dyn Stream>),
}

impl Socket {
    /// A connected TCP socket that is [set up](Self::set_up).
    pub(crate) fn tcp(stream: TcpStream, lifetime: Duration) -> Self {
        let socket = Self::Tcp(stream);
        socket.set_up(lifetime);
        socket
    }

    /// Sets options of a connected TCP socket: small messages are sent at once, and the system
    /// notices a peer that is gone. `lifetime` is how long sent bytes may stay unacknowledged.
    pub(crate) fn set_up(&self, lifetime: Duration) {
        let Self::Tcp(stream) = self else { return };
        let socket = SockRef::from(stream);
        let keep_alive = TcpKeepalive::new().with_time(lifetime.clamp(Duration::from_secs(1), LONGEST.0));
        // A request is one small write: it must not wait for the acknowledgement of the one before.
        let set = stream
            .set_nodelay(true)
            .and_then(|()| socket.set_tcp_keepalive(&keep_alive));
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        let set = set.and_then(|()| socket.set_tcp_user_timeout(Some(lifetime.min(LONGEST.1))));
        if let Err(error) = set {
            // On some systems this happens if the peer has closed the connection; the first read
            // reports that.
            debug!(%error, "a socket could not be set up");
        }
    }

    /// Reads from the socket directly: it may have bytes that the runtime does not know of yet. For
    /// a stream of another kind this returns `WouldBlock`; poll it instead.
    pub(crate) fn read_now(&self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => (&*SockRef::from(stream)).read(buf),
            #[cfg(unix)]
            Self::Unix(stream) => (&*SockRef::from(stream)).read(buf),
            Self::Other(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    /// Whether dropping it closes a socket, rather than a stream of another kind.
    pub(crate) const fn is_os_socket(&self) -> bool {
        !matches!(self, Self::Other(_))
    }

    /// Whether the socket has bytes, an end or an error to read, even if the runtime does not know
    /// of them yet. For a stream of another kind this returns `false`; read from it instead.
    pub(crate) fn is_readable(&self) -> bool {
        let mut place = [core::mem::MaybeUninit::uninit()];
        let peeked = match self {
            Self::Tcp(stream) => SockRef::from(stream).peek(&mut place),
            #[cfg(unix)]
            Self::Unix(stream) => SockRef::from(stream).peek(&mut place),
            Self::Other(_) => return false,
        };
        !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
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

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lifetimes_of_all_lengths_are_set() -> io::Result<()> {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        for (millis, keep_alive, user_timeout) in [
            (1_500, 1, 1_500),
            (60_000, 60, 60_000),
            (100_000_000, 32_767, 100_000_000),
            (u64::from(u32::MAX), 32_767, 2_147_483_647),
        ] {
            let stream = TcpStream::connect(listener.local_addr()?).await?;
            let Socket::Tcp(stream) = Socket::tcp(stream, Duration::from_millis(millis)) else {
                return Err(io::ErrorKind::Other.into());
            };
            let socket = SockRef::from(&stream);
            assert!(stream.nodelay()? && socket.keepalive()?);
            assert_eq!(socket.tcp_keepalive_time()?.as_secs(), keep_alive);
            assert_eq!(socket.tcp_user_timeout()?, Some(Duration::from_millis(user_timeout)));
        }
        Ok(())
    }
}
