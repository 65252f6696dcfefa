//! How long a connection lives and what ended it: one deadline, one sticky end. Which bytes count
//! as signs of life is the wire's to say.

use crate::error::{ConnectionError, LINGER};
use crate::settings::Settings;
use crate::time::{Instant, Span};

#[derive(Debug)]
pub(crate) struct Life {
    /// The latest time that the machine was told: a clock that goes backwards stands still here.
    latest: Instant,
    deadline: Option<Instant>,
    /// Whether the deadline is the lifetime's; the handshake's, if not.
    lives: bool,
    lifetime: Span,
    /// Since when this side reads nothing, by its own choice.
    paused: Option<Instant>,
    /// How long the lifetime may still stand still before the next sign of life.
    allowance: Span,
    grace: GracePeriod,
    end: Option<ConnectionError>,
}

/// The grace period for a late poll: how far deadlines move so that the driver reads what has
/// arrived first. The first late poll may be up to a lifetime late. From then on the grace period
/// is a second in all, at most a third of the lifetime: more would let meaningless bytes postpone
/// the end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GracePeriod {
    /// What is left; [`Span::MAX`] until the first time.
    left: Span,
}

impl GracePeriod {
    pub(crate) const UNUSED: Self = Self { left: Span::MAX };

    /// Whether a deadline may be `late`, on a connection of this lifetime.
    pub(crate) fn covers(&mut self, late: Span, lifetime: Span) -> bool {
        let left = if self.left == Span::MAX {
            Some(lifetime.third().min(Span::of(LINGER)))
        } else {
            self.left.checked_sub(late)
        };
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

impl Life {
    /// From now on the handshake's deadline is in force.
    pub(crate) fn new(now: Instant, settings: &Settings) -> Self {
        Self {
            latest: now,
            deadline: Some(now + settings.handshake_timeout()),
            lives: false,
            lifetime: Span::of(settings.lifetime()),
            paused: None,
            allowance: Span::of(settings.lifetime()),
            grace: GracePeriod::UNUSED,
            end: None,
        }
    }

    /// Notes the time. At the deadline, and at any time after it, the connection is over.
    #[inline]
    pub(crate) fn check(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.latest = self.latest.max(now);
        match (self.end, self.deadline) {
            (Some(end), _) => Err(end),
            (None, Some(deadline)) if self.latest >= deadline => Err(self.fail(if self.lives {
                ConnectionError::Expired
            } else {
                ConnectionError::HandshakeTimeout
            })),
            (None, _) => Ok(()),
        }
    }

    /// While this side reads nothing by its own choice its lifetime stands still, for one lifetime
    /// at the most between two signs of life. The handshake's deadline does not.
    pub(crate) fn set_reading(&mut self, reading: bool) {
        let Some(deadline) = self.deadline.filter(|_| self.lives) else {
            return;
        };
        match (reading, self.paused) {
            (false, None) => {
                self.paused = Some(self.latest);
                self.deadline = Some(deadline + self.allowance);
            }
            (true, Some(since)) => {
                self.paused = None;
                self.allowance = self.allowance.saturating_sub(self.latest.span_since(since));
                self.deadline = Some(deadline.before(self.allowance));
            }
            (false, Some(_)) | (true, None) => {}
        }
    }

    /// Nobody has read for a while, and what came by `now` is still to be looked at: a lifetime
    /// that has run out meanwhile lasts until just after `now`. That is taken from the time for
    /// which it may stand still between two signs of life.
    pub(crate) fn handle_late_poll(&mut self, now: Instant) {
        let ran_out = self
            .deadline
            .filter(|deadline| self.lives && self.paused.is_none() && *deadline <= now);
        if let Some(deadline) = ran_out {
            let late = (now + Span::TICK).span_since(deadline);
            if late <= self.allowance && self.grace.covers(late, self.lifetime) {
                self.allowance = self.allowance.saturating_sub(late);
                self.deadline = Some(deadline + late);
            }
        }
    }

    /// The lifetime begins anew at the latest time that was noted.
    #[inline]
    pub(crate) fn restart(&mut self) {
        self.deadline = Some(self.latest + self.lifetime);
        self.allowance = self.lifetime;
        self.grace = GracePeriod::UNUSED;
        // Whoever reads nothing does not because of this; the lifetime stands still anew.
        if self.paused.is_some() {
            self.paused = Some(self.latest);
            self.deadline = Some(self.latest + self.lifetime + self.allowance);
        }
        self.lives = true;
    }

    /// The lifetime stands still until it begins anew.
    pub(crate) fn stand_still(&mut self) {
        self.deadline = None;
    }

    /// Ends the connection, unless it has ended before, and says what ended it.
    #[cold]
    #[inline(never)]
    pub(crate) fn fail(&mut self, end: ConnectionError) -> ConnectionError {
        self.deadline = None;
        *self.end.get_or_insert(end)
    }

    /// Whether this side reads nothing, by its own choice.
    #[cfg(feature = "noise")]
    #[inline]
    pub(crate) const fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// The time that was noted last.
    #[cfg(feature = "noise")]
    #[inline]
    pub(crate) const fn latest(&self) -> Instant {
        self.latest
    }

    #[inline]
    pub(crate) const fn lifetime(&self) -> Span {
        self.lifetime
    }

    /// Both sides have said what they accept.
    #[cfg(feature = "noise")]
    pub(crate) fn set_lifetime(&mut self, lifetime: Span) {
        self.lifetime = lifetime;
    }

    #[inline]
    pub(crate) const fn end(&self) -> Option<ConnectionError> {
        self.end
    }

    pub(crate) const fn deadline(&self) -> Option<Instant> {
        self.deadline
    }
}
