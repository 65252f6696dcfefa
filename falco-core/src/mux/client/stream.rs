//! What a caller reports about the stream: its end, what it accepts, and the time.

use super::ClientMux;
use crate::ending::{Ending, LastStep};
use crate::error::ConnectionError;
use crate::time::{Instant, Span};
use crate::wire::ClientKeyRef;

/// After this time without input the connection may have ended. Reading the stream before a request
/// costs a system call, so requests in quick succession do without it.
const QUIET: Span = Span::from_millis_const(1);

impl<H: ClientKeyRef, B: AsRef<[u8]>, W, P> ClientMux<H, B, W, P> {
    /// Reports that the stream has no more bytes, which ends the connection. `unread` is what
    /// [`recv`](Self::recv) left of them. Returns what ended the connection, now or before.
    pub fn end_of_stream(&mut self, now: Instant, unread: &[u8]) -> ConnectionError {
        let ended = self.note(now).and_then(|()| self.machine.end_of_stream(now, unread));
        match ended {
            Err(end) => end,
            // No wire returns `Ok` here: without input a client can receive no answer.
            Ok(()) => self.abandon(),
        }
    }

    /// Reports that a write has failed, and that a read finds the end of the stream. Returns what
    /// ended the connection, or `None` if the error of the write did.
    ///
    /// A system reports a reset only once. If the write has received that error, a later read sees
    /// an end of the stream that the server did not send, and the server's last bytes may be lost.
    /// Set `found_closed` if the write failed with EPIPE: then the server had ended the stream
    /// before the write.
    pub fn end_of_broken_stream(&mut self, now: Instant, unread: &[u8], found_closed: bool) -> Option<ConnectionError> {
        found_closed.then(|| self.end_of_stream(now, unread))
    }

    /// Whether the connection may have ended without the caller knowing, because nothing has
    /// arrived since `last` and that is at least 1 ms ago. If so, read the stream before the next
    /// request.
    #[must_use]
    pub fn is_quiet(&self, last: Instant, now: Instant) -> bool {
        now.span_since(last) >= QUIET
    }

    /// Reports whether the caller reads; see
    /// [`ClientConnection::set_reading`](crate::Connection::set_reading).
    pub fn set_reading(&mut self, now: Instant, reading: bool) {
        self.deadlines.set_reading(&mut self.machine, now, reading);
    }

    /// Reports that the stream has accepted some of the sealed bytes; see
    /// [`flushed`](Self::flushed) for all.
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
    /// gives the write another lifetime instead: the caller may not have run meanwhile. Once the
    /// connection has ended, `ending` decides. For a thread that only writes and does not call
    /// `handle_timeout`.
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
        ending
            .and_then(|ending| ending.poll_timeout())
            .unwrap_or_else(|| self.machine.stalls_at(self.deadlines.blocked_since(since)))
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let due = self.deadlines.poll_timeout(&self.machine);
        let all = [due, self.closes_at()].into_iter().flatten().min();
        all.filter(|_| self.closing.end.is_none())
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
        if let Some(end) = self.closing.end {
            return Err(end);
        }
        self.note_idle(now);
        if let Some(end) = self.abandon_if_due(now) {
            return Err(end);
        }
        self.deadlines.handle_timeout(&mut self.machine, now)
    }

    /// Called first by each call that reports a change of the stream at `now`.
    pub(super) fn note(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.deadlines.note_poll(&mut self.machine, now);
        self.note_idle(now);
        self.closing.end.map_or(Ok(()), Err)
    }
}
