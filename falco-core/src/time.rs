//! Time for connections: milliseconds on a clock that only the caller reads.

use core::ops::Add;
use core::time::Duration;

/// A point in time, in milliseconds since an epoch of the caller's choice, on any clock that does
/// not go backwards.
///
/// A connection reads no clock: each call that depends on the time takes it as an argument. Sums
/// saturate.
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
    #[inline]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    #[must_use]
    #[inline]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to `self`, or zero if `earlier` is the later of the two.
    #[must_use]
    #[inline]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// The point `millis` milliseconds after this one, or the last representable one.
    // Not inlined on a device: it is called at a dozen places.
    #[cfg_attr(target_os = "none", inline(never))]
    pub(crate) const fn after(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// The point `span` before this one, or the epoch.
    pub(crate) const fn before(self, span: Span) -> Self {
        Self(self.0.saturating_sub(span.as_millis()))
    }

    /// The time from `earlier` to `self`, or zero if `earlier` is the later of the two.
    pub(crate) fn span_since(self, earlier: Self) -> Span {
        Span::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// An `Option<Instant>` in eight bytes instead of sixteen: each of many idle connections has
/// several. `None` is kept as the last representable point, which no clock reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaybeInstant(Instant);

impl MaybeInstant {
    pub(crate) const NONE: Self = Self(Instant(u64::MAX));

    #[inline]
    pub(crate) const fn get(self) -> Option<Instant> {
        if self.is_none() { None } else { Some(self.0) }
    }

    #[inline]
    pub(crate) const fn is_none(self) -> bool {
        self.0.0 == u64::MAX
    }

    #[inline]
    pub(crate) const fn is_some(self) -> bool {
        !self.is_none()
    }

    /// The earlier of both.
    #[inline]
    pub(crate) fn min(self, other: impl Into<Self>) -> Self {
        Self(self.0.min(other.into().0))
    }
}

impl From<Instant> for MaybeInstant {
    #[inline]
    fn from(instant: Instant) -> Self {
        Self(instant)
    }
}

impl From<Option<Instant>> for MaybeInstant {
    #[inline]
    fn from(instant: Option<Instant>) -> Self {
        instant.map_or(Self::NONE, Self)
    }
}

/// Whole milliseconds in 32 bits, at most 49 days, as in the settings on the wire. A `Duration`
/// would cost divisions and code that panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(u32);

impl Span {
    pub(crate) const MAX: Self = Self(u32::MAX);

    /// The resolution of the clock, 1 ms.
    pub(crate) const TICK: Self = Self(1);

    pub(crate) const fn from_millis_const(millis: u32) -> Self {
        Self(millis)
    }

    /// Saturates at 32 bits.
    pub(crate) fn from_millis(millis: u64) -> Self {
        Self(u32::try_from(millis).unwrap_or(u32::MAX))
    }

    #[expect(clippy::as_conversions, reason = "`From` is not const")]
    pub(crate) const fn as_millis(self) -> u64 {
        self.0 as u64
    }

    pub(crate) fn of(duration: Duration) -> Self {
        Self::from_millis(millis(duration))
    }

    pub(crate) const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    pub(crate) fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// A third, rounded up.
    pub(crate) const fn third(self) -> Self {
        // On a device a division of 32 bits is one instruction. A division of 64 bits is a function
        // call.
        Self(self.0.div_ceil(3))
    }
}

/// `duration` rounded up, so that a deadline is never early.
// Not inlined on a device, to save flash.
#[cfg_attr(target_os = "none", inline(never))]
fn millis(duration: Duration) -> u64 {
    // In 64 bits, because a division of 128 bits would cost more than everything else that is done
    // for a record.
    let millis = duration.as_secs().saturating_mul(1000);
    millis.saturating_add(duration.subsec_nanos().div_ceil(1_000_000).into())
}

impl Add<Span> for Instant {
    type Output = Self;

    fn add(self, span: Span) -> Self {
        self.after(span.as_millis())
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    /// Rounds `duration` up to whole milliseconds, so that a deadline is never early.
    #[inline]
    fn add(self, duration: Duration) -> Self {
        self.after(millis(duration))
    }
}
