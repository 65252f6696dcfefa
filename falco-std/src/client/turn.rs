//! Who may use a connection on which requests go one after another.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::limit::Limit;
use super::serial::Serial;
use super::state::Past;

/// A connection that one caller uses at a time; the others wait, each for its own time.
pub(super) struct Turn {
    held: Mutex<Held>,
    left: Condvar,
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
            held: Mutex::new(Held::Free(serial)),
            left: Condvar::new(),
        }
    }

    pub(super) fn take(&self, limit: Option<Limit>) -> Waited<'_> {
        let mut held = self.lock();
        loop {
            match core::mem::replace(&mut *held, Held::Taken) {
                Held::Free(serial) => {
                    let serial = Some(serial);
                    return Waited::Yours(InHand { turn: self, serial });
                }
                gone @ Held::Gone(_) => {
                    *held = gone;
                    return Waited::Gone;
                }
                Held::Taken => {}
            }
            held = match limit {
                Some(limit) if limit.left().is_zero() => return Waited::TooLong(limit),
                Some(limit) => {
                    let waited = self.left.wait_timeout(held, limit.left());
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.left.wait(held).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// What it has been, where it has ended as far as anybody has seen.
    pub(super) fn past(&self) -> Option<Past> {
        match &*self.lock() {
            Held::Gone(past) => Some(*past),
            Held::Free(_) | Held::Taken => None,
        }
    }

    fn end(&self, past: Past) {
        *self.lock() = Held::Gone(past);
        self.left.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        // Whole between any two of its steps, none of which can panic.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InHand<'_> {
    /// Leaves the connection to whoever is next.
    pub(super) fn keep(mut self) {
        if let Some(serial) = self.serial.take() {
            *self.turn.lock() = Held::Free(serial);
            self.turn.left.notify_one();
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
