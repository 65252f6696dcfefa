//! The connections of a server: who is let in, who is dropped for whom, and how all of them are told.

use core::time::Duration;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use falco_core::{CloseReason, KeyId};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::control::Control;

/// A connection on which nothing has come for so long after it was accepted may be dropped for a
/// newcomer. A client's hello follows the end of TCP's handshake at once; twice the time after which
/// TCP first repeats what was lost (RFC 6298) is not waited for.
const SILENT: Duration = Duration::from_millis(500);
/// The same for one whose hello has come, and not the proof that the welcome was read: round trips
/// of a second with a second to spare. A server that is too busy to answer sooner drops none: see
/// [`Registry::room`].
const HEARD: Duration = Duration::from_secs(2);

#[derive(Debug, Default)]
struct State {
    connections: HashMap<u64, Arc<Control>>,
    half_open: HalfOpen,
    next: u64,
    /// The server takes no more connections.
    stopping: bool,
    /// Connections that were ended at once, and their requests that had not been answered.
    cut: (u64, u64),
}

#[derive(Debug)]
pub(crate) struct Registry {
    state: Mutex<State>,
    max_connections: usize,
    max_half_open: usize,
    /// Told when the server is to stop, and when a connection has gone.
    changed: Notify,
}

/// Whether a newcomer is let in.
#[derive(Debug)]
pub(crate) enum Admission {
    /// Yes, and perhaps another was dropped for it.
    In { number: u64, dropped: bool },
    /// There are as many as there may be, and none of them can be dropped.
    Full,
    /// The server is stopping.
    Stopping,
}

impl Registry {
    pub(crate) fn new(max_connections: usize, max_half_open: usize) -> Self {
        Self {
            state: Mutex::default(),
            max_connections: max_connections.max(1),
            max_half_open: max_half_open.max(1),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two of its steps, none of which can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in. A guest, which was not accepted here, takes nobody's place.
    pub(crate) fn admit(&self, control: &Arc<Control>, guest: bool) -> Admission {
        let mut state = self.lock();
        if state.stopping {
            return Admission::Stopping;
        }
        let mut dropped = None;
        if !guest && !self.has_room(&state) {
            match state.drop_late(Instant::now()) {
                Some(late) => dropped = Some(late),
                None => return Admission::Full,
            }
        }
        let number = state.next;
        state.next += 1;
        state.connections.insert(number, Arc::clone(control));
        state.half_open.silent.insert(number, Instant::now());
        drop(state);
        let dropped = dropped.map(|late| late.cut()).is_some();
        Admission::In { number, dropped }
    }

    fn has_room(&self, state: &State) -> bool {
        state.connections.len() < self.max_connections && state.half_open.len() < self.max_half_open
    }

    /// Waits until another connection can be accepted: there is a place for it, or one is late in
    /// its handshake and can be dropped for it, or all have finished theirs, so that the newcomer is
    /// to be turned away. Meanwhile newcomers wait in the listener's backlog. Whoever is in the middle
    /// of a handshake is nearer to its end than they are, and is not dropped for them.
    pub(crate) async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            let late_at = {
                let state = self.lock();
                if self.has_room(&state) {
                    return;
                }
                state.half_open.late_at()
            };
            match late_at.filter(|at| *at > Instant::now()) {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, changed).await;
                }
                None => return,
            }
        }
    }

    /// Drops a connection that is late in its handshake; says whether there was one.
    pub(crate) fn drop_late(&self) -> bool {
        let late = self.lock().drop_late(Instant::now());
        late.map(|late| late.cut()).is_some()
    }

    /// The hello of a half-open connection has come, under a key that is known here.
    pub(crate) fn heard(&self, number: u64) {
        let half_open = &mut self.lock().half_open;
        if let Some(since) = half_open.silent.remove(&number) {
            half_open.heard.insert(number, since);
        }
    }

    /// A connection has finished its handshake. `None`: it was dropped for another in that moment. Or else whether the server is stopping.
    pub(crate) fn establish(&self, number: u64) -> Option<bool> {
        let mut state = self.lock();
        let (was_there, stopping) = (state.half_open.remove(number), state.stopping);
        drop(state);
        self.changed.notify_waiters();
        was_there.then_some(stopping)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// A connection has gone; `cut` is how many requests it left unanswered if it was ended at once.
    pub(crate) fn leave(&self, number: u64, cut: Option<usize>) {
        let mut state = self.lock();
        state.half_open.remove(number);
        let was_in = state.connections.remove(&number).is_some();
        // One that was dropped for another in its handshake had left already, and was not cut off.
        if let Some(requests) = cut.filter(|_| was_in) {
            state.cut.0 += 1;
            state.cut.1 += u64::try_from(requests).unwrap_or(u64::MAX);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.connections.len(), state.half_open.len())
    }

    /// Takes no more connections, and closes in good order those that there are.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopping = true;
        let all: Vec<_> = state.connections.values().cloned().collect();
        drop(state);
        for control in all {
            control.close(CloseReason::ShuttingDown);
        }
        self.changed.notify_waiters();
    }

    /// Closes in good order the connections of a key.
    pub(crate) fn retire(&self, key: KeyId) {
        let of_key = |control: &&Arc<Control>| control.key.get() == Some(&key);
        let theirs: Vec<_> = self.lock().connections.values().filter(of_key).cloned().collect();
        for control in theirs {
            control.close(CloseReason::KeyRetired);
        }
    }

    /// Ends all connections at once.
    pub(crate) fn cut(&self) {
        let all: Vec<_> = self.lock().connections.values().cloned().collect();
        for control in all {
            control.cut();
        }
    }

    /// Waits until the server is to stop.
    pub(crate) async fn stopping(&self) {
        self.until(|state| state.stopping).await;
    }

    /// Waits until no connection is left.
    pub(crate) async fn empty(&self) {
        self.until(|state| state.connections.is_empty()).await;
    }

    /// Connections that were ended at once since the server began, and the requests they left unanswered.
    pub(crate) fn cut_counts(&self) -> (u64, u64) {
        self.lock().cut
    }

    async fn until(&self, is_so: impl Fn(&State) -> bool) {
        loop {
            let changed = self.changed.notified();
            if is_so(&self.lock()) {
                return;
            }
            changed.await;
        }
    }
}

impl State {
    /// Takes a connection out that is late in its handshake. Its place is free at once; its task
    /// ends when it is next polled.
    fn drop_late(&mut self, now: Instant) -> Option<Arc<Control>> {
        let late = self.half_open.take_late(now)?;
        self.connections.remove(&late)
    }
}

/// The connections that have not finished their handshake, and since when they are there. Numbers
/// ascend, so the first of each is the oldest.
#[derive(Debug, Default)]
struct HalfOpen {
    /// Nothing has come that decrypts.
    silent: BTreeMap<u64, Instant>,
    /// The hello has come.
    heard: BTreeMap<u64, Instant>,
}

impl HalfOpen {
    fn len(&self) -> usize {
        self.silent.len() + self.heard.len()
    }

    fn remove(&mut self, number: u64) -> bool {
        self.silent
            .remove(&number)
            .or_else(|| self.heard.remove(&number))
            .is_some()
    }

    /// When the first of them is late.
    fn late_at(&self) -> Option<Instant> {
        let first = |ones: &BTreeMap<u64, Instant>, limit| ones.first_key_value().map(|(_, since)| *since + limit);
        [first(&self.silent, SILENT), first(&self.heard, HEARD)]
            .into_iter()
            .flatten()
            .min()
    }

    fn take_late(&mut self, now: Instant) -> Option<u64> {
        [(&mut self.silent, SILENT), (&mut self.heard, HEARD)]
            .into_iter()
            .find_map(|(ones, limit)| {
                let first = ones.first_entry().filter(|first| *first.get() + limit <= now)?;
                Some(first.remove_entry().0)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(registry: &Registry) -> Admission {
        registry.admit(&Arc::new(Control::new(None)), false)
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_is_late_is_dropped_and_the_silent_go_first() {
        let registry = Registry::new(10, 2);
        assert!(matches!(
            admit(&registry),
            Admission::In {
                number: 0,
                dropped: false
            }
        ));
        assert!(matches!(
            admit(&registry),
            Admission::In {
                number: 1,
                dropped: false
            }
        ));
        registry.heard(0);
        assert!(matches!(admit(&registry), Admission::Full), "neither is late");
        assert!(!registry.drop_late());
        let began = Instant::now();
        registry.room().await;
        assert_eq!(began.elapsed(), SILENT, "until the silent one is late");
        assert!(matches!(
            admit(&registry),
            Admission::In {
                number: 2,
                dropped: true
            }
        ));
        assert_eq!(registry.counts(), (2, 2));
        assert_eq!(registry.establish(1), None, "it was the silent one");
        // The one that was heard is late after two seconds, the new one half a second after it came.
        registry.heard(2);
        let began = Instant::now();
        registry.room().await;
        assert_eq!(began.elapsed() + SILENT, HEARD);
        assert!(registry.drop_late());
        assert!(!registry.drop_late());
        assert_eq!(registry.establish(2), Some(false));
        assert_eq!(registry.counts(), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_unless_all_have_finished_their_handshake() {
        let registry = Arc::new(Registry::new(2, 2));
        for _ in 0..2 {
            assert!(matches!(admit(&registry), Admission::In { dropped: false, .. }));
        }
        registry.establish(0);
        let own = Arc::clone(&registry);
        let waiting = tokio::spawn(async move { own.room().await });
        tokio::time::sleep(SILENT / 2).await;
        assert!(!waiting.is_finished());
        registry.leave(1, None);
        waiting.await.unwrap_or_default();
        assert!(matches!(
            admit(&registry),
            Admission::In {
                number: 2,
                dropped: false
            }
        ));
        registry.establish(2);
        registry.room().await;
        assert!(matches!(admit(&registry), Admission::Full), "it is turned away");
    }
}
