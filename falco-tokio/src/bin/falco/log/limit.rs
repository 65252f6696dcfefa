//! Selects which events are written to the log: none above a level. Of warnings and errors, at most
//! ten a second are written from each place in the code, because a client may be able to cause any
//! number of them. The others are counted, and the counts are written.

use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Filter};

use super::TOOL;
use crate::values::counted;

/// How many events from one place are written in a second.
const PER_SECOND: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// Events from one place in the code.
struct Kind {
    callsite: Identifier,
    /// When the second began in which `written` were written.
    since: Instant,
    written: u32,
    /// Events that were not written and not reported yet.
    left_out: u64,
    message: String,
}

/// One for each place in the code that logs a warning. There are only a few.
static KINDS: Mutex<Vec<Kind>> = Mutex::new(Vec::new());
/// Lines of commands that were not written and not reported yet.
static LINES: AtomicU64 = AtomicU64::new(0);
/// Notified when something is left out for the first time since the last report.
static LEFT_OUT: Notify = Notify::const_new();

fn lock() -> MutexGuard<'static, Vec<Kind>> {
    // A panic leaves no count half changed.
    KINDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The filter that selects events.
pub(super) struct Limit {
    levels: Targets,
    /// No limit besides the level.
    verbose: bool,
}

impl Limit {
    /// Events of the tool itself, under [`TOOL`], are always selected.
    pub(super) fn new(levels: Targets, verbose: bool) -> Self {
        let levels = levels.with_target(TOOL, LevelFilter::TRACE);
        Self { levels, verbose }
    }
}

impl<S: Subscriber> Filter<S> for Limit {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        self.levels.would_enable(metadata.target(), metadata.level())
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.verbose || *event.metadata().level() > Level::WARN || is_limited(event) || admit(event, Instant::now())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Filter::<S>::max_level_hint(&self.levels)
    }
}

/// Whether the library itself limits the rate of this warning. It must not be suppressed here,
/// because it contains how many warnings the library has left out.
fn is_limited(event: &Event<'_>) -> bool {
    event.metadata().fields().field("left_out").is_some()
}

/// Whether a warning is to be written. Counts it if not.
fn admit(event: &Event<'_>, now: Instant) -> bool {
    let callsite = event.metadata().callsite();
    let mut kinds = lock();
    let Some(kind) = kinds.iter_mut().find(|kind| kind.callsite == callsite) else {
        kinds.push(Kind {
            callsite,
            since: now,
            written: 1,
            left_out: 0,
            message: String::new(),
        });
        return true;
    };
    if now.duration_since(kind.since) >= SECOND {
        (kind.since, kind.written) = (now, 0);
    }
    if kind.written < PER_SECOND {
        kind.written += 1;
        return true;
    }
    kind.left_out += 1;
    if kind.left_out == 1 {
        kind.message.clear();
        event.record(&mut Message(&mut kind.message));
        LEFT_OUT.notify_one();
    }
    false
}

/// The message of an event, without its fields.
struct Message<'m>(&'m mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            *self.0 = format!("{value:?}");
        }
    }
}

/// Counts the lines of a text from a command that is not written.
pub(crate) fn leave_out(text: &[u8]) {
    if LINES.fetch_add(super::lines(text), Ordering::Relaxed) == 0 {
        LEFT_OUT.notify_one();
    }
}

/// Writes how much was left out since the last call.
pub(crate) fn report_left_out() {
    let mut counts = Vec::new();
    for kind in &mut *lock() {
        let count = core::mem::take(&mut kind.left_out);
        if count > 0 {
            counts.push((count, core::mem::take(&mut kind.message)));
        }
    }
    let lines = LINES.swap(0, Ordering::Relaxed);
    if lines > 0 {
        counts.push((lines, "standard error of commands".to_owned()));
    }
    // This is a warning too, and takes the lock.
    for (count, message) in counts {
        let lines = counted(count, "more line");
        tracing::warn!("{message}: {lines} suppressed; -v logs all");
    }
}

/// Calls [`report_left_out`] one second after something was left out. Never returns.
pub(crate) async fn report_left_out_each_second() {
    loop {
        LEFT_OUT.notified().await;
        tokio::time::sleep(SECOND).await;
        report_left_out();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Result, Write};
    use std::sync::Arc;

    use tracing_subscriber::Layer as _;
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<AtomicU64>);

    impl Write for Lines {
        fn write(&mut self, text: &[u8]) -> Result<usize> {
            self.0.fetch_add(crate::log::lines(text), Ordering::Relaxed);
            Ok(text.len())
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_warning_that_the_library_has_limited_is_not_limited_again() {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().with_writer(move || writer.clone());
        let limit = Limit::new(Targets::new().with_default(LevelFilter::WARN), false);
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(limit));
        tracing::subscriber::with_default(subscriber, || {
            for left_out in 0..30 {
                tracing::warn!(left_out, "of the library");
            }
            assert_eq!(lines.0.load(Ordering::Relaxed), 30);
            let began = Instant::now();
            for _ in 0..30 {
                tracing::warn!("of the tool");
            }
            let seconds = began.elapsed().as_secs() + 1;
            assert!(lines.0.load(Ordering::Relaxed) <= 30 + 10 * seconds);
        });
    }
}
