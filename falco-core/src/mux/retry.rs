//! Whether a request or a ping is repeated after it has failed, and the pauses between attempts to
//! connect. Adapters follow these rules and keep no counters of their own.

use core::time::Duration;

use crate::message::{Fate, Refusal};

/// How often a request or a ping has been tried. Keep it with the request when it moves to another
/// connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// Connections that were lost, or that refused the request as not processed, after part of it
    /// was sent. For a ping: connections that were lost before it completed, whether it was sent or
    /// not.
    tries: u32,
    /// How often it was held back after a busy refusal.
    busy: u32,
}

impl Attempts {
    /// On how many connections a request is sent at most. After that it fails, even if none of them
    /// has processed it. The limits are public for documentation and tests of a client.
    pub const MAX_TRIES: u32 = 3;

    /// How often a request is sent again on the same connection because the server was busy. Each
    /// time the bytes in flight are halved; six steps lead from 64 MiB to 1 MiB. If the server is
    /// still busy after that, the request fails as refused. It also fails if the bytes in flight
    /// cannot be the reason.
    pub const MAX_BUSY: u32 = 16;

    /// Whether an earlier connection has sent any part of the request. For logs.
    #[must_use]
    pub const fn has_been_sent(&self) -> bool {
        self.tries > 0
    }

    /// Counts a connection that was lost after it had sent a part of the request. `fate` is the
    /// fate of the request on that connection. Returns whether the request is tried again.
    pub(super) const fn after_loss(&mut self, fate: Fate) -> bool {
        self.tries = self.tries.saturating_add(1);
        matches!(fate, Fate::NotProcessed) && self.tries < Self::MAX_TRIES
    }

    /// Counts a refusal. After [`Refusal::Busy`] the request fails, and its caller decides whether
    /// to try again. Returns whether the request is tried again.
    pub(super) const fn after_refusal(&mut self, refusal: Refusal) -> bool {
        matches!(refusal, Refusal::NotProcessed) && self.after_loss(Fate::NotProcessed)
    }

    /// Counts that the server was busy, perhaps because of the bytes in flight. This does not count
    /// towards [`MAX_TRIES`](Self::MAX_TRIES). Returns whether the request is tried again.
    pub(super) const fn after_busy(&mut self) -> bool {
        let again = self.busy < Self::MAX_BUSY;
        if again {
            self.busy += 1;
        }
        again
    }
}

/// The pauses between attempts to connect: each is random, up to a bound that doubles with every
/// failure. So clients that lost the same server do not all reconnect at once.
///
/// ```
/// use core::time::Duration;
/// use falco_core::mux::Backoff;
///
/// let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
/// // A random number below the one given; here always the largest.
/// let largest = |bound: u64| bound - 1;
/// assert_eq!(backoff.pause(1, largest), Duration::from_millis(50));
/// assert_eq!(backoff.pause(3, largest), Duration::from_millis(200));
/// assert_eq!(backoff.pause(20, largest), Duration::from_secs(10));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    most: Duration,
}

impl Backoff {
    /// The bound is `first` after the first failure, and never more than `most`.
    #[must_use]
    pub const fn new(first: Duration, most: Duration) -> Self {
        Self { first, most }
    }

    /// The pause after `failed` failures in a row, in whole microseconds. `below` returns a random
    /// number that is less than its argument.
    #[must_use]
    pub fn pause(self, failed: u32, below: impl FnOnce(u64) -> u64) -> Duration {
        let factor = 1_u32.checked_shl(failed.saturating_sub(1)).unwrap_or(u32::MAX);
        let bound = self.first.saturating_mul(factor).min(self.most).as_micros();
        let bound = u64::try_from(bound).unwrap_or(u64::MAX);
        Duration::from_micros(below(bound.saturating_add(1)))
    }
}

impl Default for Backoff {
    /// 50 ms at first, 10 s at most.
    fn default() -> Self {
        Self::new(Duration::from_millis(50), Duration::from_secs(10))
    }
}
