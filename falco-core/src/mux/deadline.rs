//! Deadlines that both sides keep beside the machine's: a write that makes no progress, and an
//! owner who comes late.

use crate::connection::Connection;
use crate::error::ConnectionError;
use crate::role::Role;
use crate::time::{Instant, Span};
use crate::wire::KeyRef;

/// Whoever comes later than this to a deadline has been away, and has not looked at what came
/// meanwhile. A runtime's timers are late by some milliseconds, on a busy machine by some more.
const AWAY: Span = Span::from_millis_const(50);

/// Since when the stream has taken nothing of what was to be written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Writes {
    pub(super) blocked: Option<Instant>,
}

impl Writes {
    /// The stream takes nothing.
    pub(super) fn block(&mut self, now: Instant) {
        self.blocked.get_or_insert(now);
    }

    /// The stream has taken something, or there is nothing to take.
    pub(super) fn progress(&mut self) {
        self.blocked = None;
    }

    /// When the write is given up.
    fn due<R: Role, H: KeyRef<R>>(self, machine: &Connection<R, H>) -> Option<Instant> {
        self.blocked.map(|since| machine.stalls_at(since))
    }

    /// Whether the write is to be given up at `now`.
    pub(super) fn is_due<R: Role, H: KeyRef<R>>(self, machine: &Connection<R, H>, now: Instant) -> bool {
        self.due(machine).is_some_and(|due| due <= now)
    }

    /// When something is to be done at the latest.
    pub(super) fn poll_timeout<R: Role, H: KeyRef<R>>(self, machine: &Connection<R, H>) -> Option<Instant> {
        let write = self.due(machine).filter(|_| machine.end().is_none());
        [machine.poll_timeout(), write].into_iter().flatten().min()
    }

    /// Does what is due at `now`. What ran out while nobody was here is put off, so that what has
    /// come is read first.
    pub(super) fn handle_timeout<R: Role, H: KeyRef<R>>(
        &mut self,
        machine: &mut Connection<R, H>,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        match self.due(machine) {
            // Nobody was here to write, so that the stream has its time from now on.
            Some(due) if now.span_since(due) > AWAY => self.blocked = Some(now),
            Some(due) if due <= now => return Err(machine.end().unwrap_or(ConnectionError::Stalled)),
            _ => {}
        }
        if machine.poll_timeout().is_some_and(|due| now.span_since(due) > AWAY) {
            machine.handle_late_poll(now);
        }
        machine.handle_timeout(now)
    }
}
