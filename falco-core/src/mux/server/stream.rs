//! What a caller reports of the stream: its end, what it accepts, and the time. Also how to close
//! it.

use super::super::Budget;
use super::ServerMux;
use crate::ending::{Ending, LastStep};
use crate::error::ConnectionError;
use crate::time::Instant;
use crate::wire::ServerKeyRef;

impl<H: ServerKeyRef, B: AsRef<[u8]>, G: Budget> ServerMux<H, B, G> {
    /// Reports that the stream has no more bytes. `Ok` means that requests in flight are still
    /// answered.
    ///
    /// # Errors
    /// What ended the connection.
    pub fn end_of_stream(&mut self, now: Instant, unread: &[u8]) -> Result<(), ConnectionError> {
        self.deadlines.note_poll(&mut self.machine, now);
        let ended = self.machine.end_of_stream(now, unread);
        #[cfg(feature = "streams")]
        if ended.is_ok() {
            self.note_no_credit();
        }
        ended
    }

    /// Reports that the stream has accepted and flushed all that was sealed, and that
    /// [`seal`](Self::seal) has no more. Until this call, no request reaches a handler: a client
    /// whose stream ends before it has received the answer to its first PING relies on that.
    pub fn flushed(&mut self) {
        self.deadlines.progress();
        self.greeting.flushed();
    }

    /// Reports that the stream has accepted some or all of the sealed bytes.
    pub fn wrote(&mut self) {
        self.deadlines.progress();
    }

    /// Reports that the stream does not accept sealed bytes at present. If that lasts one lifetime,
    /// the connection ends. Repeated calls change nothing.
    pub fn blocked(&mut self, now: Instant) {
        self.deadlines.block(now);
    }

    /// Whether to give up a write, because the write deadline has passed, as
    /// [`handle_timeout`](Self::handle_timeout) does. The first call that is more than 50 ms late
    /// gives the write another lifetime instead: the caller may not have run meanwhile. After the
    /// end of the connection its `ending` decides. For a thread that only writes and does not call
    /// `handle_timeout` itself.
    #[must_use]
    pub fn is_stalled(&mut self, now: Instant, ending: Option<Ending>) -> bool {
        ending.map_or_else(
            || self.deadlines.is_stalled(&self.machine, now),
            |ending| ending.step(now) != LastStep::Write,
        )
    }

    /// When to give up a write that has made no progress since `since`, if this side has not
    /// reported before that the stream is [blocked](Self::blocked). For a thread that waits in a
    /// write.
    #[must_use]
    pub fn writes_until(&self, since: Instant, ending: Option<Ending>) -> Instant {
        ending.and_then(|ending| ending.poll_timeout()).unwrap_or_else(|| {
            self.machine
                .write_deadline(self.deadlines.blocked_since(since), self.with_answer)
        })
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let drains_at = self.drains_at.get().filter(|_| self.machine.end().is_none());
        [self.deadlines.poll_timeout(&self.machine), drains_at]
            .into_iter()
            .flatten()
            .min()
    }

    /// Handles the deadlines that have passed at `now`. First read everything that has arrived. If
    /// the call is more than 50 ms late, the deadlines that have passed move, so that the caller
    /// can read once more first.
    ///
    /// Within the [grace period](crate::Connection::handle_late_poll), other calls after a deadline
    /// do not end the connection. So a caller that is late can read first.
    ///
    /// # Errors
    /// What ended the connection; [`ConnectionError::Stalled`] if a write made no progress for a
    /// lifetime.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.drain_if_old(now);
        self.deadlines.handle_timeout(&mut self.machine, now)
    }

    /// How to end the stream of a connection that is cut off at `now`: at once, without sending
    /// what is queued. The bytes of an unauthenticated client that have arrived are dropped first,
    /// as [`Ending`] says.
    #[must_use]
    pub fn cut(&self, now: Instant) -> Ending {
        if self.is_established() {
            Ending::at_once(now)
        } else {
            self.ending(ConnectionError::Closed, now)
        }
    }

    /// How to end the stream of a connection that ended with `end`. The client has until the [write
    /// deadline](crate::Connection::write_deadline) from `now` to accept the last bytes: one
    /// lifetime if they may contain an answer and the end is [`ConnectionError::Closed`] or
    /// [`ConnectionError::HandlerFailed`], and otherwise [`LINGER`](crate::Settings::LINGER). If
    /// the key was [revoked](Self::revoke), or the connection had to [close](Self::close_for)
    /// because it was over a limit, it has 20 ms to accept the CLOSE.
    #[must_use]
    pub fn ending(&self, end: ConnectionError, now: Instant) -> Ending {
        if self.closed_at_once && self.is_established() {
            return Ending::soon(now);
        }
        self.machine.ending_after(end, now, self.with_answer)
    }
}
