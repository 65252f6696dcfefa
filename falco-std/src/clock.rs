//! The clock of the core's connections: milliseconds since the clock was created.

use std::time;

use falco_core::Instant;

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
        Instant::from_millis(u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// The first time of this clock that is not before `at`.
    pub(crate) fn not_before(&self, at: time::Instant) -> Instant {
        let nanos = at.saturating_duration_since(self.start).as_nanos();
        Instant::from_millis(u64::try_from(nanos.div_ceil(1_000_000)).unwrap_or(u64::MAX))
    }
}
