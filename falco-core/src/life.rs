//! The deadline of a connection, which is its handshake timeout or its idle timeout (`lifetime`),
//! and the error that ended it. That error does not change once it is set. Each wire decides what
//! restarts the idle timeout.

use crate::error::{ConnectionError, LINGER_SPAN};
use crate::settings::Settings;
use crate::time::{Instant, MaybeInstant, Span};

#[derive(Debug)]
pub(crate) struct Life {
    /// The latest time that a caller passed. It does not go back if the caller's clock does.
    latest: Instant,
    deadline: MaybeInstant,
    /// Whether `deadline` belongs to the idle timeout. Until then it belongs to the handshake
    /// timeout.
    established: bool,
    lifetime: Span,
    /// When the caller stopped reading, as it reported with `set_reading`. `None` while it reads.
    paused: MaybeInstant,
    /// How much longer the idle timeout may be paused until its next restart.
    pause_left: Span,
    grace: GracePeriod,
    end: Option<ConnectionError>,
}

/// The grace period for late polls: how far a deadline moves, so that the caller first reads what
/// has arrived. Between two restarts of the timeout, the first late poll may be up to a lifetime
/// late. Later ones share one second, or a third of the lifetime if that is less. With a longer
/// grace period, a peer could postpone the end with incomplete records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GracePeriod {
    /// What is left for later polls. [`Span::MAX`] before the first one.
    left: Span,
}

impl GracePeriod {
    pub(crate) const UNUSED: Self = Self { left: Span::MAX };

    /// Takes `late` from the grace period, and returns whether there was enough of it.
    // Not inlined on a device, to save flash.
    #[cfg_attr(target_os = "none", inline(never))]
    pub(crate) fn take(&mut self, late: Span, lifetime: Span) -> bool {
        let left = if self.left == Span::MAX {
            Some(lifetime.third().min(LINGER_SPAN))
        } else {
            self.left.checked_sub(late)
        };
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

impl Life {
    /// Starts the handshake timeout.
    pub(crate) fn new(now: Instant, settings: &Settings) -> Self {
        Self {
            latest: now,
            deadline: (now + settings.handshake_timeout()).into(),
            established: false,
            lifetime: Span::of(settings.lifetime()),
            paused: MaybeInstant::NONE,
            pause_left: Span::of(settings.lifetime()),
            grace: GracePeriod::UNUSED,
            end: None,
        }
    }

    /// Notes the time. At or after the deadline the connection ends.
    // Not inlined on a device, to save flash.
    #[cfg_attr(not(target_os = "none"), inline)]
    #[cfg_attr(target_os = "none", inline(never))]
    pub(crate) fn check(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.latest = self.latest.max(now);
        match (self.end, self.deadline.get()) {
            (Some(end), _) => Err(end),
            (None, Some(deadline)) if self.latest >= deadline => Err(self.fail(if self.established {
                ConnectionError::Expired
            } else {
                ConnectionError::HandshakeTimeout
            })),
            (None, _) => Ok(()),
        }
    }

    /// While the caller does not read, the idle timeout is paused, for at most one lifetime between
    /// two restarts. The handshake timeout is not paused.
    pub(crate) fn set_reading(&mut self, reading: bool) {
        let Some(deadline) = self.deadline.get().filter(|_| self.established) else {
            return;
        };
        match (reading, self.paused.get()) {
            (false, None) => {
                self.paused = self.latest.into();
                self.deadline = (deadline + self.pause_left).into();
            }
            (true, Some(since)) => {
                self.paused = MaybeInstant::NONE;
                self.pause_left = self.pause_left.saturating_sub(self.latest.span_since(since));
                self.deadline = deadline.before(self.pause_left).into();
            }
            (false, Some(_)) | (true, None) => {}
        }
    }

    /// If the idle timeout has passed, moves its deadline to 1 ms after `now`, provided that the
    /// grace period allows it. This also uses up time for which the idle timeout may be paused.
    pub(crate) fn handle_late_poll(&mut self, now: Instant) {
        if !self.established || self.paused.is_some() {
            return;
        }
        if let Some(deadline) = self.deadline.get().filter(|deadline| *deadline <= now) {
            let moved = now + Span::TICK;
            let late = moved.span_since(deadline);
            if late <= self.pause_left && self.grace.take(late, self.lifetime) {
                self.pause_left = self.pause_left.saturating_sub(late);
                self.deadline = moved.into();
            }
        }
    }

    /// Restarts the idle timeout, at the latest time that a caller passed.
    #[inline]
    pub(crate) fn restart(&mut self) {
        self.deadline = (self.latest + self.lifetime).into();
        self.pause_left = self.lifetime;
        self.grace = GracePeriod::UNUSED;
        // Reading is still paused, so a new pause starts.
        if self.paused.is_some() {
            self.paused = self.latest.into();
            self.deadline = (self.latest + self.lifetime + self.pause_left).into();
        }
        self.established = true;
    }

    /// The stream has accepted all output that was sealed, and more is queued. So the peer still
    /// reads. This restarts the idle timeout.
    #[cfg(feature = "noise")]
    pub(crate) fn note_taken(&mut self) {
        if self.established && self.deadline.is_some() {
            self.restart();
        }
    }

    /// Suspends the idle timeout until [`restart`](Self::restart).
    pub(crate) fn suspend(&mut self) {
        self.deadline = MaybeInstant::NONE;
    }

    /// Ends the connection, unless it has ended before, and returns what ended it.
    #[cold]
    #[inline(never)]
    pub(crate) fn fail(&mut self, end: ConnectionError) -> ConnectionError {
        self.deadline = MaybeInstant::NONE;
        *self.end.get_or_insert(end)
    }

    /// Whether the caller has reported that it does not read.
    #[cfg(feature = "noise")]
    #[inline]
    pub(crate) const fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// The latest time that a caller passed.
    #[cfg(feature = "noise")]
    #[inline]
    pub(crate) const fn latest(&self) -> Instant {
        self.latest
    }

    #[inline]
    pub(crate) const fn lifetime(&self) -> Span {
        self.lifetime
    }

    /// Sets the lifetime on which both sides agreed.
    #[cfg(feature = "noise")]
    pub(crate) fn set_lifetime(&mut self, lifetime: Span) {
        self.lifetime = lifetime;
    }

    #[inline]
    pub(crate) const fn end(&self) -> Option<ConnectionError> {
        self.end
    }

    pub(crate) const fn deadline(&self) -> MaybeInstant {
        self.deadline
    }
}
