//! The connections of a server: which are accepted, which half-open ones are dropped for others,
//! and how all of them end when the server shuts down. Admission follows the rules of
//! [`falco_core::mux::Admission`].

mod permit;
#[cfg(all(test, unix))]
mod tests;

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use falco_core::mux::{self, AdmissionLimits, Room, Source};
use falco_core::{CloseReason, KeyId};

use super::state::Conn;
use super::stats::{Counters, Report, ServerStats, gauge};
use crate::clock::Clock;
use crate::socket::SharedSocket;

pub(super) use self::permit::Permit;

pub(super) struct Admission {
    state: Mutex<State>,
    /// Notified when the server shuts down, when a connection has ended or was established, and
    /// while the accepting thread waits also when a half-open connection may be dropped.
    changed: Condvar,
    clock: Clock,
    counters: Counters,
}

struct State {
    next: u64,
    conns: BTreeMap<u64, Arc<Conn>>,
    /// Those of them that were accepted here.
    admitted: mux::Admission,
    /// The accepting thread waits for a place.
    waited_for: bool,
    /// How many connections have ended.
    left: u64,
    stopping: bool,
    deadline: Option<Instant>,
    /// Connections that the deadline has cut, and their unanswered requests.
    cut: (u64, u64),
}

impl Admission {
    /// `seed` is a random number that nobody else knows.
    pub(super) fn new(limits: AdmissionLimits, seed: u64, clock: Clock) -> Self {
        Self {
            state: Mutex::new(State {
                next: 0,
                conns: BTreeMap::new(),
                admitted: mux::Admission::new(limits, seed),
                waited_for: false,
                left: 0,
                stopping: false,
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

    /// Waits until there is a place for a connection that was accepted from `source`, or all
    /// connections are established, or the server shuts down. Meanwhile others wait in the
    /// listener's backlog, and half-open connections are dropped.
    pub(super) fn wait_for_room(&self, source: Source) {
        let mut state = self.lock();
        while !state.stopping && state.admitted.room() == Room::Wait {
            state.waited_for = true;
            let now = self.clock.now();
            let selected: Vec<_> = core::iter::from_fn(|| state.admitted.select(now, Some(source))).collect();
            if !selected.is_empty() {
                let dropped = self.droppable(&mut state, selected);
                drop(state);
                cut(dropped);
                state = self.lock();
                continue;
            }
            let due = state.admitted.due(now).map(|at| at.since(now));
            state = self.wait(state, due);
        }
        state.waited_for = false;
    }

    /// Admits an accepted connection, and has others dropped that stand back for it. None where
    /// there are as many as there may be, in all or from its source, or the server shuts down.
    pub(super) fn admit(self: &Arc<Self>, conn: Arc<Conn>, socket: SharedSocket, source: Source) -> Option<Permit> {
        let mut state = self.lock();
        if state.stopping {
            return None;
        }
        let number = state.next;
        if state.admitted.room() != Room::Free || !state.admitted.admit(number, source) {
            self.counters.turned_away.add(1);
            return None;
        }
        let permit = self.permit(&mut state, conn, Some(socket));
        let now = self.clock.now();
        let selected = [
            state.admitted.select_from_source_of(number),
            // One to make up for this one, and one to get ahead.
            state.admitted.select(now, None),
            state.admitted.select(now, None),
        ];
        let dropped = self.droppable(&mut state, selected.into_iter().flatten().collect());
        drop(state);
        cut(dropped);
        Some(permit)
    }

    /// Admits a connection that the server did not accept itself. No limit counts it.
    pub(super) fn guest(self: &Arc<Self>, conn: Arc<Conn>) -> Permit {
        let mut state = self.lock();
        let (permit, stopping) = (self.permit(&mut state, conn, None), state.stopping);
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

    /// The system lacks memory or file descriptors: drops a half-open connection that is late, and
    /// waits until a connection has ended, for `pause` at most.
    pub(super) fn relieve_shortage(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        let before = state.left;
        // Accepting also fails when the server shuts down, and then nothing is short.
        while state.left == before && !state.stopping {
            state.waited_for = true;
            if let Some(number) = state.admitted.select_late(self.clock.now()) {
                let dropped = self.droppable(&mut state, vec![number]);
                drop(state);
                cut(dropped);
                state = self.lock();
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state = self.wait(state, Some(left));
        }
        state.waited_for = false;
    }

    /// Those of the selected connections that are to be cut. The others have bytes that the server
    /// has not read yet, and stay.
    fn droppable(&self, state: &mut State, selected: Vec<u64>) -> Vec<Arc<Conn>> {
        let State { conns, admitted, .. } = state;
        let dropped = selected.into_iter().filter_map(|number| {
            // A guest has no place, and the others are here until they leave or the server ends.
            let conn = conns.get(&number)?;
            if conn.is_readable() {
                admitted.stays(number);
                return None;
            }
            self.counters.half_open_dropped.add(1);
            Some(Arc::clone(conn))
        });
        dropped.collect()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    pub(super) fn stop(&self, limit: Option<Duration>) {
        // There is no limit where it overflows the clock.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut state = self.lock();
        state.deadline = state.deadline.into_iter().chain(deadline).min();
        let first = !core::mem::replace(&mut state.stopping, true);
        let conns = if first { state.conns() } else { Vec::new() };
        drop(state);
        for conn in conns {
            conn.close(CloseReason::ShuttingDown);
        }
        self.changed.notify_all();
    }

    /// The connections under a key.
    pub(super) fn under(&self, key: KeyId) -> Vec<Arc<Conn>> {
        let conns = self.lock().conns();
        let is_under = |conn: &Arc<Conn>| conn.lock().state.mux.machine().key_id() == Some(key);
        conns.into_iter().filter(is_under).collect()
    }

    /// Waits until the server shuts down and all connections have ended. At the deadline, cuts
    /// those that have not.
    pub(super) fn wait_until_empty(&self) -> Report {
        let mut state = self.lock();
        while !(state.stopping && state.conns.is_empty()) {
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

    /// What has changed may let another connection be selected.
    fn may_select(&self, state: MutexGuard<'_, State>) {
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

/// Ends connections at once. Call it without the lock, because it takes that of each connection.
fn cut(conns: Vec<Arc<Conn>>) {
    for conn in conns {
        conn.cut();
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}
