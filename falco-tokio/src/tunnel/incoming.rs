//! The server's side of a tunnel.

use core::fmt;
use core::time::Duration;
use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::SetOnce;
use tokio::time::{sleep, timeout};

use super::idle::Idle;
use super::pump::{HEADER, read_chunk, write_chunk};
use super::watch::{Unwatched, Watched, failed};
use super::{CONNECTED, Carried, LAST_BYTES, REFUSED, TUNNEL, length_of};
use crate::error::Error;
use crate::server::StreamRequest;
use crate::stream::{RecvStream, SendStream};

/// The server's side of a tunnel, before the server has connected to the target.
pub struct Incoming {
    target: String,
    /// Bytes of the client's socket that have arrived already.
    first: Bytes,
    body: RecvStream,
    answer: SendStream,
    idle_timeout: Option<Duration>,
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
    timeout(ACCEPT, read_target(request)).await?
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
        idle_timeout: None,
    })
}

impl Incoming {
    /// The name of the target that the client wants. The server decides what it means.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// As [`Tunnel::idle_timeout`](super::Tunnel::idle_timeout).
    #[must_use]
    pub const fn idle_timeout(mut self, limit: Option<Duration>) -> Self {
        self.idle_timeout = limit;
        self
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
    /// If the socket fails while the client takes no more of its bytes, only
    /// [`join_halves`](Self::join_halves) notices that at once.
    ///
    /// # Errors
    /// The error of the socket, or why the stream was cut off. The client's socket is then reset,
    /// after the bytes that `socket` had sent.
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
    pub async fn join_halves<R, W>(self, mut reads: R, mut writes: W) -> io::Result<Carried>
    where
        R: Watched,
        W: AsyncWrite + Unpin,
    {
        let Self {
            first,
            mut body,
            mut answer,
            idle_timeout,
            ..
        } = self;
        let (idle, failure) = (Idle::new(idle_timeout), Failure::new());
        let mut target = Target {
            answer: &mut answer,
            failure: &failure,
            idle: &idle,
            ended: false,
        };
        // Futures that are moved would take memory of an idle tunnel twice.
        let (sent, received) = tokio::select! {
            biased;
            both = async {
                tokio::try_join!(
                    async {
                        tokio::select! {
                            biased;
                            sent = target.send_all(&mut reads) => sent.map(Some),
                            () = late(&failure) => Ok(None),
                        }
                    },
                    async {
                        tokio::select! {
                            biased;
                            taken = take_all(first, &mut body, &mut writes, &failure, &idle) => taken,
                            _ = failure.wait() => Ok(0),
                        }
                    },
                )
            } => both?,
            error = idle.expired() => return Err(error),
        };
        let ended = target.ended;
        let Some(error) = failure.into_inner() else {
            answer.finish().map_err(io::Error::other)?;
            let sent = sent.unwrap_or_default();
            return Ok(Carried { sent, received });
        };
        // Without that, the request fails when the handler ends, and what is left of its answer is
        // not sent.
        if sent.is_some() {
            if ended {
                answer.send(vec![0]).await.map_err(io::Error::other)?;
            }
            answer.finish().map_err(io::Error::other)?;
        }
        Err(error)
    }
}

/// The error of the target's socket, once it has failed.
type Failure = SetOnce<io::Error>;

/// Waits until the socket of the target has failed, and then for [`LAST_BYTES`], the time in which
/// the bytes that it had sent before may still reach the client.
async fn late(failure: &Failure) {
    failure.wait().await;
    // Boxed, so that an idle tunnel has no memory for it.
    Box::pin(sleep(LAST_BYTES)).await;
}

/// The direction to the client.
struct Target<'t> {
    answer: &'t mut SendStream,
    failure: &'t Failure,
    idle: &'t Idle,
    /// The answer was finished: the client knows that the bytes of the target are complete.
    ended: bool,
}

impl Target<'_> {
    /// Sends what the target has sent. If its socket fails, all that arrived before. Returns how
    /// many bytes that were. Fails if the client takes nothing more.
    async fn send_all(&mut self, reads: &mut impl Watched) -> io::Result<u64> {
        self.send(reads, vec![CONNECTED].into()).await?;
        let mut sent = 0;
        loop {
            match read_chunk(reads, HEADER).await {
                Ok(Some(piece)) => {
                    self.idle.note();
                    sent += length_of(&piece).saturating_sub(4);
                    self.send(reads, piece).await?;
                }
                // After the last bytes of a socket that has failed, a read may return the end of
                // the stream.
                Ok(None) if self.failure.initialized() => return Ok(sent),
                Ok(None) => break,
                Err(error) => {
                    let _ = self.failure.set(error);
                    return Ok(sent);
                }
            }
        }
        self.send(reads, vec![0; HEADER].into()).await?;
        self.ended = true;
        Ok(sent)
    }

    /// Sends bytes. Nothing is read meanwhile, so that a failure would not be noticed otherwise.
    async fn send(&mut self, reads: &impl Watched, bytes: Bytes) -> io::Result<()> {
        let mut sending = core::pin::pin!(self.answer.send(bytes));
        let sent = if self.failure.initialized() {
            sending.await
        } else {
            tokio::select! {
                biased;
                sent = &mut sending => sent,
                error = failed(reads) => {
                    let _ = self.failure.set(error);
                    sending.await
                }
            }
        };
        sent.map_err(io::Error::other)?;
        self.idle.note();
        Ok(())
    }
}

/// Writes to the target what the client sends. Fails if the body was cut off.
async fn take_all(
    first: Bytes,
    body: &mut RecvStream,
    writes: &mut (impl AsyncWrite + Unpin),
    failure: &Failure,
    idle: &Idle,
) -> io::Result<u64> {
    let (mut received, mut next) = (0, first);
    loop {
        received += length_of(&next);
        if let Err(error) = write_chunk(writes, next, idle).await {
            let _ = failure.set(error);
            return Ok(received);
        }
        let Some(bytes) = body.next().await else { break };
        next = bytes.map_err(io::Error::other)?;
    }
    if let Err(error) = writes.shutdown().await {
        let _ = failure.set(error);
    }
    Ok(received)
}
