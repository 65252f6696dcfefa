//! Sockets whose bytes a tunnel carries. If a stream is cut off, its socket is reset. The program
//! then does not take what it has received for the whole stream.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use core::time::Duration;
use std::io;

use falco_tokio::tunnel::{Carried, Watched};
#[cfg(target_os = "linux")]
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, tcp};
#[cfg(unix)]
use tokio::net::{UnixStream, unix};
#[cfg(target_os = "linux")]
use tokio::time::Instant;

use crate::values::Address;

/// After this time without traffic the system sends TCP keep-alive probes.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// How long the system may take to send the last bytes of a stream that was cut off.
#[cfg(target_os = "linux")]
const LAST_BYTES: Duration = Duration::from_secs(5);
/// How long to wait before the next look at a socket that is not ready, such as a Unix socket whose
/// queue is full.
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
        // Frees the place of a host that is gone. `TCP_USER_TIMEOUT` would also cut off a program
        // that reads nothing for that long.
        let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEP_ALIVE));
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

    /// How many bytes were read from the socket and written to it. If it was cut off, not all of
    /// them have arrived.
    pub(crate) const fn carried(&self) -> Carried {
        self.carried
    }

    /// The stream was cut off at its other end. Waits until the system has sent what was written,
    /// because a reset would drop it. The wait is short, as the program may read nothing more.
    pub(crate) async fn cut_off(self) {
        #[cfg(target_os = "linux")]
        if let Stream::Tcp(stream) = &self.stream {
            // With this option, the socket is writable once everything was sent.
            let _ = SockRef::from(stream).set_tcp_notsent_lowat(1);
            let writable = || {
                let mut polled = [PollFd::new(stream, PollFlags::OUT)];
                poll(&mut polled, Some(&Timespec::default())) != Ok(0)
            };
            let deadline = Instant::now() + LAST_BYTES;
            while !writable() && Instant::now() < deadline {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// The two halves of the socket, which count the bytes that pass them.
    pub(crate) fn halves(&mut self) -> (Reads<'_>, Writes<'_>) {
        let Carried { sent, received } = &mut self.carried;
        let (reads, writes) = match &mut self.stream {
            Stream::Tcp(stream) => {
                let (reads, writes) = stream.split();
                (ReadHalf::Tcp(reads), WriteHalf::Tcp(writes))
            }
            #[cfg(unix)]
            Stream::Unix(stream) => {
                let (reads, writes) = stream.split();
                (ReadHalf::Unix(reads), WriteHalf::Unix(writes))
            }
        };
        (Reads(reads, sent), Writes(writes, received))
    }

    /// Connects to an address.
    pub(crate) async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(name) => Ok(Self::tcp(TcpStream::connect(name).await?)),
            // If the backlog is full, a non-blocking connect fails at once, so it is tried again.
            // The caller has a time limit.
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

/// Whether a stream was cut off because of `--idle-timeout`.
pub(crate) fn is_idle(error: &io::Error) -> bool {
    // The system has such an error too, for a host that is gone.
    error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none()
}

/// Whether a stream was cut off because the program or the target has reset its connection.
pub(crate) fn is_reset(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
    )
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// The half of a socket that is read, and the count of bytes that were read.
pub(crate) struct Reads<'s>(ReadHalf<'s>, &'s mut u64);

/// The half that is written, and the count of bytes that were written.
pub(crate) struct Writes<'s>(WriteHalf<'s>, &'s mut u64);

enum ReadHalf<'s> {
    Tcp(tcp::ReadHalf<'s>),
    #[cfg(unix)]
    Unix(unix::ReadHalf<'s>),
}

enum WriteHalf<'s> {
    Tcp(tcp::WriteHalf<'s>),
    #[cfg(unix)]
    Unix(unix::WriteHalf<'s>),
}

/// Evaluates `$do` with the half of either kind.
macro_rules! with_half {
    ($kind:ident, $of:expr, $half:ident => $do:expr) => {
        match $of {
            $kind::Tcp($half) => $do,
            #[cfg(unix)]
            $kind::Unix($half) => $do,
        }
    };
}

impl AsyncRead for Reads<'_> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(with_half!(ReadHalf, &mut self.0, half => Pin::new(half).poll_read(cx, buf)))?;
        *self.1 += length(buf.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl Watched for Reads<'_> {
    async fn failed(&self) -> io::Error {
        with_half!(ReadHalf, &self.0, half => half.failed().await)
    }
}

impl AsyncWrite for Writes<'_> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let count = ready!(with_half!(WriteHalf, &mut self.0, half => Pin::new(half).poll_write(cx, bytes)))?;
        *self.1 += length(count);
        Poll::Ready(Ok(count))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_half!(WriteHalf, &mut self.0, half => Pin::new(half).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        with_half!(WriteHalf, &mut self.0, half => Pin::new(half).poll_shutdown(cx))
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    /// Measured in another way, it would take as long as the system waits.
    #[tokio::test]
    async fn the_system_does_not_cut_off_a_program_that_reads_nothing() -> io::Result<()> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
        let (connected, accepted) = tokio::join!(TcpStream::connect(listener.local_addr()?), listener.accept());
        for stream in [connected?, accepted?.0] {
            let socket = Socket::tcp(stream);
            let Stream::Tcp(stream) = &socket.stream else {
                return Err(io::ErrorKind::Unsupported.into());
            };
            let socket = SockRef::from(stream);
            assert_eq!(socket.tcp_user_timeout()?, None);
            assert!(socket.keepalive()?);
        }
        Ok(())
    }
}
