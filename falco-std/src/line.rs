//! A stream with the bytes that were read from it and that the core has not consumed yet. It reads,
//! and it ends the stream. Writing is in `shared`.

use core::time::Duration;
use std::io;
use std::net::Shutdown;

use falco_core::{Ending, Instant, LastStep, RecvBuf, Unread};

use crate::clock::Clock;
use crate::stream::Stream;

/// How many bytes one read may return once the peer has proved that it has the key.
const READ_AHEAD: usize = 16 << 10;
/// A buffer that is larger than this is freed as soon as it is empty. A record of any size of the
/// noise wire, with its length, fits in one that stays.
pub(crate) const KEPT: usize = 2 + 65_535;
/// After this long without a byte, the buffers of a connection are freed.
const IDLE: Duration = Duration::from_secs(1);

/// The result of waiting for bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    Bytes,
    EndOfStream,
    /// Nothing arrived in time. The caller then checks whether a deadline of the core has passed.
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Line<S> {
    stream: S,
    clock: Clock,
    inbox: RecvBuf<Vec<u8>>,
    /// The most that the inbox had to hold since it was last freed.
    asked: usize,
    /// How many bytes one read may return beyond those that the core asked for. It is 0 until the
    /// peer has proved that it has the key, so that an unauthenticated client costs no buffer.
    read_ahead: usize,
    /// Nothing has arrived for [`IDLE`], and the buffers were freed.
    idle: bool,
    /// An upper limit for each wait, if no other thread can wake this one.
    longest_wait: Option<Duration>,
    read_timeout: Option<Duration>,
}

impl<S: Stream> Line<S> {
    pub(crate) const fn new(stream: S, clock: Clock, longest_wait: Option<Duration>) -> Self {
        Self {
            stream,
            clock,
            inbox: RecvBuf::new(Vec::new()),
            asked: 0,
            read_ahead: 0,
            idle: false,
            longest_wait,
            read_timeout: None,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) const fn clock(&self) -> Clock {
        self.clock
    }

    /// The peer has proved that it has the key: from now on each read has a large buffer.
    pub(crate) fn set_authenticated(&mut self) {
        self.read_ahead = READ_AHEAD;
        self.inbox.set_read_ahead(READ_AHEAD);
    }

    /// Whether nothing has arrived for so long that the buffers were freed.
    pub(crate) const fn is_idle(&self) -> bool {
        self.idle
    }

    pub(crate) fn unread(&mut self) -> Unread<'_, '_> {
        self.inbox.unread()
    }

    /// Drops all unread bytes, and frees their memory.
    pub(crate) fn drop_unread(&mut self) {
        self.inbox.consume(usize::MAX);
        self.inbox.release();
        self.asked = 0;
    }

    /// Frees memory of bytes that were consumed, if it is much.
    pub(crate) fn free_consumed(&mut self) {
        if self.asked > KEPT && self.inbox.is_empty() {
            self.inbox.release();
            self.asked = 0;
        }
        self.inbox.shrink();
    }

    /// Waits for bytes from `now` until `until`. `total` is how many unread bytes the core needs in
    /// all.
    pub(crate) fn fill(&mut self, total: usize, now: Instant, until: Option<Instant>) -> io::Result<Filled> {
        let may_idle = !self.idle && self.read_ahead > 0 && self.inbox.is_empty();
        let wait = until.map(|until| until.since(now));
        let wait = [wait, self.longest_wait, may_idle.then_some(IDLE)];
        let wait = wait.into_iter().flatten().min();
        self.limit_read(wait)?;
        self.asked = self.asked.max(total);
        let space = self.inbox.space(total).map_err(|_| io::ErrorKind::OutOfMemory)?;
        match self.stream.read(space) {
            Ok(0) => Ok(Filled::EndOfStream),
            Ok(count) => {
                self.inbox.filled(count);
                if self.idle {
                    self.idle = false;
                    self.inbox.set_read_ahead(self.read_ahead);
                }
                Ok(Filled::Bytes)
            }
            // Bytes may have arrived meanwhile, for example while the process was stopped.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.fill_ready(total),
            Err(error) if is_timeout(&error) => {
                if may_idle && wait.is_some_and(|wait| wait >= IDLE) {
                    self.free_buffers();
                }
                Ok(Filled::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads what has already arrived, without waiting.
    pub(crate) fn fill_ready(&mut self, total: usize) -> io::Result<Filled> {
        self.asked = self.asked.max(total);
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

    /// Ends the stream at once.
    pub(crate) fn abort(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }

    /// Ends the stream as `ending` says, after all pending output was written.
    pub(crate) fn end(&mut self, ending: &mut Ending) {
        let mut dropped = [0; 512];
        if ending.step(self.now()) == LastStep::DropArrived {
            return self.drop_arrived();
        }
        // If one half cannot be shut down, the peer sees no end until the stream is dropped, so
        // there is nothing to wait for. Another thread may have shut it down already; shutting it
        // down twice does no harm.
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
                LastStep::DropArrived => return self.drop_arrived(),
                LastStep::Close => return self.abort(),
            }
        }
    }

    /// Shuts down the sending half and drops the bytes that have arrived, so that the peer sees an
    /// end of the stream and no reset.
    fn drop_arrived(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut dropped = [0; 4096];
        for _ in 0..16 {
            if !matches!(self.stream.read_ready(&mut dropped), Ok(1..)) {
                break;
            }
        }
        self.abort();
    }

    fn free_buffers(&mut self) {
        self.idle = true;
        self.asked = 0;
        self.inbox.set_read_ahead(0);
        self.inbox.release();
    }

    fn limit_read(&mut self, wait: Option<Duration>) -> io::Result<()> {
        let wait = wait.map(at_least_a_millisecond);
        if !is_close_enough(self.read_timeout, wait) {
            self.stream.set_read_timeout(wait)?;
            self.read_timeout = wait;
        }
        Ok(())
    }
}

/// Whether the read timeout that is in force can stay although another is wanted, which saves a
/// system call for most reads. It must not be longer than the wanted one. It must not be much
/// shorter either, or the thread would often wake for nothing.
fn is_close_enough(in_force: Option<Duration>, wanted: Option<Duration>) -> bool {
    match (in_force, wanted) {
        (None, None) => true,
        (Some(in_force), Some(wanted)) => in_force <= wanted && in_force >= wanted / 2,
        (None, Some(_)) | (Some(_), None) => false,
    }
}

/// A timeout of zero is an error for the standard library.
pub(crate) fn at_least_a_millisecond(wait: Duration) -> Duration {
    wait.max(Duration::from_millis(1))
}

/// Systems report a timeout in two ways. A read that was interrupted has read nothing either.
pub(crate) fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}
