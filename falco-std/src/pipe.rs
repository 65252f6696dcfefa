//! A stream with the bytes that were read from it and not yet taken, the bytes on their way out,
//! and the time limits that it was last given. What the bytes mean is the core's; what to do about
//! an end is the client's and the server's.

use core::time::Duration;
use std::io;
use std::net::Shutdown;

use falco_core::mux::{Ending, LastStep};
use falco_core::{Instant, RecvBuf};

use crate::clock::Clock;
use crate::stream::Stream;

/// What one read may bring, once the peer has proved itself.
const READ_AHEAD: usize = 16 << 10;
/// Memory beyond this is given back as soon as it is empty.
const KEPT: usize = 64 << 10;
/// After this long without a byte, memory is given back.
const IDLE: Duration = Duration::from_secs(1);

/// What came of waiting for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    Bytes,
    EndOfStream,
    /// Nothing came; whether a deadline has, is for its owner to say.
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Pipe<S> {
    stream: S,
    clock: Clock,
    inbox: RecvBuf<Vec<u8>>,
    outbox: Vec<u8>,
    /// The most that the inbox was asked to hold since it was last given back.
    asked: usize,
    /// What one read may bring: nothing beyond what is owed, until the peer has proved itself.
    read_ahead: usize,
    /// Nothing has come for a while, and no memory is held.
    asleep: bool,
    /// No wait is longer: somebody may want this thread who cannot wake it.
    longest_wait: Option<Duration>,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
}

impl<S: Stream> Pipe<S> {
    pub(crate) const fn new(stream: S, clock: Clock, longest_wait: Option<Duration>) -> Self {
        Self {
            stream,
            clock,
            inbox: RecvBuf::new(Vec::new()),
            outbox: Vec::new(),
            asked: 0,
            read_ahead: 0,
            asleep: false,
            longest_wait,
            read_timeout: None,
            write_timeout: None,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The peer has proved itself: from now on it is worth memory to read ahead.
    pub(crate) fn trust(&mut self) {
        self.read_ahead = READ_AHEAD;
        self.inbox.set_read_ahead(READ_AHEAD);
    }

    pub(crate) fn unread(&mut self) -> &mut [u8] {
        self.inbox.unread()
    }

    pub(crate) fn consume(&mut self, count: usize) {
        self.inbox.consume(count);
        if self.asked > KEPT && self.inbox.is_empty() {
            self.inbox.release();
            self.asked = 0;
        }
    }

    /// Waits for bytes, at the latest until `until`. `total` is how many unread bytes are wanted in
    /// all.
    pub(crate) fn fill(&mut self, total: usize, until: Option<Instant>) -> io::Result<Filled> {
        let may_sleep = !self.asleep && self.read_ahead > 0 && self.inbox.is_empty();
        let wait = until.map(|until| until.since(self.now()));
        let wait = shorter(shorter(wait, self.longest_wait), may_sleep.then_some(IDLE));
        self.limit_read(wait)?;
        self.asked = self.asked.max(total);
        let space = self.inbox.space(total).map_err(|_| io::ErrorKind::OutOfMemory)?;
        match self.stream.read(space) {
            Ok(0) => Ok(Filled::EndOfStream),
            Ok(count) => {
                self.inbox.filled(count);
                if self.asleep {
                    self.asleep = false;
                    self.inbox.set_read_ahead(self.read_ahead);
                }
                Ok(Filled::Bytes)
            }
            Err(error) if is_timeout(&error) => {
                if may_sleep && wait.is_some_and(|wait| wait >= IDLE) {
                    self.sleep();
                }
                Ok(Filled::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes what has already come, without waiting.
    pub(crate) fn fill_ready(&mut self, total: usize) -> io::Result<Filled> {
        let space = self.inbox.space(total).map_err(|_| io::ErrorKind::OutOfMemory)?;
        match self.stream.read_ready(space) {
            Ok(0) => Ok(Filled::EndOfStream),
            Ok(count) => {
                self.inbox.filled(count);
                Ok(Filled::Bytes)
            }
            Err(error) if is_timeout(&error) => Ok(Filled::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Bytes to seal into; say with [`send`](Self::send) how many of them are to go.
    pub(crate) const fn out(&mut self) -> &mut Vec<u8> {
        &mut self.outbox
    }

    /// Writes the first `count` bytes of [`out`](Self::out), all at once where the stream takes
    /// them. A write that makes no progress for `stall`, or is not done at `until`, fails.
    ///
    /// An error means that not all of them have gone.
    pub(crate) fn send(&mut self, count: usize, stall: Duration, until: Option<Instant>) -> io::Result<()> {
        let mut sent = 0;
        while sent < count {
            let wait = until.map(|until| until.since(self.clock.now()));
            if wait == Some(Duration::ZERO) && sent > 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.limit_write(shorter(wait, Some(stall)))?;
            match self.stream.write(self.outbox.get(sent..count).unwrap_or_default()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => sent += written,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.outbox.capacity() > KEPT {
            self.outbox = Vec::new();
        }
        Ok(())
    }

    /// Makes a stream that holds back what it was given, let go of it.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }

    /// Ends without another byte.
    pub(crate) fn abort(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Ends as `ending` says, once all has been written.
    pub(crate) fn end(&mut self, ending: &mut Ending) {
        let mut dropped = [0; 512];
        // Where one half cannot be ended, the peer sees no end until the stream is dropped: it is
        // not waited for. Another thread may have ended it already, which does no harm.
        if ending.step(self.now()) != LastStep::Close && self.stream.shutdown(Shutdown::Write).is_err() {
            return;
        }
        loop {
            let now = self.now();
            match ending.step(now) {
                LastStep::Write => ending.written(),
                LastStep::ShutDown => ending.shut(now),
                LastStep::DropInput => {
                    let wait = ending.poll_timeout().map(|until| until.since(now));
                    let read = self.limit_read(wait).and_then(|()| self.stream.read(&mut dropped));
                    match read {
                        Ok(0) => ending.input_ended(),
                        Ok(_) => {}
                        Err(error) if is_timeout(&error) => {}
                        Err(_) => ending.input_ended(),
                    }
                }
                LastStep::Close => return self.abort(),
            }
        }
    }

    fn sleep(&mut self) {
        self.asleep = true;
        self.asked = 0;
        self.inbox.set_read_ahead(0);
        self.inbox.release();
        self.outbox = Vec::new();
    }

    fn limit_read(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let wait = wait.map(at_least_a_millisecond);
        if !suffices(self.read_timeout, wait) {
            self.stream.set_read_timeout(wait)?;
            self.read_timeout = wait;
        }
        Ok(())
    }

    fn limit_write(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let wait = wait.map(at_least_a_millisecond);
        // Exactly: a read that comes back early is tried again, a write is not.
        if self.write_timeout != wait {
            self.stream.set_write_timeout(wait)?;
            self.write_timeout = wait;
        }
        Ok(())
    }
}

/// Whether a limit in force on reads need not be changed for another: it is not later, and not so
/// much earlier that the waiting becomes busy.
fn suffices(in_force: Option<Duration>, wanted: Option<Duration>) -> bool {
    match (in_force, wanted) {
        (None, None) => true,
        (Some(in_force), Some(wanted)) => in_force <= wanted && in_force >= wanted / 2,
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// Zero would mean to wait for ever.
fn at_least_a_millisecond(wait: Duration) -> Duration {
    wait.max(Duration::from_millis(1))
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, None) => one,
        (None, other) => other,
    }
}

/// The two ways in which systems say that a time limit ran out; a read that was interrupted has
/// brought nothing either.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}
