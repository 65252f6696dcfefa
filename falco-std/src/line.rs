//! A connection that several threads share: its state under one lock, and who writes. What is written is the state's to say; reading is a thread's of its own.

use core::time::Duration;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time;

use falco_core::{Instant, OutputTooSmall};

use crate::clock::Clock;
use crate::pipe::is_timeout;
use crate::socket::Whole;
use crate::stream::BoxedStream;

/// A thread that has something else to do writes no longer than this.
const BRIEF: Duration = Duration::from_millis(20);
/// So does a single write of it, except where one that timed out leaves a socket of no use.
const WRITE_TIMEOUT: Option<Duration> = if cfg!(unix) { Some(BRIEF) } else { None };
/// So many records a thread writes on the side; then a thread is made for it.
const TURNS: usize = 16;

/// What is to be written.
pub(crate) trait Source: Send + 'static {
    /// Seals what goes next, a record or so, into `out`, and says how many bytes of it are to be written; 0 where nothing can go now.
    fn seal(&mut self, now: Instant, out: &mut Vec<u8>) -> usize;

    /// Nothing more can be written, for this reason.
    fn broken(&mut self, error: io::Error);

    /// All that could be written now has been. `true`: it was the last, and the sending half is to be shut down.
    fn rested(&mut self) -> bool;

    /// A write that makes no progress for so long has failed.
    fn lifetime(&self) -> Duration;
}

/// Has `seal` write into `out`, which grows to `size` bytes, or to as many as `seal` asks for.
pub(crate) fn seal_into(
    out: &mut Vec<u8>,
    mut size: usize,
    mut seal: impl FnMut(&mut [u8]) -> Result<usize, OutputTooSmall>,
) -> usize {
    loop {
        if out.len() < size {
            out.resize(size, 0);
        }
        match seal(out) {
            Ok(sealed) => return sealed,
            Err(OutputTooSmall { needed, .. }) if needed > out.len() => size = needed,
            Err(_) => return 0,
        }
    }
}

/// The state, and whether a thread is writing.
pub(crate) struct Desk<T> {
    pub(crate) source: T,
    /// One thread writes at a time; whoever has something to send while another does leaves it to that one.
    writing: bool,
    /// Counts what somebody may wait for, so that nothing is missed between a look and a wait.
    changes: u64,
}

impl<T> Desk<T> {
    pub(crate) const fn changes(&self) -> u64 {
        self.changes
    }

    pub(crate) const fn is_writing(&self) -> bool {
        self.writing
    }
}

pub(crate) struct Line<T> {
    desk: Mutex<Desk<T>>,
    /// Something was written, or the state changed in a way that somebody may wait for.
    progress: Condvar,
    clock: Clock,
    /// Used only by the thread that writes.
    writer: Mutex<BoxedStream>,
    /// Used only to end the stream, without waiting for whoever writes.
    ender: Mutex<BoxedStream>,
    /// Whether one thread may read while another writes.
    splits: bool,
}

/// The handles of one stream: to read, to write, to end it; and whether they are independent.
pub(crate) fn handles(stream: BoxedStream) -> io::Result<([BoxedStream; 3], bool)> {
    if let (Some(writer), Some(ender)) = (stream.split()?, stream.split()?) {
        return Ok(([stream, writer, ender], true));
    }
    let whole = Whole::new(stream);
    let (writer, ender) = (whole.again(), whole.again());
    Ok(([Box::new(whole), writer, ender], false))
}

impl<T: Source> Line<T> {
    pub(crate) fn new(
        source: T,
        clock: Clock,
        [writer, ender]: [BoxedStream; 2],
        splits: bool,
    ) -> io::Result<Arc<Self>> {
        writer.set_write_timeout(WRITE_TIMEOUT.filter(|_| splits).or_else(|| Some(source.lifetime())))?;
        Ok(Arc::new(Self {
            desk: Mutex::new(Desk {
                source,
                writing: false,
                changes: 0,
            }),
            progress: Condvar::new(),
            clock,
            writer: Mutex::new(writer),
            ender: Mutex::new(ender),
            splits,
        }))
    }

    pub(crate) fn now(&self) -> Instant {
        self.clock.now()
    }

    pub(crate) const fn splits(&self) -> bool {
        self.splits
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Desk<T>> {
        // The state is whole between any two of its steps that can panic, of which it has none.
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn shutdown(&self, how: Shutdown) {
        let _ = self.ender.lock().unwrap_or_else(PoisonError::into_inner).shutdown(how);
    }

    /// Whether something can be read from the stream that has not been.
    pub(crate) fn lies_unread(&self) -> bool {
        self.ender.lock().unwrap_or_else(PoisonError::into_inner).lies_unread()
    }

    /// Tells those who wait that something has changed.
    pub(crate) fn tell(&self) {
        self.lock().changes += 1;
        self.progress.notify_all();
    }

    /// Waits until something was written or has changed, for `limit` at most.
    pub(crate) fn wait<'l>(&self, desk: MutexGuard<'l, Desk<T>>, limit: Option<Duration>) -> MutexGuard<'l, Desk<T>> {
        match limit {
            Some(limit) => {
                let waited = self.progress.wait_timeout(desk, limit);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.progress.wait(desk).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Sees to it that what can go goes. It never waits long: where the peer does not take it, or there is much, a thread is made that writes.
    pub(crate) fn pump(self: &Arc<Self>) {
        let mut desk = self.lock();
        if desk.writing {
            return;
        }
        desk.writing = true;
        drop(desk);
        let turns = if self.splits { TURNS } else { usize::MAX };
        if let Some(left) = self.write(Vec::new(), 0..0, Some(turns)) {
            let own = Arc::clone(self);
            let slot = Arc::new(Mutex::new(Some(left)));
            let given = Arc::clone(&slot);
            let spawned = thread::Builder::new().name("falco writer".to_owned()).spawn(move || {
                let left = given.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some((out, rest)) = left {
                    own.write(out, rest, None);
                }
            });
            if spawned.is_err()
                && let Some((out, rest)) = slot.lock().unwrap_or_else(PoisonError::into_inner).take()
            {
                self.write(out, rest, None);
            }
        }
    }

    /// Writes `rest` of `out`, then what the state seals, until there is nothing more. With a
    /// number of turns it gives back what is left when they are used up, or when it has taken more
    /// than a moment, however much of it the peer has taken; it is still the one who writes then.
    fn write(
        self: &Arc<Self>,
        mut out: Vec<u8>,
        mut rest: core::ops::Range<usize>,
        mut turns: Option<usize>,
    ) -> Option<(Vec<u8>, core::ops::Range<usize>)> {
        let mut stream = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut since = time::Instant::now();
        let leaves_at = turns.filter(|_| self.splits).map(|_| since + BRIEF);
        let leaves = || leaves_at.is_some_and(|at| time::Instant::now() >= at);
        loop {
            while !rest.is_empty() {
                if leaves() {
                    return Some((out, rest));
                }
                let written = stream.write(out.get(rest.clone()).unwrap_or_default());
                let trouble = match written {
                    Ok(0) => io::ErrorKind::WriteZero.into(),
                    Ok(count) => {
                        rest.start += count;
                        since = time::Instant::now();
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if is_timeout(&error) && turns.is_some() && self.splits => return Some((out, rest)),
                    Err(error) if is_timeout(&error) && since.elapsed() < self.lock().source.lifetime() => {
                        continue;
                    }
                    Err(error) => error,
                };
                self.break_off(trouble);
                return None;
            }
            if let Err(error) = stream.flush() {
                self.break_off(error);
                return None;
            }
            let mut desk = self.lock();
            desk.changes += 1;
            self.progress.notify_all();
            if turns == Some(0) {
                drop(desk);
                return Some((out, 0..0));
            }
            turns = turns.map(|turns| turns.saturating_sub(1));
            let count = desk.source.seal(self.clock.now(), &mut out);
            if count == 0 {
                desk.writing = false;
                let last = desk.source.rested();
                drop(desk);
                drop(stream);
                if last {
                    self.shutdown(Shutdown::Write);
                }
                return None;
            }
            rest = 0..count;
            since = time::Instant::now();
        }
    }

    fn break_off(&self, error: io::Error) {
        let mut desk = self.lock();
        desk.writing = false;
        desk.source.broken(error);
        drop(desk);
        self.tell();
        // The thread that reads learns of it.
        self.shutdown(Shutdown::Both);
    }
}
