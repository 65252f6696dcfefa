//! Open requests that wait for a connection, or that one has.

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
        let open = self.waiting_open.get(&ticket).map(|call| &call.waiter);
        let whole = || self.waiting.get(&ticket).map(|call| &call.waiter);
        if let Some(waiter) = open.or_else(whole) {
            if waiter.pipe().is_some_and(|pipe| pipe.update(Halves::is_given_up)) {
                drop((self.waiting_open.remove(&ticket), self.waiting.remove(&ticket)));
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
