//! How long a tunnel may carry nothing.

use core::future::pending;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::io;

use tokio::time::{Instant, sleep_until};

/// When a tunnel has last carried bytes, in either direction.
pub(super) struct Idle {
    limit: Option<Duration>,
    began: Instant,
    /// Nanoseconds from then to the last bytes.
    last: AtomicU64,
}

impl Idle {
    pub(super) fn new(limit: Option<Duration>) -> Self {
        Self {
            limit,
            began: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    /// Bytes are on their way.
    pub(super) fn note(&self) {
        if self.limit.is_some() {
            let last = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.last.store(last, Ordering::Relaxed);
        }
    }

    /// Waits until nothing was carried for the limit. Never returns without one.
    pub(super) async fn expired(&self) -> io::Error {
        loop {
            let last = self.last.load(Ordering::Relaxed);
            let at = self.limit.and_then(|limit| {
                let last = self.began.checked_add(Duration::from_nanos(last))?;
                Some((last.checked_add(limit)?, limit))
            });
            let Some((at, limit)) = at else {
                return pending().await;
            };
            // Boxed, so that a tunnel without a limit has no memory for it.
            Box::pin(sleep_until(at)).await;
            if self.last.load(Ordering::Relaxed) == last {
                let text = format!("idle: nothing was carried for {limit:?}");
                return io::Error::new(io::ErrorKind::TimedOut, text);
            }
        }
    }
}
