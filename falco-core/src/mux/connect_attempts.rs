//! The attempts of a client to connect: when the next attempt begins, which failed attempts fail
//! the requests that wait, and with which error.

use core::sync::atomic::{AtomicBool, Ordering};

use super::retry::Backoff;
use crate::error::ConnectionError;
use crate::time::{Instant, Span};

/// A connection that ends sooner than this after its handshake counts as a failed attempt, unless
/// it has served a request.
const SHORT_LIVED: Span = Span::from_millis_const(1_000);

/// Whether a client was admitted under its key: it has completed a handshake, and no server has
/// reported since that the key is retired. A client has one of these for each key, which its
/// connections share.
#[derive(Debug, Default)]
pub struct Admitted(AtomicBool);

impl Admitted {
    /// How many attempts in a row may be refused before the requests of a client that was never
    /// admitted fail. A server drops half-open connections while it is flooded, which looks the
    /// same to the client as a wrong key.
    pub const MAX_REFUSED: u32 = 5;

    /// For a key under which no handshake has completed yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Reports that a handshake under this key has completed. [`ConnectAttempts::established`]
    /// calls it too.
    pub fn admit(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What a connection has learned about its server, for later attempts:
/// [`ClientMux::history`](super::ClientMux::history).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct History {
    /// The server has answered a request, or refused one for another reason than
    /// [`NotProcessed`](crate::Refusal::NotProcessed).
    pub served: bool,
    /// The server has closed the connection because its key is retired.
    pub key_retired: bool,
    /// One side has closed the connection, which then accepts no new requests.
    pub drained: bool,
    /// What ended the connection. `None` if it has not ended, or if its stream has failed.
    pub end: Option<ConnectionError>,
}

/// How an attempt to connect ended before its handshake completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "an adapter has to name one of them")]
pub enum AttemptEnd {
    /// The connection ended.
    Connection(ConnectionError),
    /// The stream could not be opened, or it failed.
    Stream,
    /// Something failed that will fail at the next attempt as well: an invalid address, keys that
    /// do not fit together, or a system without random numbers.
    Unusable,
}

#[cfg(feature = "std")]
impl AttemptEnd {
    /// An attempt that ended with an error of the stream or of the system. Only an invalid address,
    /// such as a name without a port or a path that is too long, fails again.
    #[must_use]
    pub fn of_io(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::InvalidInput {
            Self::Unusable
        } else {
            Self::Stream
        }
    }
}

/// What a client without a connection does for the requests that wait for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "an adapter has to do each of them")]
pub enum NextAttempt {
    /// It makes an attempt now.
    Now,
    /// It makes an attempt at this time.
    At(Instant),
    /// It fails the requests with [`ConnectAttempts::why`], as not processed: with *fail fast* they
    /// do not wait during the pause after a failed attempt. The next attempt begins at this time,
    /// if one is [wanted](ConnectAttempts::is_wanted) then.
    FailUntil(Instant),
    /// It fails the requests with [`ConnectAttempts::why`], as not processed, because no other
    /// stream can be opened.
    Never,
    /// It fails the requests as closed and not processed, even if an attempt is in progress.
    Closed,
}

/// The attempts for one connection of a client, and the errors of those that failed. `E` is the
/// error type of the adapter, which follows these rules and keeps no counters of its own.
///
/// The rules:
///
/// - After a failed attempt there is a random pause, whose bound grows with each failure in a row
///   ([`Backoff`]).
/// - A connection that ends within a second of its handshake counts as a failed attempt, unless it
///   has served a request. Any other connection resets the number of failures in a row.
/// - Requests wait through failed attempts, each within its own time limit. A failed attempt fails
///   them only if the next attempt cannot be expected to succeed. That is so if the reason does not
///   change ([`AttemptEnd::Unusable`], a key at its seal limit, no [other stream](Self::spend)). It
///   is also so if the handshake was refused five times in a row and the client was never
///   [admitted](Admitted). With *fail fast* every failed attempt fails them, and those that come
///   during the pause after it fail at once.
/// - A request whose time limit passes while it waits fails as not processed, with the reason why
///   there is no connection ([`why`](Self::why)). If no reason is known, it fails with the time
///   limit. If an attempt failed while nothing waited, its error is forgotten when the pause after
///   it is over.
/// - A client without a connection makes attempts while something waits for one. With *fail fast*,
///   or if it has other connections, it also makes them [although nothing
///   waits](ConnectAttempts::is_wanted).
/// - A client that is closed makes no attempt, and discards one that is in progress. Requests and
///   pings that wait for a connection fail as closed and not processed.
///
/// A refused handshake does not prove that the key is wrong: a proxy whose server restarts and a
/// server that is full or flooded end the connection in the same way. If the client was admitted
/// before, such a temporary cause is more likely than a wrong key.
///
/// ```
/// use core::time::Duration;
/// use falco_core::mux::{Admitted, AttemptEnd, Backoff, ConnectAttempts, NextAttempt};
/// use falco_core::{ConnectionError, Instant};
///
/// // A random number below the one given; here always the largest.
/// let largest = |bound: u64| bound - 1;
/// let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
/// let (mut attempts, admitted) = (ConnectAttempts::new(backoff, false), Admitted::new());
/// let now = Instant::ZERO;
/// attempts.set_waiting(now, true);
/// assert_eq!(attempts.next(now), NextAttempt::Now);
/// let refused = AttemptEnd::Connection(ConnectionError::Refused);
/// assert!(attempts.attempt_failed(refused, "no connection", &admitted, now, largest));
/// assert_eq!(attempts.next(now), NextAttempt::At(Instant::from_millis(50)));
/// assert_eq!(attempts.why(), Some(&"no connection"));
/// ```
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "the flags are independent of each other")]
pub struct ConnectAttempts<E> {
    backoff: Backoff,
    fail_fast: bool,
    /// The client has other connections.
    one_of_several: bool,
    /// How many attempts have failed in a row.
    failed: u32,
    /// How many of the last attempts, in a row, ended with a refused handshake.
    refused: u32,
    /// Whether the last attempt failed for a reason that does not change.
    hopeless: bool,
    /// The time before which no attempt begins.
    retry_at: Option<Instant>,
    /// When the last handshake was completed.
    established: Option<Instant>,
    why: Option<E>,
    waiting: bool,
    spent: bool,
    closed: bool,
}

impl<E> ConnectAttempts<E> {
    /// A client that has made no attempt. With `fail_fast` each failed attempt fails the requests
    /// that wait.
    #[must_use]
    pub const fn new(backoff: Backoff, fail_fast: bool) -> Self {
        Self {
            backoff,
            fail_fast,
            one_of_several: false,
            failed: 0,
            refused: 0,
            hopeless: false,
            retry_at: None,
            established: None,
            why: None,
            waiting: false,
            spent: false,
            closed: false,
        }
    }

    /// Says whether the client has several connections, of which these attempts are for one.
    #[must_use]
    pub const fn one_of_several(mut self, several: bool) -> Self {
        self.one_of_several = several;
        self
    }

    /// Reports whether something waits for a connection. Repeated calls change nothing.
    pub fn set_waiting(&mut self, now: Instant, waiting: bool) {
        let begins = !core::mem::replace(&mut self.waiting, waiting) && waiting;
        let pausing = self.retry_at.is_some_and(|at| now < at);
        if begins && !pausing && !self.spent {
            self.why = None;
        }
    }

    /// Reports that no other stream can be opened: there was only one, which is in use or has
    /// ended.
    pub const fn spend(&mut self) {
        self.spent = true;
    }

    /// What to do at `now` for the requests that wait.
    #[must_use]
    pub fn next(&self, now: Instant) -> NextAttempt {
        match self.retry_at {
            _ if self.closed => NextAttempt::Closed,
            _ if self.spent && self.why.is_some() => NextAttempt::Never,
            Some(at) if now < at && self.fail_fast && self.why.is_some() => NextAttempt::FailUntil(at),
            Some(at) if now < at => NextAttempt::At(at),
            Some(_) | None => NextAttempt::Now,
        }
    }

    /// Reports that an attempt has failed with `why`. Returns whether requests continue to wait. If
    /// not, those that wait fail with this error, as not processed. `below` returns a random number
    /// that is less than its argument.
    #[must_use]
    pub fn attempt_failed(
        &mut self,
        end: AttemptEnd,
        why: E,
        admitted: &Admitted,
        now: Instant,
        below: impl FnOnce(u64) -> u64,
    ) -> bool {
        let refused = end == AttemptEnd::Connection(ConnectionError::Refused);
        self.refused = if refused { self.refused.saturating_add(1) } else { 0 };
        self.hopeless = match end {
            _ if self.spent => true,
            // No connection can be made under this key any more.
            AttemptEnd::Unusable | AttemptEnd::Connection(ConnectionError::KeyExhausted) => true,
            AttemptEnd::Connection(ConnectionError::Refused) => {
                self.refused >= Admitted::MAX_REFUSED && !admitted.0.load(Ordering::Relaxed)
            }
            AttemptEnd::Connection(_) | AttemptEnd::Stream => false,
        };
        self.why = Some(why);
        self.pause(now, below);
        !self.hopeless && !self.fail_fast
    }

    /// Reports that a handshake has completed.
    pub fn established(&mut self, admitted: &Admitted, now: Instant) {
        admitted.admit();
        self.established = Some(now);
        self.waiting = false;
        self.hopeless = false;
        self.retry_at = None;
        self.why = None;
    }

    /// Reports that the established connection accepts no new requests. Call it once for each
    /// connection.
    ///
    /// Requests fail with `why` if there is no [other stream](Self::spend), or if their time limit
    /// passes during the pause that follows.
    pub fn lost(
        &mut self,
        history: History,
        why: Option<E>,
        admitted: &Admitted,
        now: Instant,
        below: impl FnOnce(u64) -> u64,
    ) {
        if history.key_retired {
            // A refusal from now on means that the key is no longer accepted.
            admitted.0.store(false, Ordering::Relaxed);
        }
        self.why = why;
        let lived = self.established.take().map(|since| now.span_since(since));
        if history.served || lived.is_some_and(|lived| lived >= SHORT_LIVED) {
            self.failed = 0;
            self.refused = 0;
        } else {
            // A server that only completes handshakes and then ends the connection gets a pause
            // between attempts. A server that has answered requests needs none, because each
            // attempt follows a served request.
            self.refused = 0;
            self.pause(now, below);
        }
    }

    fn pause(&mut self, now: Instant, below: impl FnOnce(u64) -> u64) {
        self.failed = self.failed.saturating_add(1);
        self.retry_at = Some(now + self.backoff.pause(self.failed, below));
    }

    /// Reports that the client has another key. What is known from attempts with the earlier key no
    /// longer applies.
    pub fn key_changed(&mut self) {
        self.failed = 0;
        self.refused = 0;
        self.hopeless = false;
        self.retry_at = None;
        self.why = None;
    }

    /// Reports that the client is closed.
    pub const fn close(&mut self) {
        self.closed = true;
    }

    /// Whether the client is closed.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Why there is no connection.
    #[must_use]
    pub const fn why(&self) -> Option<&E> {
        self.why.as_ref()
    }

    /// How many attempts have failed in a row.
    #[must_use]
    pub const fn failed(&self) -> u32 {
        self.failed
    }

    /// Whether a client without a connection makes an attempt, now or after the pause. It does if a
    /// request waits for a connection. It also does if the last attempt has failed and requests do
    /// not wait: with *fail fast* they fail, and with other connections they are sent there.
    #[must_use]
    pub const fn is_wanted(&self) -> bool {
        self.waiting || ((self.fail_fast || self.one_of_several) && self.is_worth_repeating())
    }

    /// Whether the last attempt has failed, for a reason that may change.
    #[must_use]
    pub const fn is_worth_repeating(&self) -> bool {
        self.failed > 0 && !self.hopeless
    }

    /// The time before which no attempt begins.
    #[must_use]
    pub const fn retry_at(&self) -> Option<Instant> {
        self.retry_at
    }
}
