//! Whether bytes of a command move.

use core::future::pending;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use core::time::Duration;

use tokio::time::{Instant, sleep};

/// When bytes were last read or written.
pub(super) struct Activity {
    began: Instant,
    /// Milliseconds since then.
    last: AtomicU64,
    /// The output of the command is being read: nothing of it waits to be sent.
    pub(super) reads: AtomicBool,
}

impl Activity {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            last: AtomicU64::new(0),
            reads: AtomicBool::new(false),
        }
    }

    pub(super) fn note(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(millis, Ordering::Relaxed);
    }

    /// Waits until the output of the command was being read for this long and nothing came, or
    /// `anything` did.
    pub(super) async fn nothing_to_read_for(&self, limit: Duration, anything: bool) {
        loop {
            let before = self.last.load(Ordering::Relaxed);
            let waited = self.reads.load(Ordering::Relaxed);
            sleep(limit).await;
            let unchanged = anything || self.last.load(Ordering::Relaxed) == before;
            if waited && unchanged && self.reads.load(Ordering::Relaxed) {
                return;
            }
        }
    }

    /// Waits until nothing has been read or written for this long, and returns the limit. Without
    /// one it waits forever.
    pub(super) async fn silent_for(&self, limit: Option<Duration>) -> Duration {
        let Some(limit) = limit else {
            return pending().await;
        };
        loop {
            let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
            let silent = self.began.elapsed().saturating_sub(last);
            match limit.checked_sub(silent).filter(|left| !left.is_zero()) {
                Some(left) => sleep(left).await,
                None => return limit,
            }
        }
    }
}
