//! The servers of a client, and which of them the next attempt of a connection goes to.

use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use falco_core::Instant;
use falco_core::mux::Backoff;

use super::dial::Dial;

/// A server, and what is known of it.
#[derive(Debug)]
struct Server {
    dial: Dial,
    /// How many attempts at it have failed in a row.
    failed: AtomicU32,
    /// Until when it is left alone while another one can be tried, in milliseconds of the client's
    /// clock.
    left_alone_until: AtomicU64,
}

/// The servers of a client, at least one.
#[derive(Debug)]
pub(super) struct Servers {
    all: Box<[Server]>,
    backoff: Backoff,
}

impl Servers {
    pub(super) fn new(dials: Vec<Dial>, backoff: Backoff) -> Self {
        let server = |dial| Server {
            dial,
            failed: AtomicU32::new(0),
            left_alone_until: AtomicU64::new(0),
        };
        let all = dials.into_iter().map(server).collect();
        Self { all, backoff }
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    /// How to open a stream to a server.
    pub(super) fn dial(&self, server: usize) -> &Dial {
        // What names a server is a number from here, so there is one.
        static NOWHERE: Dial = Dial::Tcp(String::new());
        self.all.get(server).map_or(&NOWHERE, |server| &server.dial)
    }

    /// The server of the next attempt of a connection that belongs to `home` and has made `tried`
    /// attempts in this round, and how many attempts the round has had with this one. A server that
    /// is left alone is skipped. `None` if none is left.
    pub(super) fn next(&self, home: usize, tried: usize, now: Instant) -> Option<(usize, usize)> {
        let mut rest = (tried..self.all.len()).map(|turn| ((home + turn) % self.all.len(), turn + 1));
        rest.find(|(server, _)| !self.is_left_alone(*server, now))
    }

    pub(super) fn is_left_alone(&self, server: usize, now: Instant) -> bool {
        let until = self
            .all
            .get(server)
            .map(|server| server.left_alone_until.load(Ordering::Relaxed));
        until.is_some_and(|until| now.as_millis() < until)
    }

    /// An attempt at a server, or a connection to it, has failed. `below` returns a random number
    /// that is less than its argument.
    pub(super) fn failed(&self, server: usize, now: Instant, below: impl Fn(u64) -> u64) {
        if let Some(server) = self.all.get(server) {
            let failed = server.failed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            // At least half of the bound, so that it is left alone in any case.
            let pause = self.backoff.pause(failed, |bound| bound / 2 + below(bound.div_ceil(2)));
            let until = now + pause;
            server.left_alone_until.store(until.as_millis(), Ordering::Relaxed);
        }
    }

    /// A handshake with a server has completed.
    pub(super) fn established(&self, server: usize) {
        if let Some(server) = self.all.get(server) {
            server.failed.store(0, Ordering::Relaxed);
            server.left_alone_until.store(0, Ordering::Relaxed);
        }
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, server) in self.all.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{}", server.dial)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_take_turns_and_one_that_failed_is_left_alone_for_a_while() {
        let dials = ["a:1", "b:1", "c:1"].map(|name| Dial::Tcp(name.to_owned()));
        let servers = Servers::new(dials.into(), Backoff::default());
        assert_eq!(servers.to_string(), "a:1,b:1,c:1");
        let now = Instant::from_millis(1_000);
        assert_eq!(servers.next(1, 0, now), Some((1, 1)));
        assert_eq!(servers.next(1, 1, now), Some((2, 2)));
        assert_eq!(servers.next(1, 2, now), Some((0, 3)));
        assert_eq!(servers.next(1, 3, now), None);
        servers.failed(2, now, |_| 0);
        assert_eq!(servers.next(1, 1, now), Some((0, 3)));
        assert_eq!(servers.next(2, 0, now), Some((0, 2)));
        // The first pause is 50 ms at most, and half of that at least.
        assert!(servers.is_left_alone(2, Instant::from_millis(1_024)));
        assert_eq!(servers.next(2, 0, Instant::from_millis(1_050)), Some((2, 1)));
        for _ in 0..20 {
            servers.failed(2, now, |bound| bound - 1);
        }
        assert!(servers.is_left_alone(2, Instant::from_millis(10_999)));
        assert!(!servers.is_left_alone(2, Instant::from_millis(11_001)));
        servers.established(2);
        assert!(!servers.is_left_alone(2, now));
    }
}
