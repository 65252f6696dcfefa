//! The clock of the core's connections: milliseconds of Tokio's clock since this one was created.
//! So a test that pauses Tokio's clock pauses this one too.

use core::time::Duration;

use falco_core::Instant;
use tokio::time;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: time::Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            start: time::Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.time(time::Instant::now())
    }

    /// `instant` on this clock.
    pub(crate) fn time(&self, instant: time::Instant) -> Instant {
        let since = instant.saturating_duration_since(self.start);
        Instant::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }

    /// The first moment at which [`now`](Self::now) is `instant` or later.
    pub(crate) fn at(&self, instant: Instant) -> time::Instant {
        let since = Duration::from_millis(instant.as_millis());
        self.start
            .checked_add(since)
            .unwrap_or_else(|| time::Instant::now() + FAR)
    }
}

/// Later than any deadline of a connection.
pub(crate) const FAR: Duration = Duration::from_secs(30 * 365 * 86_400);
