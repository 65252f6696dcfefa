//! The servers of a client, and which of them the next attempt of a connection goes to.

use core::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use falco_core::Instant;
use falco_core::mux::{self, Backoff, History, Round};

use super::dial::Dial;

/// The servers of a client, at least one.
#[derive(Debug)]
pub(super) struct Servers {
    dials: Box<[Dial]>,
    /// Which of them are in back-off. It stays consistent if the user's source of random numbers
    /// panics under the lock.
    known: Mutex<mux::Servers>,
}

impl Servers {
    pub(super) fn new(dials: Vec<Dial>, backoff: Backoff) -> Self {
        Self {
            known: Mutex::new(mux::Servers::new(dials.len(), backoff)),
            dials: dials.into(),
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.dials.len()
    }

    /// How to open a stream to a server.
    pub(super) fn dial(&self, server: usize) -> &Dial {
        // `server` is always a number from `known`, which has as many servers.
        static NOWHERE: Dial = Dial::Tcp(String::new());
        self.dials.get(server).unwrap_or(&NOWHERE)
    }

    /// The names of the servers, in the order in which they were given.
    pub(super) fn names(&self) -> impl Iterator<Item = String> {
        self.dials.iter().map(Dial::to_string)
    }

    fn known(&self) -> MutexGuard<'_, mux::Servers> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`mux::Servers::begin`].
    pub(super) fn begin(&self, round: &mut Round, now: Instant) -> Option<usize> {
        self.known().begin(round, now)
    }

    /// [`mux::Servers::next_at`].
    pub(super) fn next_at(&self, round: &Round) -> Option<Instant> {
        self.known().next_at(round)
    }

    /// [`mux::Servers::attempt_failed`].
    pub(super) fn attempt_failed(
        &self,
        round: &mut Round,
        server: usize,
        now: Instant,
        below: impl FnOnce(u64) -> u64,
    ) -> bool {
        self.known().attempt_failed(round, server, now, below)
    }

    /// [`mux::Servers::completed`].
    pub(super) fn completed(
        &self,
        round: &mut Round,
        server: usize,
        now: Instant,
        below: impl FnMut(u64) -> u64,
    ) -> Vec<usize> {
        self.known().completed(round, server, now, below)
    }

    pub(super) fn is_in_backoff(&self, server: usize, now: Instant) -> bool {
        self.known().is_in_backoff(server, now)
    }

    /// [`mux::Servers::lost`].
    pub(super) fn lost(&self, server: usize, history: History, now: Instant, below: impl FnOnce(u64) -> u64) {
        self.known().lost(server, history, now, below);
    }

    /// [`mux::Servers::failed`].
    pub(super) fn failed(&self, server: usize, now: Instant, below: impl FnOnce(u64) -> u64) {
        self.known().failed(server, now, below);
    }

    /// A handshake with a server has completed.
    pub(super) fn established(&self, server: usize) {
        self.known().established(server);
    }
}

impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, dial) in self.dials.iter().enumerate() {
            let comma = if at > 0 { "," } else { "" };
            write!(f, "{comma}{dial}")?;
        }
        Ok(())
    }
}
