//! Who is connected: a bounded number of seats, which of them may be taken away to make room, and how all are emptied at the end.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use falco_core::CloseReason;

use super::connection::{self, Conn};

/// What a server did, from its start to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Connections that were let in.
    pub accepted: u64,
    /// Of those: how many proved that they have the key.
    pub established: u64,
    /// Of those: how many were dropped before they had proved it, to make room.
    pub dropped: u64,
    /// Connections that were turned away, because every seat was taken by one that had proved itself.
    pub turned_away: u64,
    /// Requests whose handler failed, or returned more than an answer may hold.
    pub failed: u64,
    /// Requests that were refused as busy, because no worker was free for them in time.
    pub busy: u64,
    /// Connections that were cut off at the deadline of the stop.
    pub cut: u64,
}

pub(super) struct Seats {
    room: Mutex<Room>,
    /// A seat was left, or the server is to stop.
    changed: Condvar,
    max: usize,
}

#[derive(Default)]
struct Room {
    /// Numbers go up, so that the first is the oldest.
    next: u64,
    taken: BTreeMap<u64, Taken>,
    /// How many of the taken seats are guests', which do not count.
    guests: usize,
    stopping: bool,
    deadline: Option<Instant>,
    report: Report,
}

struct Taken {
    conn: Arc<Conn>,
    /// It was accepted here, and may be dropped to make room.
    ours: bool,
    established: bool,
}

/// A seat that is taken; it is left when this is dropped.
pub(super) struct Seat {
    number: u64,
    ours: bool,
    counter: Counter,
    conn: Arc<Conn>,
}

/// Counts what happens on connections, from any thread.
#[derive(Clone)]
pub(super) struct Counter(Arc<Seats>);

impl Counter {
    pub(super) fn count_failure(&self) {
        self.0.room().report.failed += 1;
    }

    pub(super) fn count_busy(&self, requests: u64) {
        self.0.room().report.busy += requests;
    }
}

impl Seats {
    pub(super) fn new(max: usize) -> Self {
        Self {
            room: Mutex::new(Room::default()),
            changed: Condvar::new(),
            max,
        }
    }

    /// A seat for a newcomer, if need be that of the oldest who has not proved anything; none where all have.
    pub(super) fn admit(self: &Arc<Self>, conn: Arc<Conn>) -> Option<Seat> {
        let mut room = self.room();
        if room.stopping {
            return None;
        }
        let mut dropped = None;
        if room.taken.len() - room.guests >= self.max {
            dropped = room.drop_oldest_stranger();
            if dropped.is_none() {
                room.report.turned_away += 1;
                return None;
            }
        }
        room.report.accepted += 1;
        let seat = self.seat(&mut room, conn, true);
        drop(room);
        if let Some(conn) = dropped {
            connection::cut(&conn);
        }
        Some(seat)
    }

    /// A seat besides the bounded ones, for a stream that the caller serves.
    pub(super) fn guest(self: &Arc<Self>, conn: Arc<Conn>) -> Seat {
        let mut room = self.room();
        room.guests += 1;
        let (seat, stopping) = (self.seat(&mut room, conn, false), room.stopping);
        drop(room);
        if stopping {
            connection::close(&seat.conn, CloseReason::ShuttingDown);
        }
        seat
    }

    fn seat(self: &Arc<Self>, room: &mut Room, conn: Arc<Conn>, ours: bool) -> Seat {
        let number = room.next;
        room.next += 1;
        room.taken.insert(
            number,
            Taken {
                conn: Arc::clone(&conn),
                ours,
                established: false,
            },
        );
        Seat {
            number,
            ours,
            counter: Counter(Arc::clone(self)),
            conn,
        }
    }

    /// The system is short of something: a moment passes, in which a newcomer may prove itself; then what the oldest stranger holds is given up.
    pub(super) fn relieve(&self, pause: Duration) {
        let waited = self
            .changed
            .wait_timeout_while(self.room(), pause, |room| !room.stopping);
        let (mut room, _) = waited.unwrap_or_else(PoisonError::into_inner);
        // A socket that is shut down to stop the server fails as well, and nothing is short then.
        let dropped = if room.stopping {
            None
        } else {
            room.drop_oldest_stranger()
        };
        drop(room);
        if let Some(conn) = dropped {
            connection::cut(&conn);
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.room().stopping
    }

    pub(super) fn stop(&self, limit: Option<Duration>) {
        // A limit beyond the end of time is none.
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut room = self.room();
        room.deadline = match (room.deadline, deadline) {
            (Some(earlier), Some(later)) => Some(earlier.min(later)),
            (one, other) => one.or(other),
        };
        let first = !core::mem::replace(&mut room.stopping, true);
        let conns = if first { room.conns() } else { Vec::new() };
        drop(room);
        for conn in conns {
            connection::close(&conn, CloseReason::ShuttingDown);
        }
        self.changed.notify_all();
    }

    /// All connections that there are now.
    pub(super) fn conns(&self) -> Vec<Arc<Conn>> {
        self.room().conns()
    }

    /// Waits until the server is to stop and all have left; at its deadline those who are left are cut off.
    pub(super) fn wait_until_empty(&self) -> Report {
        let mut room = self.room();
        while !(room.stopping && room.taken.is_empty()) {
            let now = Instant::now();
            room = match room.deadline {
                Some(deadline) if deadline <= now => {
                    let left = core::mem::take(&mut room.taken);
                    room.report.cut += u64::try_from(left.len()).unwrap_or(u64::MAX);
                    let report = room.report;
                    drop(room);
                    for taken in left.values() {
                        connection::cut(&taken.conn);
                    }
                    return report;
                }
                Some(deadline) => {
                    let waited = self.changed.wait_timeout(room, deadline - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(room).unwrap_or_else(PoisonError::into_inner),
            };
        }
        room.report
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        // The room is whole between any two of its steps that can panic, of which it has none.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    fn conns(&self) -> Vec<Arc<Conn>> {
        self.taken.values().map(|taken| Arc::clone(&taken.conn)).collect()
    }

    /// Takes the seat of the oldest stranger away; its connection is the caller's to cut.
    fn drop_oldest_stranger(&mut self) -> Option<Arc<Conn>> {
        let mut strangers = self.taken.iter().filter(|(_, taken)| !taken.established && taken.ours);
        let number = *strangers.next()?.0;
        self.report.dropped += 1;
        self.taken.remove(&number).map(|taken| taken.conn)
    }
}

impl Seat {
    /// The peer has proved itself: its seat is not taken away any more.
    pub(super) fn establish(&self) {
        let mut room = self.counter.0.room();
        if let Some(taken) = room.taken.get_mut(&self.number) {
            taken.established = true;
            room.report.established += 1;
        }
    }

    pub(super) const fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    pub(super) fn counter(&self) -> Counter {
        self.counter.clone()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.counter.0.is_stopping()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut room = self.counter.0.room();
        let taken = room.taken.remove(&self.number);
        if !self.ours && taken.is_some() {
            room.guests -= 1;
        }
        drop(room);
        self.counter.0.changed.notify_all();
    }
}

impl fmt::Debug for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seats").field("max", &self.max).finish_non_exhaustive()
    }
}
