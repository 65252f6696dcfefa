//! Open requests that wait for a connection, or that one has.

use std::collections::btree_map::Entry;

use falco_core::Fate;
use falco_core::mux::Halves;

use super::super::call::Waiter;
use super::{Current, Slot};

impl Slot {
    /// Takes out the caller of an open request that waits or that a connection has.
    pub(super) fn remove_open(&mut self, ticket: u64) -> Option<(Waiter, Fate)> {
        if let Some(call) = self.waiting_open.remove(&ticket) {
            return Some((call.waiter, Fate::NotProcessed));
        }
        let current = match &mut self.current {
            Current::Connection(connection) => Some(&mut **connection),
            Current::None | Current::Connecting(_) => None,
        };
        let mut connections = current.into_iter().chain(&mut self.old);
        connections.find_map(|connection| connection.cancel_open(ticket))
    }

    /// A half of an open request has work for its connection.
    pub(super) fn pump(&mut self, ticket: u64) {
        if let Entry::Occupied(waiting) = self.waiting_open.entry(ticket) {
            let pipe = waiting.get().waiter.pipe();
            if pipe.is_some_and(|pipe| pipe.update(Halves::is_given_up)) {
                waiting.remove();
            }
            return;
        }
        let current = match &mut self.current {
            Current::Connection(connection) => Some(&mut **connection),
            Current::None | Current::Connecting(_) => None,
        };
        let mut connections = current.into_iter().chain(&mut self.old);
        let _ = connections.any(|connection| connection.pump(ticket));
    }
}
