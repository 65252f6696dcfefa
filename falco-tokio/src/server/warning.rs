//! Warnings that a client can cause at will. Of each kind one per interval is logged, with the
//! number of those left out.

use core::time::Duration;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// The least time between two warnings of one kind.
const INTERVAL: Duration = Duration::from_secs(10);

/// The limits of each kind.
#[derive(Debug, Default)]
pub(crate) struct Warnings {
    /// Accepting failed.
    pub(crate) accepting: WarningLimit,
    /// A connection was closed at once because there was no place for it.
    pub(crate) no_place: WarningLimit,
    /// A connection could not be set up.
    pub(crate) setup: WarningLimit,
    /// A hello did not decrypt, or was replayed.
    pub(crate) refused: WarningLimit,
    /// A key has reached its limit of connections.
    pub(crate) key_limit: WarningLimit,
}

/// When a warning of one kind was logged last, and how many were left out since.
#[derive(Debug, Default)]
pub(crate) struct WarningLimit(Mutex<(Option<Instant>, u64)>);

impl WarningLimit {
    /// Returns how many warnings were left out, if one is to be logged now.
    pub(crate) fn due(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, left_out) = &mut *state;
        if last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            *left_out += 1;
            return None;
        }
        *last = Some(now);
        Some(core::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_warning_in_an_interval_and_the_count_of_the_others() {
        let limit = WarningLimit::default();
        assert_eq!(limit.due(), Some(0));
        for _ in 0..2000 {
            assert_eq!(limit.due(), None);
        }
        tokio::time::sleep(INTERVAL).await;
        assert_eq!(limit.due(), Some(2000));
        tokio::time::sleep(INTERVAL).await;
        assert_eq!(limit.due(), Some(0));
    }
}
