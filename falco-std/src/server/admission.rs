//! The connections of a server: which are accepted, which half-open ones are dropped for others,
//! and how all of them end when the server shuts down. Admission follows the rules of
//! [`falco_core::mux::Admission`].

mod permit;

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use falco_core::mux::{self, AdmissionLimits, Source};
use falco_core::{CloseReason, KeyId};

use super::state::Conn;
use super::stats::{Counters, Report, ServerStats, gauge};
use crate::clock::Clock;
use crate::socket::SharedSocket;

pub(super) use self::permit::{Permit, Place};

pub(super) struct Admission {
    state: Mutex<State>,
    /// Notified when [`State::changes`] was incremented, if the accepting thread may wait for it.
    changed: Condvar,
    clock: Clock,
    counters: Counters,
}

struct State {
    next: u64,
    conns: BTreeMap<u64, Arc<Conn>>,
    /// The connections in `conns`, except guests.
    admitted: mux::Admission,
    /// The accepting thread waits for a place.
    waited_for: bool,
    /// Incremented when the server shuts down, when a connection has ended or was established, and
    /// when another half-open connection may be dropped.
    changes: u64,
    /// How many connections have ended.
    ended: u64,
    deadline: Option<Instant>,
    /// Connections that the deadline has cut, and their unanswered requests.
    cut: (u64, u64),
}

/// A shortage of places, or of memory or file descriptors.
pub(super) struct Shortage {
    /// Half-open connections that were dropped.
    pub(super) dropped: Vec<u64>,
    /// The time after which another connection may be dropped, if nothing changes before.
    pub(super) due: Option<Duration>,
    /// The argument of [`Admission::wait_for_change`].
    pub(super) seen: u64,
}

impl Admission {
    /// `seed` is a secret random number.
    pub(super) fn new(limits: AdmissionLimits, seed: u64, clock: Clock) -> Self {
        Self {
            state: Mutex::new(State {
                next: 0,
                conns: BTreeMap::new(),
                admitted: mux::Admission::new(limits, seed),
                waited_for: false,
                changes: 0,
                ended: 0,
                deadline: None,
                cut: (0, 0),
            }),
            changed: Condvar::new(),
            clock,
            counters: Counters::default(),
        }
    }

    pub(super) const fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn stats(&self) -> ServerStats {
        self.read(&self.lock())
    }

    fn read(&self, state: &State) -> ServerStats {
        let (half_open, limits) = (state.admitted.half_open(), state.admitted.limits());
        self.counters.read(state.conns.len(), half_open, limits)
    }

    /// Drops half-open connections if a connection that was accepted from `source` has to wait for
    /// a place. Returns `None` if it need not wait: there is a place, or all connections are
    /// established, or the server shuts down.
    pub(super) fn make_room(&self, source: Source) -> Option<Shortage> {
        let mut state = self.lock();
        state.waited_for = !state.admitted.is_stopping() && state.admitted.may_have_room_later();
        if !state.waited_for {
            return None;
        }
        let (now, mut dropped) = (self.clock.now(), Vec::new());
        while let Some(number) = state.admitted.select(now, Some(source)) {
            dropped.extend(self.droppable(&mut state, number));
        }
        let due = state.admitted.due(now).map(|at| at.since(now));
        Some(cut(state, dropped, due))
    }

    /// Call it if the system is short of memory or file descriptors. Drops a half-open connection
    /// that is late. `ended` is an earlier result of [`ended`](Self::ended). Returns `None` if a
    /// connection has ended since then, because there may be enough again, or if the server shuts
    /// down, because accepting then fails without a shortage.
    pub(super) fn drop_late(&self, ended: u64) -> Option<Shortage> {
        let mut state = self.lock();
        state.waited_for = !state.admitted.is_stopping() && state.ended == ended;
        if !state.waited_for {
            return None;
        }
        let mut dropped = Vec::new();
        while let Some(number) = state.admitted.select_late(self.clock.now()) {
            dropped.extend(self.droppable(&mut state, number));
        }
        Some(cut(state, dropped, None))
    }

    /// How many connections have ended.
    pub(super) fn ended(&self) -> u64 {
        self.lock().ended
    }

    /// Waits until something has changed since a [`Shortage`], for `limit` at most.
    pub(super) fn wait_for_change(&self, seen: u64, limit: Option<Duration>) {
        let until = limit.map(|limit| Instant::now() + limit);
        let mut state = self.lock();
        while state.changes == seen {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return;
            }
            state = self.wait(state, left);
        }
    }

    /// Admits an accepted connection, and drops half-open ones to make room. Returns the permit and
    /// the numbers of the dropped connections. Returns `None` if the limit of all connections or of
    /// the source is reached, or if the server shuts down.
    pub(super) fn admit(
        self: &Arc<Self>,
        conn: Arc<Conn>,
        socket: SharedSocket,
        source: Source,
    ) -> Option<(Permit, Vec<u64>)> {
        let mut state = self.lock();
        if state.admitted.is_stopping() {
            return None;
        }
        let number = state.next;
        let Some(selected) = state.admitted.admit(number, source, self.clock.now()) else {
            self.counters.rejected.add(1);
            return None;
        };
        let permit = self.permit(&mut state, conn, Some(socket));
        let dropped = selected
            .filter_map(|number| self.droppable(&mut state, number))
            .collect();
        Some((permit, cut(state, dropped, None).dropped))
    }

    /// Admits a connection that the server did not accept itself. It does not count towards any
    /// limit.
    pub(super) fn guest(self: &Arc<Self>, conn: Arc<Conn>) -> Permit {
        let mut state = self.lock();
        let permit = self.permit(&mut state, conn, None);
        let stopping = state.admitted.is_stopping();
        drop(state);
        if stopping {
            permit.conn().close(CloseReason::ShuttingDown);
        }
        permit
    }

    fn permit(self: &Arc<Self>, state: &mut State, conn: Arc<Conn>, socket: Option<SharedSocket>) -> Permit {
        let number = state.next;
        state.next += 1;
        state.conns.insert(number, Arc::clone(&conn));
        Permit::new(number, socket, conn, Arc::clone(self))
    }

    /// Returns a connection that was selected, if it is to be dropped. If it has bytes that the
    /// server has not read yet, it stays.
    fn droppable(&self, state: &mut State, number: u64) -> Option<(u64, Arc<Conn>)> {
        let conn = state.conns.get(&number)?;
        if conn.is_readable() {
            state.admitted.keep(number);
            return None;
        }
        self.counters.half_open_dropped.add(1);
        Some((number, Arc::clone(conn)))
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().admitted.is_stopping()
    }

    pub(super) fn stop(&self, limit: Option<Duration>) {
        // A limit that overflows the clock counts as no limit.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut state = self.lock();
        state.deadline = state.deadline.into_iter().chain(deadline).min();
        let first = !state.admitted.is_stopping();
        state.admitted.stop();
        let conns = if first { state.conns() } else { Vec::new() };
        state.changes += 1;
        drop(state);
        for conn in conns {
            conn.close(CloseReason::ShuttingDown);
        }
        self.changed.notify_all();
    }

    /// The connections under a key.
    pub(super) fn under(&self, key: KeyId) -> Vec<Arc<Conn>> {
        let conns = self.lock().conns();
        let is_under = |conn: &Arc<Conn>| conn.lock().state.mux.connection().key_id() == Some(key);
        conns.into_iter().filter(is_under).collect()
    }

    /// Waits until the server shuts down and all connections have ended. At the deadline, cuts
    /// those that have not.
    pub(super) fn wait_until_empty(&self) -> Report {
        let mut state = self.lock();
        while !(state.admitted.is_stopping() && state.conns.is_empty()) {
            let left = state
                .deadline
                .map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left != Some(Duration::ZERO) {
                state = self.wait(state, left);
                continue;
            }
            let conns = core::mem::take(&mut state.conns);
            state.cut.0 += gauge(conns.len());
            drop(state);
            let requests: usize = conns.values().map(|conn| conn.cut()).sum();
            state = self.lock();
            state.cut.1 += gauge(requests);
            break;
        }
        self.report(&state)
    }

    fn report(&self, state: &State) -> Report {
        Report {
            stats: self.read(state),
            cut_connections: state.cut.0,
            cut_requests: state.cut.1,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a change, for `limit` at most.
    fn wait<'l>(&self, state: MutexGuard<'l, State>, limit: Option<Duration>) -> MutexGuard<'l, State> {
        match limit {
            Some(limit) => {
                let waited = self.changed.wait_timeout(state, limit);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Notifies the accepting thread of a change after which another connection may be selected.
    fn may_select(&self, mut state: MutexGuard<'_, State>) {
        state.changes += 1;
        let waited_for = state.waited_for;
        drop(state);
        if waited_for {
            self.changed.notify_all();
        }
    }
}

impl State {
    fn conns(&self) -> Vec<Arc<Conn>> {
        self.conns.values().cloned().collect()
    }
}

/// Ends connections at once. Releases the lock first, because ending a connection takes the
/// connection's own lock.
fn cut(state: MutexGuard<'_, State>, conns: Vec<(u64, Arc<Conn>)>, due: Option<Duration>) -> Shortage {
    let seen = state.changes;
    drop(state);
    let dropped = conns.into_iter().map(|(number, conn)| {
        conn.cut();
        number
    });
    Shortage {
        dropped: dropped.collect(),
        due,
        seen,
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}
