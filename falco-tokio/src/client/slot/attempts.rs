//! Attempts to connect.

use core::task::{Context, Poll};

use falco_core::Fate;
use falco_core::mux::NextAttempt;
use tracing::warn;

use super::super::attempt::{Running, completed};
use super::super::connection::Connection;
use super::{Current, Slot};
use crate::error::Error;

impl Slot {
    /// Begins an attempt to connect, if there is something to do and no pause.
    pub(super) fn begin(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let (asked, now) = (self.is_waited_for(), self.env.clock.now());
        self.attempts.set_waiting(now, asked);
        match self.attempts.next(now) {
            NextAttempt::Closed => {
                self.fail_all(&Error::Closed);
                return Poll::Pending;
            }
            _ if !self.attempts.is_wanted() && !self.connects => return Poll::Pending,
            NextAttempt::Never => {
                if let Some(why) = self.attempts.why() {
                    let why = why.again(Fate::NotProcessed);
                    self.fail_all(&why);
                }
                return Poll::Pending;
            }
            NextAttempt::FailUntil(at) => {
                if let Some(why) = self.attempts.why() {
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
        self.current = Current::Connecting(Running::default());
        Poll::Ready(())
    }

    /// Polls the attempts. Ready if one has ended.
    pub(super) fn connect(&mut self, cx: &mut Context<'_>, mut running: Running) -> Poll<()> {
        let (key, round, timer) = (self.env.key(), &mut self.round, &mut self.timer);
        match running.poll(&self.env, &key, round, timer, cx) {
            Poll::Pending => {
                self.current = Current::Connecting(running);
                return Poll::Pending;
            }
            Poll::Ready((_, Ok(connection))) => self.connected(connection),
            Poll::Ready((server, Err(error))) => {
                if !running.is_empty() {
                    self.current = Current::Connecting(running);
                }
                self.fail(server, &error);
            }
        }
        Poll::Ready(())
    }

    /// Handles a connection whose handshake has completed. The other attempts have ended.
    fn connected(&mut self, connection: Box<Connection>) {
        let server = connection.server();
        completed(&self.env, &mut self.round, server);
        self.attempts.established(connection.admitted(), self.env.clock.now());
        if self.env.servers.dial(server).is_spent() {
            self.attempts.spend();
        }
        self.has_tried();
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
        if let Some(counters) = self.env.counters.of(server) {
            counters.attempt_failed(end);
        }
        let random = |bound| entropy.below(bound);
        if self.env.servers.attempt_failed(&mut self.round, server, now, random) {
            // Another server is tried at once, or is being tried.
            warn!(server = %dial, %error, "no connection to this server");
            return;
        }
        let retry = self.attempts.attempt_failed(end, why, &key.admitted, now, random);
        let pause = self.attempts.retry_at().map(|at| at.since(now)).unwrap_or_default();
        warn!(server = %dial, %error, attempt = self.attempts.failed(), ?pause, "no connection");
        self.has_tried();
        // Callers of `connect` receive the error at once; other callers only if no retry follows.
        for to in self.openers.drain(..) {
            let _ = to.send(Err(error.again(Fate::NotProcessed)));
        }
        if !retry {
            self.fail_all(error);
        }
    }
}
