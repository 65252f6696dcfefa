//! The servers of a client that has several: which one the next attempt to connect goes to, and for
//! how long one that failed is left alone.

use alloc::boxed::Box;
use alloc::vec;

use super::retry::Backoff;
use crate::error::ConnectionError;
use crate::time::Instant;

/// What is known of a server.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// How many attempts at it, and connections to it, have failed in a row.
    failed: u32,
    /// Until when it is left alone.
    left_alone_until: Instant,
}

/// The servers of a client, by their numbers. The adapter has their addresses.
///
/// A connection has a server of its own, its *home*, so that the connections of a client, or of
/// several clients, are spread. It tries its home first and then the others in turn; these attempts
/// are one round. A server that failed is skipped for as long as [`Backoff`] says, at least half of
/// the bound. If a round has failed as a whole, that is a failed attempt in the sense of
/// [`ConnectAttempts`](super::ConnectAttempts).
///
/// ```
/// use falco_core::Instant;
/// use falco_core::mux::{Backoff, Servers};
///
/// let (mut servers, now) = (Servers::new(2, Backoff::default()), Instant::ZERO);
/// // The home is 1, and nothing was tried in this round.
/// assert_eq!(servers.next(1, 0, now), Some((1, 1)));
/// servers.failed(1, now, |_| 0);
/// assert_eq!(servers.next(1, 1, now), Some((0, 2)));
/// // The next round begins with the other server while the home is left alone.
/// assert_eq!(servers.next(1, 0, now), Some((0, 2)));
/// ```
#[derive(Clone, Debug)]
pub struct Servers {
    known: Box<[Known]>,
    backoff: Backoff,
}

impl Servers {
    /// As many servers, of which nothing is known.
    #[must_use]
    pub fn new(count: usize, backoff: Backoff) -> Self {
        let known = Known {
            failed: 0,
            left_alone_until: Instant::ZERO,
        };
        Self {
            known: vec![known; count].into_boxed_slice(),
            backoff,
        }
    }

    /// The server of the next attempt of a connection that belongs to `home` and has tried `tried`
    /// servers in this round, and how many it has tried with this one. Servers that are left alone
    /// are skipped. `None` if none is left.
    #[must_use]
    pub fn next(&self, home: usize, tried: usize, now: Instant) -> Option<(usize, usize)> {
        let count = self.known.len();
        let mut rest = (tried..count).map(|turn| (home.wrapping_add(turn) % count, turn + 1));
        rest.find(|(server, _)| !self.is_left_alone(*server, now))
    }

    /// Whether a server is left alone, because it has failed.
    #[must_use]
    pub fn is_left_alone(&self, server: usize, now: Instant) -> bool {
        let known = self.known.get(server);
        known.is_some_and(|known| now < known.left_alone_until)
    }

    /// Reports that an established connection to a server has ended with `end`, or, without one,
    /// that its stream has failed. Unless the connection has drained, the server may have crashed
    /// or be out of reach, and is left alone as after a failed attempt. `below` returns a random
    /// number that is less than its argument.
    pub fn lost(&mut self, server: usize, end: Option<ConnectionError>, now: Instant, below: impl FnOnce(u64) -> u64) {
        if end != Some(ConnectionError::Closed) {
            self.failed(server, now, below);
        }
    }

    /// Reports that an attempt at a server has failed. `below` returns a random number that is less
    /// than its argument.
    pub fn failed(&mut self, server: usize, now: Instant, below: impl FnOnce(u64) -> u64) {
        if let Some(known) = self.known.get_mut(server) {
            known.failed = known.failed.saturating_add(1);
            // At least half of the bound, so that it is left alone in any case.
            let half = |bound: u64| bound / 2 + below(bound.div_ceil(2));
            known.left_alone_until = now + self.backoff.pause(known.failed, half);
        }
    }

    /// Reports that a handshake with a server has completed.
    pub fn established(&mut self, server: usize) {
        if let Some(known) = self.known.get_mut(server) {
            known.failed = 0;
            known.left_alone_until = Instant::ZERO;
        }
    }
}
