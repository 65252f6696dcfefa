//! The connections that have not finished their handshake, and which of them may be dropped to make
//! room.

use core::time::Duration;
use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

/// A connection that has been waited on for so long for its hello is late. A client sends it right
/// behind the last packet of TCP's handshake, whatever the round-trip time; the rest is for a
/// packet that is lost, and for a process that makes thousands of connections at once.
pub(super) const SILENT: Duration = Duration::from_millis(500);
/// The same for the proof that the welcome was read, which takes a round trip more.
pub(super) const HEARD: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    all: HashMap<u64, Stage>,
    /// When those that are waited on are late.
    due: BTreeSet<(Instant, u64)>,
}

#[derive(Debug, Default)]
struct Stage {
    /// Its hello has come, under a key that is known here.
    heard: bool,
    /// When it is late at this stage, if more of it is waited for.
    late_at: Option<Instant>,
}

impl HalfOpen {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn insert(&mut self, number: u64) {
        self.all.insert(number, Stage::default());
    }

    /// Says whether it was there.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        let stage = self.all.remove(&number);
        if let Some(at) = stage.as_ref().and_then(|stage| stage.late_at) {
            self.due.remove(&(at, number));
        }
        stage.is_some()
    }

    /// The hello of a connection has come.
    pub(super) fn hear(&mut self, number: u64) {
        if self.remove(number) {
            let stage = Stage {
                heard: true,
                late_at: None,
            };
            self.all.insert(number, stage);
        }
    }

    /// Everything that has come from a connection has been looked at, and more is waited for. Its
    /// time counts from the first such moment of a stage: a server that is too busy to look finds
    /// nobody late, and bytes that come one by one gain nothing.
    pub(super) fn wait(&mut self, number: u64, now: Instant) {
        if let Some(stage) = self.all.get_mut(&number).filter(|stage| stage.late_at.is_none()) {
            let late_at = now + if stage.heard { HEARD } else { SILENT };
            stage.late_at = Some(late_at);
            self.due.insert((late_at, number));
        }
    }

    /// When the first of them is late.
    pub(super) fn late_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// The one that has been late for longest.
    pub(super) fn late(&self, now: Instant) -> Option<u64> {
        let (_, number) = self.due.first().filter(|(at, _)| *at <= now)?;
        Some(*number)
    }

    /// More of one that is late has come after all: its time begins anew once it was looked at.
    pub(super) fn stay(&mut self, number: u64) {
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
    fn only_who_is_waited_on_is_ever_late() {
        let (mut half_open, start) = (HalfOpen::default(), Instant::now());
        let step = Duration::from_millis(1);
        let before = |limit: Duration| start + limit.saturating_sub(step);
        for number in 0..4 {
            half_open.insert(number);
        }
        assert_eq!(half_open.late(start + 10 * HEARD), None, "nobody has looked at them");
        half_open.wait(2, start);
        half_open.wait(1, start + step);
        // Bytes that come one by one gain nothing.
        half_open.wait(2, start + SILENT / 2);
        assert_eq!(half_open.late_at(), Some(start + SILENT));
        assert_eq!(half_open.late(before(SILENT)), None);
        assert_eq!(half_open.late(start + SILENT), Some(2));
        // A hello gains a stage, and something that was not looked at another turn.
        half_open.hear(2);
        assert_eq!(half_open.late(start + SILENT), None);
        assert_eq!(half_open.late(start + SILENT + step), Some(1));
        half_open.stay(1);
        assert_eq!(half_open.late(start + 10 * HEARD), None);
        half_open.wait(2, start);
        half_open.wait(1, start + HEARD);
        assert_eq!(half_open.late(before(HEARD)), None);
        assert_eq!(half_open.late(start + HEARD), Some(2));
        assert!(half_open.remove(2) && !half_open.remove(2));
        assert_eq!(half_open.late(start + HEARD + SILENT), Some(1));
        half_open.hear(9);
        assert_eq!(half_open.len(), 3);
    }
}
