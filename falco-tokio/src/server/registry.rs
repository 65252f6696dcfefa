//! The connections of a server: who is let in, who is dropped for whom, and how all of them are
//! told.

use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use falco_core::{CloseReason, KeyId};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::control::Control;
use super::half_open::HalfOpen;

#[derive(Debug, Default)]
struct State {
    connections: HashMap<u64, Arc<Control>>,
    half_open: HalfOpen,
    /// Connections that were not accepted here, and take no place.
    guests: usize,
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
    /// Yes.
    In { number: u64 },
    /// There are as many as there may be.
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
        if !guest && !self.has_room(&state) {
            return Admission::Full;
        }
        let number = state.next;
        state.next += 1;
        state.guests += usize::from(guest);
        state.connections.insert(number, Arc::clone(control));
        if !guest {
            state.half_open.insert(number);
        }
        Admission::In { number }
    }

    fn has_room(&self, state: &State) -> bool {
        state.connections.len() - state.guests < self.max_connections && state.half_open.len() < self.max_half_open
    }

    /// Waits until another connection can be accepted: there is a place for it, or all that there
    /// are have finished their handshake, so that it is to be turned away. Meanwhile newcomers wait
    /// in the listener's backlog. Nobody is dropped in the middle of a handshake for them: only who
    /// is late is asked to make room.
    pub(crate) async fn room(&self) {
        loop {
            let changed = self.changed.notified();
            let late_at = {
                let mut state = self.lock();
                if self.has_room(&state) || state.half_open.len() == 0 {
                    return;
                }
                let asked = state.ask_late(Instant::now());
                // Whoever was asked leaves, or stays, and that is told.
                let late_at = state.half_open.late_at().filter(|_| state.half_open.asked() == 0);
                drop(state);
                if let Some(control) = asked {
                    control.make_room();
                }
                late_at
            };
            match late_at {
                Some(at) => _ = tokio::time::timeout_at(at, changed).await,
                None => changed.await,
            }
        }
    }

    /// The system is short of something: asks a connection that is late in its handshake to make
    /// room, and waits until one has gone or is late, for `pause` at most.
    pub(crate) async fn relief(&self, pause: Duration) {
        let changed = self.changed.notified();
        let (asked, late_at) = {
            let mut state = self.lock();
            (state.ask_late(Instant::now()), state.half_open.late_at())
        };
        if let Some(control) = &asked {
            control.make_room();
        }
        let until = Instant::now() + pause;
        let late_at = late_at.filter(|_| asked.is_none());
        let _ = tokio::time::timeout_at(late_at.map_or(until, |at| at.min(until)), changed).await;
    }

    /// The hello of a half-open connection has come, under a key that is known here.
    pub(crate) fn hear(&self, number: u64) {
        // Another may be asked in its place.
        if self.lock().half_open.hear(number) {
            self.changed.notify_waiters();
        }
    }

    /// A half-open connection waits for its client.
    pub(crate) fn wait(&self, number: u64) {
        if self.lock().half_open.wait(number, Instant::now()) {
            self.changed.notify_waiters();
        }
    }

    /// A half-open connection was asked to make room, and has had something to say after all.
    pub(crate) fn stay(&self, number: u64) {
        self.lock().half_open.stay(number);
        self.changed.notify_waiters();
    }

    /// Whether a half-open connection is to make room, and has said nothing since it was asked.
    pub(crate) fn is_asked(&self, number: u64) -> bool {
        self.lock().half_open.is_asked(number)
    }

    /// A connection has finished its handshake. Says whether the server is stopping.
    pub(crate) fn establish(&self, number: u64) -> bool {
        let mut state = self.lock();
        state.half_open.remove(number);
        let stopping = state.stopping;
        drop(state);
        self.changed.notify_waiters();
        stopping
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// A connection has gone; `cut` is how many requests it left unanswered if it was ended at
    /// once.
    pub(crate) fn leave(&self, number: u64, guest: bool, cut: Option<usize>) {
        let mut state = self.lock();
        state.half_open.remove(number);
        state.connections.remove(&number);
        state.guests -= usize::from(guest);
        if let Some(requests) = cut {
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

    /// Connections that were ended at once since the server began, and the requests they left
    /// unanswered.
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
    fn ask_late(&mut self, now: Instant) -> Option<Arc<Control>> {
        let late = self.half_open.take_late(now)?;
        self.connections.get(&late).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::super::half_open::{HEARD, SILENT};
    use super::*;

    fn admit(registry: &Registry) -> Arc<Control> {
        let control = Arc::new(Control::new(None));
        assert!(matches!(registry.admit(&control, false), Admission::In { .. }));
        control
    }

    /// How long it takes until there is room, if whoever is asked leaves, and who that is.
    async fn room(registry: &Registry, controls: &[(u64, &Control)]) -> (Duration, Option<u64>) {
        let began = Instant::now();
        let room = registry.room();
        let mut room = core::pin::pin!(room);
        loop {
            if tokio::time::timeout(Duration::from_millis(1), &mut room).await.is_ok() {
                return (began.elapsed(), None);
            }
            if let Some((number, _)) = controls.iter().find(|(_, control)| control.asked_for_room()) {
                return (began.elapsed(), Some(*number));
            }
        }
    }

    fn nearly(time: Duration, expected: Duration) -> bool {
        time >= expected && time <= expected + Duration::from_millis(3)
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_is_late_is_asked_to_make_room_and_once() {
        let registry = Registry::new(10, 2);
        let (zero, one) = (admit(&registry), admit(&registry));
        let both = [(0, &*zero), (1, &*one)];
        assert!(matches!(registry.admit(&zero, false), Admission::Full));
        // Nobody waits for them: it is this side that has not looked yet.
        tokio::time::sleep(HEARD * 2).await;
        registry.relief(SILENT).await;
        assert!(!zero.asked_for_room() && !one.asked_for_room());
        registry.hear(0);
        registry.wait(0);
        registry.wait(1);
        tokio::time::sleep(SILENT / 2).await;
        registry.wait(1);
        let (time, asked) = room(&registry, &both).await;
        assert!(asked == Some(1) && nearly(time, SILENT / 2), "{asked:?} after {time:?}");
        // It has something to say after all, and then nothing more for a while.
        registry.stay(1);
        registry.wait(1);
        let (time, asked) = room(&registry, &both).await;
        assert!(asked == Some(1) && nearly(time, SILENT), "{asked:?} after {time:?}");
        // Nobody else is, until it has left.
        tokio::time::sleep(HEARD * 2).await;
        registry.relief(SILENT).await;
        assert!(!zero.asked_for_room());
        registry.leave(1, false, None);
        assert_eq!(room(&registry, &both).await.1, None);
        assert_eq!(registry.counts(), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn another_is_asked_when_one_that_was_asked_says_hello() {
        let registry = Registry::new(10, 2);
        let (zero, one) = (admit(&registry), admit(&registry));
        registry.wait(0);
        registry.wait(1);
        let room = registry.room();
        let mut room = core::pin::pin!(room);
        let look = Duration::from_millis(150);
        assert!(tokio::time::timeout(look, &mut room).await.is_err());
        assert!(zero.asked_for_room() && !one.asked_for_room());
        registry.hear(0);
        registry.wait(0);
        assert!(tokio::time::timeout(look, &mut room).await.is_err());
        assert!(one.asked_for_room());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_unless_all_have_finished_their_handshake() {
        let registry = Arc::new(Registry::new(2, 2));
        let guest = Arc::new(Control::new(None));
        assert!(matches!(registry.admit(&guest, true), Admission::In { number: 0 }));
        for _ in 0..2 {
            admit(&registry);
        }
        registry.establish(1);
        let own = Arc::clone(&registry);
        let waiting = tokio::spawn(async move { own.room().await });
        tokio::time::sleep(HEARD).await;
        assert!(!waiting.is_finished());
        registry.leave(2, false, None);
        waiting.await.unwrap_or_default();
        admit(&registry);
        registry.establish(3);
        registry.room().await;
        assert!(
            matches!(registry.admit(&guest, false), Admission::Full),
            "it is turned away"
        );
    }
}
