//! Attempts to connect.

use core::task::{Context, Poll};

use falco_core::mux::NextAttempt;
use falco_core::{Fate, Instant};
use tracing::{debug, warn};

use super::super::attempt::Attempt;
use super::super::connection::Connection;
use super::{Current, Slot};
use crate::error::Error;

impl Slot {
    /// Begins an attempt to connect, if there is something to do and no pause.
    pub(super) fn begin(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (asked, now) = (self.is_waited_for(), self.env.clock.now());
        // If the client has several slots, requests are not assigned to one that has failed, so the
        // slot reconnects although no request waits for it. A client that fails fast reconnects to
        // find out when the server can be reached again.
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
                // The pause has passed: check again.
                return Poll::Ready(());
            }
            NextAttempt::At(at) => {
                if self.timer.poll(cx, Some(self.env.clock.at(at))).is_pending() {
                    return Poll::Pending;
                }
            }
            NextAttempt::Now => {}
        }
        match self.attempt(now) {
            Some(attempt) => {
                self.current = Current::Connecting(vec![attempt]);
                Poll::Ready(())
            }
            // There is at least one server.
            None => Poll::Pending,
        }
    }

    /// Begins an attempt of the round beside those in progress, if one is due.
    fn attempt(&mut self, now: Instant) -> Option<Attempt> {
        let server = self.env.servers.begin(&mut self.round, now)?;
        Some(Attempt::begin(&self.env, self.env.key(), server))
    }

    /// Polls attempts, and begins another one beside those that are slow. Ready if one has ended.
    pub(super) fn connect(&mut self, cx: &mut Context<'_>, mut running: Vec<Attempt>) -> Poll<()> {
        loop {
            let mut polled = running.iter_mut().enumerate();
            let ended = polled.find_map(|(at, attempt)| match attempt.poll(&self.env, cx) {
                Poll::Pending => None,
                Poll::Ready(connected) => Some((at, connected)),
            });
            match ended {
                Some((_, Ok(connection))) => {
                    self.connected(connection);
                    return Poll::Ready(());
                }
                Some((at, Err(error))) => {
                    let failed = running.remove(at);
                    if !running.is_empty() {
                        self.current = Current::Connecting(running);
                    }
                    self.fail(failed.server(), &error);
                    return Poll::Ready(());
                }
                None => {}
            }
            let now = self.env.clock.now();
            if let Some(next) = self.attempt(now) {
                running.push(next);
                continue;
            }
            let next = self.env.servers.next_at(&self.round);
            let next = next.map(|at| self.env.clock.at(at));
            self.current = Current::Connecting(running);
            // Ready if it has just passed: then another attempt is due.
            return self.timer.poll(cx, next);
        }
    }

    /// Handles a connection whose handshake has completed. The other attempts have ended.
    fn connected(&mut self, connection: Box<Connection>) {
        let (server, now, entropy) = (connection.server(), self.env.clock.now(), &self.env.entropy);
        let dial = self.env.servers.dial(server);
        debug!(server = %dial, "connected");
        let random = |bound| entropy.below(bound);
        for slow in self.env.servers.completed(&mut self.round, server, now, random) {
            self.env.counters.attempt_was_slow();
            warn!(server = %self.env.servers.dial(slow), faster = %dial, "this server is slow to connect");
        }
        self.attempts.established(connection.admitted(), now);
        if dial.is_spent() {
            self.attempts.spend();
        }
        self.current = Current::Connection(connection);
    }

    /// Handles a failed attempt to connect.
    fn fail(&mut self, server: usize, error: &Error) {
        let dial = self.env.servers.dial(server);
        if dial.is_spent() {
            self.attempts.spend();
        }
        let (now, key, entropy) = (self.env.clock.now(), self.env.key(), &self.env.entropy);
        let (end, why) = (error.attempt_end(), error.again(Fate::NotProcessed));
        self.env.counters.attempt_failed(end);
        let random = |bound| entropy.below(bound);
        if self.env.servers.attempt_failed(&mut self.round, server, now, random) {
            // Another server is tried at once, or is being tried.
            warn!(server = %dial, %error, "no connection to this server");
            return;
        }
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
}
