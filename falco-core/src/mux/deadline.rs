//! Deadlines of both sides besides those of the connection: the write deadline, and late polls.

use crate::connection::Connection;
use crate::error::ConnectionError;
use crate::role::Role;
use crate::time::{Instant, Span};
use crate::wire::KeyRef;

/// A poll that is later than this is a late poll: the caller may not have read what arrived before
/// the deadline. Timers of a runtime are late by some milliseconds, on a busy machine by more.
const LATE: Span = Span::from_millis_const(50);

/// Since when the stream has accepted nothing of what was to be written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Writes {
    pub(super) blocked: Option<Instant>,
}

impl Writes {
    /// The stream accepts nothing.
    pub(super) fn block(&mut self, now: Instant) {
        self.blocked.get_or_insert(now);
    }

    /// The stream has accepted something, or there is nothing to write.
    pub(super) fn progress(&mut self) {
        self.blocked = None;
    }

    /// When to give up the write.
    fn due<R: Role, H: KeyRef<R>>(self, machine: &Connection<R, H>) -> Option<Instant> {
        self.blocked.map(|since| machine.stalls_at(since))
    }

    /// Whether to give up the write at `now`.
    pub(super) fn is_due<R: Role, H: KeyRef<R>>(self, machine: &Connection<R, H>, now: Instant) -> bool {
        self.due(machine).is_some_and(|due| due <= now)
    }

    /// The next deadline.
    pub(super) fn poll_timeout<R: Role, H: KeyRef<R>>(self, machine: &Connection<R, H>) -> Option<Instant> {
        let write = self.due(machine).filter(|_| machine.end().is_none());
        [machine.poll_timeout(), write].into_iter().flatten().min()
    }

    /// Does what is due at `now`. After a late poll, deadlines that have passed move, so that what
    /// has arrived is read first.
    pub(super) fn handle_timeout<R: Role, H: KeyRef<R>>(
        &mut self,
        machine: &mut Connection<R, H>,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        match self.due(machine) {
            // Nothing was written meanwhile, so the stream has its full time from now on.
            Some(due) if now.span_since(due) > LATE => self.blocked = Some(now),
            Some(due) if due <= now => return Err(machine.end().unwrap_or(ConnectionError::Stalled)),
            _ => {}
        }
        if machine.poll_timeout().is_some_and(|due| now.span_since(due) > LATE) {
            machine.handle_late_poll(now);
        }
        machine.handle_timeout(now)
    }
}
