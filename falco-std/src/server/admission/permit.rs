//! The place of one connection, and what its thread reports.

use core::time::Duration;
use std::sync::Arc;

use falco_core::KeyId;

use super::super::state::Conn;
use super::super::stats::gauge;
use super::{Admission, cut};
use crate::socket::SharedSocket;

/// One connection is admitted for as long as this exists.
pub(in crate::server) struct Permit {
    /// None for a guest, which no limit counts.
    socket: Option<SharedSocket>,
    conn: Arc<Conn>,
    /// Dropped last, so that the descriptor is free when the place is.
    place: Place,
}

struct Place {
    number: u64,
    guest: bool,
    admission: Arc<Admission>,
}

impl Permit {
    pub(super) const fn new(
        number: u64,
        socket: Option<SharedSocket>,
        conn: Arc<Conn>,
        admission: Arc<Admission>,
    ) -> Self {
        let guest = socket.is_none();
        let place = Place {
            number,
            guest,
            admission,
        };
        Self { socket, conn, place }
    }

    pub(in crate::server) const fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    pub(in crate::server) const fn admission(&self) -> &Arc<Admission> {
        &self.place.admission
    }

    /// The server has received everything that has come on a half-open connection: waits for more,
    /// for `limit` at most, and reads nothing. Returns false if the connection was dropped for
    /// another.
    ///
    /// While it waits, and only then, the connection may be dropped. What comes stays in the socket
    /// until this has returned, so whoever would drop it sees that there is something to read. On
    /// systems where that cannot be seen this returns at once, and the connection may be dropped
    /// until its hello has been received.
    pub(in crate::server) fn wait_readable(&self, limit: Option<Duration>) -> bool {
        let Some(socket) = &self.socket else { return true };
        let Place { number, admission, .. } = &self.place;
        let mut state = admission.lock();
        state.admitted.waits(*number, admission.clock.now());
        let selected = state.admitted.select_from_source_of(*number);
        let dropped = admission.droppable(&mut state, selected.into_iter().collect());
        admission.may_select(state);
        cut(dropped);
        let readable = socket.wait_readable(limit);
        let mut state = admission.lock();
        if state.admitted.is_selected(*number) {
            return false;
        }
        if readable {
            state.admitted.stays(*number);
            admission.may_select(state);
        }
        true
    }

    /// The hello of a half-open connection has decrypted, under a key of this server.
    pub(in crate::server) fn hello(&self, fingerprint: Option<u64>) {
        let Place {
            number,
            guest,
            admission,
        } = &self.place;
        if !guest {
            let mut state = admission.lock();
            state.admitted.hello(*number, fingerprint);
            admission.may_select(state);
        }
    }

    /// The client has proved that it has `key`. From now on the connection is not dropped for
    /// others. Returns whether that key has no more connections than it may have.
    pub(in crate::server) fn establish(&self, key: Option<KeyId>) -> bool {
        let Place { number, admission, .. } = &self.place;
        let mut state = admission.lock();
        let counted = state.conns.contains_key(number);
        admission.counters.established.add(u64::from(counted));
        let within = state.admitted.establish(*number, key);
        drop(state);
        admission.changed.notify_all();
        within
    }

    /// The connection has ended, and so many requests were not answered. While the server shuts
    /// down they count as cut.
    pub(in crate::server) fn count_unanswered(&self, requests: usize) {
        let mut state = self.place.admission.lock();
        if state.stopping && requests > 0 {
            state.cut.0 += 1;
            state.cut.1 += gauge(requests);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let removed = self.place.admission.lock().conns.remove(&self.place.number);
        drop(removed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        if !self.guest {
            state.admitted.leave(self.number);
        }
        state.left += 1;
        drop(state);
        self.admission.changed.notify_all();
    }
}
