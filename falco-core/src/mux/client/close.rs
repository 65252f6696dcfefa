//! How a client closes its connection: what it still sends, and how long it waits for the server.

use alloc::vec::Vec;

use super::super::call::Call;
use super::ClientMux;
use crate::ending::Ending;
use crate::error::{ConnectionError, LINGER};
use crate::message::{CloseReason, Status};
use crate::time::Instant;
use crate::wire::ClientKeyRef;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Closing {
    /// The connection is to be closed with this reason once all accepted requests have begun.
    when_begun: Option<CloseReason>,
    /// This side has closed the connection.
    closed: bool,
    /// Since when two things hold: this side has closed the connection, and no caller waits for an
    /// answer.
    idle: Option<Instant>,
    /// What ended the connection, if this side has abandoned it.
    pub(super) end: Option<ConnectionError>,
    /// [`ClientMux::poll_closing`] has reported that nothing new is accepted.
    pub(super) reported: bool,
}

impl Closing {
    /// Whether a call of [`seal`](ClientMux::seal) may close the connection.
    pub(super) const fn closes(&self) -> bool {
        self.when_begun.is_some()
    }
}

impl<H: ClientKeyRef, B: AsRef<[u8]>, W, P> ClientMux<H, B, W, P> {
    /// Completes the requests in flight, accepts no new ones, then ends.
    ///
    /// Once no caller waits for an answer, the server has a second
    /// ([`LINGER`](crate::Settings::LINGER)) to end the connection as well. Then
    /// [`handle_timeout`](Self::handle_timeout) ends it with [`ConnectionError::Closed`]. The
    /// client does not wait for answers to cancelled requests. While callers wait, keep-alive still
    /// detects a silent server, and the connection ends at most one lifetime after it was closed.
    pub fn close(&mut self, now: Instant, reason: CloseReason) {
        self.deadlines.note_poll(&mut self.machine, now);
        self.machine.close(now, reason);
        self.closing.closed = true;
        self.history.drained |= self.machine.status() == Status::Draining;
        self.note_idle(now);
    }

    /// Closes once all accepted requests have begun, as [`close`](Self::close) does.
    /// [`seal`](Self::seal) then writes the CLOSE. Call it when the user closes the client, so that
    /// the requests that this connection has accepted complete.
    pub fn close_when_begun(&mut self, reason: CloseReason) {
        self.closing.when_begun.get_or_insert(reason);
    }

    /// Gives up the connection, and returns what ended it: [`ConnectionError::Closed`], if it has
    /// not ended before. For a caller that can no longer use the stream, or does not want to wait.
    /// Call [`finish`](Self::finish) next. The stream is closed at once, unless the connection was
    /// closed and no caller waited.
    pub fn abandon(&mut self) -> ConnectionError {
        self.end()
            .unwrap_or_else(|| *self.closing.end.insert(ConnectionError::Closed))
    }

    /// [Abandons](Self::abandon) the connection if it has [closed](Self::closes_at) and the server
    /// has had its time to end it. Returns what ended the connection, if it has ended.
    /// [`handle_timeout`](Self::handle_timeout) does the same. For a thread that waits for the end
    /// and does not read.
    pub fn abandon_if_due(&mut self, now: Instant) -> Option<ConnectionError> {
        if self.closes_at().is_some_and(|at| at <= now) {
            return Some(self.abandon());
        }
        self.closing.end
    }

    /// What ended the connection, if it has ended.
    #[must_use]
    pub fn end(&self) -> Option<ConnectionError> {
        self.closing.end.or_else(|| self.machine.end())
    }

    /// When a connection that this side has closed ends, even if the server does not end it. `None`
    /// while callers wait for answers. [`poll_timeout`](Self::poll_timeout) includes it. For a
    /// thread that waits for the end and does not read.
    #[must_use]
    pub fn closes_at(&self) -> Option<Instant> {
        let idle = self.closing.idle.filter(|_| self.end().is_none());
        idle.map(|since| since + LINGER)
    }

    /// Notes whether callers wait for answers on a connection that this side has closed.
    pub(super) fn note_idle(&mut self, now: Instant) {
        let closed = self.closing.closed || self.machine.has_closed();
        let idle = closed && self.outstanding() == 0 && self.machine.status() == Status::Draining;
        self.closing.idle = idle.then(|| self.closing.idle.unwrap_or(now));
    }

    /// Closes as requested by [`close_when_begun`](Self::close_when_begun), if all requests have
    /// begun.
    pub(super) fn close_if_begun(&mut self, now: Instant) {
        if let Some(reason) = self.closing.when_begun
            && !self.closing.closed
            && !self.has_unbegun()
            // The server may have closed before.
            && self.machine.is_established()
        {
            self.close(now, reason);
        }
    }

    /// Reports once that the connection accepts no new requests, whichever side closes it and for
    /// whatever reason. (A client also closes a connection that has no request ids left.) Returns
    /// the requests that have not begun, in the order of their tickets, for another connection.
    /// Requests that have begun complete on this one.
    ///
    /// Call it after each [`recv`](Self::recv), [`seal`](Self::seal) and [`close`](Self::close). It
    /// returns `None` while the connection is open, after the first report, and once the connection
    /// has ended. In the last case [`finish`](Self::finish) returns all requests.
    pub fn poll_closing(&mut self) -> Option<Vec<Call<B, W>>> {
        if self.closing.reported || self.end().is_some() || self.machine.status() != Status::Draining {
            return None;
        }
        self.closing.reported = true;
        Some(self.take_unbegun())
    }

    /// How to end the stream of a connection that ended with `end`. A client waits for at most
    /// [`LINGER`](crate::Settings::LINGER).
    #[must_use]
    pub fn ending(&self, end: ConnectionError, now: Instant) -> Ending {
        match (self.closing.end, self.closing.idle) {
            (None, _) => self.machine.ending_after(end, now, false),
            // `LINGER` began when the connection became idle.
            (Some(_), Some(since)) => self.machine.ending_after(end, since, false),
            (Some(_), None) => Ending::at_once(now),
        }
    }
}
