//! How a connection's stream ends once the connection has: what goes out last, who is waited for,
//! and for how long.

use core::time::Duration;

use crate::error::{ConnectionError, LINGER};
use crate::time::Instant;

/// What is to be done with the stream of a connection that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "a driver has to do each of them")]
pub enum LastStep {
    /// Write what `seal` gives until there is no more, then call [`written`](Ending::written).
    Write,
    /// Shut down the sending half, then call [`shut`](Ending::shut).
    ShutDown,
    /// Read and drop until the end of the stream, then call [`input_ended`](Ending::input_ended).
    DropInput,
    /// Close the stream: nothing more is waited for.
    Close,
}

/// The end of a connection's stream, step by step. It is made when the connection has ended.
///
/// A plain close with bytes unread makes TCP reset the connection, which can destroy the last
/// answers. So the sending half is shut down first, and what still comes is read and dropped, for a
/// second ([`LINGER`]) at the most. Whoever has not proved that it has the key is waited for by
/// nobody, and so is a peer after an end that is not [graceful](ConnectionError::is_graceful).
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
    /// When the step is given up.
    until: Instant,
    input_ended: bool,
}

impl Ending {
    /// How a connection that ended with `end` at `now` leaves its stream. `limit` bounds how long
    /// the peer may take to take what is written last.
    #[must_use]
    pub fn new(end: ConnectionError, established: bool, limit: Duration, now: Instant) -> Self {
        let graceful = established && end.is_graceful();
        Self {
            step: if graceful { LastStep::Write } else { LastStep::Close },
            until: now + limit,
            input_ended: false,
        }
    }

    /// What is to be done at `now`.
    #[must_use]
    pub fn step(&self, now: Instant) -> LastStep {
        if now >= self.until { LastStep::Close } else { self.step }
    }

    /// When the stream is to be closed, whatever is still to be done; none where it is to be closed
    /// already.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        (self.step != LastStep::Close).then_some(self.until)
    }

    /// All that could be sealed has been handed to the stream.
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

    /// The peer sends nothing more.
    pub fn input_ended(&mut self) {
        self.input_ended = true;
        if self.step == LastStep::DropInput {
            self.step = LastStep::Close;
        }
    }
}
