//! Attempts to connect.

use core::task::{Context, Poll};

use falco_core::Fate;
use falco_core::mux::NextAttempt;
use tracing::warn;

use super::{Current, Slot};
use crate::error::Error;

impl Slot {
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
        // If the client backs off from all servers, it tries the home server.
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
}
