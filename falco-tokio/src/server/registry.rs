//! The connections of a server: who is let in, who is dropped for whom, and how all of them are told.

use core::time::Duration;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use falco_core::{CloseReason, KeyId};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::control::Control;

#[derive(Debug, Default)]
struct State {
    connections: HashMap<u64, Arc<Control>>,
    /// Those that have not finished their handshake, and since when they are there. Numbers ascend, so the first is the oldest.
    half_open: BTreeMap<u64, Instant>,
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
    /// There are as many as there may be, and none of them is half-open.
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
        if !guest {
            let full = state.connections.len() >= self.max_connections;
            if full || state.half_open.len() >= self.max_half_open {
                match state.drop_oldest() {
                    Some(oldest) => dropped = Some(oldest),
                    None => return Admission::Full,
                }
            }
        }
        let number = state.next;
        state.next += 1;
        state.connections.insert(number, Arc::clone(control));
        state.half_open.insert(number, Instant::now());
        drop(state);
        let dropped = dropped.map(|oldest| oldest.cut()).is_some();
        Admission::In { number, dropped }
    }

    /// Drops the oldest connection that has not finished its handshake, if it has been at it for `age`; says whether there was one. One that has just begun is likely to be
    /// somebody who has the key.
    pub(crate) fn drop_half_open(&self, age: Duration) -> bool {
        let mut state = self.lock();
        let late = state
            .half_open
            .first_key_value()
            .is_some_and(|(_, since)| since.elapsed() >= age);
        let oldest = late.then(|| state.drop_oldest()).flatten();
        drop(state);
        oldest.map(|oldest| oldest.cut()).is_some()
    }

    /// A connection has finished its handshake. `None`: it was dropped for another in that moment. Or else whether the server is stopping.
    pub(crate) fn establish(&self, number: u64) -> Option<bool> {
        let mut state = self.lock();
        state.half_open.remove(&number).map(|_| state.stopping)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.lock().stopping
    }

    /// A connection has gone; `cut` is how many requests it left unanswered if it was ended at once.
    pub(crate) fn leave(&self, number: u64, cut: Option<usize>) {
        let mut state = self.lock();
        state.half_open.remove(&number);
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
    /// Takes the oldest half-open connection out. Its place is free at once; its task ends when it is next polled.
    fn drop_oldest(&mut self) -> Option<Arc<Control>> {
        let (oldest, _) = self.half_open.pop_first()?;
        self.connections.remove(&oldest)
    }
}
