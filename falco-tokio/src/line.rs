//! A stream with its unread bytes and its pending output. The core interprets the bytes.

use core::fmt;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io;

use falco_core::{Ending, LastStep, OutputTooSmall, RecvBuf, Unread};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Clock;
use crate::pool::{self, POOLED};
use crate::socket::Socket;
use crate::timer::Timer;

/// A pooled buffer with fewer unread bytes than this is replaced by one of their size, so that a
/// peer cannot pin a large buffer with few bytes.
const WORTH_KEEPING: usize = POOLED / 4;

/// After this many writes the stream is read again: a stream that accepts every write at once must
/// not keep this side from reading.
const WRITES: usize = 16;

/// How many bytes were sealed, or else how many bytes of output are needed.
pub(crate) fn sealed(sealed: Result<usize, OutputTooSmall>) -> Result<usize, usize> {
    sealed.map_err(|OutputTooSmall { needed, .. }| needed)
}

/// The bytes of `out` from `sent` to `sealed`.
fn unwritten(out: &[u8], sent: u32, sealed: u32) -> &[u8] {
    let range = usize::try_from(sent).ok().zip(usize::try_from(sealed).ok());
    range.and_then(|(from, to)| out.get(from..to)).unwrap_or_default()
}

/// A length of sealed bytes, which is less than 4 GiB.
fn length(of: usize) -> io::Result<u32> {
    u32::try_from(of).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// The result of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wrote {
    /// The stream has accepted something.
    pub(crate) some: bool,
    /// Nothing is left that can be sent now, and the stream has flushed everything. Otherwise it
    /// accepts no more, or the limit of this turn is reached.
    pub(crate) all: bool,
}

impl Wrote {
    /// There was nothing to write.
    pub(crate) const NOTHING: Self = Self { some: false, all: true };

    /// The stream accepts nothing, or does not flush what it has accepted.
    pub(crate) const fn is_blocked(self) -> bool {
        !self.some && !self.all
    }
}

pub(crate) struct Line<S> {
    stream: S,
    inbox: RecvBuf<Vec<u8>>,
    /// Whether the unread bytes are in a pooled buffer.
    pooled: bool,
    out: Box<[u8]>,
    /// Bytes of `out` that the stream has accepted. `sealed` is how many are to be written in all.
    /// Each idle connection has these, so they are small.
    sent: u32,
    sealed: u32,
    /// Something was written that the stream may not have flushed.
    unflushed: bool,
}

impl Line<Socket> {
    /// Drops the bytes that have arrived, without waiting, after the sending half is shut down. So
    /// the peer sees an end of the stream and no reset. A socket from which nothing has arrived is
    /// closed for the same effect, because many of these are dropped in a flood.
    pub(crate) fn drop_arrived(&mut self, cx: &mut Context<'_>) {
        let mut dropped = [0; 4096];
        let first = self.stream.read_now(&mut dropped);
        if self.stream.is_os_socket() && !matches!(first, Ok(1..)) {
            return;
        }
        let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        for _ in 0..16 {
            if matches!(self.stream.read_now(&mut dropped), Ok(1..)) {
                continue;
            }
            // A stream that is not a socket can only be read with the runtime.
            let mut dropped = ReadBuf::new(&mut dropped);
            let read = Pin::new(&mut self.stream).poll_read(cx, &mut dropped);
            if !matches!(read, Poll::Ready(Ok(()))) || dropped.filled().is_empty() {
                return;
            }
        }
    }

    /// Whether something has arrived that this side has not read. Of a socket that is bytes, the
    /// end of the stream or an error. Of another stream it is bytes: to find out, this reads them
    /// into the buffer.
    pub(crate) fn has_arrived(&mut self, cx: &mut Context<'_>) -> bool {
        if self.stream.is_os_socket() {
            return self.stream.is_readable();
        }
        let total = self.inbox.len() + 1;
        matches!(self.poll_read(cx, total), Poll::Ready(Ok(1..)))
    }

    /// Reads the socket itself, which may have bytes that the runtime was not notified of. If this
    /// returns `Pending`, no task is woken later.
    pub(crate) fn read_now(&mut self, total: usize) -> Poll<io::Result<usize>> {
        let (socket, space) = self.space(total)?;
        match socket.read_now(space) {
            Ok(count) => {
                self.inbox.filled(count);
                Poll::Ready(Ok(count))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    /// Ends the stream step by step, as `ending` requires. `seal` writes the last bytes, and `eof`
    /// is whether the end of the stream was read.
    pub(crate) fn poll_end(
        &mut self,
        cx: &mut Context<'_>,
        ending: &mut Ending,
        (clock, timer): (Clock, &mut Timer),
        eof: bool,
        mut seal: impl FnMut(&mut [u8]) -> Result<usize, usize>,
    ) -> Poll<io::Result<()>> {
        loop {
            let done = match ending.step(clock.now()) {
                LastStep::Write => {
                    let wrote = self.write(cx, &mut seal)?;
                    if wrote.all {
                        ending.written();
                    }
                    !wrote.is_blocked()
                }
                LastStep::ShutDown => {
                    let shut = Pin::new(&mut self.stream).poll_shutdown(cx)?.is_ready();
                    if shut {
                        ending.shut(clock.now());
                    }
                    shut
                }
                LastStep::DropInput => {
                    let ended = eof || self.poll_drop_rest(cx).is_ready();
                    if ended {
                        ending.input_ended();
                    }
                    ended
                }
                LastStep::DropArrived => {
                    self.drop_arrived(cx);
                    return Poll::Ready(Ok(()));
                }
                LastStep::Close => return Poll::Ready(Ok(())),
            };
            let deadline = ending.poll_timeout().map(|at| clock.at(at));
            if !done && timer.poll(cx, deadline).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self {
            stream,
            inbox: RecvBuf::new(Vec::new()),
            pooled: false,
            out: Box::default(),
            sent: 0,
            sealed: 0,
            unflushed: false,
        }
    }

    pub(crate) const fn stream(&self) -> &S {
        &self.stream
    }

    /// Whether the stream has accepted and flushed all that was sealed.
    pub(crate) const fn is_clear(&self) -> bool {
        self.sent == self.sealed && !self.unflushed
    }

    /// The unread bytes.
    pub(crate) fn unread(&mut self) -> Unread<'_, '_> {
        self.inbox.unread()
    }

    /// How many bytes are unread.
    pub(crate) const fn unread_len(&self) -> usize {
        self.inbox.len()
    }

    /// Frees memory of bytes that were consumed, if it is much.
    pub(crate) fn free_consumed(&mut self) {
        self.inbox.shrink();
    }

    /// Reads from the stream. `total` is how many unread bytes are needed in all. 0 means the end
    /// of the stream.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, total: usize) -> Poll<io::Result<usize>> {
        let (stream, space) = self.space(total)?;
        let mut buffer = ReadBuf::new(space);
        ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
        let count = buffer.filled().len();
        self.inbox.filled(count);
        Poll::Ready(Ok(count))
    }

    /// The stream, and space for what it has. `total` is how many unread bytes are needed in all.
    fn space(&mut self, total: usize) -> io::Result<(&mut S, &mut [u8])> {
        if self.inbox.is_empty() && !self.pooled {
            self.inbox = RecvBuf::new(pool::take());
            self.pooled = true;
        }
        let space = self.inbox.space(total).map_err(|_| io::ErrorKind::OutOfMemory)?;
        Ok((&mut self.stream, space))
    }

    /// Writes pending output, then what `seal` puts into the buffer, until there is nothing more,
    /// the stream accepts no more, or it has accepted [`WRITES`] writes. `seal` returns how many
    /// bytes it wrote, or how many it needs.
    pub(crate) fn write(
        &mut self,
        cx: &mut Context<'_>,
        mut seal: impl FnMut(&mut [u8]) -> Result<usize, usize>,
    ) -> io::Result<Wrote> {
        let mut writes = 0;
        loop {
            while self.sent < self.sealed {
                let rest = unwritten(&self.out, self.sent, self.sealed);
                let (some, all) = (writes > 0, false);
                if writes == WRITES {
                    return Ok(Wrote { some, all });
                }
                match Pin::new(&mut self.stream).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(count)) => {
                        self.sent = self.sent.saturating_add(length(count)?);
                        self.unflushed = true;
                        writes += 1;
                    }
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => return Ok(Wrote { some, all }),
                }
            }
            self.sent = 0;
            self.sealed = 0;
            // A buffer that `shrink` has cut to the unwritten bytes is too small to seal into. One
            // that has grown for a long message is not kept, because the next may be short.
            if self.out.len() != POOLED {
                self.out = pool::take().into_boxed_slice();
            }
            let sealed = loop {
                match seal(&mut self.out) {
                    Ok(sealed) => break sealed,
                    Err(needed) if needed > self.out.len() => {
                        pool::give_back(core::mem::take(&mut self.out).into_vec());
                        self.out = vec![0; needed].into_boxed_slice();
                    }
                    Err(_) => break 0,
                }
            };
            self.sealed = length(sealed)?;
            if self.sealed == 0 {
                pool::give_back(core::mem::take(&mut self.out).into_vec());
                // For a socket, which needs no flush, this does nothing.
                if self.unflushed && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
                    self.unflushed = false;
                }
                let (some, all) = (writes > 0, !self.unflushed);
                return Ok(Wrote { some, all });
            }
        }
    }

    /// Releases the memory that unread bytes and pending output do not need.
    pub(crate) fn shrink(&mut self) {
        if self.pooled && self.inbox.len() < WORTH_KEEPING {
            let own = self.inbox.unread().to_vec();
            let count = own.len();
            let inbox = core::mem::replace(&mut self.inbox, RecvBuf::with_unread(own, count));
            pool::give_back(inbox.into_storage());
            self.pooled = false;
        } else if self.inbox.is_empty() {
            self.inbox.release();
            self.pooled = false;
        }
        let rest = unwritten(&self.out, self.sent, self.sealed);
        if rest.len() < WORTH_KEEPING && self.out.len() >= POOLED {
            let rest = Box::from(rest);
            self.sealed -= self.sent;
            self.sent = 0;
            pool::give_back(core::mem::replace(&mut self.out, rest).into_vec());
        }
    }

    /// Reads and drops bytes until the end of the stream.
    fn poll_drop_rest(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut dropped = [0; 512];
        loop {
            let mut buffer = ReadBuf::new(&mut dropped);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => {}
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }
}

impl<S: fmt::Debug> fmt::Debug for Line<S> {
    /// Shows no bytes: a pooled buffer may hold decrypted bodies of other connections.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line")
            .field("stream", &self.stream)
            .field("unread", &self.inbox.len())
            .field("unwritten", &self.sealed.saturating_sub(self.sent))
            .field("unflushed", &self.unflushed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_shows_no_bytes() {
        let mut line = Line::new(tokio::io::empty());
        line.out = Box::from(*b"secret");
        line.sealed = 4;
        let text = format!("{line:?}");
        assert!(
            text.ends_with("unread: 0, unwritten: 4, unflushed: false, .. }"),
            "{text}"
        );
    }
}
