//! Time on a device: who tells it, and who waits for it.

use falco_core::Instant;

/// Tells the time, on any clock that does not go backwards.
///
/// A closure is one:
///
/// ```
/// use falco_core::Instant;
/// use falco_embedded::Clock;
///
/// let start = std::time::Instant::now();
/// let clock = move || Instant::from_millis(start.elapsed().as_millis() as u64);
/// assert!(clock.now() >= Instant::ZERO);
/// ```
pub trait Clock {
    /// The time.
    fn now(&self) -> Instant;

    /// Nothing is to be done before a byte comes or goes, or before this time. Blocking drivers
    /// call it over and over while they wait: to return at once is right, to sleep until the next
    /// interrupt is better.
    ///
    /// A byte may have come since the stream was asked: a sleep that only an interrupt ends has to
    /// be entered so that one that came just before ends it too (on a Cortex-M `wfe` is, `wfi` is
    /// not), or to be ended by a timer.
    fn rest(&self, _until: Option<Instant>) {}
}

impl<F: Fn() -> Instant> Clock for F {
    fn now(&self) -> Instant {
        self()
    }
}

/// Waits, for async drivers.
#[cfg(feature = "async")]
#[expect(
    async_fn_in_trait,
    reason = "as in embedded-io-async: executors of devices need no Send"
)]
pub trait Timer: Clock {
    /// Returns at this time or after it. A wait that is dropped has no effect.
    async fn sleep_until(&mut self, at: Instant);
}

/// Embassy's clock and timers.
///
/// ```
/// use falco_embedded::{Clock, EmbassyClock};
///
/// let earlier = EmbassyClock.now();
/// assert!(EmbassyClock.now() >= earlier);
/// ```
#[cfg(feature = "embassy-time")]
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "callers write it as a value")]
pub struct EmbassyClock;

#[cfg(feature = "embassy-time")]
impl Clock for EmbassyClock {
    fn now(&self) -> Instant {
        Instant::from_millis(embassy_time::Instant::now().as_millis())
    }
}

#[cfg(feature = "embassy-time")]
impl Timer for EmbassyClock {
    async fn sleep_until(&mut self, at: Instant) {
        // One tick later than what may have been rounded down, and for ever where the clock does
        // not reach so far.
        let at = embassy_time::Instant::try_from_millis(at.as_millis()).unwrap_or(embassy_time::Instant::MAX);
        let at = at.checked_add(embassy_time::Duration::from_ticks(1)).unwrap_or(at);
        embassy_time::Timer::at(at).await;
    }
}
