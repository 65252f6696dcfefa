//! Who is connected: a bounded number of seats, which of them may be taken away to make room, and
//! how all are emptied at the end.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use falco_core::CloseReason;

use super::half_open::HalfOpen;
use super::state::Conn;
use super::stats::{Counters, Report, ServerStats, gauge};

pub(super) struct Seats {
    room: Mutex<Room>,
    /// A seat was left, or the server is to stop.
    changed: Condvar,
    max: usize,
    max_half_open: usize,
    counters: Counters,
}

#[derive(Default)]
struct Room {
    /// Numbers go up, so that the first is the oldest.
    next: u64,
    taken: BTreeMap<u64, Arc<Conn>>,
    /// Those of them that were accepted here and have not finished their handshake.
    half_open: HalfOpen,
    /// How many of the taken seats are guests', which do not count.
    guests: usize,
    stopping: bool,
    deadline: Option<Instant>,
    /// Connections that were ended at once, and their requests that had not been answered.
    cut: (u64, u64),
}

/// A seat that is taken; it is left when this is dropped.
pub(super) struct Seat {
    number: u64,
    ours: bool,
    seats: Arc<Seats>,
    conn: Arc<Conn>,
}

impl Seats {
    pub(super) fn new(max: usize, max_half_open: usize) -> Self {
        Self {
            room: Mutex::new(Room::default()),
            changed: Condvar::new(),
            max,
            max_half_open,
            counters: Counters::default(),
        }
    }

    pub(super) const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was counted, and how it is now.
    pub(super) fn stats(&self) -> ServerStats {
        self.read(&self.room())
    }

    fn read(&self, room: &Room) -> ServerStats {
        self.counters.read(room.taken.len(), room.half_open.len())
    }

    /// A seat for a newcomer, if need be that of one that is late in its handshake. While there is
    /// no seat and nobody is late, the newcomer waits, and those behind it in the listener's
    /// backlog: whoever is in the middle of a handshake is nearer to its end than they are. None
    /// where all have finished theirs, or the server is to stop.
    pub(super) fn admit(self: &Arc<Self>, conn: Arc<Conn>) -> Option<Seat> {
        let mut room = self.room();
        loop {
            if room.stopping {
                return None;
            }
            if self.has_seat(&room) {
                return Some(self.seat(&mut room, conn, true));
            }
            if room.half_open.len() == 0 {
                self.counters.turned_away.add(1);
                return None;
            }
            let now = Instant::now();
            if let Some(late) = room.drop_late(now, &self.counters) {
                drop(room);
                late.cut();
                room = self.room();
                continue;
            }
            room = match room.half_open.late_at() {
                Some(at) => {
                    let waited = self.changed.wait_timeout(room, at.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(room).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    fn has_seat(&self, room: &Room) -> bool {
        room.taken.len() - room.guests < self.max && room.half_open.len() < self.max_half_open
    }

    /// A seat besides the bounded ones, for a stream that the caller serves.
    pub(super) fn guest(self: &Arc<Self>, conn: Arc<Conn>) -> Seat {
        let mut room = self.room();
        room.guests += 1;
        let (seat, stopping) = (self.seat(&mut room, conn, false), room.stopping);
        drop(room);
        if stopping {
            seat.conn.close(CloseReason::ShuttingDown);
        }
        seat
    }

    fn seat(self: &Arc<Self>, room: &mut Room, conn: Arc<Conn>, ours: bool) -> Seat {
        let number = room.next;
        room.next += 1;
        room.taken.insert(number, Arc::clone(&conn));
        if ours {
            room.half_open.insert(number);
        }
        Seat {
            number,
            ours,
            seats: Arc::clone(self),
            conn,
        }
    }

    /// The system is short of something: a moment passes, then what one holds is given up that is
    /// late in its handshake.
    pub(super) fn relieve(&self, pause: Duration) {
        let waited = self
            .changed
            .wait_timeout_while(self.room(), pause, |room| !room.stopping);
        let (mut room, _) = waited.unwrap_or_else(PoisonError::into_inner);
        // A socket that is shut down to stop the server fails as well, and nothing is short then.
        let late = if room.stopping {
            None
        } else {
            room.drop_late(Instant::now(), &self.counters)
        };
        drop(room);
        if let Some(late) = late {
            late.cut();
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
            conn.close(CloseReason::ShuttingDown);
        }
        self.changed.notify_all();
    }

    /// All connections that there are now.
    pub(super) fn conns(&self) -> Vec<Arc<Conn>> {
        self.room().conns()
    }

    /// Waits until the server is to stop and all have left; at its deadline those who are left are
    /// cut off.
    pub(super) fn wait_until_empty(&self) -> Report {
        let mut room = self.room();
        while !(room.stopping && room.taken.is_empty()) {
            let now = Instant::now();
            room = match room.deadline {
                Some(deadline) if deadline <= now => {
                    let left = core::mem::take(&mut room.taken);
                    room.cut.0 += gauge(left.len());
                    drop(room);
                    let requests: usize = left.values().map(|conn| conn.cut()).sum();
                    let mut room = self.room();
                    room.cut.1 += gauge(requests);
                    return self.report(&room);
                }
                Some(deadline) => {
                    let waited = self.changed.wait_timeout(room, deadline - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(room).unwrap_or_else(PoisonError::into_inner),
            };
        }
        self.report(&room)
    }

    fn report(&self, room: &Room) -> Report {
        Report {
            stats: self.read(room),
            cut_connections: room.cut.0,
            cut_requests: room.cut.1,
        }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        // The room is whole between any two of its steps that can panic, of which it has none.
        self.room.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Room {
    fn conns(&self) -> Vec<Arc<Conn>> {
        self.taken.values().cloned().collect()
    }

    /// Takes the seat of one away that is late in its handshake; its connection is the caller's to
    /// cut. One of which something lies unread is not late: who is too slow is this side.
    fn drop_late(&mut self, now: Instant, counters: &Counters) -> Option<Arc<Conn>> {
        while let Some(number) = self.half_open.late(now) {
            if self.taken.get(&number).is_some_and(|conn| conn.lies_unread()) {
                self.half_open.stay(number);
                continue;
            }
            self.half_open.remove(number);
            counters.half_open_dropped.add(1);
            return self.taken.remove(&number);
        }
        None
    }
}

impl Seat {
    /// The peer has proved itself: its seat is not taken away any more.
    pub(super) fn establish(&self) {
        let mut room = self.seats.room();
        self.seats
            .counters
            .established
            .add(u64::from(room.taken.contains_key(&self.number)));
        room.half_open.remove(self.number);
        drop(room);
        self.seats.changed.notify_all();
    }

    /// The peer's hello has come, under a key that is known here.
    pub(super) fn hear(&self) {
        self.seats.room().half_open.hear(self.number);
    }

    /// The peer has not proved itself, all that has come of it was looked at, and more is waited
    /// for.
    pub(super) fn wait(&self) {
        let mut room = self.seats.room();
        room.half_open.wait(self.number, Instant::now());
        drop(room);
        // Somebody may wait for it to be late.
        self.seats.changed.notify_all();
    }

    pub(super) const fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    pub(super) const fn seats(&self) -> &Arc<Seats> {
        &self.seats
    }

    /// The connection has ended with so many requests unanswered. While the server shuts down,
    /// those are cut off.
    pub(super) fn leave_unanswered(&self, requests: usize) {
        let mut room = self.seats.room();
        if room.stopping && requests > 0 {
            room.cut.0 += 1;
            room.cut.1 += gauge(requests);
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.seats.is_stopping()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut room = self.seats.room();
        let taken = room.taken.remove(&self.number);
        room.half_open.remove(self.number);
        if !self.ours && taken.is_some() {
            room.guests -= 1;
        }
        drop(room);
        self.seats.changed.notify_all();
    }
}

impl fmt::Debug for Seats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seats").field("max", &self.max).finish_non_exhaustive()
    }
}
