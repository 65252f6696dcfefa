//! The raw loops of plain TCP, rustls and snow: each message is a length of four bytes and a body.
//! They differ in the pipe under them alone.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::MAX_MESSAGE;
use crate::Failure;
use crate::load::Connection;
use crate::window::Window;

/// Bytes of the length before each body.
pub(super) const HEADER: usize = 4;

/// What is read first on a connection, and what it grows to while reads fill it.
const FIRST_READ: usize = 1 << 10;
const MAX_READ: usize = 64 << 10;

/// Bytes that were received and not used. It grows with what arrives, and is kept.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled all of the space.
    filled: bool,
}

impl Inbox {
    pub(super) fn unread(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Space behind the unread bytes, for `total` of them in all at least.
    pub(super) fn space(&mut self, total: usize) -> &mut [u8] {
        let unread = self.end - self.start;
        let grown = if self.filled {
            self.bytes.len().saturating_mul(2).min(MAX_READ)
        } else {
            FIRST_READ
        };
        let wanted = total.max(unread + 1).max(grown);
        if self.start > 0 && self.bytes.len() - self.start < wanted {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, unread);
        }
        if self.bytes.len() < wanted {
            self.bytes.resize(wanted, 0);
        }
        self.bytes.get_mut(self.end..).unwrap_or_default()
    }

    /// `count` bytes of the space were filled.
    pub(super) fn fill(&mut self, count: usize) {
        self.end += count;
        self.filled = self.end == self.bytes.len();
    }

    /// The length of all complete messages at the front, and how many they are.
    pub(super) fn complete(&self) -> Result<(usize, usize), Failure> {
        let (mut length, mut count) = (0, 0);
        while let Some(next) = frame(self.unread().get(length..).unwrap_or_default())? {
            if self.unread().len() - length < next {
                break;
            }
            length += next;
            count += 1;
        }
        Ok((length, count))
    }

    /// How many bytes the first message has, or its header.
    pub(super) fn wanted(&self) -> Result<usize, Failure> {
        Ok(frame(self.unread())?.unwrap_or(HEADER))
    }
}

/// The length of the message at the front with its header, once the header is there.
fn frame(unread: &[u8]) -> Result<Option<usize>, Failure> {
    let Some(header) = unread.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = usize::try_from(u32::from_be_bytes(*header))?;
    if length > MAX_MESSAGE {
        return Err("a message is too long".into());
    }
    Ok(Some(HEADER + length))
}

/// A message with its header, `count` times.
pub(super) fn frames(body: &[u8], count: usize) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&length, body].concat().repeat(count)
}

/// A stream of bytes after its handshake.
pub(super) trait Pipe: Send + 'static {
    /// Reads some bytes, of `total` that are wanted in all. 0 is the end.
    fn read(&mut self, inbox: &mut Inbox, total: usize) -> impl Future<Output = Result<usize, Failure>> + Send;

    /// Writes all bytes.
    fn write(&mut self, bytes: &[u8]) -> impl Future<Output = Result<(), Failure>> + Send;

    fn close(self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// A stream that needs nothing done to its bytes.
#[derive(Debug)]
pub(super) struct Stream<S>(pub(super) S);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Pipe for Stream<S> {
    async fn read(&mut self, inbox: &mut Inbox, total: usize) -> Result<usize, Failure> {
        let count = self.0.read(inbox.space(total)).await?;
        inbox.fill(count);
        Ok(count)
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.0.write_all(bytes).await?;
        Ok(self.0.flush().await?)
    }

    async fn close(mut self) -> Result<(), Failure> {
        Ok(self.0.shutdown().await?)
    }
}

/// Sends every message back, all that have arrived in one write.
pub(super) async fn echo(mut pipe: impl Pipe) -> Result<(), Failure> {
    let mut inbox = Inbox::default();
    loop {
        let (length, _) = inbox.complete()?;
        if length > 0 {
            pipe.write(inbox.unread().get(..length).unwrap_or_default()).await?;
            inbox.consume(length);
        }
        let wanted = inbox.wanted()?;
        if pipe.read(&mut inbox, wanted).await? == 0 {
            return Ok(());
        }
    }
}

/// The client's end of a pipe.
#[derive(Debug)]
pub(super) struct Framed<P> {
    pipe: P,
    inbox: Inbox,
}

impl<P: Pipe> Framed<P> {
    pub(super) fn new(pipe: P) -> Self {
        Self {
            pipe,
            inbox: Inbox::default(),
        }
    }

    async fn read(&mut self) -> Result<(), Failure> {
        let wanted = self.inbox.wanted()?;
        if self.pipe.read(&mut self.inbox, wanted).await? == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        Ok(())
    }
}

impl<P: Pipe> Connection for Framed<P> {
    /// With its header, so that sending it copies nothing.
    type Message = Vec<u8>;

    fn message(body: Vec<u8>) -> Vec<u8> {
        frames(&body, 1)
    }

    async fn call<R: Send>(&mut self, message: &Vec<u8>, look: impl FnOnce(&[u8]) -> R + Send) -> Result<R, Failure> {
        self.pipe.write(message).await?;
        loop {
            self.read().await?;
            let (length, count) = self.inbox.complete()?;
            if count > 0 {
                let looked = look(self.inbox.unread().get(HEADER..length).unwrap_or_default());
                self.inbox.consume(length);
                return Ok(looked);
            }
        }
    }

    async fn pipeline(&mut self, message: &Vec<u8>, depth: usize, window: Window) -> Result<u64, Failure> {
        let batch = message.repeat(depth);
        let (mut free, mut answered) = (depth, 0);
        while free < depth || window.is_open() {
            if free > 0 && window.is_open() {
                self.pipe
                    .write(batch.get(..free * message.len()).unwrap_or_default())
                    .await?;
                free = 0;
            }
            self.read().await?;
            let (length, count) = self.inbox.complete()?;
            if length != count * message.len() {
                return Err("an answer has not the length of its request".into());
            }
            self.inbox.consume(length);
            free += count;
            answered += u64::try_from(count)?;
        }
        Ok(answered)
    }

    async fn close(self) -> Result<(), Failure> {
        self.pipe.close().await
    }
}
