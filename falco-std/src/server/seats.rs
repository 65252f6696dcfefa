//! Who is connected: a bounded number of seats, which of them may be taken away to make room, and how all are emptied at the end.

use core::sync::atomic::{AtomicU8, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::accept::Socket;

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
    /// Connections that were cut off at the deadline of the stop.
    pub cut: u64,
}

#[derive(Debug)]
pub(super) struct Seats {
    room: Mutex<Room>,
    /// A seat was left, or the server is to stop.
    changed: Condvar,
    max: usize,
}

#[derive(Debug, Default)]
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

#[derive(Debug)]
struct Taken {
    place: Arc<Place>,
    established: bool,
}

/// What a connection's thread and those who want to wake it share.
#[derive(Debug)]
pub(super) struct Place {
    /// None where the stream is not ours to end.
    socket: Option<Arc<Socket>>,
    mode: AtomicU8,
}

/// The connection's thread is at work, and looks at the mode before it waits.
const BUSY: u8 = 0;
/// It waits for bytes, and nothing is owed to the client.
const RESTING: u8 = 1;
/// It is to finish what it is at, and to take nothing new.
const STOPPING: u8 = 2;
/// It is to end at once: nobody waits for what it is at.
const CUT: u8 = 3;

impl Place {
    fn stop(&self) {
        // A thread that is resting is woken by the end of its reading half: no answer is on its way then.
        if self.mode.swap(STOPPING, Ordering::AcqRel) == RESTING
            && let Some(socket) = &self.socket
        {
            let _ = socket.shutdown(Shutdown::Read);
        }
    }

    fn cut(&self) {
        self.mode.store(CUT, Ordering::Release);
        if let Some(socket) = &self.socket {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

/// A seat that is taken; it is left when this is dropped.
#[derive(Debug)]
pub(super) struct Seat {
    number: u64,
    seats: Arc<Seats>,
    place: Arc<Place>,
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
    pub(super) fn admit(self: &Arc<Self>, socket: Arc<Socket>) -> Option<Seat> {
        let mut room = self.room();
        if room.stopping {
            return None;
        }
        if room.taken.len() - room.guests >= self.max && !room.drop_oldest_stranger() {
            room.report.turned_away += 1;
            return None;
        }
        room.report.accepted += 1;
        Some(self.seat(&mut room, Some(socket)))
    }

    /// A seat besides the bounded ones, for a stream that the caller serves.
    pub(super) fn guest(self: &Arc<Self>) -> Seat {
        let mut room = self.room();
        room.guests += 1;
        self.seat(&mut room, None)
    }

    fn seat(self: &Arc<Self>, room: &mut Room, socket: Option<Arc<Socket>>) -> Seat {
        let place = Arc::new(Place {
            socket,
            mode: AtomicU8::new(if room.stopping { STOPPING } else { BUSY }),
        });
        let number = room.next;
        room.next += 1;
        room.taken.insert(
            number,
            Taken {
                place: Arc::clone(&place),
                established: false,
            },
        );
        Seat {
            number,
            seats: Arc::clone(self),
            place,
        }
    }

    /// The system is short of something: a moment passes, in which a newcomer may prove itself; then what the oldest stranger holds is given up.
    pub(super) fn relieve(&self, pause: Duration) {
        let waited = self
            .changed
            .wait_timeout_while(self.room(), pause, |room| !room.stopping);
        let (mut room, _) = waited.unwrap_or_else(PoisonError::into_inner);
        // A socket that is shut down to stop the server fails as well, and nothing is short then.
        if !room.stopping {
            room.drop_oldest_stranger();
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
        if !room.stopping {
            room.stopping = true;
            for taken in room.taken.values() {
                taken.place.stop();
            }
        }
        drop(room);
        self.changed.notify_all();
    }

    /// Waits until the server is to stop and all have left; at its deadline those who are left are cut off.
    pub(super) fn wait_until_empty(&self) -> Report {
        let mut room = self.room();
        while !(room.stopping && room.taken.is_empty()) {
            let now = Instant::now();
            room = match room.deadline {
                Some(deadline) if deadline <= now => {
                    let left = core::mem::take(&mut room.taken);
                    for taken in left.values() {
                        taken.place.cut();
                    }
                    room.report.cut += u64::try_from(left.len()).unwrap_or(u64::MAX);
                    break;
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
    /// Whether there was one.
    fn drop_oldest_stranger(&mut self) -> bool {
        let stranger = |taken: &Taken| !taken.established && taken.place.socket.is_some();
        let Some(number) = self
            .taken
            .iter()
            .find(|(_, taken)| stranger(taken))
            .map(|(number, _)| *number)
        else {
            return false;
        };
        if let Some(taken) = self.taken.remove(&number) {
            taken.place.cut();
            self.report.dropped += 1;
        }
        true
    }
}

impl Seat {
    /// The peer has proved itself: its seat is not taken away any more.
    pub(super) fn establish(&self) {
        let mut room = self.seats.room();
        if let Some(taken) = room.taken.get_mut(&self.number) {
            taken.established = true;
            room.report.established += 1;
        }
    }

    pub(super) fn count_failure(&self) {
        self.seats.room().report.failed += 1;
    }

    /// To be called before waiting for bytes. `false` where the thread is to stop instead.
    pub(super) fn rest(&self) -> bool {
        self.place
            .mode
            .compare_exchange(BUSY, RESTING, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    /// To be called after waiting for bytes. `false` where the thread is to stop, whatever has come.
    pub(super) fn wake(&self) -> bool {
        self.place
            .mode
            .compare_exchange(RESTING, BUSY, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.place.mode.load(Ordering::Acquire) >= STOPPING
    }

    pub(super) fn is_cut(&self) -> bool {
        self.place.mode.load(Ordering::Acquire) == CUT
    }

    /// Whether somebody who wants this thread can wake it while it waits.
    pub(super) fn can_be_woken(&self) -> bool {
        // Elsewhere the end of the reading half is not known to wake a thread that reads.
        cfg!(unix) && self.place.socket.is_some()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut room = self.seats.room();
        room.taken.remove(&self.number);
        if self.place.socket.is_none() {
            room.guests -= 1;
        }
        drop(room);
        self.seats.changed.notify_all();
    }
}
