//! Time limits of requests. A slot has one deadline for all of them, so that a request that is
//! answered in time costs no timer.

use falco_core::Fate;
use tokio::time::Instant;

use super::super::call::{Limit, Waiter};
use super::super::connection::Connection;
use super::{Current, Slot};
use crate::error::Error;

/// Starts the time limit of a caller. `first` is when the first limit of all callers passes.
pub(super) fn start(waiter: &mut Waiter, now: Instant, first: &mut Option<Instant>) {
    waiter.start(now);
    *first = [*first, waiter.expires_at()].into_iter().flatten().min();
}

impl Slot {
    /// Sends an error to the callers whose time limit has passed. The clock has milliseconds, so it
    /// reads the limits of all callers at most once in each millisecond.
    pub(super) fn expire(&mut self) {
        if self.expires_at.is_none_or(|at| at > self.now) {
            return;
        }
        let (now, mut next) = (self.now, None);
        let mut expired = |waiters: &mut dyn Iterator<Item = (u64, &Waiter)>| {
            let mut expired = Vec::new();
            for (ticket, waiter) in waiters {
                match (waiter.limit, waiter.expires_at()) {
                    (Some(limit), Some(at)) if at <= now => expired.push((ticket, limit)),
                    (_, at) => next = [next, at].into_iter().flatten().min(),
                }
            }
            expired
        };
        let (requests, opens) = (expired(&mut self.waiters()), expired(&mut self.openers()));
        self.expires_at = next;
        for (ticket, limit) in requests {
            self.expire_one(ticket, limit);
        }
        for (ticket, limit) in opens {
            self.expire_open(ticket, limit);
        }
    }

    /// All callers that wait for an answer.
    fn waiters(&self) -> impl Iterator<Item = (u64, &Waiter)> {
        let current = match &self.current {
            Current::Connection(connection) => Some(&**connection),
            Current::None | Current::Connecting(_) => None,
        };
        let connections = current.into_iter().chain(&self.old);
        let waiting = self.waiting.iter().map(|(ticket, call)| (*ticket, &call.waiter));
        waiting.chain(connections.flat_map(Connection::waiters))
    }

    /// All callers that wait until their open requests have begun.
    fn openers(&self) -> impl Iterator<Item = (u64, &Waiter)> {
        let current = match &self.current {
            Current::Connection(connection) => Some(&**connection),
            Current::None | Current::Connecting(_) => None,
        };
        let connections = current.into_iter().chain(&self.old);
        let waiting = self.waiting_open.iter().map(|(ticket, call)| (*ticket, &call.waiter));
        waiting.chain(connections.flat_map(Connection::openers))
    }

    fn expire_open(&mut self, ticket: u64, limit: Limit) {
        let waits = self.waiting_open.contains_key(&ticket);
        if let Some((waiter, fate)) = self.remove_open(ticket) {
            let why = self.attempts.why().filter(|_| waits).map(|why| why.again(fate));
            let (doing, limit) = ("opening a stream", limit.all);
            self.answers
                .answer(waiter, Err(why.unwrap_or(Error::TimedOut { doing, limit, fate })));
        }
    }

    fn expire_one(&mut self, ticket: u64, limit: Limit) {
        let waits = self.waiting.contains_key(&ticket);
        if let Some((call, fate)) = self.remove(ticket) {
            // The error of the last attempt is more useful than a timeout.
            let why = self.attempts.why().filter(|_| waits).map(|why| why.again(fate));
            let doing = if fate == Fate::NotProcessed {
                "sending the request"
            } else {
                "waiting for the answer"
            };
            let limit = limit.all;
            self.answers
                .answer(call.waiter, Err(why.unwrap_or(Error::TimedOut { doing, limit, fate })));
        }
    }
}
