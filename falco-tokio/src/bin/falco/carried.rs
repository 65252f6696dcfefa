//! Sockets whose bytes a tunnel carries. One that is cut off is reset, so that its program never
//! takes what it has received for all of it.

use core::pin::Pin;
use core::task::{Context, Poll};
use core::time::Duration;
use std::io;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use crate::values::Address;

/// When the system begins to ask whether the other end of an idle connection is still there.
const GONE: Duration = Duration::from_secs(60);
/// How long to wait before the next attempt to connect to a Unix socket whose queue is full.
#[cfg(unix)]
const PAUSE: Duration = Duration::from_millis(10);

/// A socket of a program here, or of a target.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Socket {
    /// Until [`end`](Self::end) is called, the other end sees a reset and no orderly end when this
    /// is dropped, or when the process is killed. A Unix socket has no reset.
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        // The other end decides what is sent together.
        let _ = stream.set_nodelay(true);
        let socket = SockRef::from(&stream);
        let _ = socket.set_linger(Some(Duration::ZERO));
        // So that a host which is gone does not keep its place.
        let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(GONE));
        #[cfg(any(target_os = "android", target_os = "fuchsia", target_os = "linux"))]
        let _ = socket.set_tcp_user_timeout(Some(2 * GONE));
        Self::Tcp(stream)
    }

    /// Connects to an address.
    pub(crate) async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(name) => Ok(Self::tcp(TcpStream::connect(name).await?)),
            // The system has no queue for those who connect without blocking. The caller has a time
            // limit.
            #[cfg(unix)]
            Address::Unix(path) => loop {
                match UnixStream::connect(path).await {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(PAUSE).await,
                    connected => return Ok(Self::Unix(connected?)),
                }
            },
            #[cfg(not(unix))]
            Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Both directions have ended: what was written is sent, and the socket is closed without a
    /// reset.
    pub(crate) fn end(self) {
        match &self {
            Self::Tcp(stream) => {
                let _ = SockRef::from(stream).set_linger(None);
            }
            #[cfg(unix)]
            Self::Unix(_) => {}
        }
    }
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
