//! Time as the machines see it: milliseconds on a clock that only the caller reads.

use core::ops::Add;
use core::time::Duration;

/// A point in time, in milliseconds since an epoch of the caller's choice, on any clock that does not go backwards.
///
/// A machine never reads a clock: it is told what time it is with every call that depends on it. Sums saturate, so that
/// no duration can overflow a deadline.
///
/// ```
/// use core::time::Duration;
/// use falco_core::Instant;
///
/// let start = Instant::from_millis(1_000);
/// assert_eq!((start + Duration::from_secs(60)).as_millis(), 61_000);
/// assert_eq!(Instant::from_millis(61_000).since(start), Duration::from_secs(60));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

impl Instant {
    /// The epoch.
    pub const ZERO: Self = Self(0);

    /// The point `millis` milliseconds after the epoch.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`; zero where `earlier` is the later of the two.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The point `duration` before this one, at the earliest the epoch.
    pub(crate) fn before(self, duration: Duration) -> Self {
        let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(millis))
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Rounds `duration` up to whole milliseconds: a deadline is never early.
    fn add(self, duration: Duration) -> Self {
        // In 64 bits: a division of 128 would cost more than the rest of a record's bookkeeping.
        let millis = duration
            .as_secs()
            .saturating_mul(1000)
            .saturating_add(duration.subsec_nanos().div_ceil(1_000_000).into());
        Self(self.0.saturating_add(millis))
    }
}
