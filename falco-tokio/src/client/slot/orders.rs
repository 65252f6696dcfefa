//! What a slot does with the orders of callers.

use core::task::Context;

use falco_core::Fate;
use tokio::time::Instant;

use super::super::call::{Call, Ping};
use super::super::connection::Connection;
use super::super::shared::{Defer, Order};
use super::expiry::start;
use super::{Current, Slot};

/// With more requests in flight, requests are not deferred: so many tasks may be ready that it
/// would take long until this one is polled again.
const MAX_DEFERRING: usize = 1024;

impl Slot {
    /// Takes the orders of callers. Requests go straight to the connection if it can send them at
    /// once. Returns `false` if the orders stay in the queue until the next poll: while requests
    /// are outstanding, or several streams have work, other callers may be about to submit more,
    /// and all of it is then sent together.
    pub(super) fn take_orders(&mut self, cx: &mut Context<'_>) -> bool {
        let in_flight = match &self.current {
            Current::Connection(connection) => connection.in_flight(),
            Current::Connecting(_) | Current::None => 0,
        };
        let may_defer = !self.deferred && in_flight <= MAX_DEFERRING;
        let defer = Defer {
            requests: may_defer && in_flight > 0,
            streams: may_defer && self.coalescing.defers(),
        };
        self.deferred = !self.shared.take(cx, &mut self.orders, defer);
        if self.deferred {
            return false;
        }
        self.coalescing.note_taken(self.orders.streams());
        if !self.orders.requests.is_empty() {
            // If something has changed, the requests wait until that is processed.
            let changed = self.read_quiet(cx);
            let mut ready = match &mut self.current {
                Current::Connection(connection) if self.waiting.is_empty() => Some(&mut **connection),
                Current::Connection(..) | Current::Connecting(_) | Current::None => None,
            };
            ready = ready.filter(|connection| !changed && connection.is_established() && !connection.is_quiet());
            for mut call in self.orders.requests.drain(..).flatten() {
                start(&mut call.waiter, self.now, &mut self.expires_at);
                let waits = match &mut ready {
                    Some(connection) => connection.request(call),
                    None => Some(call),
                };
                self.waiting.extend(waits.map(|call| (call.ticket, call)));
            }
        }
        let mut others = core::mem::take(&mut self.orders.others);
        for order in others.drain(..) {
            match order {
                Order::Cancel(ticket) => drop(self.remove(ticket)),
                Order::Ping(to) => self.pings.push(Ping::new(0, (), (Instant::now(), to))),
                Order::Begin(mut call) => {
                    start(&mut call.waiter, self.now, &mut self.expires_at);
                    self.waiting_open.insert(call.ticket, *call);
                }
                Order::Stream(ticket) => self.pump(ticket),
                Order::Connect => self.connects = true,
                Order::Open(to) => self.openers.push(to),
                Order::Renew => self.renew(None),
                Order::Adopt(connection) => self.renew(Some(connection)),
                Order::Close(to) => {
                    self.closing = true;
                    self.attempts.close();
                    self.closers.extend(to);
                }
            }
        }
        self.orders.others = others;
        true
    }

    /// Takes out a request that waits or that a connection has.
    pub(super) fn remove(&mut self, ticket: u64) -> Option<(Call, Fate)> {
        if let Some(call) = self.waiting.remove(&ticket) {
            return Some((call, Fate::NotProcessed));
        }
        let current = match &mut self.current {
            Current::Connection(connection) => Some(&mut **connection),
            Current::None | Current::Connecting(_) => None,
        };
        let mut connections = current.into_iter().chain(&mut self.old);
        connections.find_map(|connection| connection.cancel(ticket))
    }

    /// Handles a change of the key: no more requests begin on the current connection, and those in
    /// flight complete there.
    fn renew(&mut self, adopted: Option<Box<Connection>>) {
        let next = adopted.map_or(Current::None, Current::Connection);
        if let Current::Connection(mut connection) = core::mem::replace(&mut self.current, next) {
            connection.drain();
            // Take them back now, because the next order may refer to one of these requests.
            let returned = core::mem::take(&mut connection.returned);
            self.old.push(*connection);
            self.take_back(returned);
        }
        self.round.abandon();
        self.attempts.key_changed();
        if let Current::Connection(connection) = &self.current {
            self.attempts.established(connection.admitted(), self.env.clock.now());
            self.has_tried();
        }
    }
}
