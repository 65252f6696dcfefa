//! Whether a request or a ping is repeated after it has failed, and the pauses between attempts at
//! a connection. Adapters do what these rules say and compare no counter of their own.

use core::time::Duration;

use crate::message::{Fate, Refusal};

/// On how many connections a request is sent before it fails, although none has processed it. The
/// limits are public for those who document or test a client.
pub const MAX_TRIES: u32 = 3;

/// How often a request is sent again on its connection because the server was busy. The bytes in
/// flight are halved each time, from 64 MiB to 1 MiB in six steps. If the server is still busy
/// after that, or for another reason, the request fails as refused.
pub const MAX_BUSY: u32 = 16;

/// Whether something that failed is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "there is no third outcome")]
pub enum Retry {
    /// It goes to the next connection, within its own time limit.
    Again,
    /// It fails: its caller receives the error.
    Fail,
}

/// How often a request or a ping has been tried. Keep it with the request when it moves to another
/// connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attempts {
    /// Connections on which something of it was sent, and which did not process it.
    tries: u32,
    /// How often a server was busy for it.
    busy: u32,
}

impl Attempts {
    /// Whether a connection has sent something of it before the present one, for logs.
    #[must_use]
    pub const fn has_been_sent(&self) -> bool {
        self.tries > 0
    }

    /// Counts a connection that was lost after it had sent something of a request with this fate.
    pub(super) const fn after_loss(&mut self, fate: Fate) -> Retry {
        self.tries = self.tries.saturating_add(1);
        match fate {
            Fate::NotProcessed if self.tries < MAX_TRIES => Retry::Again,
            Fate::NotProcessed | Fate::MaybeProcessed => Retry::Fail,
        }
    }

    /// Counts a refusal. A server that is busy is not asked again at once: the caller decides.
    pub(super) const fn after_refusal(&mut self, refusal: Refusal) -> Retry {
        if matches!(refusal, Refusal::NotProcessed) {
            self.after_loss(Fate::NotProcessed)
        } else {
            Retry::Fail
        }
    }

    /// Counts that the server was busy, perhaps because of the bytes in flight. The connection that
    /// it was sent on does not count as one that was tried.
    pub(super) const fn after_busy(&mut self) -> Retry {
        if self.busy < MAX_BUSY {
            self.busy += 1;
            Retry::Again
        } else {
            Retry::Fail
        }
    }
}

/// The pauses between attempts to connect: each is a random part of a bound that doubles with every
/// failure. So clients that lost one server do not all come back at once.
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
