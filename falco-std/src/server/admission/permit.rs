//! The place of one connection, and what its thread reports.

use core::time::Duration;
use std::sync::Arc;

use falco_core::KeyId;
use falco_core::mux::MustClose;

use super::super::state::Conn;
use super::super::stats::gauge;
use super::{Admission, cut};
use crate::socket::SharedSocket;

/// The permit of one connection, which is admitted for as long as this exists.
pub(in crate::server) struct Permit {
    /// `None` for a guest, which does not count towards any limit.
    socket: Option<SharedSocket>,
    conn: Arc<Conn>,
    /// Dropped last, so that the descriptor is free when the place is.
    place: Arc<Place>,
}

/// The place of a connection, which it shares with its handlers. If the connection ends while
/// handlers run, the last of them frees the place. So a client that connects again and again gets
/// no more places.
pub(in crate::server) struct Place {
    number: u64,
    guest: bool,
    admission: Arc<Admission>,
}

impl Permit {
    pub(super) fn new(number: u64, socket: Option<SharedSocket>, conn: Arc<Conn>, admission: Arc<Admission>) -> Self {
        let guest = socket.is_none();
        let place = Arc::new(Place {
            number,
            guest,
            admission,
        });
        Self { socket, conn, place }
    }

    pub(in crate::server) fn number(&self) -> u64 {
        self.place.number
    }

    /// None for a guest.
    pub(in crate::server) const fn socket(&self) -> Option<&SharedSocket> {
        self.socket.as_ref()
    }

    pub(in crate::server) const fn conn(&self) -> &Arc<Conn> {
        &self.conn
    }

    pub(in crate::server) const fn place(&self) -> &Arc<Place> {
        &self.place
    }

    /// Waits until more bytes arrive on a half-open connection, for `limit` at most, and reads
    /// nothing. Call it when the server has read everything that has arrived. Returns `false` if
    /// the connection was dropped for another.
    ///
    /// The connection may be dropped only while this waits. Bytes that arrive stay in the socket
    /// until this has returned, so a thread that is about to drop the connection sees that there is
    /// something to read. On systems that cannot report this, the call returns at once, and the
    /// connection may be dropped until its hello has been received.
    pub(in crate::server) fn wait_readable(&self, limit: Option<Duration>) -> bool {
        let Some(socket) = &self.socket else { return true };
        self.all_read();
        if socket.wait_readable(limit) {
            return self.keep();
        }
        !self.is_selected()
    }

    /// Reports that the server has read everything that has arrived on a half-open connection,
    /// which may be dropped from now on.
    pub(in crate::server) fn all_read(&self) {
        let Place { number, admission, .. } = &*self.place;
        let mut state = admission.lock();
        let selected = state.admitted.all_read(*number, admission.clock.now());
        let dropped = selected.and_then(|number| admission.droppable(&mut state, number));
        if let Some(dropped) = dropped {
            cut(state, vec![dropped], None);
        } else {
            admission.may_select(state);
        }
    }

    /// Reports that bytes have arrived, which the server reads next. Until the next
    /// [`all_read`](Self::all_read) the connection is not dropped. Returns `false` if it was
    /// dropped before.
    pub(in crate::server) fn keep(&self) -> bool {
        let Place { number, admission, .. } = &*self.place;
        let mut state = admission.lock();
        if state.admitted.is_selected(*number) {
            return false;
        }
        state.admitted.keep(*number);
        admission.may_select(state);
        true
    }

    fn is_selected(&self) -> bool {
        self.place.admission.lock().admitted.is_selected(self.place.number)
    }

    /// Reports that the hello of a half-open connection has decrypted, under a key of this server.
    pub(in crate::server) fn hello(&self, fingerprint: u64) {
        let Place { number, admission, .. } = &*self.place;
        let mut state = admission.lock();
        state.admitted.hello(*number, fingerprint);
        admission.may_select(state);
    }

    /// Reports that the client has proved that it has `key`. From now on the connection is not
    /// dropped for others. If it may not stay, returns why.
    pub(in crate::server) fn establish(&self, key: Option<KeyId>, retired: bool) -> Option<MustClose> {
        let Place { number, admission, .. } = &*self.place;
        let mut state = admission.lock();
        let counted = state.conns.contains_key(number);
        admission.counters.established.add(u64::from(counted));
        let leaves = state.admitted.establish(*number, key, retired);
        state.changes += 1;
        drop(state);
        admission.changed.notify_all();
        leaves
    }

    /// Reports that the connection has ended with this many unanswered requests. While the server
    /// shuts down, they count as cut.
    pub(in crate::server) fn count_unanswered(&self, requests: usize) {
        let mut state = self.place.admission.lock();
        if state.admitted.is_stopping() && requests > 0 {
            state.cut.0 += 1;
            state.cut.1 += gauge(requests);
        }
    }
}

impl Place {
    pub(in crate::server) fn admission(&self) -> &Admission {
        &self.admission
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let admission = &self.place.admission;
        let mut state = admission.lock();
        let removed = state.conns.remove(&self.place.number);
        state.ended += 1;
        state.changes += 1;
        drop(state);
        drop(removed);
        // A shutdown does not wait for handlers that still run and keep the place.
        admission.changed.notify_all();
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.admission.lock();
        if !self.guest {
            state.admitted.leave(self.number);
        }
        state.changes += 1;
        drop(state);
        self.admission.changed.notify_all();
    }
}
