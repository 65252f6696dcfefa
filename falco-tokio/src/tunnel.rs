//! Carries a connection of any protocol over an open request: bytes of a socket on one side come
//! out of a socket on the other. The tool's `falco forward` and `falco serve --forward` use it, and
//! so can a service.
//!
//! The client calls [`connect`] for each connection that it wants to carry, and then
//! [`join`](Tunnel::join). The handler of a server calls [`accept`], connects to the target, and
//! then [`join`](Incoming::join). Each direction ends on its own, as with TCP. If a socket or a
//! connection fails, both functions return an error, and the caller should reset its socket: a
//! stream that was cut off is never reported as whole. Because their futures may also be dropped,
//! set the linger time of a TCP socket to zero before, with the crate `socket2` for example, and
//! remove it when they have succeeded: until then the system resets a socket that is closed.
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
//! byte, and the name. Behind it are the bytes of the client's socket, and the body ends where they
//! end. The first byte differs from those of answers, so that a server which echoes its requests is
//! not taken for one that has connected.
//!
//! The body of the answer begins with one byte: 0 if the server has connected to the target;
//! otherwise it is 1, and the rest is the reason as text. Behind the 0 are the bytes of the
//! target's socket, in pieces: the length of a piece in four bytes, big-endian, and the piece. A
//! piece of length 0 means that they end there. The answer itself ends only when both directions
//! have ended.

mod pump;

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use self::pump::{HEADER, read_chunk};
use crate::client::Client;
use crate::error::Error;
use crate::server::StreamRequest;
use crate::stream::{Call, RecvStream, SendStream};

/// The first byte of a request.
const TUNNEL: u8 = b'T';
/// The server has connected to the target.
const CONNECTED: u8 = 0;
/// It has not.
const REFUSED: u8 = 1;
/// The longest reason that is read.
const LONGEST_REASON: usize = 1 << 10;

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
    })
}

/// The client's side of a tunnel. If it is dropped, the target's socket is reset.
#[derive(Debug)]
#[must_use = "if it is dropped, the tunnel is closed"]
pub struct Tunnel {
    call: Call,
}

impl Tunnel {
    /// Carries bytes between `socket` and the target until both directions have ended. Shuts the
    /// socket's sending half down where the target's bytes end.
    ///
    /// # Errors
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused) with the server's reason if it has
    /// not connected to the target. [`InvalidData`](io::ErrorKind::InvalidData) if the server
    /// answers open requests and knows of no tunnel. Otherwise the error of the socket, or why the
    /// stream was cut off.
    pub async fn join<S>(self, socket: &mut S) -> io::Result<Carried>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut sending, mut receiving) = self.call.split();
        let (mut reads, mut writes) = tokio::io::split(socket);
        let sent = AtomicU64::new(0);
        let up = async {
            while let Some(chunk) = read_chunk(&mut reads, 0).await? {
                let length = length_of(&chunk);
                match sending.send(chunk).await {
                    Ok(()) => _ = sent.fetch_add(length, Ordering::Relaxed),
                    // The answer has ended, or its end says why nothing more is taken.
                    Err(_) => return core::future::pending().await,
                }
            }
            let _ = sending.finish();
            // The answer goes on.
            core::future::pending::<io::Result<u64>>().await
        };
        let down = async {
            let mut pieces = Pieces::new(&mut receiving);
            pieces.connected().await?;
            let mut received = 0;
            while let Some(bytes) = pieces.next().await? {
                received += length_of(&bytes);
                writes.write_all(&bytes).await?;
            }
            writes.shutdown().await?;
            pieces.end().await?;
            Ok::<_, io::Error>(received)
        };
        let received = tokio::select! {
            received = down => received?,
            failed = up => failed?,
        };
        let sent = sent.into_inner();
        Ok(Carried { sent, received })
    }
}

/// The server's side of a tunnel, before the server has connected to the target.
pub struct Incoming {
    target: String,
    /// Bytes of the client's socket that have arrived already.
    first: Bytes,
    body: RecvStream,
    answer: SendStream,
}

impl fmt::Debug for Incoming {
    /// Shows no bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming")
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// How long a client may take to say which target it wants. [`connect`] says it at once.
const ACCEPT: Duration = Duration::from_secs(10);

/// Reads which target the client of an open request wants, for 10 s at most.
///
/// # Errors
/// Those of [`RecvStream::next`]; [`InvalidData`](io::ErrorKind::InvalidData) if the request is no
/// tunnel; [`TimedOut`](io::ErrorKind::TimedOut).
pub async fn accept(request: StreamRequest) -> io::Result<Incoming> {
    tokio::time::timeout(ACCEPT, read_target(request)).await?
}

async fn read_target(request: StreamRequest) -> io::Result<Incoming> {
    let StreamRequest { mut body, answer, .. } = request;
    let mut first = BytesMut::new();
    let name = loop {
        if first.first().is_some_and(|byte| *byte != TUNNEL) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        if let Some([_, length]) = first.first_chunk()
            && let Some(name) = first.get(2..2 + usize::from(*length))
        {
            break name.to_vec();
        }
        let Some(bytes) = body.next().await else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        first.extend_from_slice(&bytes.map_err(io::Error::other)?);
    };
    let first = first.freeze().slice(name.len() + 2..);
    let target = String::from_utf8(name).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Incoming {
        target,
        first,
        body,
        answer,
    })
}

impl Incoming {
    /// The name of the target that the client wants. What it means is for the server alone to
    /// decide.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Tells the client that there is no connection to the target, and why. The reason should
    /// reveal no more than the client may know; at most one KiB of it is read.
    ///
    /// # Errors
    /// Those of [`SendStream::send`].
    pub async fn refuse(mut self, reason: &str) -> Result<(), Error> {
        let mut text = vec![REFUSED];
        text.extend_from_slice(reason.as_bytes());
        self.answer.send(text).await?;
        self.answer.finish()
    }

    /// Carries bytes between the client and `socket`, which is connected to the target, until both
    /// directions have ended. Shuts the socket's sending half down where the client's bytes end.
    ///
    /// # Errors
    /// The error of the socket, or why the stream was cut off. If the handler then returns an error
    /// as well, the client's socket is reset.
    pub async fn join<S>(mut self, socket: &mut S) -> io::Result<Carried>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut reads, mut writes) = tokio::io::split(socket);
        let (answer, body) = (&mut self.answer, &mut self.body);
        let first = core::mem::take(&mut self.first);
        let up = async {
            answer.send(vec![CONNECTED]).await.map_err(io::Error::other)?;
            let mut sent = 0;
            while let Some(piece) = read_chunk(&mut reads, HEADER).await? {
                sent += length_of(&piece).saturating_sub(4);
                answer.send(piece).await.map_err(io::Error::other)?;
            }
            answer.send(vec![0; HEADER]).await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(sent)
        };
        let down = async {
            writes.write_all(&first).await?;
            let mut received = length_of(&first);
            while let Some(bytes) = body.next().await {
                let bytes = bytes.map_err(io::Error::other)?;
                received += length_of(&bytes);
                writes.write_all(&bytes).await?;
            }
            writes.shutdown().await?;
            Ok::<_, io::Error>(received)
        };
        let (sent, received) = tokio::try_join!(up, down)?;
        self.answer.finish().map_err(io::Error::other)?;
        Ok(Carried { sent, received })
    }
}

fn length_of(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The pieces of an answer.
struct Pieces<'r> {
    from: &'r mut RecvStream,
    /// Bytes that have arrived and are not returned.
    rest: Bytes,
    /// Bytes of the current piece that are not returned.
    left: usize,
}

impl<'r> Pieces<'r> {
    fn new(from: &'r mut RecvStream) -> Self {
        Self {
            from,
            rest: Bytes::new(),
            left: 0,
        }
    }

    /// Reads until `count` bytes are there.
    async fn fill(&mut self, count: usize) -> io::Result<()> {
        while self.rest.len() < count {
            let Some(bytes) = self.from.next().await else {
                return Err(io::ErrorKind::UnexpectedEof.into());
            };
            let bytes = bytes.map_err(io::Error::other)?;
            if self.rest.is_empty() {
                self.rest = bytes;
            } else {
                self.rest = Bytes::from([&self.rest[..], &bytes[..]].concat());
            }
        }
        Ok(())
    }

    /// Waits until the server has connected to the target.
    async fn connected(&mut self) -> io::Result<()> {
        self.fill(1).await?;
        let status = self.rest.split_to(1);
        match status.first() {
            Some(&CONNECTED) => return Ok(()),
            Some(&REFUSED) => {}
            _ => {
                let text = "this server carries no connections";
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
        let mut reason = self.rest.to_vec();
        while reason.len() < LONGEST_REASON
            && let Some(Ok(bytes)) = self.from.next().await
        {
            reason.extend_from_slice(&bytes);
        }
        reason.truncate(LONGEST_REASON);
        let reason = Reason(String::from_utf8_lossy(&reason).into_owned());
        Err(io::Error::new(io::ErrorKind::ConnectionRefused, reason))
    }

    /// The next bytes of the target; `None` where they end.
    async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            self.fill(HEADER).await?;
            let header = self.rest.split_to(HEADER);
            let length = header.first_chunk().map_or(0, |length| u32::from_be_bytes(*length));
            self.left = usize::try_from(length).unwrap_or(usize::MAX);
            if self.left == 0 {
                return Ok(None);
            }
        }
        self.fill(1).await?;
        let bytes = self.rest.split_to(self.rest.len().min(self.left));
        self.left -= bytes.len();
        Ok(Some(bytes))
    }

    /// Waits until the answer has ended.
    async fn end(&mut self) -> io::Result<()> {
        match self.from.next().await {
            None if self.rest.is_empty() => Ok(()),
            Some(Err(error)) => Err(io::Error::other(error)),
            None | Some(Ok(_)) => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Why a server has not connected to a target.
#[derive(Debug)]
struct Reason(String);

impl fmt::Display for Reason {
    /// The text of the server, without control characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server refused: {}", self.0.escape_debug())
    }
}

impl core::error::Error for Reason {}
