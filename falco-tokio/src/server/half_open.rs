//! The connections that have not finished their handshake, and which of them may be asked to make room.

use core::time::Duration;
use std::collections::{BTreeSet, HashMap};

use tokio::time::Instant;

/// A connection that has been waited on for so long for its hello is late. A client sends it right
/// behind the last packet of TCP's handshake, whatever the round-trip time; the rest is for a packet
/// that is lost, and for a process that makes thousands of connections at once.
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
    /// Since when more of it is waited for, at this stage.
    late_at: Option<Instant>,
    /// It has been asked to make room.
    asked: bool,
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
            let heard = true;
            self.all.insert(
                number,
                Stage {
                    heard,
                    ..Stage::default()
                },
            );
        }
    }

    /// Everything that has come from a connection has been looked at, and more is waited for. Its time
    /// counts from the first such moment of a stage, so that bytes that come one by one gain nothing.
    pub(super) fn wait(&mut self, number: u64, now: Instant) {
        if let Some(stage) = self.all.get_mut(&number).filter(|stage| stage.late_at.is_none()) {
            let late_at = now + if stage.heard { HEARD } else { SILENT };
            stage.late_at = Some(late_at);
            if !stage.asked {
                self.due.insert((late_at, number));
            }
        }
    }

    /// When the first of them is late.
    pub(super) fn late_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// One that is late, to be asked to make room. It is not asked twice, unless it has
    /// [stayed](Self::stay).
    pub(super) fn take_late(&mut self, now: Instant) -> Option<u64> {
        let (_, number) = self.due.first().filter(|(at, _)| *at <= now).copied()?;
        self.due.pop_first();
        if let Some(stage) = self.all.get_mut(&number) {
            stage.asked = true;
        }
        Some(number)
    }

    /// One that was asked has had something to say after all: its time begins anew.
    pub(super) fn stay(&mut self, number: u64) {
        if let Some(stage) = self.all.get_mut(&number) {
            stage.asked = false;
            stage.late_at = None;
        }
    }
}
