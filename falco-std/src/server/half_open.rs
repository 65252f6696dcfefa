//! The connections that have not completed their handshake, and which of them are late and may be
//! dropped to make room.

use core::time::Duration;
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// A connection is late when the server has waited this long for its hello. A client sends the
/// hello right after the last packet of TCP's handshake, whatever the round-trip time. The rest is
/// for a lost packet, and for a process that makes thousands of connections at once.
pub(super) const HELLO_DUE: Duration = Duration::from_millis(500);
/// The same for the proof that the client could read the welcome. It takes one more round trip.
pub(super) const PROOF_DUE: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    all: HashMap<u64, Stage>,
    /// When each connection that the server waits for is late.
    due: BTreeSet<(Instant, u64)>,
}

#[derive(Debug, Default)]
struct Stage {
    /// A hello has come under a key of this server.
    has_hello: bool,
    /// When the connection is late, if the server waits for it.
    late_at: Option<Instant>,
}

impl HalfOpen {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn insert(&mut self, number: u64) {
        self.all.insert(number, Stage::default());
    }

    /// Returns whether it was there.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        let stage = self.all.remove(&number);
        if let Some(at) = stage.as_ref().and_then(|stage| stage.late_at) {
            self.due.remove(&(at, number));
        }
        stage.is_some()
    }

    /// The hello of a connection has come.
    pub(super) fn set_hello(&mut self, number: u64) {
        if self.remove(number) {
            let stage = Stage {
                has_hello: true,
                late_at: None,
            };
            self.all.insert(number, stage);
        }
    }

    /// The server has received everything that has come on a connection, and waits for more. The
    /// time counts from the first such moment of a stage. So no connection is late because the
    /// server was too busy to read, and bytes that come one by one gain no time.
    pub(super) fn wait(&mut self, number: u64, now: Instant) {
        if let Some(stage) = self.all.get_mut(&number).filter(|stage| stage.late_at.is_none()) {
            let late_at = now + if stage.has_hello { PROOF_DUE } else { HELLO_DUE };
            stage.late_at = Some(late_at);
            self.due.insert((late_at, number));
        }
    }

    /// When the first connection is late.
    pub(super) fn late_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The connection that has been late for longest.
    pub(super) fn late(&self, now: Instant) -> Option<u64> {
        let (_, number) = self.due.first().filter(|(at, _)| *at <= now)?;
        Some(*number)
    }

    /// More has come on a late connection: its time starts again when the server has received that.
    pub(super) fn extend(&mut self, number: u64) {
        if let Some(stage) = self.all.get_mut(&number)
            && let Some(at) = stage.late_at.take()
        {
            self.due.remove(&(at, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_connections_that_the_server_waits_for_are_late() {
        let (mut half_open, start) = (HalfOpen::default(), Instant::now());
        let step = Duration::from_millis(1);
        let before = |limit: Duration| start + limit.saturating_sub(step);
        for number in 0..4 {
            half_open.insert(number);
        }
        assert_eq!(half_open.late(start + 10 * PROOF_DUE), None, "the server has not read");
        half_open.wait(2, start);
        half_open.wait(1, start + step);
        // Bytes that come one by one gain no time.
        half_open.wait(2, start + HELLO_DUE / 2);
        assert_eq!(half_open.late_at(), Some(start + HELLO_DUE));
        assert_eq!(half_open.late(before(HELLO_DUE)), None);
        assert_eq!(half_open.late(start + HELLO_DUE), Some(2));
        // A hello gains the time of the next stage, and unread input starts the time again.
        half_open.set_hello(2);
        assert_eq!(half_open.late(start + HELLO_DUE), None);
        assert_eq!(half_open.late(start + HELLO_DUE + step), Some(1));
        half_open.extend(1);
        assert_eq!(half_open.late(start + 10 * PROOF_DUE), None);
        half_open.wait(2, start);
        half_open.wait(1, start + PROOF_DUE);
        assert_eq!(half_open.late(before(PROOF_DUE)), None);
        assert_eq!(half_open.late(start + PROOF_DUE), Some(2));
        assert!(half_open.remove(2) && !half_open.remove(2));
        assert_eq!(half_open.late(start + PROOF_DUE + HELLO_DUE), Some(1));
        half_open.set_hello(9);
        assert_eq!(half_open.len(), 3);
    }
}
