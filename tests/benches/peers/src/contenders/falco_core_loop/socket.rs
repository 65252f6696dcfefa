//! What both loops share: a socket with its buffers, the clock, and the timer.

use core::future::poll_fn;
use core::pin::Pin;
use core::task::Poll;
use core::time::Duration;

use falco_core::{Instant, RecvBuf, Settings, Unread};
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep_until, timeout};

use crate::Failure;

/// What is read first on a connection, and what it grows to while reads fill it.
const FIRST_READ: usize = 1 << 10;
const MAX_READ: usize = 64 << 10;

/// The largest output of one call of `seal`: a record, and what is pending before it.
const MAX_OUT: usize = 66 << 10;

/// A time in the past of every connection, from which their times are counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(tokio::time::Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(tokio::time::Instant::now())
    }

    pub(super) fn now(self) -> Instant {
        Instant::from_millis(self.0.elapsed().as_millis().try_into().unwrap_or(u64::MAX))
    }

    fn at(self, instant: Instant) -> tokio::time::Instant {
        self.0 + Duration::from_millis(instant.as_millis())
    }
}

/// What ended a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    Bytes,
    End,
    Deadline,
}

/// A socket and its buffers, which are kept.
pub(super) struct Socket {
    pub(super) clock: Clock,
    pub(super) inbox: RecvBuf<Vec<u8>>,
    stream: TcpStream,
    out: Vec<u8>,
    read_ahead: usize,
    /// Fires at the deadline or before it, so that it is not set again for each record.
    timer: Pin<Box<Sleep>>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, clock: Clock) -> Self {
        let mut inbox = RecvBuf::default();
        inbox.set_read_ahead(FIRST_READ);
        let timer = Box::pin(sleep_until(clock.at(clock.now() + Duration::from_secs(60))));
        Self {
            clock,
            inbox,
            stream,
            out: Vec::new(),
            read_ahead: FIRST_READ,
            timer,
        }
    }

    /// Reads until there is something new or the deadline passes.
    pub(super) async fn read(&mut self, total: usize, deadline: Option<Instant>) -> Result<Read, Failure> {
        let due = deadline.map(|deadline| self.clock.at(deadline));
        let (stream, timer) = (&mut self.stream, &mut self.timer);
        let mut space = ReadBuf::new(self.inbox.space(total)?);
        let read = poll_fn(|context| {
            if let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(context, &mut space) {
                return Poll::Ready(read.map(|()| true));
            }
            let Some(due) = due else { return Poll::Pending };
            if due < timer.deadline() {
                timer.as_mut().reset(due);
            }
            while timer.as_mut().poll(context).is_ready() {
                if timer.deadline() >= due {
                    return Poll::Ready(Ok(false));
                }
                timer.as_mut().reset(due);
            }
            Poll::Pending
        });
        if !read.await? {
            return Ok(Read::Deadline);
        }
        let (count, full) = (space.filled().len(), space.remaining() == 0);
        self.inbox.filled(count);
        if full && self.read_ahead < MAX_READ {
            self.read_ahead *= 2;
            self.inbox.set_read_ahead(self.read_ahead);
        }
        Ok(if count == 0 { Read::End } else { Read::Bytes })
    }

    /// Space for the output of `seal`, of `size` bytes at least unless that is more than a record.
    pub(super) fn out(&mut self, size: usize) -> &mut [u8] {
        let size = size.min(MAX_OUT);
        if self.out.len() < size {
            self.out.resize(size, 0);
        }
        &mut self.out
    }

    /// The unread bytes, and space for output as [`out`](Self::out) gives it.
    pub(super) fn both(&mut self, size: usize) -> (Unread<'_, '_>, &mut [u8]) {
        self.out(size);
        (self.inbox.unread(), &mut self.out)
    }

    /// Writes the first `count` bytes of the output.
    pub(super) async fn write(&mut self, count: usize) -> Result<(), Failure> {
        Ok(self.stream.write_all(self.out.get(..count).unwrap_or_default()).await?)
    }

    /// Ends the stream gracefully: nothing more is written, and what the peer sends is read until
    /// it ends the stream too.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        self.stream.shutdown().await?;
        let stream = &mut self.stream;
        // A peer that does not end in time is left alone.
        let _ = timeout(Settings::LINGER, async {
            while matches!(stream.read(&mut [0; 256]).await, Ok(1..)) {}
        })
        .await;
        Ok(())
    }
}
