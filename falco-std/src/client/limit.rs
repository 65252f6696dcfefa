//! When a call is to be over: one time limit for all that it waits for.

use core::time::Duration;
use std::time::Instant;

use falco_core::Fate;

use crate::error::Error;

/// The end of a call that began with a limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    at: Instant,
    whole: Duration,
}

impl Limit {
    /// Counts from now. `None`: there is no limit, or it overflows the clock, which is the same.
    pub(super) fn from_now(limit: Option<Duration>) -> Option<Self> {
        let whole = limit?;
        let at = Instant::now().checked_add(whole)?;
        Some(Self { at, whole })
    }

    /// How much of it is left.
    pub(super) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// What a caller is told whose limit ran out.
    pub(super) const fn error(self, doing: &'static str, fate: Fate) -> Error {
        let limit = self.whole;
        Error::TimedOut { doing, limit, fate }
    }
}
