//! A connection that several threads share: its state under one lock, and who writes. What is
//! written is the state's to say; reading is a thread's of its own.

use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use falco_core::mux::{Ending, LastStep};
use falco_core::{ConnectionError, Instant, OutputTooSmall};

use crate::clock::Clock;
use crate::pipe::{Pipe, is_timeout};
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
    /// Seals what goes next, a record or so, into `out`, and says how many bytes of it are to be
    /// written; 0 where nothing can go now.
    fn seal(&mut self, now: Instant, out: &mut Vec<u8>) -> usize;

    /// Nothing more can be written, for this reason.
    fn broken(&mut self, why: io::Result<ConnectionError>);

    /// The stream has taken nothing since `since`. Says whether it has had the time for it.
    fn blocked(&mut self, since: Instant, now: Instant) -> bool;

    /// The stream has taken something again.
    fn wrote(&mut self);

    /// All that could be written now has been. If it was the last, says what of the stream is to be
    /// shut down.
    fn rested(&mut self, now: Instant) -> Option<Shutdown>;

    /// How the stream is left; once the connection has ended.
    fn ending(&mut self) -> &mut Option<Ending>;

    /// How long a single write may take where no other thread reads meanwhile.
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
    /// One thread writes at a time; whoever has something to send while another does leaves it to
    /// that one.
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
    /// The stream has taken nothing since it was last tried. Only the thread that writes uses it.
    blocked: AtomicBool,
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
            blocked: AtomicBool::new(false),
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

    /// Flushes pending output. It never blocks for long: if the peer does not read, or there is
    /// much to write, a thread is started that writes.
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
        let mut since = self.clock.now();
        let leaves_at = turns.filter(|_| self.splits).map(|_| since + BRIEF);
        let leaves = || leaves_at.is_some_and(|at| self.clock.now() >= at);
        let mut progress = false;
        loop {
            while !rest.is_empty() {
                if leaves() {
                    return Some((out, rest));
                }
                let why = match stream.write(out.get(rest.clone()).unwrap_or_default()) {
                    Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                    Ok(count) => {
                        rest.start += count;
                        since = self.clock.now();
                        progress = true;
                        if self.blocked.swap(false, Ordering::Relaxed) {
                            self.lock().source.wrote();
                        }
                        continue;
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) if is_timeout(&error) => {
                        self.blocked.store(true, Ordering::Relaxed);
                        let stalled = self.lock().source.blocked(since, self.clock.now());
                        if stalled {
                            Ok(ConnectionError::Stalled)
                        } else if turns.is_some() && self.splits {
                            return Some((out, rest));
                        } else {
                            continue;
                        }
                    }
                    Err(error) => Err(error),
                };
                self.break_off(why);
                return None;
            }
            if let Err(error) = stream.flush() {
                self.break_off(Err(error));
                return None;
            }
            let mut desk = self.lock();
            // Whoever looks for something to write and finds nothing has changed nothing.
            if core::mem::take(&mut progress) {
                desk.changes += 1;
                self.progress.notify_all();
            }
            if turns == Some(0) {
                drop(desk);
                return Some((out, 0..0));
            }
            turns = turns.map(|turns| turns.saturating_sub(1));
            since = self.clock.now();
            let count = desk.source.seal(since, &mut out);
            if count == 0 {
                desk.writing = false;
                let how = desk.source.rested(since);
                drop(desk);
                self.progress.notify_all();
                drop(stream);
                if let Some(how) = how {
                    self.shutdown(how);
                }
                return None;
            }
            rest = 0..count;
        }
    }

    fn break_off(&self, why: io::Result<ConnectionError>) {
        let mut desk = self.lock();
        desk.writing = false;
        desk.source.broken(why);
        drop(desk);
        self.tell();
        // The thread that reads learns of it.
        self.shutdown(Shutdown::Both);
    }

    /// Leaves the stream of a connection that has ended, as its [`Ending`] says. For the thread
    /// that reads.
    pub(crate) fn leave(self: &Arc<Self>, pipe: &mut Pipe<BoxedStream>) {
        // The machine's last words, if it has any. Where they cannot be said, the stream is broken.
        self.pump();
        let mut desk = self.lock();
        loop {
            let (writing, now) = (desk.writing, self.clock.now());
            let Some(ending) = desk.source.ending() else { break };
            if ending.step(now) != LastStep::Write {
                let mut ending = *ending;
                drop(desk);
                return pipe.end(&mut ending);
            }
            if writing {
                let left = ending.poll_timeout().map(|until| until.since(now));
                desk = self.wait(desk, left);
            } else {
                ending.written();
            }
        }
        drop(desk);
        pipe.abort();
    }
}
