//! How the stream of a connection that has ended is closed: the last bytes, whether to wait for the
//! peer, and for how long.

use core::time::Duration;

use crate::error::{ConnectionError, LINGER};
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
    /// Close the stream.
    Close,
}

/// The end of a stream, step by step. Create it when the connection has ended.
///
/// If a socket is closed with unread bytes, TCP resets the connection, which can destroy the last
/// answers. So the caller first shuts down the sending half, and then reads and drops input for at
/// most one second ([`LINGER`]). The stream is closed at once if the peer is unauthenticated or the
/// end is not [graceful](ConnectionError::is_graceful).
///
/// ```
/// use core::time::Duration;
/// use falco_core::mux::{Ending, LastStep};
/// use falco_core::{ConnectionError, Instant};
///
/// let (limit, now) = (Duration::from_secs(60), Instant::ZERO);
/// let mut ending = Ending::new(ConnectionError::Closed, true, limit, now);
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
    input_ended: bool,
}

impl Ending {
    /// For a connection that ended with `end` at `now`. `limit` is how long the peer may take to
    /// accept the last bytes.
    #[must_use]
    pub fn new(end: ConnectionError, established: bool, limit: Duration, now: Instant) -> Self {
        let graceful = established && end.is_graceful();
        Self {
            step: if graceful { LastStep::Write } else { LastStep::Close },
            until: now + limit,
            input_ended: false,
        }
    }

    /// For a stream that is to be closed at once, at `now`.
    pub(super) const fn at_once(now: Instant) -> Self {
        Self {
            step: LastStep::Close,
            until: now,
            input_ended: false,
        }
    }

    /// What to do at `now`.
    #[must_use]
    pub fn step(&self, now: Instant) -> LastStep {
        if now >= self.until { LastStep::Close } else { self.step }
    }

    /// When to close the stream at the latest. `None` if it is to be closed now.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (self.step != LastStep::Close).then_some(self.until)
    }

    /// The stream has accepted the last bytes.
    pub fn written(&mut self) {
        if self.step == LastStep::Write {
            self.step = LastStep::ShutDown;
        }
    }

    /// The sending half is shut down.
    pub fn shut(&mut self, now: Instant) {
        if self.step == LastStep::ShutDown {
            self.until = now + LINGER;
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
