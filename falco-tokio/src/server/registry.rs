//! The connections of a server: which are accepted, which half-open ones are dropped for others,
//! and how they are closed. The rules are those of [`falco_core::mux::Admission`].

use core::time::Duration;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use falco_core::mux::{Admission, AdmissionLimits, MustClose, Source};
use falco_core::{CloseReason, KeyId};
use tokio::sync::{Notify, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::control::Control;
use super::place::Place;
use crate::clock::Clock;

/// How many streams of `serve_connection_from` may wait for a place: as many as connections in the
/// listener's backlog.
const MAX_WAITING: usize = 4096;

#[derive(Debug)]
struct State {
    connections: HashMap<u64, Arc<Control>>,
    /// Tracks the connections that the accept loop has accepted, which are all but the guests.
    admission: Admission,
    next: u64,
    /// Whether the accept loop waits for a place.
    waited_for: bool,
    /// How many connections have ended.
    left: u64,
    /// Connections that were ended at once, and their requests that had not been answered.
    cut: (u64, u64),
}

#[derive(Debug)]
pub(crate) struct Registry {
    state: Mutex<State>,
    clock: Clock,
    /// Notified when the server is to stop, and when a connection has ended or has completed its
    /// handshake. While the accept loop waits, also notified when a half-open connection may be
    /// dropped.
    changed: Notify,
    /// Streams of `serve_connection_from` wait for a place one after the other. The first of them
    /// has this permit.
    turn: Semaphore,
    /// How many more of these streams may wait.
    waiting: Semaphore,
}

/// Whether a connection is accepted.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// The connection is accepted.
    As { number: u64 },
    /// Another connection has taken the place. Wait for [`room`](Registry::room) again.
    Wait,
    /// It is not accepted: the limit on connections, or that of its source, is reached.
    Full,
    /// The server is stopping.
    Stopping,
}

impl Registry {
    pub(crate) fn new(limits: AdmissionLimits, seed: u64, clock: Clock) -> Self {
        Self {
            state: Mutex::new(State {
                connections: HashMap::new(),
                admission: Admission::new(limits, seed),
                next: 0,
                waited_for: false,
                left: 0,
                cut: (0, 0),
            }),
            clock,
            changed: Notify::new(),
            turn: Semaphore::new(1),
            waiting: Semaphore::new(MAX_WAITING),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two of its steps, none of which can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until a stream of `serve_connection_from` is the first one that waits for a place.
    /// `None` if [`MAX_WAITING`] of them wait.
    pub(crate) async fn turn(&self) -> Option<(SemaphorePermit<'_>, SemaphorePermit<'_>)> {
        let waiting = self.waiting.try_acquire().ok()?;
        Some((self.turn.acquire().await.ok()?, waiting))
    }

    /// Adds a connection that was accepted, and drops half-open connections to make room for later
    /// ones.
    pub(crate) fn admit(&self, control: &Arc<Control>, source: Source) -> Admitted {
        let mut state = self.lock();
        if state.admission.is_stopping() {
            return Admitted::Stopping;
        }
        let number = state.next;
        let Some(selected) = state.admission.admit(number, source, self.clock.now()) else {
            return if state.admission.may_have_room_later() {
                Admitted::Wait
            } else {
                Admitted::Full
            };
        };
        state.insert(control);
        let selected: Vec<_> = selected.filter_map(|number| state.control(Some(number))).collect();
        drop(state);
        for control in selected {
            control.make_room();
        }
        Admitted::As { number }
    }

    /// Adds a guest, which does not count towards the limits. If the server is stopping, the guest
    /// is closed.
    pub(crate) fn admit_guest(&self, control: &Arc<Control>) -> u64 {
        let mut state = self.lock();
        let number = state.insert(control);
        let stopping = state.admission.is_stopping();
        drop(state);
        if stopping {
            control.close(CloseReason::ShuttingDown);
        }
        number
    }

    /// Waits until there is a place for an accepted connection from `source`. Also returns if all
    /// places are taken by established connections: [`admit`](Self::admit) then returns
    /// [`Admitted::Full`]. Meanwhile new connections wait in the listener's backlog, and half-open
    /// connections are dropped to make room.
    pub(crate) async fn room(&self, source: Source) {
        loop {
            let changed = self.changed.notified();
            let Some((selected, due)) = self.select_for(source) else {
                return;
            };
            for control in selected {
                control.make_room();
            }
            match due {
                Some(at) => _ = tokio::time::timeout_at(self.clock.at(at), changed).await,
                None => changed.await,
            }
        }
    }

    /// Selects the half-open connections to drop now for a waiting connection from `source`.
    /// Returns them with the time at which another one may be dropped, or `None` if there is no
    /// need to wait.
    fn select_for(&self, source: Source) -> Option<(Vec<Arc<Control>>, Option<falco_core::Instant>)> {
        let mut state = self.lock();
        state.waited_for = state.admission.may_have_room_later();
        let (waits, now) = (state.waited_for, self.clock.now());
        waits.then(|| {
            let selected = core::iter::from_fn(|| {
                let number = state.admission.select(now, Some(source))?;
                Some(state.control(Some(number)))
            });
            (selected.flatten().collect(), state.admission.due(now))
        })
    }

    /// Call it when accepting fails, such as for lack of descriptors. Drops a late half-open
    /// connection, and waits until a connection has ended, for at most `pause`.
    pub(crate) async fn relief(&self, pause: Duration) {
        let until = Instant::now() + pause;
        let before = self.lock().left;
        loop {
            let changed = self.changed.notified();
            let selected = {
                let mut state = self.lock();
                if state.left != before || state.admission.is_stopping() {
                    return;
                }
                state.waited_for = true;
                let number = state.admission.select_late(self.clock.now());
                state.control(number)
            };
            if let Some(control) = selected {
                control.make_room();
            }
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return;
            }
        }
    }

    /// Reports that the hello of a half-open connection has decrypted.
    pub(crate) fn hello(&self, number: u64, fingerprint: u64) {
        let mut state = self.lock();
        state.admission.hello(number, fingerprint);
        self.may_select(state);
    }

    /// Reports that the server has read all bytes of a half-open connection and waits for more.
    pub(crate) fn all_read(&self, number: u64) {
        let mut state = self.lock();
        let selected = state.admission.all_read(number, self.clock.now());
        let selected = state.control(selected);
        self.may_select(state);
        if let Some(control) = selected {
            control.make_room();
        }
    }

    /// Reports that bytes have arrived from a half-open connection that was selected. It is not
    /// dropped.
    pub(crate) fn keep(&self, number: u64) {
        let mut state = self.lock();
        state.admission.keep(number);
        self.may_select(state);
    }

    /// Wakes the accept loop, if it waits, because another connection may be selectable now.
    fn may_select(&self, state: MutexGuard<'_, State>) {
        let waited_for = state.waited_for;
        drop(state);
        if waited_for {
            self.changed.notify_waiters();
        }
    }

    /// Whether a half-open connection was selected to be dropped, and no bytes have arrived from it
    /// since.
    pub(crate) fn is_selected(&self, number: u64) -> bool {
        self.lock().admission.is_selected(number)
    }

    /// Reports that a connection has completed its handshake. Returns why it may not stay, if so.
    pub(crate) fn establish(&self, number: u64, key: Option<KeyId>, retired: bool) -> Option<MustClose> {
        let mut state = self.lock();
        let leaves = state.admission.establish(number, key, retired);
        drop(state);
        self.changed.notify_waiters();
        leaves
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().admission.is_stopping()
    }

    /// Reports that a connection has ended. `cut` is the number of its unanswered requests, if it
    /// was cut off. Its place is taken until [`free`](Self::free).
    pub(crate) fn leave(&self, number: u64, cut: Option<usize>) {
        let mut state = self.lock();
        state.connections.remove(&number);
        state.left += 1;
        if let Some(requests) = cut {
            state.cut.0 += 1;
            state.cut.1 += u64::try_from(requests).unwrap_or(u64::MAX);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// Frees the place of a connection that has ended and whose handlers have ended.
    pub(crate) fn free(&self, place: Place) {
        if !place.is_guest() {
            self.lock().admission.leave(place.number());
            self.changed.notify_waiters();
        }
    }

    /// How many connections there are, and how many of them are half-open.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.connections.len(), state.admission.half_open())
    }

    /// The limits in force.
    pub(crate) fn limits(&self) -> AdmissionLimits {
        *self.lock().admission.limits()
    }

    /// Stops accepting connections, and drains the existing ones.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.admission.stop();
        let all: Vec<_> = state.connections.values().cloned().collect();
        drop(state);
        for control in all {
            control.close(CloseReason::ShuttingDown);
        }
        self.changed.notify_waiters();
    }

    /// Drains the connections under a key.
    pub(crate) fn retire(&self, key: KeyId) {
        for control in self.under(key) {
            control.close(CloseReason::KeyRetired);
        }
    }

    /// Ends the connections under a key at once, and returns how many there were.
    pub(crate) fn revoke(&self, key: KeyId) -> usize {
        let all = self.under(key);
        for control in &all {
            control.revoke();
        }
        all.len()
    }

    fn under(&self, key: KeyId) -> Vec<Arc<Control>> {
        let of_key = |control: &&Arc<Control>| control.key.get() == Some(&key);
        self.lock().connections.values().filter(of_key).cloned().collect()
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
        self.until(|state| state.admission.is_stopping()).await;
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
    /// Adds a connection, and returns its number.
    fn insert(&mut self, control: &Arc<Control>) -> u64 {
        let number = self.next;
        self.next += 1;
        self.connections.insert(number, Arc::clone(control));
        number
    }

    fn control(&self, number: Option<u64>) -> Option<Arc<Control>> {
        self.connections.get(&number?).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(max_connections: usize, max_half_open: usize) -> Registry {
        Registry::new(AdmissionLimits::new(max_connections, max_half_open), 1, Clock::new())
    }

    fn admit(registry: &Registry) -> Arc<Control> {
        let control = Arc::new(Control::new(None));
        assert!(matches!(registry.admit(&control, Source::NONE), Admitted::As { .. }));
        control
    }

    fn end(registry: &Registry, number: u64) {
        registry.leave(number, None);
        registry.free(Place::new(number));
    }

    /// Whether there is room within a millisecond.
    async fn has_room(registry: &Registry) -> bool {
        let moment = Duration::from_millis(1);
        tokio::time::timeout(moment, registry.room(Source::NONE)).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_dropped_only_while_the_server_waits_for_it_and_another_for_its_place() {
        let registry = registry(10, 2);
        let (zero, one) = (admit(&registry), admit(&registry));
        assert!(matches!(registry.admit(&zero, Source::NONE), Admitted::Wait));
        // The server has not read what they have sent.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!has_room(&registry).await);
        registry.relief(Duration::from_millis(100)).await;
        assert!(!zero.asked_for_room() && !one.asked_for_room());
        // One has sent its hello.
        registry.hello(0, 1);
        registry.all_read(0);
        registry.all_read(1);
        assert!(!has_room(&registry).await);
        assert!(!zero.asked_for_room() && one.asked_for_room() && registry.is_selected(1));
        // Its bytes have arrived after all; then nothing more arrives.
        registry.keep(1);
        assert!(!registry.is_selected(1));
        registry.all_read(1);
        assert!(!has_room(&registry).await);
        assert!(!zero.asked_for_room() && one.asked_for_room());
        end(&registry, 1);
        assert!(has_room(&registry).await);
        assert_eq!(registry.counts(), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn streams_wait_for_their_turn_and_not_too_many_of_them() {
        let registry = Arc::new(registry(10, 2));
        let first = registry.turn().await;
        assert!(first.is_some());
        let others: Vec<_> = (1..MAX_WAITING)
            .map(|_| {
                let registry = Arc::clone(&registry);
                tokio::spawn(async move { registry.turn().await.is_some() })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let more = tokio::time::timeout(Duration::from_millis(1), registry.turn()).await;
        assert!(matches!(more, Ok(None)), "it does not wait");
        assert!(others.iter().all(|other| !other.is_finished()), "one at a time");
        drop(first);
        for other in others {
            assert!(other.await.unwrap_or_default());
        }
        assert!(registry.turn().await.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn another_is_dropped_where_the_hello_of_the_first_comes_after_all() {
        let registry = registry(10, 2);
        let (zero, one) = (admit(&registry), admit(&registry));
        registry.all_read(0);
        let room = registry.room(Source::NONE);
        let mut room = core::pin::pin!(room);
        let look = Duration::from_millis(1);
        assert!(tokio::time::timeout(look, &mut room).await.is_err());
        assert!(zero.asked_for_room());
        registry.hello(0, 1);
        registry.all_read(0);
        registry.all_read(1);
        assert!(tokio::time::timeout(look, &mut room).await.is_err());
        assert!(one.asked_for_room());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for_unless_all_are_established() {
        let registry = Arc::new(registry(2, 2));
        let guest = Arc::new(Control::new(None));
        assert_eq!(registry.admit_guest(&guest), 0);
        for _ in 0..2 {
            admit(&registry);
        }
        registry.establish(1, None, false);
        let own = Arc::clone(&registry);
        let waiting = tokio::spawn(async move { own.room(Source::NONE).await });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        end(&registry, 2);
        waiting.await.unwrap_or_default();
        admit(&registry);
        registry.establish(3, None, false);
        registry.room(Source::NONE).await;
        assert!(
            matches!(registry.admit(&guest, Source::NONE), Admitted::Full),
            "it is closed at once"
        );
    }
}
