//! Deadlines that a driver adds to those of its connection: the write deadline, and late polls. The
//! mux and `falco-embedded` use them.

use crate::connection::Connection;
use crate::error::ConnectionError;
use crate::role::Role;
use crate::time::{Instant, MaybeInstant, Span};
use crate::wire::KeyRef;

/// If deadlines are handled later than this after they have passed, the caller may not have read
/// what arrived before. Timers of a runtime are late by some milliseconds, on a busy
/// machine by more.
const LATE: Span = Span::from_millis_const(50);

/// The deadlines of a [`Connection`] and of its writes, and the rule for late polls. A driver keeps
/// one value for each connection. While the connection has not ended, call these methods in place
/// of the connection's methods with the same names. Once it has ended, [`Ending`](crate::Ending)
/// has the deadline.
///
/// A poll is late if a deadline has passed, and bytes that arrived before it may still be unread,
/// in the driver's buffer or in the stream. They count, however late the driver reads them, within
/// the grace period of [`Connection::handle_late_poll`].
///
/// ```
/// use core::time::Duration;
/// use falco_core::{ClassicKey, ConnectionError, FixedReplayCache, Instant, Key};
/// use falco_core::{Deadlines, ServerConnection, Settings};
///
/// # let mut rng = falco_core::testing::CountingRng::new(1);
/// let cache = FixedReplayCache::<32>::new(&mut rng)?;
/// let key = ClassicKey::new(Key::from_bytes([7; 32])?, cache);
/// let (settings, now) = (Settings::new().with_lifetime(Duration::from_secs(1))?, Instant::ZERO);
/// let mut server = ServerConnection::new(&key, &settings, now, &mut rng)?;
/// let mut deadlines = Deadlines::new();
/// assert_eq!(deadlines.poll_timeout(&server), Some(now + settings.handshake_timeout()));
///
/// // The stream accepts nothing. After one lifetime the write is given up.
/// deadlines.block(now);
/// let due = now + settings.lifetime();
/// assert_eq!(deadlines.poll_timeout(&server), Some(due));
/// assert_eq!(deadlines.handle_timeout(&mut server, due), Err(ConnectionError::Stalled));
/// # Ok::<(), Box<dyn core::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// When the stream stopped accepting output.
    blocked: MaybeInstant,
    /// Whether `blocked` has moved because of a late poll. It moves only once for each blocked
    /// write, because all polls of a slow caller may be late.
    blocked_moved: bool,
    /// The time of the last check for deadlines that have passed. No deadline is set to a time in
    /// the past afterwards, so another check at the same time would find nothing.
    checked: Instant,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self::new()
    }
}

impl Deadlines {
    /// For a new connection.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            blocked: MaybeInstant::NONE,
            blocked_moved: false,
            checked: Instant::ZERO,
        }
    }

    /// Call it before each call that passes the time to the connection, except those of this type.
    ///
    /// If a deadline has passed, bytes that arrived before it may still be unread, in the caller's
    /// buffer or in the stream. So this moves the deadline to 1 ms after `now`, within the grace
    /// period. The caller reads everything before it calls
    /// [`handle_timeout`](Self::handle_timeout).
    pub fn note_poll<R: Role, H: KeyRef<R>>(&mut self, machine: &mut Connection<R, H>, now: Instant) {
        let _ = self.check(machine, now);
    }

    /// As [`note_poll`](Self::note_poll). Returns whether a deadline had passed.
    pub(crate) fn check<R: Role, H: KeyRef<R>>(&mut self, machine: &mut Connection<R, H>, now: Instant) -> bool {
        // Most calls follow another one within a millisecond.
        if now <= self.checked {
            return false;
        }
        self.checked = now;
        let passed = machine.poll_timeout().is_some_and(|due| due <= now);
        if passed {
            machine.handle_late_poll(now);
        }
        passed
    }

    /// Makes the next call check again, even if its time is that of the last check.
    pub(crate) const fn check_again(&mut self) {
        self.checked = Instant::ZERO;
    }

    /// Reports whether the caller reads. A deadline that was paused may have passed when the pause
    /// ends, so the next call checks again.
    pub fn set_reading<R: Role, H: KeyRef<R>>(&mut self, machine: &mut Connection<R, H>, now: Instant, reading: bool) {
        self.note_poll(machine, now);
        machine.set_reading(now, reading);
        self.check_again();
    }

    /// Reports that output is pending and the stream accepts nothing of it at `now`. Repeated calls
    /// change nothing.
    pub fn block(&mut self, now: Instant) {
        if self.blocked.is_none() {
            self.blocked = now.into();
        }
    }

    /// Reports that the stream has accepted something, or that there is nothing to write.
    pub fn progress(&mut self) {
        self.blocked = MaybeInstant::NONE;
        self.blocked_moved = false;
    }

    /// Since when the stream has accepted nothing: `since`, unless that was reported before.
    #[cfg(feature = "alloc")]
    pub(crate) fn blocked_since(self, since: Instant) -> Instant {
        self.blocked.get().unwrap_or(since)
    }

    /// Whether to give up the write at `now`. If this is a late poll, the driver may not have tried
    /// to write meanwhile, so the stream has its full time again from `now`.
    pub(crate) fn is_stalled<R: Role, H: KeyRef<R>>(&mut self, machine: &Connection<R, H>, now: Instant) -> bool {
        self.is_stalled_after(now, machine.write_limit(machine.end(), false))
    }

    /// As [`is_stalled`](Self::is_stalled), for a write that is given up after `write_limit`
    /// milliseconds.
    // Not inlined on a device, to save flash. So it is not generic.
    #[cfg_attr(target_os = "none", inline(never))]
    fn is_stalled_after(&mut self, now: Instant, write_limit: u64) -> bool {
        let Some(due) = self.stalls_at(write_limit).get().filter(|due| *due <= now) else {
            return false;
        };
        if now.span_since(due) <= LATE || self.blocked_moved {
            return true;
        }
        self.blocked = now.into();
        self.blocked_moved = true;
        false
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    #[must_use]
    pub fn poll_timeout<R: Role, H: KeyRef<R>>(self, machine: &Connection<R, H>) -> Option<Instant> {
        self.earliest(machine, machine.poll_timeout().into())
    }

    /// The earlier of `due` and the write deadline.
    pub(crate) fn earliest<R: Role, H: KeyRef<R>>(
        self,
        machine: &Connection<R, H>,
        due: MaybeInstant,
    ) -> Option<Instant> {
        self.stalls_at(match machine.end() {
            None => machine.write_limit(None, false),
            Some(_) => u64::MAX,
        })
        .min(due)
        .get()
    }

    /// When a write is given up after `write_limit` milliseconds.
    #[cfg_attr(target_os = "none", inline(never))]
    fn stalls_at(self, write_limit: u64) -> MaybeInstant {
        self.blocked.get().map(|since| since.after(write_limit)).into()
    }

    /// Handles the deadlines that have passed at `now`. First read everything that has arrived. If
    /// the call is more than 50 ms late, deadlines that have passed move, so that the caller can
    /// read once more first.
    ///
    /// # Errors
    /// What ended the connection; [`ConnectionError::Stalled`] if a write made no progress for one
    /// lifetime. If the call is more than 50 ms late for that, the write gets another lifetime
    /// instead, once for each blocked write.
    ///
    /// After `Stalled`, discard the pending bytes, and process what has arrived. If the deadline of
    /// the connection has passed as well, that has ended it: see [`Connection::end`].
    pub fn handle_timeout<R: Role, H: KeyRef<R>>(
        &mut self,
        machine: &mut Connection<R, H>,
        now: Instant,
    ) -> Result<(), ConnectionError> {
        if self.is_stalled(machine, now) {
            let end = machine.end();
            let _ = machine.handle_timeout(now);
            return Err(end.unwrap_or(ConnectionError::Stalled));
        }
        self.check_again();
        if is_late(machine.poll_timeout(), now) {
            machine.handle_late_poll(now);
        }
        machine.handle_timeout(now)
    }
}

/// Whether a poll at `now` is a late one for the deadline `due`.
pub(crate) fn is_late(due: Option<Instant>, now: Instant) -> bool {
    due.is_some_and(|due| now.span_since(due) > LATE)
}
