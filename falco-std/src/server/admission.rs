//! Which connections the server admits: a bounded number. A late handshake may be dropped to make
//! room, and all connections end when the server shuts down.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use falco_core::CloseReason;

use super::half_open::HalfOpen;
use super::state::Conn;
use super::stats::{Counters, Report, ServerStats, gauge};

pub(super) struct Admission {
    state: Mutex<State>,
    /// A connection has ended or was established, or the server shuts down.
    changed: Condvar,
    max: usize,
    max_half_open: usize,
    counters: Counters,
}

#[derive(Default)]
struct State {
    /// Numbers ascend, so that the first connection is the oldest.
    next: u64,
    conns: BTreeMap<u64, Arc<Conn>>,
    /// Those of them that were accepted here and have not completed their handshake.
    half_open: HalfOpen,
    /// How many of the connections are guests, which no limit counts.
    guests: usize,
    stopping: bool,
    deadline: Option<Instant>,
    /// Connections that the deadline has cut, and their unanswered requests.
    cut: (u64, u64),
}

/// One connection is admitted for as long as this exists.
pub(super) struct Permit {
    number: u64,
    guest: bool,
    admission: Arc<Admission>,
    conn: Arc<Conn>,
}

impl Admission {
    pub(super) fn new(max: usize, max_half_open: usize) -> Self {
        Self {
            state: Mutex::new(State::default()),
            changed: Condvar::new(),
            max,
            max_half_open,
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
        self.counters.read(state.conns.len(), state.half_open.len())
    }

    /// Admits an accepted connection, if need be in place of one that is late in its handshake.
    /// While there is no room and none is late, it waits, and those behind it wait in the
    /// listener's backlog: a handshake that has begun is nearer to its end than theirs. Returns
    /// none where all admitted connections are established, or the server shuts down.
    pub(super) fn admit(self: &Arc<Self>, conn: Arc<Conn>) -> Option<Permit> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            if self.has_room(&state) {
                return Some(self.permit(&mut state, conn, false));
            }
            if state.half_open.len() == 0 {
                self.counters.turned_away.add(1);
                return None;
            }
            let now = Instant::now();
            if let Some(late) = state.take_late(now, &self.counters) {
                drop(state);
                late.cut();
                state = self.lock();
                continue;
            }
            state = match state.half_open.late_at() {
                Some(at) => {
                    let waited = self.changed.wait_timeout(state, at.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn has_room(&self, state: &State) -> bool {
        state.conns.len() - state.guests < self.max && state.half_open.len() < self.max_half_open
    }

    /// Admits a connection that the server did not accept itself. No limit counts it.
    pub(super) fn guest(self: &Arc<Self>, conn: Arc<Conn>) -> Permit {
        let mut state = self.lock();
        state.guests += 1;
        let (permit, stopping) = (self.permit(&mut state, conn, true), state.stopping);
        drop(state);
        if stopping {
            permit.conn.close(CloseReason::ShuttingDown);
        }
        permit
    }

    fn permit(self: &Arc<Self>, state: &mut State, conn: Arc<Conn>, guest: bool) -> Permit {
        let number = state.next;
        state.next += 1;
        state.conns.insert(number, Arc::clone(&conn));
        if !guest {
            state.half_open.insert(number);
        }
        Permit {
            number,
            guest,
            admission: Arc::clone(self),
            conn,
        }
    }

    /// The system lacks memory or file descriptors: waits for `pause`, then drops a connection that
    /// is late in its handshake.
    pub(super) fn relieve_shortage(&self, pause: Duration) {
        let waited = self
            .changed
            .wait_timeout_while(self.lock(), pause, |state| !state.stopping);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        // Accepting also fails when the server shuts down, and then nothing is short.
        let late = if state.stopping {
            None
        } else {
            state.take_late(Instant::now(), &self.counters)
        };
        drop(state);
        if let Some(late) = late {
            late.cut();
        }
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

    /// All admitted connections.
    pub(super) fn conns(&self) -> Vec<Arc<Conn>> {
        self.lock().conns()
    }

    /// Waits until the server shuts down and all connections have ended. At the deadline, cuts
    /// those that have not.
    pub(super) fn wait_until_empty(&self) -> Report {
        let mut state = self.lock();
        while !(state.stopping && state.conns.is_empty()) {
            let now = Instant::now();
            state = match state.deadline {
                Some(deadline) if deadline <= now => {
                    let left = core::mem::take(&mut state.conns);
                    state.guests = 0;
                    state.cut.0 += gauge(left.len());
                    drop(state);
                    let requests: usize = left.values().map(|conn| conn.cut()).sum();
                    let mut state = self.lock();
                    state.cut.1 += gauge(requests);
                    return self.report(&state);
                }
                Some(deadline) => {
                    let waited = self.changed.wait_timeout(state, deadline - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
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
}

impl State {
    fn conns(&self) -> Vec<Arc<Conn>> {
        self.conns.values().cloned().collect()
    }

    /// Removes a connection that is late in its handshake. The caller cuts it. One with unread
    /// input is not late: the server has not read it yet.
    fn take_late(&mut self, now: Instant, counters: &Counters) -> Option<Arc<Conn>> {
        while let Some(number) = self.half_open.late(now) {
            if self.conns.get(&number).is_some_and(|conn| conn.is_readable()) {
                self.half_open.extend(number);
                continue;
            }
            self.half_open.remove(number);
            counters.half_open_dropped.add(1);
            return self.conns.remove(&number);
        }
        None
    }
}

impl Permit {
    /// The client has proved that it has the key. From now on the connection is not dropped to make
    /// room.
    pub(super) fn set_established(&self) {
        let mut state = self.admission.lock();
        self.admission
            .counters
            .established
            .add(u64::from(state.conns.contains_key(&self.number)));
        state.half_open.remove(self.number);
        drop(state);
        self.admission.changed.notify_all();
    }

    /// The client's hello has come, under a key of this server.
    pub(super) fn set_hello(&self) {
        self.admission.lock().half_open.set_hello(self.number);
    }

    /// The server has received everything that has come, and waits for more of the handshake.
    pub(super) fn wait(&self) {
        let mut state = self.admission.lock();
        state.half_open.wait(self.number, Instant::now());
        drop(state);
        // The accepting thread may wait until the connection is late.
        self.admission.changed.notify_all();
    }

    pub(super) const fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    pub(super) const fn admission(&self) -> &Arc<Admission> {
        &self.admission
    }

    /// The connection has ended, and so many requests were not answered. While the server shuts
    /// down they count as cut.
    pub(super) fn count_unanswered(&self, requests: usize) {
        let mut state = self.admission.lock();
        if state.stopping && requests > 0 {
            state.cut.0 += 1;
            state.cut.1 += gauge(requests);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        let conn = state.conns.remove(&self.number);
        state.half_open.remove(self.number);
        if self.guest && conn.is_some() {
            state.guests -= 1;
        }
        drop(state);
        self.admission.changed.notify_all();
    }
}

impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission")
            .field("max", &self.max)
            .field("max_half_open", &self.max_half_open)
            .finish_non_exhaustive()
    }
}
