//! Deadlines of a connection whose caller reads everything that has arrived before it handles a
//! timeout.

use crate::connection::Connection;
use crate::deadlines::{Deadlines, is_late};
use crate::error::ConnectionError;
use crate::role::Role;
use crate::time::{Instant, MaybeInstant, Span};
use crate::wire::KeyRef;

/// [`Deadlines`] without the millisecond that they wait after a late poll: the callers of a mux
/// read all that has arrived in the same turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct MuxDeadlines {
    all: Deadlines,
    /// Where a late poll has moved a deadline of the connection, or has left it because the grace
    /// period is used up.
    moved: MaybeInstant,
}

impl Default for MuxDeadlines {
    fn default() -> Self {
        Self {
            all: Deadlines::new(),
            moved: MaybeInstant::NONE,
        }
    }
}

impl MuxDeadlines {
    pub(super) fn note_poll<R: Role, H: KeyRef<R>>(&mut self, machine: &mut Connection<R, H>, now: Instant) {
        if self.all.check(machine, now) {
            self.moved = machine.poll_timeout().into();
        }
    }

    pub(super) fn set_reading<R: Role, H: KeyRef<R>>(
        &mut self,
        machine: &mut Connection<R, H>,
        now: Instant,
        reading: bool,
    ) {
        self.note_poll(machine, now);
        self.all.set_reading(machine, now, reading);
    }

    pub(super) fn block(&mut self, now: Instant) {
        self.all.block(now);
    }

    pub(super) fn progress(&mut self) {
        self.all.progress();
    }

    pub(super) fn blocked_since(self, since: Instant) -> Instant {
        self.all.blocked_since(since)
    }

    pub(super) fn is_stalled<R: Role, H: KeyRef<R>>(&mut self, machine: &Connection<R, H>, now: Instant) -> bool {
        self.all.is_stalled(machine, now)
    }

    /// As [`Deadlines::poll_timeout`], but a deadline that was moved is due at once, after the
    /// caller has read what has arrived.
    pub(super) fn poll_timeout<R: Role, H: KeyRef<R>>(self, machine: &Connection<R, H>) -> Option<Instant> {
        let due = match machine.poll_timeout() {
            Some(at) if self.moved == at.into() => Some(at.before(Span::TICK)),
            due => due,
        };
        self.all.earliest(machine, due.into())
    }

    /// As [`Deadlines::handle_timeout`], but a deadline that [`note_poll`](Self::note_poll) has
    /// moved applies at once, although it may be 1 ms in the future.
    pub(super) fn handle_timeout<R: Role, H: KeyRef<R>>(
        &mut self,
        machine: &mut Connection<R, H>,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        let moved = core::mem::replace(&mut self.moved, MaybeInstant::NONE);
        match machine.poll_timeout() {
            Some(at) if moved == at.into() && !is_late(Some(at), now) && !self.all.is_stalled(machine, now) => {
                self.all.check_again();
                machine.handle_timeout(at.max(now))
            }
            _ => self.all.handle_timeout(machine, now),
        }
    }
}
