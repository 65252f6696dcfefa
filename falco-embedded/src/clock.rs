//! Clocks and timers that a device provides.

use falco_core::Instant;

/// A clock that does not go backwards.
///
/// Every closure that returns an [`Instant`] is one:
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

    /// Waits for an interrupt or until `until`. Blocking drivers call it in a loop while no byte
    /// can be moved and nothing is due. Returning early is correct, and costs only power.
    ///
    /// A byte may have arrived since the driver checked the stream. So an interrupt that came just
    /// before the sleep must end it, too. On a Cortex-M, `wfe` has this property and `wfi` does
    /// not. If you cannot ensure it, end the sleep with a timer.
    fn rest(&self, _until: Option<Instant>) {}
}

impl<F: Fn() -> Instant> Clock for F {
    fn now(&self) -> Instant {
        self()
    }
}

/// A clock that async drivers can wait on.
#[cfg(feature = "async")]
#[expect(
    async_fn_in_trait,
    reason = "as in embedded-io-async: executors of devices need no Send"
)]
pub trait Timer: Clock {
    /// Returns at this time or later. Dropping the future has no effect.
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
        // One tick more, because milliseconds may have been rounded down. A time beyond the clock's
        // range is never reached.
        let at = embassy_time::Instant::try_from_millis(at.as_millis()).unwrap_or(embassy_time::Instant::MAX);
        let at = at.checked_add(embassy_time::Duration::from_ticks(1)).unwrap_or(at);
        embassy_time::Timer::at(at).await;
    }
}
