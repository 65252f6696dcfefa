//! Standard error. Everything that the tool writes there, events included, goes through one bounded
//! queue to a thread of its own, so that logging never waits for the reader. What does not fit is
//! dropped and counted, and the count is written where the lines are missing.
//!
//! `tracing-appender` has such a queue, but bounds it in lines, and its guard prints to standard
//! output if the queue is full at the end.

mod journal;
mod limit;

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{self, ErrorKind, Write, stderr};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Instant;

use clap::ValueEnum;
use tracing::{Level, Metadata};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub(crate) use self::limit::{leave_out, report_left_out, report_left_out_each_second};
use crate::values::counted;

/// Bytes that may wait in the queue. The thread may be writing as many again.
const CAPACITY: usize = 1 << 20;
/// How long a server waits at its end until the queue is written.
const END: Duration = Duration::from_secs(1);
/// How long a panic waits until its message is written.
const PANIC: Duration = Duration::from_millis(100);
/// The pause before the next attempt to write to a pipe that is full and does not block.
const FULL: Duration = Duration::from_millis(10);

/// What is to be written.
struct Queue {
    text: Vec<u8>,
    /// Lines that did not fit. They would follow `text`.
    dropped: u64,
    /// The thread has taken text out and is writing it.
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
/// Notified when something is put into the queue, and when all of it has been written.
static CHANGED: Condvar = Condvar::new();

/// Whether the thread could be started. The first write starts it.
static THREAD: OnceLock<bool> = OnceLock::new();

/// The target of events that are messages for the user, or lines of commands. It is no prefix of
/// another target, because a prefix selects all of them.
const TOOL: &str = "tool";

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines for people
    Text,
    /// An object in each line, for programs
    Json,
}

/// Writes a message for the user to standard error.
pub(crate) fn tell(message: &impl fmt::Display) {
    if is_json() {
        tracing::info!(target: TOOL, "{message}");
    } else {
        say(Level::INFO, message);
    }
}

/// Writes a message on which somebody may have to act to standard error.
pub(crate) fn warn(message: &impl fmt::Display) {
    if is_json() {
        tracing::warn!(target: TOOL, "{message}");
    } else {
        say(Level::WARN, message);
    }
}

/// Writes to standard error why the process fails.
pub(crate) fn error(message: &impl fmt::Display) {
    if is_json() {
        tracing::error!(target: TOOL, "{message}");
    } else {
        say(Level::ERROR, message);
    }
}

fn say(level: Level, message: &impl fmt::Display) {
    Queued(level).put(format!("falco: {message}\n").as_bytes());
}

/// Writes lines of a command to standard error.
pub(crate) fn copy(text: &[u8]) {
    if !is_json() {
        return write(text);
    }
    for line in String::from_utf8_lossy(text).lines() {
        tracing::info!(target: TOOL, source = "command", "{line}");
    }
}

/// Writes text to standard error, unchanged.
pub(crate) fn note(text: fmt::Arguments<'_>) {
    write(text.to_string().as_bytes());
}

fn lock() -> MutexGuard<'static, Queue> {
    // No code that holds the lock can panic.
    QUEUE.lock().unwrap_or_else(PoisonError::into_inner)
}

static JSON: AtomicBool = AtomicBool::new(false);

fn is_json() -> bool {
    JSON.load(Ordering::Relaxed)
}

static VERBOSE: AtomicBool = AtomicBool::new(false);

/// Whether -v lifts the limits on warnings and on the standard error of commands.
pub(crate) fn is_verbose() -> bool {
    VERBOSE.load(Ordering::Relaxed)
}

/// Sends the events that `levels` select to standard error. Unless `verbose`, warnings and errors
/// that come too often are counted instead.
pub(crate) fn start(levels: Targets, verbose: bool, format: Format) {
    VERBOSE.store(verbose, Ordering::Relaxed);
    JSON.store(format == Format::Json, Ordering::Relaxed);
    let layer = tracing_subscriber::fmt::layer()
        // A closed standard error must not cause a panic.
        .log_internal_errors(false)
        .with_writer(Levels);
    let filter = limit::Limit::new(levels, verbose);
    let registry = tracing_subscriber::registry();
    match format {
        Format::Text => registry.with(layer.with_target(false).with_filter(filter)).init(),
        Format::Json => {
            let layer = layer
                .json()
                .flatten_event(true)
                .with_current_span(true)
                .with_span_list(false);
            registry.with(layer.with_filter(filter)).init();
        }
    }
    std::panic::set_hook(Box::new(|panic| {
        let trace = Backtrace::capture();
        let trace = if trace.status() == BacktraceStatus::Captured {
            format!("\n{trace}")
        } else {
            String::new()
        };
        error(&format_args!("{panic}{trace}"));
        let _ = flush(Some(PANIC));
    }));
}

/// Puts text into the queue, all of it or none. Never waits.
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
    // If lines were dropped, no text may follow before their count is written.
    if queue.dropped > 0 || queue.text.len() + text.len() > CAPACITY {
        queue.dropped += lines(text);
        return;
    }
    queue.text.extend_from_slice(text);
    drop(queue);
    CHANGED.notify_all();
}

/// Waits until all is written, at most until [`END`] after the first call.
pub(crate) fn end() {
    static UNTIL: OnceLock<Instant> = OnceLock::new();
    let until = UNTIL.get_or_init(|| Instant::now() + END);
    let _ = flush(Some(until.saturating_duration_since(Instant::now())));
}

/// Waits until all is written, at most for `limit`. Returns whether all is written.
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

/// Runs on the thread that writes.
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
            put(format!("falco: {lines} dropped here: the reader of standard error is too slow\n").as_bytes());
        }
        lock().writing = false;
        CHANGED.notify_all();
    }
}

/// Writes all of it. Errors are ignored, because there is no other place to report them.
fn put(mut text: &[u8]) {
    let mut err = stderr().lock();
    while !text.is_empty() {
        match err.write(text) {
            Ok(0) => return,
            Ok(count) => text = text.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // Another process that has the same pipe may have made it non-blocking.
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(FULL),
            Err(_) => return,
        }
    }
}

/// Writers of events.
struct Levels;

impl<'w> MakeWriter<'w> for Levels {
    type Writer = Queued;

    fn make_writer(&'w self) -> Queued {
        Queued(Level::INFO)
    }

    fn make_writer_for(&'w self, metadata: &Metadata<'_>) -> Queued {
        Queued(*metadata.level())
    }
}

/// The queue as a writer of text of one level.
struct Queued(Level);

impl Queued {
    fn put(&self, text: &[u8]) {
        if journal::reads() {
            write(&journal::with_priority(self.0, text));
        } else {
            write(text);
        }
    }
}

impl Write for Queued {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.put(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
