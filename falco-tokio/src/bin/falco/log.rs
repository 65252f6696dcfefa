//! Standard error. Everything the tool writes there, its events included, goes through one bounded
//! queue that a thread of its own writes out: nobody who logs ever waits for whoever reads. What
//! does not fit is dropped and counted, and the count is written where the lines are missing.
//!
//! `tracing-appender` has such a queue, but bounds it in lines, and its guard prints to standard
//! output when the queue is full at the end, which is just when nobody reads standard error.

mod limit;

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, ErrorKind, Write, stderr};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub(crate) use self::limit::{leave_out, report_left_out, report_left_out_each_second};
use crate::values::counted;

/// Bytes that may wait to be written; as many again may be on their way.
const MOST: usize = 1 << 20;
/// How long a server waits in the end for what it has still to write.
const END: Duration = Duration::from_secs(1);
/// How long a panic waits for its own message to be written.
const PANIC: Duration = Duration::from_millis(100);
/// The pause before another attempt at a standard error that is full and does not block.
const FULL: Duration = Duration::from_millis(10);

/// What waits to be written.
struct Queue {
    text: Vec<u8>,
    /// Lines that did not fit, all of them after `text`.
    dropped: u64,
    /// Something was taken out and is being written.
    writing: bool,
}

impl Queue {
    const fn is_idle(&self) -> bool {
        self.text.is_empty() && self.dropped == 0 && !self.writing
    }
}

static QUEUE: Mutex<Queue> = Mutex::new(Queue {
    text: Vec::new(),
    dropped: 0,
    writing: false,
});
/// Told when something comes into the queue, and when all of it has been written.
static CHANGED: Condvar = Condvar::new();

/// The thread that writes, started by the first write; whether there is one.
static THREAD: OnceLock<bool> = OnceLock::new();

/// Tells the user something on standard error.
pub(crate) fn tell(message: &impl fmt::Display) {
    note(format_args!("falco: {message}\n"));
}

/// Writes to standard error as it is.
pub(crate) fn note(text: fmt::Arguments<'_>) {
    write(text.to_string().as_bytes());
}

fn lock() -> MutexGuard<'static, Queue> {
    // The queue is whole between any two of its steps, none of which can panic.
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Whether everything is written that is asked for, however much it is.
pub(crate) fn is_verbose() -> bool {
    VERBOSE.load(Ordering::Relaxed)
}

/// Sends events up to a level to standard error. Unless `verbose`, warnings and errors that come
/// too often are counted instead.
pub(crate) fn start(level: LevelFilter, verbose: bool) {
    VERBOSE.store(verbose, Ordering::Relaxed);
    let layer = tracing_subscriber::fmt::layer()
        .with_target(false)
        // Where standard error is closed, that is no reason to panic.
        .log_internal_errors(false)
        .with_writer(|| Queued)
        .with_filter(limit::Limit::new(level, verbose));
    tracing_subscriber::registry().with(layer).init();
    std::panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        let trace = if trace.status() == BacktraceStatus::Captured {
            format!("\n{trace}")
        } else {
            String::new()
        };
        write(format!("falco: {panic}{trace}\n").as_bytes());
        let _ = flush(Some(PANIC));
    }));
}

/// Has something written to standard error, whole or not at all. It never waits for that.
pub(crate) fn write(text: &[u8]) {
    if text.is_empty() {
        return;
    }
    let started = *THREAD.get_or_init(|| thread::Builder::new().name("log".to_owned()).spawn(work).is_ok());
    if !started {
        let _ = stderr().lock().write_all(text);
        return;
    }
    let mut queue = lock();
    // After a line that was dropped, a shorter one would stand in the wrong place.
    if queue.dropped > 0 || queue.text.len() + text.len() > MOST {
        queue.dropped += lines(text);
        return;
    }
    queue.text.extend_from_slice(text);
    drop(queue);
    CHANGED.notify_all();
}

/// Waits until all is written, but over all calls no longer than [`END`] after the first of them.
pub(crate) fn end() {
    static UNTIL: OnceLock<Instant> = OnceLock::new();
    let until = UNTIL.get_or_init(|| Instant::now() + END);
    let _ = flush(Some(until.saturating_duration_since(Instant::now())));
}

/// Waits until all is written, no longer than `limit` where there is one, and says whether it is.
pub(crate) fn flush(limit: Option<Duration>) -> bool {
    let waits = |queue: &mut Queue| !queue.is_idle();
    let Some(limit) = limit else {
        drop(
            CHANGED
                .wait_while(lock(), waits)
                .unwrap_or_else(PoisonError::into_inner),
        );
        return true;
    };
    let (queue, _) = CHANGED
        .wait_timeout_while(lock(), limit, waits)
        .unwrap_or_else(PoisonError::into_inner);
    queue.is_idle()
}

fn lines(text: &[u8]) -> u64 {
    let lines = text.split_inclusive(|byte| *byte == b'\n').count();
    u64::try_from(lines).unwrap_or(u64::MAX)
}

/// The thread that writes.
fn work() {
    loop {
        let idle = |queue: &mut Queue| queue.text.is_empty() && queue.dropped == 0;
        let mut queue = CHANGED.wait_while(lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let text = core::mem::take(&mut queue.text);
        let dropped = core::mem::take(&mut queue.dropped);
        queue.writing = true;
        drop(queue);
        put(&text);
        if dropped > 0 {
            let lines = counted(dropped, "log line");
            put(
                format!("falco: {lines} dropped here: standard error is not read as fast as it is written\n")
                    .as_bytes(),
            );
        }
        lock().writing = false;
        CHANGED.notify_all();
    }
}

/// Writes all of it; what cannot be written is lost, since there is nobody to tell so.
fn put(mut text: &[u8]) {
    let mut err = stderr().lock();
    while !text.is_empty() {
        match err.write(text) {
            Ok(0) => return,
            Ok(count) => text = text.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Whoever shares the pipe with this process may have made it one that does not block.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL),
            Err(_) => return,
        }
    }
}

/// The queue as a writer.
struct Queued;

impl Write for Queued {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        write(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
