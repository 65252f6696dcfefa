//! The connections that have not finished their handshake, and which of them may be asked to make
//! room.

use core::time::Duration;
use std::collections::{BTreeSet, HashMap};

use tokio::time::Instant;

/// A connection that has been waited on for so long for its hello is late. A client sends it right
/// behind the last packet of TCP's handshake, whatever the round-trip time. It counts only where
/// others wait for the place, and a client that is refused once it has been let in tries again.
pub(super) const SILENT: Duration = Duration::from_millis(100);
/// The same for the proof that the welcome was read, which takes a round trip more.
pub(super) const HEARD: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct HalfOpen {
    all: HashMap<u64, Stage>,
    /// When those that are waited on are late.
    due: BTreeSet<(Instant, u64)>,
    /// Those that were asked to make room, and have neither left nor stayed.
    asked: usize,
}

#[derive(Debug, Default)]
struct Stage {
    /// Its hello has come, under a key that is known here.
    heard: bool,
    /// When it is late, once more of it is waited for at this stage.
    late_at: Option<Instant>,
    /// It has been asked to make room.
    asked: bool,
}

impl HalfOpen {
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// How many have been asked to make room, and have neither left nor stayed.
    pub(super) const fn asked(&self) -> usize {
        self.asked
    }

    pub(super) fn is_asked(&self, number: u64) -> bool {
        self.all.get(&number).is_some_and(|stage| stage.asked)
    }

    pub(super) fn insert(&mut self, number: u64) {
        self.all.insert(number, Stage::default());
    }

    /// Says whether it was there.
    pub(super) fn remove(&mut self, number: u64) -> bool {
        let stage = self.all.remove(&number);
        if let Some(stage) = &stage {
            self.asked -= usize::from(stage.asked);
            if let Some(at) = stage.late_at {
                self.due.remove(&(at, number));
            }
        }
        stage.is_some()
    }

    /// The hello of a connection has come. Says whether that one had been asked to make room.
    pub(super) fn hear(&mut self, number: u64) -> bool {
        let asked = self.is_asked(number);
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
        asked
    }

    /// Everything that has come from a connection has been looked at, and more is waited for. Its
    /// time counts from the first such moment of a stage, so that bytes that come one by one gain
    /// nothing. Says whether it is the first of all to be late.
    pub(super) fn wait(&mut self, number: u64, now: Instant) -> bool {
        if let Some(stage) = self.all.get_mut(&number).filter(|stage| stage.late_at.is_none()) {
            let late_at = now + if stage.heard { HEARD } else { SILENT };
            stage.late_at = Some(late_at);
            if !stage.asked {
                self.due.insert((late_at, number));
            }
            return self.due.first() == Some(&(late_at, number));
        }
        false
    }

    /// When the first of them is late.
    pub(super) fn late_at(&self) -> Option<Instant> {
        self.due.first().map(|(at, _)| *at)
    }

    /// One that is late, to be asked to make room: one at a time, and none twice, unless it has
    /// [stayed](Self::stay).
    pub(super) fn take_late(&mut self, now: Instant) -> Option<u64> {
        if self.asked > 0 {
            return None;
        }
        let (_, number) = self.due.first().filter(|(at, _)| *at <= now).copied()?;
        self.due.pop_first();
        if let Some(stage) = self.all.get_mut(&number) {
            stage.asked = true;
            self.asked += 1;
        }
        Some(number)
    }

    /// One that was asked has had something to say after all: its time begins anew.
    pub(super) fn stay(&mut self, number: u64) {
        if let Some(stage) = self.all.get_mut(&number) {
            self.asked -= usize::from(core::mem::take(&mut stage.asked));
            if let Some(at) = stage.late_at.take() {
                self.due.remove(&(at, number));
            }
        }
    }
}
