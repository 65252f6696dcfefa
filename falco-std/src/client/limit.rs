//! One time limit for everything that a call waits for.

use core::time::Duration;
use std::time::Instant;

use falco_core::Fate;

use crate::clock::Clock;
use crate::error::Error;

#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    at: Instant,
    whole: Duration,
}

impl Limit {
    /// A limit that counts from now. `None` if there is no limit, or if it overflows the clock.
    pub(super) fn from_now(limit: Option<Duration>) -> Option<Self> {
        let whole = limit?;
        let at = Instant::now().checked_add(whole)?;
        Some(Self { at, whole })
    }

    /// When the time is over, on the clock of connections.
    pub(super) fn until(self, clock: Clock) -> falco_core::Instant {
        clock.not_before(self.at)
    }

    /// How much time is left.
    pub(super) fn left(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// The error of a call whose limit has passed.
    pub(super) const fn error(self, doing: &'static str, fate: Fate) -> Error {
        let limit = self.whole;
        Error::TimedOut { doing, limit, fate }
    }
}
