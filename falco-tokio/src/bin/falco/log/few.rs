//! Which events are written: those up to a level, and of warnings and errors, which a client may be
//! able to cause as often as it likes, a few a second of each kind. The others are counted, and the
//! counts written.

use core::fmt;
use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;
use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Filter};

use crate::values::counted;

/// How many of a kind are written in a second.
const FEW: u32 = 10;
const SECOND: Duration = Duration::from_secs(1);

/// Events of one place in the code.
struct Kind {
    callsite: Identifier,
    /// When the second began in which `written` were written.
    since: Instant,
    written: u32,
    /// Those that were not, and of which nothing has been said yet.
    left_out: u64,
    message: String,
}

/// As many as there are places in the code that warn: a handful.
static KINDS: Mutex<Vec<Kind>> = Mutex::new(Vec::new());
/// Told when an event of a kind is the first that was left out.
static LEFT_OUT: Notify = Notify::const_new();

fn lock() -> MutexGuard<'static, Vec<Kind>> {
    // Counts are added to; there is no step at which they would be wrong.
    KINDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets events through, see above.
pub(super) struct Few {
    level: LevelFilter,
    few: bool,
}

impl Few {
    pub(super) const fn new(level: LevelFilter, few: bool) -> Self {
        Self { level, few }
    }
}

impl<S: Subscriber> Filter<S> for Few {
    fn enabled(&self, metadata: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        *metadata.level() <= self.level
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        !self.few || *event.metadata().level() > Level::WARN || admit(event, Instant::now())
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }
}

/// Whether a warning is one of the few; it is counted if not.
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
    if kind.written < FEW {
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

/// What an event says, without its fields.
struct Message<'m>(&'m mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            *self.0 = format!("{value:?}");
        }
    }
}

/// Writes how many warnings were left out since this was last asked.
pub(crate) fn tell_left_out() {
    let mut told = Vec::new();
    for kind in &mut *lock() {
        let count = core::mem::take(&mut kind.left_out);
        if count > 0 {
            told.push((count, core::mem::take(&mut kind.message)));
        }
    }
    // This is a warning of its own, for which the lock must be free.
    for (count, message) in told {
        tracing::warn!("{message}: {} left out here", counted(count, "more line"));
    }
}

/// Does so for ever, a second after the first was left out.
pub(crate) async fn tell_left_out_each_second() {
    loop {
        LEFT_OUT.notified().await;
        tokio::time::sleep(SECOND).await;
        tell_left_out();
    }
}
