//! A stream with the bytes that were read from it and not yet taken, and the bytes that are on
//! their way out. What they mean is the core's.

use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io;

use falco_core::mux::{Ending, LastStep};
use falco_core::{OutputTooSmall, RecvBuf};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::clock::Clock;
use crate::pool::{self, POOLED};
use crate::socket::Socket;
use crate::timer::Timer;

/// A pooled buffer is kept for what is left in it only from so many bytes on: a peer that sent few
/// has earned few.
const WORTH_KEEPING: usize = POOLED / 4;

/// After so many writes the stream is read from again, whatever there is to write: a stream that
/// takes every write at once must not keep this side from hearing the other.
const WRITES: usize = 16;

/// What came of sealing: how many bytes there are, or how many bytes of output it takes.
pub(crate) fn sealed(sealed: Result<usize, OutputTooSmall>) -> Result<usize, usize> {
    sealed.map_err(|OutputTooSmall { needed, .. }| needed)
}

/// What came of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wrote {
    /// The stream has taken something.
    pub(crate) some: bool,
    /// All that can go now has gone. If not, the stream takes no more, or others have their turn.
    pub(crate) all: bool,
}

impl Wrote {
    /// The stream takes nothing.
    pub(crate) const fn is_blocked(self) -> bool {
        !self.some && !self.all
    }
}

#[derive(Debug)]
pub(crate) struct Line<S> {
    stream: S,
    inbox: RecvBuf<Vec<u8>>,
    /// Whether the inbox lies in a pooled buffer.
    pooled: bool,
    out: Vec<u8>,
    /// What of `out` is still to be written.
    sent: usize,
    sealed: usize,
    /// Something was written that may still lie in the stream.
    unflushed: bool,
}

impl Line<Socket> {
    /// Ends the stream of a client that has not proved that it has the key, or not yet: the sending
    /// half first, and what has come is dropped, so that it sees an end and not a reset. A reset
    /// could have destroyed what this side had said, and the client could not know that nothing was
    /// processed.
    pub(crate) fn leave(&mut self, cx: &mut Context<'_>) {
        let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        let mut dropped = [0; 4096];
        for _ in 0..16 {
            if !matches!(self.stream.read_now(&mut dropped), Ok(1..)) {
                return;
            }
        }
    }

    /// Reads what lies in the socket, whether or not the runtime has been told of it. Pending where
    /// nothing does; nobody is woken when something comes.
    pub(crate) fn read_now(&mut self, total: usize) -> Poll<io::Result<usize>> {
        self.read_with(total, |socket, space| match socket.read_now(space) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            read => Poll::Ready(read),
        })
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    pub(crate) const fn new(stream: S) -> Self {
        Self {
            stream,
            inbox: RecvBuf::new(Vec::new()),
            pooled: false,
            out: Vec::new(),
            sent: 0,
            sealed: 0,
            unflushed: false,
        }
    }

    pub(crate) const fn stream(&self) -> &S {
        &self.stream
    }

    /// The unread bytes.
    pub(crate) fn unread(&mut self) -> &mut [u8] {
        self.inbox.unread()
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.inbox.consume(count);
    }

    /// Reads what has come; `total` is how many unread bytes are wanted in all. 0 is the end of the
    /// stream.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>, total: usize) -> Poll<io::Result<usize>> {
        self.read_with(total, |stream, space| {
            let mut buffer = ReadBuf::new(space);
            ready!(Pin::new(stream).poll_read(cx, &mut buffer))?;
            Poll::Ready(Ok(buffer.filled().len()))
        })
    }

    fn read_with(
        &mut self,
        total: usize,
        read: impl FnOnce(&mut S, &mut [u8]) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.inbox.is_empty() && !self.pooled {
            self.inbox = RecvBuf::new(pool::take());
            self.pooled = true;
        }
        let space = self.inbox.space(total).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let count = ready!(read(&mut self.stream, space))?;
        self.inbox.filled(count);
        Poll::Ready(Ok(count))
    }

    /// Whether the stream has taken all that was sealed, and holds nothing of it back.
    pub(crate) const fn is_flushed(&self) -> bool {
        self.sent == self.sealed && !self.unflushed
    }

    /// Writes what is on its way, then what `seal` puts into the buffer that it is handed, until
    /// there is nothing more, the stream takes no more, or it has taken [`WRITES`] times. `seal`
    /// gives how many bytes it wrote, or how many it needs.
    pub(crate) fn write(
        &mut self,
        cx: &mut Context<'_>,
        mut seal: impl FnMut(&mut [u8]) -> Result<usize, usize>,
    ) -> io::Result<Wrote> {
        let mut writes = 0;
        loop {
            while self.sent < self.sealed {
                let rest = self.out.get(self.sent..self.sealed).unwrap_or_default();
                let (some, all) = (writes > 0, false);
                if writes == WRITES {
                    return Ok(Wrote { some, all });
                }
                match Pin::new(&mut self.stream).poll_write(cx, rest) {
                    Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(Ok(count)) => {
                        self.sent += count;
                        self.unflushed = true;
                        writes += 1;
                    }
                    Poll::Ready(Err(error)) => return Err(error),
                    Poll::Pending => return Ok(Wrote { some, all }),
                }
            }
            self.sent = 0;
            self.sealed = 0;
            // What is left of a small remainder is no place to seal into.
            if self.out.len() < POOLED {
                self.out = pool::take();
            }
            self.sealed = loop {
                match seal(&mut self.out) {
                    Ok(sealed) => break sealed,
                    Err(needed) if needed > self.out.len() => self.out.resize(needed, 0),
                    Err(_) => break 0,
                }
            };
            if self.sealed == 0 {
                pool::give_back(core::mem::take(&mut self.out));
                // Of a stream that holds nothing back, such as a socket, this asks nothing.
                if self.unflushed && Pin::new(&mut self.stream).poll_flush(cx)?.is_ready() {
                    self.unflushed = false;
                }
                let (some, all) = (writes > 0, true);
                return Ok(Wrote { some, all });
            }
        }
    }

    /// Nothing is to be done for a while: memory is given back, down to what has really come and
    /// what is really to go.
    pub(crate) fn rest(&mut self) {
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
        if self.sealed - self.sent < WORTH_KEEPING && self.out.len() >= POOLED {
            let rest = self.out.get(self.sent..self.sealed).unwrap_or_default().to_vec();
            self.sealed -= self.sent;
            self.sent = 0;
            pool::give_back(core::mem::replace(&mut self.out, rest));
        }
    }

    /// Ends the stream, as `ending` says, for which `seal` gives what is written last. `eof` says
    /// whether the peer sends nothing more.
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
                LastStep::Close => return Poll::Ready(Ok(())),
            };
            let deadline = ending.poll_timeout().map(|at| clock.at(at));
            if !done && timer.poll(cx, deadline).is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// Reads and drops until the end of the stream.
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
