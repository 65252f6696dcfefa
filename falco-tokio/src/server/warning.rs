//! Warnings that a client can cause at will. Each kind is rate-limited; a warning reports how many
//! were suppressed.

use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;
use tracing::warn;

/// The time in which one warning about accepting connections is logged.
const INTERVAL: Duration = Duration::from_secs(10);
/// The time in which [`HANDLERS`] warnings about handlers are logged.
const SECOND: Duration = Duration::from_secs(1);
/// More than of the other kinds, because each may have another error.
const HANDLERS: u32 = 10;

/// The limits of each kind.
#[derive(Debug)]
pub(crate) struct Warnings {
    /// Accepting failed.
    pub(crate) accepting: WarningLimit,
    /// A connection was closed at once because there was no place for it.
    pub(crate) no_place: WarningLimit,
    /// A connection could not be set up.
    pub(crate) setup: WarningLimit,
    /// A trusted proxy sent no header.
    #[cfg(feature = "proxy-protocol")]
    pub(crate) header: WarningLimit,
    /// A hello did not decrypt, or was replayed.
    pub(crate) refused: WarningLimit,
    /// The first bytes of a connection were those of another protocol, or of another version.
    pub(crate) foreign: WarningLimit,
    /// A key has reached its limit of connections.
    pub(crate) key_limit: WarningLimit,
    /// A handler failed.
    pub(crate) failed: WarningLimit,
    /// A handler panicked.
    pub(crate) panicked: WarningLimit,
    /// An answer was larger than its client accepts.
    pub(crate) too_large: WarningLimit,
}

impl Default for Warnings {
    fn default() -> Self {
        let once = || WarningLimit::new(INTERVAL, 1);
        let [failed, panicked, too_large] = [(); 3].map(|()| WarningLimit::new(SECOND, HANDLERS));
        Self {
            accepting: once(),
            no_place: once(),
            setup: once(),
            #[cfg(feature = "proxy-protocol")]
            header: once(),
            refused: once(),
            foreign: once(),
            key_limit: once(),
            failed,
            panicked,
            too_large,
        }
    }
}

impl Warnings {
    /// Logs how many warnings about handlers were left out and not reported yet. For the end of the
    /// server.
    pub(crate) fn report(&self) {
        for (limit, what) in [
            (&self.failed, "the handler failed"),
            (&self.panicked, "the handler panicked"),
            (&self.too_large, "the answer is larger than the client accepts"),
        ] {
            let left_out = core::mem::take(&mut limit.lock().left_out);
            if left_out > 0 {
                warn!(left_out, "{what}: further warnings were left out");
            }
        }
    }
}

/// Logs a warning if one of its kind is due, or the same at DEBUG.
macro_rules! warn_limited {
    ($limit:expr, $($fields:tt)+) => {
        if let Some(left_out) = $limit.due() {
            tracing::warn!(left_out, $($fields)+)
        } else {
            tracing::debug!($($fields)+)
        }
    };
}
pub(crate) use warn_limited;

/// Limits how many warnings of one kind are logged.
#[derive(Debug)]
pub(crate) struct WarningLimit {
    state: Mutex<State>,
    interval: Duration,
    /// How many are logged in an interval.
    most: u32,
}

#[derive(Debug)]
struct State {
    /// When the interval began.
    since: Option<Instant>,
    /// How many were logged in it.
    logged: u32,
    /// How many were left out since the last that was logged.
    left_out: u64,
}

impl WarningLimit {
    const fn new(interval: Duration, most: u32) -> Self {
        let state = State {
            since: None,
            logged: 0,
            left_out: 0,
        };
        Self {
            state: Mutex::new(state),
            interval,
            most,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns how many warnings were left out, if one is to be logged now.
    pub(crate) fn due(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.lock();
        let lasts = |since| now.saturating_duration_since(since) < self.interval;
        if !state.since.is_some_and(lasts) {
            state.since = Some(now);
            state.logged = 0;
        }
        if state.logged == self.most {
            state.left_out += 1;
            return None;
        }
        state.logged += 1;
        Some(core::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn some_warnings_in_an_interval_and_the_count_of_the_others() {
        for most in [1, 10] {
            let limit = WarningLimit::new(INTERVAL, most);
            for _ in 0..most {
                assert_eq!(limit.due(), Some(0));
            }
            for _ in 0..2000 {
                assert_eq!(limit.due(), None);
            }
            tokio::time::sleep(INTERVAL).await;
            assert_eq!(limit.due(), Some(2000));
            tokio::time::sleep(INTERVAL).await;
            assert_eq!(limit.due(), Some(0));
        }
    }
}
