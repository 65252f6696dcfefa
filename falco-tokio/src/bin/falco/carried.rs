//! Sockets whose bytes a tunnel carries. One that is cut off is reset, so that its program never
//! takes what it has received for all of it.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::io;

use falco_tokio::tunnel::Carried;
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
pub(crate) struct Socket {
    stream: Stream,
    /// What was read from it, and what was written to it.
    carried: Carried,
}

#[derive(Debug)]
enum Stream {
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
        Self::on(Stream::Tcp(stream))
    }

    #[cfg(unix)]
    pub(crate) fn unix(stream: UnixStream) -> Self {
        Self::on(Stream::Unix(stream))
    }

    fn on(stream: Stream) -> Self {
        Self {
            stream,
            carried: Carried::default(),
        }
    }

    /// How many bytes it has given and taken, also if it was cut off. Not all of them have arrived
    /// then.
    pub(crate) const fn carried(&self) -> Carried {
        self.carried
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
                    connected => return Ok(Self::unix(connected?)),
                }
            },
            #[cfg(not(unix))]
            Address::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Both directions have ended: when this is dropped, what was written is sent, and the socket
    /// is closed without a reset.
    pub(crate) fn end(&self) {
        match &self.stream {
            Stream::Tcp(stream) => {
                let _ = SockRef::from(stream).set_linger(None);
            }
            #[cfg(unix)]
            Stream::Unix(_) => {}
        }
    }
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Evaluates `$do` with the stream.
macro_rules! with_stream {
    ($self:ident, $stream:ident => $do:expr) => {
        match &mut $self.stream {
            Stream::Tcp(stream) => {
                let $stream = Pin::new(stream);
                $do
            }
            #[cfg(unix)]
            Stream::Unix(stream) => {
                let $stream = Pin::new(stream);
                $do
            }
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(with_stream!(self, stream => stream.poll_read(cx, buf)))?;
        self.carried.sent += length(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(with_stream!(self, stream => stream.poll_write(cx, bytes)))?;
        self.carried.received += length(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self, stream => stream.poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_stream!(self, stream => stream.poll_shutdown(cx))
    }
}
