//! Carries a connection of any protocol over an open request: bytes of a socket on one side come
//! out of a socket on the other. The tool's `falco forward` and `falco serve --forward` use it, and
//! so can a service.
//!
//! The client calls [`connect`] for each connection that it wants to carry, and then
//! [`join`](Tunnel::join). The handler of a server calls [`accept`], connects to the target, and
//! then [`join`](Incoming::join). Each direction ends on its own, as with TCP. If a socket or a
//! connection fails, both functions return an error, and the caller should reset its socket: a
//! stream that was cut off is never reported as whole. Their futures may also be dropped. So set
//! the linger time of a TCP socket to zero before, with the crate `socket2` for example. The system
//! then resets the socket when it is closed. Remove the linger time when `join` has succeeded.
//!
//! ```
//! use falco_tokio::{Client, Key, Request, Server, StreamRequest, tunnel};
//! use tokio::io::{AsyncReadExt, AsyncWriteExt};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let key = [7; 32];
//! let server = Server::builder(Key::from_bytes(key)?).bind("127.0.0.1:0").await?;
//! let (address, handle) = (server.local_addr()?, server.handle());
//! let serving = tokio::spawn(server.serve_streams(
//!     |request: Request| async move { Ok(request.into_body()) },
//!     |request: StreamRequest| async move {
//!         let incoming = tunnel::accept(request).await?;
//!         if incoming.target() != "echo" {
//!             return Ok(incoming.refuse("there is no such target").await?);
//!         }
//!         let (mut near, far) = tokio::io::duplex(4096); // a socket of the target
//!         tokio::spawn(async move {
//!             let (mut reads, mut writes) = tokio::io::split(far);
//!             tokio::io::copy(&mut reads, &mut writes).await?;
//!             writes.shutdown().await
//!         });
//!         incoming.join(&mut near).await?;
//!         Ok(())
//!     },
//! ));
//!
//! let client = Client::builder(Key::from_bytes(key)?).connect(address).await?;
//! let (mut socket, mut user) = tokio::io::duplex(4096);
//! let tunnel = tunnel::connect(&client, "echo").await?;
//! let carrying = tokio::spawn(async move { tunnel.join(&mut socket).await });
//! user.write_all(b"hello").await?;
//! user.shutdown().await?;
//! let mut answer = String::new();
//! user.read_to_string(&mut answer).await?;
//! assert_eq!(answer, "hello");
//! assert_eq!(carrying.await??, tunnel::Carried { sent: 5, received: 5 });
//! # client.close().await;
//! # handle.shutdown();
//! # serving.await??;
//! # Ok(())
//! # }
//! ```
//!
//! # Format
//!
//! The body of the request begins with the byte 84 (`T`), the length of the target's name in one
//! byte, and the name. The bytes of the client's socket follow, and the body ends where they end.
//! The first byte differs from those of answers, so that a server which echoes its requests is not
//! taken for one that has connected.
//!
//! The body of the answer begins with one byte: 0 if the server has connected to the target;
//! otherwise it is 1, and the rest is the reason as text. After the 0 come the bytes of the
//! target's socket, in pieces: the length of a piece in four bytes, big-endian, and the piece. A
//! piece of length 0 means that they end there. The answer itself ends only when both directions
//! have ended. If it ends earlier, or with further bytes, the target's socket has failed. The
//! pieces before that are what had arrived from the socket.

mod idle;
mod incoming;
mod pieces;
mod pump;
mod watch;

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::sleep;

use self::idle::Idle;
pub use self::incoming::{Incoming, accept};
use self::pieces::Pieces;
use self::pump::{read_chunk, write_chunk};
pub use self::watch::Watched;
use self::watch::{Unwatched, failed};
use crate::client::Client;
use crate::error::Error;
use crate::stream::{Call, SendStream};

/// The first byte of a request.
const TUNNEL: u8 = b'T';
/// The server has connected to the target.
const CONNECTED: u8 = 0;
/// The server could not connect to the target.
const REFUSED: u8 = 1;
/// How long one side waits for the other to take the last bytes of a stream that was cut off.
const LAST_BYTES: Duration = Duration::from_secs(5);

/// How many bytes a tunnel has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "there are two directions")]
pub struct Carried {
    /// From the own socket to the other side.
    pub sent: u64,
    /// From the other side to the own socket.
    pub received: u64,
}

/// Opens a tunnel to a target of the server, which knows it by this name. The name has at most 255
/// bytes, and is empty for a server with one target.
///
/// This returns as soon as the request has begun on a connection: whether the server can connect
/// to the target is reported by [`Tunnel::join`].
///
/// # Errors
/// Those of [`Client::open`].
pub async fn connect(client: &Client, target: &str) -> Result<Tunnel, Error> {
    let length = u8::try_from(target.len()).map_err(|_| {
        let error = io::Error::new(
            io::ErrorKind::InvalidInput,
            "the name of a target has at most 255 bytes",
        );
        Error::io("opening a tunnel", error, falco_core::Fate::NotProcessed)
    })?;
    let mut first = BytesMut::with_capacity(target.len() + 2);
    first.put_u8(TUNNEL);
    first.put_u8(length);
    first.extend_from_slice(target.as_bytes());
    Ok(Tunnel {
        call: client.open(first.freeze()).await?,
        idle_timeout: None,
    })
}

/// The client's side of a tunnel. If it is dropped, the target's socket is reset.
#[derive(Debug)]
#[must_use = "if it is dropped, the tunnel is closed"]
pub struct Tunnel {
    call: Call,
    idle_timeout: Option<Duration>,
}

impl Tunnel {
    /// How long [`join`](Self::join) may carry nothing in either direction. After that it fails
    /// with [`TimedOut`](io::ErrorKind::TimedOut). No limit by default.
    pub const fn idle_timeout(mut self, limit: Option<Duration>) -> Self {
        self.idle_timeout = limit;
        self
    }

    /// Carries bytes between `socket` and the target until both directions have ended. Shuts the
    /// socket's sending half down where the target's bytes end.
    ///
    /// If the socket fails while the server takes no more of its bytes, or after the socket's last
    /// byte, only [`join_halves`](Self::join_halves) notices that at once.
    ///
    /// # Errors
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) with the server's reason if it has
    /// not connected to the target. [`InvalidData`](io::ErrorKind::InvalidData) if the server
    /// answers open requests and knows of no tunnel. Otherwise the error of the socket, or why the
    /// stream was cut off. What the target had sent before that was written to the socket.
    pub async fn join<S>(self, socket: &mut S) -> io::Result<Carried>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (reads, writes) = tokio::io::split(socket);
        self.join_halves(Unwatched(reads), writes).await
    }

    /// As [`join`](Self::join), with the two halves of a socket.
    ///
    /// # Errors
    /// Those of [`join`](Self::join).
    pub async fn join_halves<R, W>(self, reads: R, mut writes: W) -> io::Result<Carried>
    where
        R: Watched,
        W: AsyncWrite + Unpin,
    {
        let (mut sending, mut receiving) = self.call.split();
        let (idle, sent) = (Idle::new(self.idle_timeout), AtomicU64::new(0));
        // A future that is moved would take memory of an idle tunnel twice.
        let received = tokio::select! {
            // A socket may fail as soon as both directions have ended.
            biased;
            received = async {
                let mut pieces = Pieces::new(&mut receiving);
                pieces.connected().await?;
                let mut received = 0;
                while let Some(bytes) = pieces.next().await? {
                    received += length_of(&bytes);
                    write_chunk(&mut writes, bytes, &idle).await?;
                }
                writes.shutdown().await?;
                pieces.end().await?;
                Ok::<_, io::Error>(received)
            } => received?,
            error = send_all(reads, &mut sending, &sent, &idle) => return Err(error),
            error = idle.expired() => return Err(error),
        };
        let sent = sent.into_inner();
        Ok(Carried { sent, received })
    }
}

/// Sends what the socket sends, and then waits until the socket fails, because the answer
/// continues.
async fn send_all(mut reads: impl Watched, sending: &mut SendStream, sent: &AtomicU64, idle: &Idle) -> io::Error {
    loop {
        let chunk = match read_chunk(&mut reads, 0).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => break,
            Err(error) => return error,
        };
        idle.note();
        let length = length_of(&chunk);
        // Nothing is read meanwhile, so that a failure would not be noticed otherwise.
        let accepted = tokio::select! {
            biased;
            accepted = sending.send(chunk) => accepted,
            error = failed(&reads) => return error,
        };
        match accepted {
            Ok(()) => _ = sent.fetch_add(length, Ordering::Relaxed),
            // The answer has ended, or its end says why nothing more is taken. A socket that does
            // not accept the rest of it must not wait forever.
            Err(why) => {
                return tokio::select! {
                    () = Box::pin(sleep(LAST_BYTES)) => io::Error::other(why),
                    error = failed(&reads) => error,
                };
            }
        }
        idle.note();
    }
    let _ = sending.finish();
    failed(&reads).await
}

fn length_of(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
