//! The servers of a client that has several: which ones the next attempts to connect go to, when an
//! attempt begins beside one that is slow, and for how long a server that failed is not tried.

use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use super::connect_attempts::History;
use super::retry::Backoff;
use crate::error::ConnectionError;
use crate::time::Instant;

/// What is known of a server.
#[derive(Clone, Copy, Debug)]
struct Known {
    /// How many attempts at it, and connections to it, have failed in a row.
    failed: u32,
    /// Until when it is not tried again.
    backs_off_until: Instant,
}

/// The attempts of one connection of a client at its servers, from the first one until one has
/// completed its handshake or all have failed. See [`Servers`].
#[derive(Clone, Debug)]
pub struct Round {
    home: usize,
    /// The servers that were tried.
    tried: Vec<usize>,
    /// The servers of the attempts that are in progress, in the order in which these began.
    running: Vec<usize>,
    /// When another attempt may begin beside them.
    next_at: Instant,
    /// The attempts are under a key that no server has accepted yet.
    new_key: bool,
}

impl Round {
    /// The first round of a connection whose home is this server.
    #[must_use]
    pub const fn new(home: usize) -> Self {
        Self {
            home,
            tried: Vec::new(),
            running: Vec::new(),
            next_at: Instant::ZERO,
            new_key: false,
        }
    }

    /// The round in which a client asks its servers to accept another key: it takes the key once
    /// one of them has completed a handshake under it. The server that the client is `connected`
    /// to is asked first, and without one its `home`.
    #[must_use]
    pub fn of_new_key(connected: Option<usize>, home: usize) -> Self {
        let mut round = Self::new(connected.unwrap_or(home));
        round.new_key = true;
        round
    }

    /// Whether an attempt is in progress.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        !self.running.is_empty()
    }

    /// Ends the round without a result: nothing is known of the servers whose attempts are
    /// abandoned.
    pub fn abandon(&mut self) {
        *self = Self::new(self.home);
    }
}

/// The servers of a client, by their numbers. The adapter has their addresses.
///
/// A connection has a server of its own, its *home*, so that the connections of a client, or of
/// several clients, are spread. It tries its home first and then the others in turn; these attempts
/// are one [`Round`]:
///
/// - If an attempt fails, the next one begins at once.
/// - If an attempt takes longer than [`DELAY`](Self::DELAY), the next one begins beside it. An
///   attempt includes the handshake, so this also helps if a server accepts connections and then
///   says nothing.
/// - The first attempt that completes its handshake ends the round, and the others are abandoned. A
///   server whose attempt began before that one is taken for one that has failed.
/// - A server that failed is skipped for as long as [`Backoff`] says, at least half of the bound.
///   If all servers would be skipped, the one is tried that would be skipped for the shortest time.
/// - A round that has failed as a whole counts as one failed attempt for
///   [`ConnectAttempts`](super::ConnectAttempts).
/// - A round [of a new key](Round::of_new_key) tries all servers. It tries last those that would be
///   skipped. A server that fails is not skipped afterwards, because it may only lack the new key.
///
/// ```
/// use falco_core::Instant;
/// use falco_core::mux::{Backoff, Round, Servers};
///
/// let (mut servers, now) = (Servers::new(2, Backoff::default()), Instant::ZERO);
/// // The home is 1, and its attempt hangs.
/// let mut round = Round::new(1);
/// assert_eq!(servers.begin(&mut round, now), Some(1));
/// assert_eq!(servers.begin(&mut round, now), None);
/// assert_eq!(servers.next_at(&round), Some(now + Servers::DELAY));
/// let now = now + Servers::DELAY;
/// assert_eq!(servers.begin(&mut round, now), Some(0));
/// assert_eq!(servers.completed(&mut round, 0, now, |_| 0), [1]);
/// // The next round begins with the other server while the home is not tried.
/// assert_eq!(servers.begin(&mut round, now), Some(0));
/// ```
#[derive(Clone, Debug)]
pub struct Servers {
    known: Box<[Known]>,
    backoff: Backoff,
}

impl Servers {
    /// How long an attempt may take before the next one begins beside it. It is the *Connection
    /// Attempt Delay* of RFC 8305, section 5, with the value that is recommended there.
    pub const DELAY: Duration = Duration::from_millis(250);

    /// A list of `count` servers, none of which was tried.
    #[must_use]
    pub fn new(count: usize, backoff: Backoff) -> Self {
        let known = Known {
            failed: 0,
            backs_off_until: Instant::ZERO,
        };
        Self {
            known: vec![known; count].into_boxed_slice(),
            backoff,
        }
    }

    /// Begins the next attempt of a round, at the server that is returned. `None` if no attempt may
    /// begin now. If none [is in progress](Round::is_running), one may always begin.
    pub fn begin(&self, round: &mut Round, now: Instant) -> Option<usize> {
        if round.is_running() && now < round.next_at {
            return None;
        }
        let next = self.find(round, now);
        let server = next.or_else(|| self.last_resort(round).filter(|_| !round.is_running()))?;
        round.tried.push(server);
        round.running.push(server);
        round.next_at = now + Self::DELAY;
        Some(server)
    }

    /// When another attempt may begin beside those in progress. `None` if there is no other server.
    #[must_use]
    pub fn next_at(&self, round: &Round) -> Option<Instant> {
        let ends = self.untried(round).map(|server| self.backs_off_until(server));
        ends.min().map(|end| end.max(round.next_at))
    }

    /// Reports that an attempt of a round has failed. Returns whether the round continues: others
    /// are in progress, or another one [begins](Self::begin) at once. Otherwise the next attempt
    /// begins a new round. `below` returns a random number that is less than its argument.
    #[must_use]
    pub fn attempt_failed(
        &mut self,
        round: &mut Round,
        server: usize,
        now: Instant,
        below: impl FnOnce(u64) -> u64,
    ) -> bool {
        if !round.new_key {
            self.failed(server, now, below);
        }
        round.running.retain(|running| *running != server);
        round.next_at = now;
        let has_next = self.find(round, now).is_some() || (round.new_key && self.untried(round).next().is_some());
        let goes_on = round.is_running() || has_next;
        if !goes_on {
            round.abandon();
        }
        goes_on
    }

    /// Reports that an attempt of a round has completed its handshake, which ends the round. The
    /// others are abandoned. Returns the servers whose attempts began before and are not tried for
    /// a while. `below` returns a random number that is less than its argument.
    pub fn completed(
        &mut self,
        round: &mut Round,
        server: usize,
        now: Instant,
        mut below: impl FnMut(u64) -> u64,
    ) -> Vec<usize> {
        let mut slower = core::mem::take(&mut round.running);
        slower.truncate(slower.iter().position(|running| *running == server).unwrap_or(0));
        for slow in &slower {
            self.failed(*slow, now, &mut below);
        }
        self.established(server);
        round.abandon();
        slower
    }

    /// Whether a server is not tried, because it has failed.
    #[must_use]
    pub fn is_in_backoff(&self, server: usize, now: Instant) -> bool {
        now < self.backs_off_until(server)
    }

    /// Reports that an established connection to a server accepts no new requests. If it has not
    /// drained, the server may have crashed or be out of reach, and is not tried for a while, as
    /// after a failed attempt. How the stream ends after one side has closed the connection says
    /// nothing about the server. `below` returns a random number that is less than its argument.
    pub fn lost(&mut self, server: usize, history: History, now: Instant, below: impl FnOnce(u64) -> u64) {
        if !history.drained && !history.end.is_some_and(ConnectionError::is_orderly) {
            self.failed(server, now, below);
        }
    }

    /// Reports that an attempt at a server has failed, and that this attempt belongs to no round.
    /// `below` returns a random number that is less than its argument.
    pub fn failed(&mut self, server: usize, now: Instant, below: impl FnOnce(u64) -> u64) {
        if let Some(known) = self.known.get_mut(server) {
            known.failed = known.failed.saturating_add(1);
            // At least half of the bound, so that it is skipped in any case.
            let half = |bound: u64| bound / 2 + below(bound.div_ceil(2));
            known.backs_off_until = now + self.backoff.pause(known.failed, half);
        }
    }

    /// Reports that a handshake with a server has completed, and that it belongs to no round.
    pub fn established(&mut self, server: usize) {
        if let Some(known) = self.known.get_mut(server) {
            known.failed = 0;
            known.backs_off_until = Instant::ZERO;
        }
    }

    /// The next server of a round that is not skipped.
    fn find(&self, round: &Round, now: Instant) -> Option<usize> {
        let mut untried = self.untried(round);
        untried.find(|server| !self.is_in_backoff(*server, now))
    }

    /// The server of a round in which all that are left would be skipped. If another connection has
    /// found meanwhile that these fail, it may be one that was tried.
    fn last_resort(&self, round: &Round) -> Option<usize> {
        if round.new_key {
            return self.untried(round).min_by_key(|server| self.backs_off_until(*server));
        }
        self.soonest(round.home)
    }

    /// The server that is skipped for the shortest time.
    fn soonest(&self, home: usize) -> Option<usize> {
        self.in_order(home).min_by_key(|server| self.backs_off_until(*server))
    }

    fn untried<'r>(&'r self, round: &'r Round) -> impl Iterator<Item = usize> + 'r {
        self.in_order(round.home).filter(|server| !round.tried.contains(server))
    }

    /// All servers, in the order in which a connection of this home tries them.
    fn in_order(&self, home: usize) -> impl Iterator<Item = usize> + use<> {
        let count = self.known.len();
        (0..count).map(move |turn| home.wrapping_add(turn) % count)
    }

    fn backs_off_until(&self, server: usize) -> Instant {
        let known = self.known.get(server);
        known.map_or(Instant::ZERO, |known| known.backs_off_until)
    }
}
