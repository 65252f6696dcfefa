//! How a thread writes the output of a shared connection: for how long, and what follows a failure.

use core::panic::AssertUnwindSafe;
use core::sync::atomic::Ordering;
use core::time::Duration;
use std::io;
use std::net::Shutdown;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::thread;

use falco_core::{ConnectionError, Instant, wipe_stack};

use super::{Output, Shared};
use crate::line::{KEPT, is_timeout};
use crate::writer::Writer;

/// How long [`Shared::flush`] writes on the calling thread.
pub(super) const BRIEF: Duration = Duration::from_millis(20);
/// How many records [`Shared::flush`] writes on the calling thread: a few MiB, so that a thread is
/// started only for messages that are longer.
const BRIEF_RECORDS: usize = 64;
/// The most bytes for one write, where a write cannot be tried again. Such a write returns when all
/// bytes are written. So a slow peer must be able to take as many before the write deadline.
const PIECE: usize = 16 << 10;

/// How much a thread writes.
#[derive(Clone, Copy)]
pub(super) enum Effort {
    /// For about [`BRIEF`], and at most [`BRIEF_RECORDS`]. The thread has something else to do.
    Brief,
    /// Everything. If that is not done at the given time, the connection ends.
    Complete(Option<Instant>),
}

impl Effort {
    fn is_over(self, now: Instant) -> bool {
        matches!(self, Self::Complete(Some(until)) if now >= until)
    }
}

impl<T: Output> Shared<T> {
    /// Writes what takes little time. A new thread continues if there is more.
    pub(super) fn write_briefly(self: &Arc<Self>, now: &mut Instant) {
        if !self.slow.load(Ordering::Relaxed) && self.write(Effort::Brief, now) {
            return;
        }
        let own = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("falco writer".to_owned())
            .spawn(move || own.write(Effort::Complete(None), &mut own.clock.now()));
        if spawned.is_err() {
            self.write(Effort::Complete(None), now);
        }
    }

    /// Writes what an earlier call has left, then what the state seals. Returns `false` if output
    /// is left; the caller then has to make a thread call this again. `now` is the current time,
    /// and is updated.
    pub(super) fn write(&self, effort: Effort, now: &mut Instant) -> bool {
        let mut writer = self.writer.lock().unwrap_or_else(|poisoned| {
            let mut writer = poisoned.into_inner();
            writer.discard();
            writer
        });
        let unwinding = FailOnPanic(self);
        let done = self.write_with(&mut writer, effort, now);
        core::mem::forget(unwinding);
        if matches!(done, Done::Failed) {
            writer.discard();
        }
        drop(writer);
        match done {
            Done::Unfinished => false,
            Done::Drained(Some(how)) => {
                self.shutdown(how);
                true
            }
            Done::Drained(None) | Done::Failed => true,
        }
    }

    fn write_with(&self, writer: &mut Writer, effort: Effort, now: &mut Instant) -> Done {
        let brief = matches!(effort, Effort::Brief);
        let (brief_until, mut records) = (*now + BRIEF, BRIEF_RECORDS);
        let mut progress = false;
        loop {
            let mut since = *now;
            while !writer.is_done() {
                if brief && *now >= brief_until {
                    return Done::Unfinished;
                }
                let result = self.write_step(writer, effort, since, *now);
                *now = self.clock.now();
                match result {
                    Ok(()) => {
                        since = *now;
                        progress = true;
                        if self.blocked.swap(false, Ordering::Relaxed) {
                            self.lock().state.unblocked();
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) if is_timeout(&error) => {
                        self.blocked.store(true, Ordering::Relaxed);
                        if self.lock().state.blocked(since, *now) || !self.retries {
                            return self.fail(Ok(ConnectionError::Stalled), writer.is_written());
                        }
                        if brief {
                            return Done::Unfinished;
                        }
                    }
                    Err(error) => return self.fail(Err(error), writer.is_written()),
                }
                if effort.is_over(*now) && !writer.is_done() {
                    return self.fail(Err(io::ErrorKind::TimedOut.into()), writer.is_written());
                }
            }
            let mut locked = self.lock();
            let mut all_sealed = false;
            if core::mem::take(&mut progress) {
                self.note_change(&mut locked);
                // A stream that does not split has one request at a time. The call of `seal` below
                // notes that the stream has accepted it.
                all_sealed = self.splits && locked.state.all_sealed();
            }
            if brief && records == 0 {
                return Done::Unfinished;
            }
            records = records.saturating_sub(1);
            let sealed = if all_sealed {
                0
            } else {
                writer.seal(|out| locked.state.seal(*now, out))
            };
            if let Some(call) = locked.state.after_seal() {
                // `writing` is still set, so this thread also writes what the call queues.
                drop(locked);
                call();
            } else if sealed == 0 {
                locked.writing = false;
                // The connection may read again now.
                self.note_change(&mut locked);
                let how = locked.state.drained(*now);
                drop(locked);
                writer.free_buffer(KEPT);
                return Done::Drained(how);
            } else {
                drop(locked);
            }
            // The write may wait for a slow peer.
            wipe_stack();
        }
    }

    /// Writes once, for as long as one write may take.
    fn write_step(&self, writer: &mut Writer, effort: Effort, since: Instant, now: Instant) -> io::Result<()> {
        if self.splits && self.retries {
            // Another thread reads. This one checks the time after each write, which takes at most
            // `BRIEF`.
            return writer.step(usize::MAX);
        }
        let mut locked = self.lock();
        if !self.splits {
            locked.state.set_reading(now, false);
        }
        let mut wait = locked.state.writes_until(since).since(now);
        drop(locked);
        if let Effort::Complete(Some(until)) = effort {
            wait = wait.min(until.since(now));
        }
        let most = if self.retries { usize::MAX } else { PIECE };
        let written = writer.limit(wait).and_then(|()| writer.step(most));
        let end = self.clock.now();
        if !self.splits {
            self.lock().state.set_reading(end, true);
        }
        if !self.retries && end >= now + BRIEF {
            self.slow.store(true, Ordering::Relaxed);
        }
        written
    }

    fn fail(&self, why: io::Result<ConnectionError>, written: bool) -> Done {
        let mut locked = self.lock();
        locked.writing = false;
        locked.state.write_failed(why, written);
        drop(locked);
        self.notify();
        // The shutdown wakes the thread that reads.
        self.shutdown(Shutdown::Both);
        Done::Failed
    }
}

/// How a call of [`Shared::write`] has ended.
enum Done {
    /// There may be more to write.
    Unfinished,
    Drained(Option<Shutdown>),
    Failed,
}

/// Ends the connection if the stream panics. Otherwise [`Locked::writing`] would stay set, and no
/// thread would write again.
struct FailOnPanic<'s, T: Output>(&'s Shared<T>);

impl<T: Output> Drop for FailOnPanic<'_, T> {
    fn drop(&mut self) {
        let why = Err(io::Error::other("the stream panicked"));
        // The stream may have accepted everything. A second panic while the first unwinds would end
        // the process.
        let _ = catch_unwind(AssertUnwindSafe(|| self.0.fail(why, true)));
    }
}
