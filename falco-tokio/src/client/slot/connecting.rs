//! Attempts to connect: when one begins, and what follows when it fails or its connection is lost.

use core::task::{Context, Poll};
use std::io;

use falco_core::mux::NextAttempt;
use falco_core::{ConnectionError, Fate};
use tracing::warn;

use super::super::call::{HANDSHAKE, answer, error_of};
use super::super::connection::Connection;
use super::{Current, Slot};
use crate::error::Error;

impl Slot {
    /// Stops connecting if the client closes. Requests and pings that wait for a connection then
    /// fail.
    pub(super) fn stop_connecting(&mut self) {
        if self.closing && !self.is_connected() {
            self.current = Current::None;
        }
    }

    /// Begins an attempt to connect, if there is something to do and no pause.
    pub(super) fn begin(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (asked, now) = (self.is_waited_for(), self.env.clock.now());
        // If the client has several connections, no request is assigned to one that has failed. So
        // it reconnects even if no request waits.
        // And so does one that fails fast, so that it is known when the server is back.
        let repeats = (self.env.spread || self.env.fail_fast) && self.attempts.is_worth_repeating();
        match self.attempts.next(now) {
            NextAttempt::Closed => {
                self.fail_all(&Error::Closed);
                return Poll::Pending;
            }
            _ if !asked && !repeats => return Poll::Pending,
            NextAttempt::Never => {
                if let Some(why) = self.attempts.why() {
                    let why = why.again(Fate::NotProcessed);
                    self.fail_all(&why);
                }
                return Poll::Pending;
            }
            NextAttempt::FailUntil(at) => {
                if let Some(why) = self.attempts.why().filter(|_| asked) {
                    let why = why.again(Fate::NotProcessed);
                    self.fail_all(&why);
                }
                if self.timer.poll(cx, Some(self.env.clock.at(at))).is_pending() {
                    return Poll::Pending;
                }
                // The pause is over: look again.
                return Poll::Ready(());
            }
            NextAttempt::At(at) => {
                if self.timer.poll(cx, Some(self.env.clock.at(at))).is_pending() {
                    return Poll::Pending;
                }
            }
            NextAttempt::Now => {}
        }
        self.env.counters.attempts.add(1);
        // If all servers are left alone, the own one is tried.
        let next = self.env.servers.next(self.home, self.tried, now);
        (self.server, self.tried) = next.unwrap_or((self.home, self.env.servers.len()));
        let dialing = self
            .env
            .servers
            .dial(self.server)
            .dial(self.env.connect_timeout, self.env.settings.lifetime());
        self.current = Current::Dialing(dialing);
        Poll::Ready(())
    }

    /// Handles a failed attempt to connect.
    pub(super) fn fail(&mut self, error: &Error) {
        self.current = Current::None;
        let dial = self.env.servers.dial(self.server);
        if dial.is_spent() {
            self.attempts.spend();
        }
        let (now, key, entropy) = (self.env.clock.now(), self.env.key(), &self.env.entropy);
        let (end, why) = (error.attempt_end(), error.again(Fate::NotProcessed));
        self.env.counters.attempt_failed(end);
        let random = |bound| entropy.below(bound);
        self.env.servers.failed(self.server, now, random);
        if self.env.servers.next(self.home, self.tried, now).is_some() {
            // Another server is tried at once.
            warn!(server = %dial, %error, "no connection to this server");
            return;
        }
        self.tried = 0;
        let retry = self.attempts.attempt_failed(end, why, &key.admitted, now, random);
        let pause = self.attempts.retry_at().map(|at| at.since(now)).unwrap_or_default();
        warn!(server = %dial, %error, attempt = self.attempts.failed(), ?pause, "no connection");
        // Callers of `connect` receive the error at once; other callers only if no retry follows.
        for to in self.openers.drain(..) {
            let _ = to.send(Err(error.again(Fate::NotProcessed)));
        }
        if !retry {
            self.fail_all(error);
        }
    }

    pub(super) fn fail_all(&mut self, error: &Error) {
        for (_, call) in core::mem::take(&mut self.waiting) {
            answer(call.waiter, Err(error.again(Fate::NotProcessed)));
        }
        for (_, call) in core::mem::take(&mut self.waiting_open) {
            answer(call.waiter, Err(error.again(Fate::NotProcessed)));
        }
        for ping in self.pings.drain(..) {
            let _ = ping.waiter.1.send(Err(error.again(Fate::NotProcessed)));
        }
        for to in self.openers.drain(..) {
            let _ = to.send(Err(error.again(Fate::NotProcessed)));
        }
    }

    /// The current connection no longer accepts requests.
    pub(super) fn lose(&mut self, connection: &Connection, why: Option<Error>) {
        let (now, entropy) = (self.env.clock.now(), &self.env.entropy);
        let random = |bound| entropy.below(bound);
        self.attempts
            .lost(connection.history(), why, connection.admitted(), now, random);
    }

    /// The current connection has ended.
    pub(super) fn end(&mut self, connection: Connection, end: &io::Result<ConnectionError>) {
        if !connection.is_established() {
            self.fail(&error_of(end, HANDSHAKE, Fate::NotProcessed));
            return;
        }
        let why = error_of(end, "waiting for a connection", Fate::NotProcessed);
        if !matches!(end, Ok(ConnectionError::Closed)) {
            // It may have crashed, or be out of reach.
            let (now, entropy) = (self.env.clock.now(), &self.env.entropy);
            self.env
                .servers
                .failed(connection.server(), now, |bound| entropy.below(bound));
        }
        self.lose(&connection, Some(why));
        if !connection.is_closed() {
            self.old.push(connection);
        }
    }
}
