//! A connection that several threads share: its state behind one lock, and the output side of its
//! stream, which one thread uses at a time. The state ([`Output`]) provides the bytes to write. The
//! thread that reads owns the input side of the stream, in a [`Line`]. How a thread writes is in
//! `write`.

mod write;

use core::sync::atomic::AtomicBool;
use core::time::Duration;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError};

use falco_core::{ConnectionError, Ending, Instant, LastStep, OutputTooSmall};

use self::write::{BRIEF, Effort};
use crate::clock::Clock;
use crate::line::Line;
use crate::socket::LockedStream;
use crate::stream::BoxedStream;
use crate::writer::Writer;

/// Whether a write on a socket that has timed out can be tried again. On Windows the state of the
/// socket is undefined then.
const RETRIES: bool = cfg!(unix);

/// What a connection has to write.
pub(crate) trait Output: Send + 'static {
    /// Seals the next output, about one record, into `out`. Returns how many bytes of `out` to
    /// write, or 0 if there is nothing to write. Called only when all bytes sealed before are
    /// written.
    fn seal(&mut self, now: Instant, out: &mut Vec<u8>) -> usize;

    /// Whether nothing is to be written: a call of [`seal`](Self::seal) would seal nothing and
    /// change nothing.
    fn all_sealed(&mut self) -> bool;

    /// Returns a function that has to be called after sealing, while the state is not locked.
    fn after_seal(&mut self) -> Option<Arc<dyn Fn() + Send + Sync>> {
        None
    }

    /// Called when a write has failed; no write follows. `written` says whether the stream may have
    /// accepted all sealed bytes.
    fn write_failed(&mut self, why: io::Result<ConnectionError>, written: bool);

    /// Called when the stream has accepted nothing since `since`. Returns whether to give up the
    /// write.
    fn blocked(&mut self, since: Instant, now: Instant) -> bool;

    /// Called when the stream accepts bytes again.
    fn unblocked(&mut self);

    /// Called when all output has been written. If it was the last output of the connection,
    /// returns which half of the stream to shut down.
    fn drained(&mut self, now: Instant) -> Option<Shutdown>;

    /// How to end the stream, once the connection has ended.
    fn ending(&mut self) -> &mut Option<Ending>;

    /// How long a write may go on that has made no progress since `since`.
    fn writes_until(&self, since: Instant) -> Instant;

    /// Reports whether the stream is being read. A stream that does not split cannot be read during
    /// a write.
    fn set_reading(&mut self, now: Instant, reading: bool);
}

/// Calls `seal` with `out`, which grows to `size` bytes or to as many as `seal` needs.
pub(crate) fn seal_into(
    out: &mut Vec<u8>,
    mut size: usize,
    mut seal: impl FnMut(&mut [u8]) -> Result<usize, OutputTooSmall>,
) -> usize {
    loop {
        if out.len() < size {
            // Its bytes are not needed. It is freed before the larger one is allocated.
            *out = Vec::new();
            *out = vec![0; size];
        }
        match seal(out) {
            Ok(sealed) => return sealed,
            Err(OutputTooSmall { needed, .. }) if needed > out.len() => size = needed,
            Err(_) => return 0,
        }
    }
}

/// The state of a connection while it is locked.
pub(crate) struct Locked<T> {
    pub(crate) state: T,
    /// Whether a thread is writing. That thread also seals and writes what others queue meanwhile.
    writing: bool,
    /// Incremented by [`Shared::notify`] and by progress of a write, so that a thread can check,
    /// before it waits, that nothing has changed since it looked.
    changes: u64,
    /// How many threads are in [`Shared::wait`]. A wake-up takes a system call even if no thread
    /// waits.
    waiting: usize,
}

impl<T> Locked<T> {
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) const fn is_writing(&self) -> bool {
        self.writing
    }
}

pub(crate) struct Shared<T> {
    locked: Mutex<Locked<T>>,
    /// Notified when [`Locked::changes`] is incremented and when a thread stops writing.
    changed: Condvar,
    clock: Clock,
    /// Only the thread that has set [`Locked::writing`] uses it.
    writer: Mutex<Writer>,
    /// Ends the stream without waiting for the threads that read and write.
    control: Mutex<BoxedStream>,
    /// One thread may read while another writes.
    splits: bool,
    /// A write that has timed out is tried again. Otherwise it may last until the write deadline,
    /// and then ends the connection.
    retries: bool,
    /// A write has taken longer than [`BRIEF`], where a write cannot be tried again. From then on
    /// [`Shared::flush`] leaves all writes to another thread.
    slow: AtomicBool,
    /// Whether the last write was blocked. Only the thread that writes uses it.
    blocked: AtomicBool,
}

/// Returns handles of one stream, for reading, writing and control, and whether the stream splits,
/// that is, whether one thread may read while another writes.
pub(crate) fn handles(stream: BoxedStream) -> io::Result<([BoxedStream; 3], bool)> {
    if let (Some(writer), Some(control)) = (stream.split()?, stream.split()?) {
        return Ok(([stream, writer, control], true));
    }
    Ok((unsplit_handles(stream), false))
}

/// Handles of a stream that one thread at a time uses.
pub(crate) fn unsplit_handles(stream: BoxedStream) -> [BoxedStream; 3] {
    let stream = LockedStream::new(stream);
    [stream.handle(), stream.handle(), stream.handle()]
}

impl<T: Output> Shared<T> {
    pub(crate) fn new(state: T, clock: Clock, streams: [BoxedStream; 2], splits: bool) -> io::Result<Arc<Self>> {
        Self::with(state, clock, streams, splits, RETRIES || !splits)
    }

    fn with(
        state: T,
        clock: Clock,
        [writer, control]: [BoxedStream; 2],
        splits: bool,
        retries: bool,
    ) -> io::Result<Arc<Self>> {
        let timeout = (splits && retries).then_some(BRIEF);
        Ok(Arc::new(Self {
            locked: Mutex::new(Locked {
                state,
                writing: false,
                changes: 0,
                waiting: 0,
            }),
            changed: Condvar::new(),
            clock,
            writer: Mutex::new(Writer::new(writer, timeout)?),
            control: Mutex::new(control),
            splits,
            retries,
            slow: AtomicBool::new(false),
            blocked: AtomicBool::new(false),
        }))
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) const fn splits(&self) -> bool {
        self.splits
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Locked<T>> {
        // No code that can panic runs under this lock.
        self.locked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _ = self
            .control
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .shutdown(how);
    }

    /// Whether the stream can be read without waiting.
    pub(crate) fn is_readable(&self) -> bool {
        self.control
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_readable()
    }

    /// Wakes the threads in [`wait`](Self::wait).
    pub(crate) fn notify(&self) {
        self.note_change(&mut self.lock());
    }

    /// As [`notify`](Self::notify).
    fn note_change(&self, locked: &mut Locked<T>) {
        locked.changes += 1;
        if locked.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Waits for a change or for progress of a write, for `limit` at most.
    pub(crate) fn wait<'l>(
        &self,
        mut locked: MutexGuard<'l, Locked<T>>,
        limit: Option<Duration>,
    ) -> MutexGuard<'l, Locked<T>> {
        locked.waiting += 1;
        let mut locked = match limit {
            Some(limit) => {
                let waited = self.changed.wait_timeout(locked, limit);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait(locked).unwrap_or_else(PoisonError::into_inner),
        };
        locked.waiting -= 1;
        locked
    }

    /// Flushes all output. If the stream splits, this takes about [`BRIEF`] at most: if the peer
    /// reads slowly or there is much to write, a new thread continues. On Windows one call for each
    /// connection may take until the write deadline.
    pub(crate) fn flush(self: &Arc<Self>) {
        if !self.splits {
            return self.flush_until(None);
        }
        if self.begin_writing() {
            self.write_briefly(&mut self.clock.now());
        }
    }

    /// As [`flush`](Self::flush), by a thread that has read the clock at `now`. Returns the time
    /// afterwards, so that the thread need not read it again.
    pub(crate) fn flush_at(self: &Arc<Self>, mut now: Instant) -> Instant {
        if !self.splits {
            self.flush_until(None);
            return self.clock.now();
        }
        if self.begin_writing() {
            self.write_briefly(&mut now);
        }
        now
    }

    /// Flushes all pending output on this thread. If the stream has not accepted it at `until`, the
    /// connection ends.
    pub(crate) fn flush_until(&self, until: Option<Instant>) {
        if self.begin_writing() {
            self.write(Effort::Complete(until), &mut self.clock.now());
        }
    }

    /// Frees the output buffer, if it is not in use.
    pub(crate) fn free_buffer(&self) {
        let mut writer = match self.writer.try_lock() {
            Ok(writer) => writer,
            Err(TryLockError::Poisoned(writer)) => writer.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        writer.free_buffer(0);
    }

    /// Claims the writer. Returns `false` if there is nothing to write, or if another thread is
    /// writing: that thread then writes everything.
    fn begin_writing(&self) -> bool {
        let mut locked = self.lock();
        let begins = !locked.writing && !locked.state.all_sealed();
        locked.writing |= begins;
        begins
    }

    /// Ends the stream of a connection that has ended, as its [`Ending`] says. For the thread that
    /// reads.
    pub(crate) fn end_stream(self: &Arc<Self>, line: &mut Line<BoxedStream>) {
        // The connection may have a CLOSE record to write.
        self.flush();
        let mut locked = self.lock();
        loop {
            let (writing, now) = (locked.writing, self.clock.now());
            let Some(ending) = locked.state.ending() else { break };
            if ending.step(now) != LastStep::Write {
                let mut ending = *ending;
                drop(locked);
                return line.end(&mut ending);
            }
            if writing {
                let left = ending.poll_timeout().map(|until| until.since(now));
                locked = self.wait(locked, left);
            } else {
                ending.written();
            }
        }
        drop(locked);
        line.abort();
    }
}

#[cfg(test)]
mod tests;
