//! Who may use a connection on which requests go one after another.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::limit::Limit;
use super::serial::Serial;
use super::state::Past;

/// A connection that one caller uses at a time; the others wait, each for its own time.
pub(super) struct Turn {
    state: Mutex<State>,
    left: Condvar,
}

struct State {
    held: Held,
    /// How many wait for their turn.
    waiting: usize,
}

enum Held {
    Free(Box<Serial>),
    Taken,
    /// The connection has ended.
    Gone(Past),
}

/// What comes of waiting for a turn.
pub(super) enum Waited<'t> {
    Yours(InHand<'t>),
    /// The connection has ended.
    Gone,
    /// The limit ran out.
    TooLong(Limit),
}

/// A connection in the hand of one caller. It is gone unless [`keep`](Self::keep) is called: after
/// a panic nobody knows how far it has come.
pub(super) struct InHand<'t> {
    turn: &'t Turn,
    serial: Option<Box<Serial>>,
}

impl Turn {
    pub(super) const fn new(serial: Box<Serial>) -> Self {
        Self {
            state: Mutex::new(State {
                held: Held::Free(serial),
                waiting: 0,
            }),
            left: Condvar::new(),
        }
    }

    pub(super) fn take(&self, limit: Option<Limit>) -> Waited<'_> {
        let mut state = self.lock();
        state.waiting += 1;
        let (mut state, waited) = self.wait(state, limit, false);
        state.waiting -= 1;
        drop(state);
        // The last may wait for this one to have gone.
        if !matches!(waited, Waited::Yours(_)) {
            self.left.notify_all();
        }
        waited
    }

    /// The turn after all others that wait for theirs.
    pub(super) fn take_last(&self) -> Waited<'_> {
        self.wait(self.lock(), None, true).1
    }

    fn wait<'t>(
        &'t self,
        mut state: MutexGuard<'t, State>,
        limit: Option<Limit>,
        last: bool,
    ) -> (MutexGuard<'t, State>, Waited<'t>) {
        loop {
            if !last || state.waiting == 0 {
                match core::mem::replace(&mut state.held, Held::Taken) {
                    Held::Free(serial) => {
                        let serial = Some(serial);
                        return (state, Waited::Yours(InHand { turn: self, serial }));
                    }
                    gone @ Held::Gone(_) => {
                        state.held = gone;
                        return (state, Waited::Gone);
                    }
                    Held::Taken => {}
                }
            }
            state = match limit {
                Some(limit) if limit.left().is_zero() => return (state, Waited::TooLong(limit)),
                Some(limit) => {
                    let waited = self.left.wait_timeout(state, limit.left());
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.left.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// What it has been, where it has ended as far as anybody has seen.
    pub(super) fn past(&self) -> Option<Past> {
        match &self.lock().held {
            Held::Gone(past) => Some(*past),
            Held::Free(_) | Held::Taken => None,
        }
    }

    fn end(&self, past: Past) {
        self.lock().held = Held::Gone(past);
        self.left.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between any two of its steps, none of which can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InHand<'_> {
    /// Leaves the connection to whoever is next.
    pub(super) fn keep(mut self) {
        if let Some(serial) = self.serial.take() {
            self.turn.lock().held = Held::Free(serial);
            // All: one of them may be waiting to be the last.
            self.turn.left.notify_all();
        }
    }

    /// The connection, which is gone for everybody else.
    pub(super) fn into_serial(mut self) -> Option<Box<Serial>> {
        let serial = self.serial.take();
        self.turn.end(Past::default());
        serial
    }

    pub(super) fn serial(&mut self) -> Option<&mut Serial> {
        self.serial.as_deref_mut()
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        if let Some(serial) = &self.serial {
            self.turn.end(serial.past());
        }
    }
}
