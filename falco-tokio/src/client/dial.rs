//! How a client opens a stream.

use core::fmt;
use core::future::{Future, poll_fn};
use core::panic::AssertUnwindSafe;
use core::pin::Pin;
use core::task::Poll;
use core::time::Duration;
use std::io;
use std::panic::catch_unwind;
#[cfg(unix)]
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use falco_core::Fate;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::addresses;
use super::panics::panicked;
use crate::error::Error;
use crate::socket::{Socket, Stream};

pub(super) type Dialing = Pin<Box<dyn Future<Output = Result<Socket, Error>> + Send>>;
/// A stream that the caller's function opens.
pub(super) type Connecting = Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>>;
type DialWith = dyn Fn() -> Connecting + Send + Sync;

/// How a client opens its streams.
pub(super) enum Dial {
    /// A host and port, resolved again for each connection.
    Tcp(String),
    #[cfg(unix)]
    Unix(PathBuf),
    With(Box<DialWith>),
    /// A single stream.
    Once(Mutex<Option<Box<dyn Stream>>>),
}

impl Dial {
    /// Whether no other stream can be opened.
    pub(super) fn is_spent(&self) -> bool {
        match self {
            Self::Once(stream) => stream
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .is_none(),
            #[cfg(unix)]
            Self::Unix(_) => false,
            Self::Tcp(_) | Self::With(_) => false,
        }
    }

    /// Begins to connect, within `limit`. `lifetime` is how long sent bytes may stay
    /// unacknowledged.
    pub(super) fn dial(&self, limit: Duration, lifetime: Duration) -> Dialing {
        let dialing: Pin<Box<dyn Future<Output = io::Result<Socket>> + Send>> = match self {
            Self::Tcp(name) => {
                let name = name.clone();
                Box::pin(async move { Ok(Socket::tcp(addresses::connect(&name).await?, lifetime)) })
            }
            #[cfg(unix)]
            Self::Unix(path) => {
                let path = path.clone();
                Box::pin(async move { Ok(Socket::Unix(connect_unix(&path).await?)) })
            }
            Self::With(dial) => {
                let dialing = catch_unwind(AssertUnwindSafe(dial)).map_err(|_| panicked());
                Box::pin(async move {
                    let mut dialing = dialing?;
                    let polled = poll_fn(|cx| {
                        let polled = catch_unwind(AssertUnwindSafe(|| dialing.as_mut().poll(cx)));
                        polled.unwrap_or_else(|_| Poll::Ready(Err(panicked())))
                    });
                    Ok(Socket::Other(polled.await?))
                })
            }
            Self::Once(stream) => {
                let stream = stream.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
                let none = || {
                    io::Error::new(
                        io::ErrorKind::NotConnected,
                        "the stream has ended, and there is no other",
                    )
                };
                Box::pin(async move { stream.map(Socket::Other).ok_or_else(none) })
            }
        };
        Box::pin(async move {
            match tokio::time::timeout(limit, dialing).await {
                Ok(Ok(socket)) => Ok(socket),
                Ok(Err(error)) => Err(Error::io("connecting", error, Fate::NotProcessed)),
                Err(_) => Err(Error::TimedOut {
                    doing: "connecting",
                    limit,
                    fate: Fate::NotProcessed,
                }),
            }
        })
    }
}

/// Connects to a Unix socket. If its backlog is full, the system reports that at once, so the
/// attempt is repeated until the limit has passed.
#[cfg(unix)]
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    let mut pause = Duration::from_millis(1);
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(pause).await,
            connected => return connected,
        }
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

impl fmt::Display for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name) => fmt::Display::fmt(name, f),
            #[cfg(unix)]
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::With(_) => f.write_str("a stream of connect_with"),
            Self::Once(_) => f.write_str("a stream that was passed in"),
        }
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name) => f.debug_tuple("Tcp").field(name).finish(),
            #[cfg(unix)]
            Self::Unix(path) => f.debug_tuple("Unix").field(path).finish(),
            Self::With(_) => f.write_str("With(..)"),
            Self::Once(_) => f.write_str("Once(..)"),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// On Linux a Unix socket's backlog holds one more than was asked for, and the next connect
    /// fails at once.
    #[tokio::test]
    async fn a_full_backlog_is_waited_for_until_the_limit() -> io::Result<()> {
        use socket2::{Domain, SockAddr, Socket as System, Type};

        let path = std::env::temp_dir().join(format!("falco-backlog-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = System::new(Domain::UNIX, Type::STREAM, None)?;
        listener.bind(&SockAddr::unix(&path)?)?;
        listener.listen(0)?;
        let waiting = std::os::unix::net::UnixStream::connect(&path)?;
        let (dial, life) = (Dial::Unix(path.clone()), Duration::from_secs(60));
        let began = tokio::time::Instant::now();
        let limit = Duration::from_millis(200);
        let failed = dial.dial(limit, life).await;
        assert!(matches!(
            failed,
            Err(Error::TimedOut {
                doing: "connecting",
                ..
            })
        ));
        assert!(began.elapsed() >= limit);
        // Accepting one connection makes room in the backlog.
        let dialing = tokio::spawn(dial.dial(Duration::from_secs(10), life));
        tokio::time::sleep(limit).await;
        assert!(!dialing.is_finished());
        listener.accept()?;
        assert!(dialing.await.is_ok_and(|dialed| dialed.is_ok()));
        drop(waiting);
        std::fs::remove_file(path)
    }
}
