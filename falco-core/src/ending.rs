//! How the stream of a connection that has ended is closed: the last bytes, whether to wait for the
//! peer, and for how long.

use crate::error::{ConnectionError, LINGER_SPAN};
use crate::time::Instant;

/// What to do with the stream of a connection that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "an adapter has to do each of them")]
pub enum LastStep {
    /// Write what `seal` returns until there is no more, then call [`written`](Ending::written).
    Write,
    /// Shut down the sending half, then call [`shut`](Ending::shut).
    ShutDown,
    /// Read and drop until the end of the stream, then call [`input_ended`](Ending::input_ended).
    DropInput,
    /// Shut down the sending half, read and drop the bytes that have arrived, and close the stream,
    /// without waiting.
    DropArrived,
    /// Close the stream.
    Close,
}

/// The end of a stream, step by step. Create it when the connection has ended.
///
/// If a socket is closed with unread bytes, TCP resets the connection, which can destroy the last
/// answers. So the caller first shuts down the sending half, and then reads and drops input for at
/// most one second ([`LINGER`](crate::Settings::LINGER)). The stream is closed at once if the end
/// is not [graceful](ConnectionError::is_graceful).
///
/// An unauthenticated peer gets no time, but its stream is not reset either: a peer that reads an
/// end of the stream, and not a reset, can conclude that nothing was processed. So the caller drops
/// the bytes that have arrived before it closes the stream.
///
/// ```
/// use core::time::Duration;
/// use falco_core::{ConnectionError, Ending, Instant, LastStep};
///
/// let now = Instant::ZERO;
/// let mut ending = Ending::new(ConnectionError::Closed, true, now + Duration::from_secs(60));
/// assert_eq!(ending.step(now), LastStep::Write);
/// ending.written();
/// assert_eq!(ending.step(now), LastStep::ShutDown);
/// ending.shut(now);
/// assert_eq!(ending.step(now), LastStep::DropInput);
/// // The peer has a second to end as well.
/// assert_eq!(ending.poll_timeout(), Some(Instant::from_millis(1_000)));
/// assert_eq!(ending.step(Instant::from_millis(1_000)), LastStep::Close);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    step: LastStep,
    /// When to give up the current step and close the stream.
    until: Instant,
    /// The last step, also if the peer has run out of time.
    last: LastStep,
    input_ended: bool,
}

/// How many milliseconds the stream of a connection that is closed at once has to accept the
/// reason.
#[cfg(feature = "alloc")]
const SOON: u64 = 20;

impl Ending {
    /// For a connection that ended with `end`. The peer has until `until` to accept the last bytes:
    /// see [`write_deadline`](crate::Connection::write_deadline).
    // Not inlined on a device, to save flash.
    #[cfg_attr(target_os = "none", inline(never))]
    #[must_use]
    pub fn new(end: ConnectionError, established: bool, until: Instant) -> Self {
        let (step, last) = match (established, end.is_graceful()) {
            (false, _) => (LastStep::DropArrived, LastStep::DropArrived),
            (true, true) => (LastStep::Write, LastStep::Close),
            (true, false) => (LastStep::Close, LastStep::Close),
        };
        Self {
            step,
            until,
            last,
            input_ended: false,
        }
    }

    /// For a stream that is to be closed at once, at `now`.
    #[cfg(feature = "alloc")]
    pub(crate) const fn at_once(now: Instant) -> Self {
        Self {
            step: LastStep::Close,
            until: now,
            last: LastStep::Close,
            input_ended: false,
        }
    }

    /// For a connection that is closed at `now` and may not stay: the reason is sent if the stream
    /// accepts it soon.
    #[cfg(feature = "alloc")]
    pub(crate) fn soon(now: Instant) -> Self {
        Self {
            step: LastStep::Write,
            until: now.after(SOON),
            last: LastStep::DropArrived,
            input_ended: false,
        }
    }

    /// What to do at `now`.
    #[must_use]
    pub fn step(&self, now: Instant) -> LastStep {
        if now >= self.until { self.last } else { self.step }
    }

    /// When to close the stream at the latest. `None` if it is to be closed now.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (self.step != self.last).then_some(self.until)
    }

    /// The stream has accepted the last bytes.
    pub fn written(&mut self) {
        if self.step == LastStep::Write {
            self.step = if self.last == LastStep::Close {
                LastStep::ShutDown
            } else {
                self.last
            };
        }
    }

    /// The sending half is shut down.
    pub fn shut(&mut self, now: Instant) {
        if self.step == LastStep::ShutDown {
            self.until = now + LINGER_SPAN;
            self.step = if self.input_ended {
                LastStep::Close
            } else {
                LastStep::DropInput
            };
        }
    }

    /// The peer has ended its half of the stream.
    pub fn input_ended(&mut self) {
        self.input_ended = true;
        if self.step == LastStep::DropInput {
            self.step = LastStep::Close;
        }
    }
}
