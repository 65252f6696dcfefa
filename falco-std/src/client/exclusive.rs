//! The reader of a connection that has no thread of its own: one caller at a time uses it, and the
//! others wait.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use falco_core::ConnectionError;

use super::limit::Limit;
use super::reader::Reader;

/// A lock with a time limit, and with a last turn.
pub(super) struct Exclusive {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    reader: Option<Box<Reader>>,
    /// The connection has ended, and the reader will not come back.
    ended: bool,
    /// Callers in [`Exclusive::acquire`].
    waiting: usize,
}

/// The result of waiting for the reader.
pub(super) enum Acquired<'e> {
    Reader(Guard<'e>),
    /// The connection has ended.
    Ended,
    TimedOut(Limit),
}

/// The reader, for one caller. Unless [`keep`](Self::keep) is called, the connection ends when this
/// is dropped: after a failure or a panic, its state is unknown.
pub(super) struct Guard<'e> {
    exclusive: &'e Exclusive,
    reader: Option<Box<Reader>>,
}

impl Exclusive {
    pub(super) fn new(reader: Reader) -> Self {
        Self {
            state: Mutex::new(State {
                reader: Some(Box::new(reader)),
                ended: false,
                waiting: 0,
            }),
            changed: Condvar::new(),
        }
    }

    pub(super) fn acquire(&self, limit: Option<Limit>) -> Acquired<'_> {
        let mut state = self.lock();
        state.waiting += 1;
        loop {
            let acquired = match self.try_acquire(&mut state) {
                Some(acquired) => acquired,
                None => match limit {
                    Some(limit) if limit.left().is_zero() => Acquired::TimedOut(limit),
                    Some(limit) => {
                        let waited = self.changed.wait_timeout(state, limit.left());
                        state = waited.unwrap_or_else(PoisonError::into_inner).0;
                        continue;
                    }
                    None => {
                        state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                        continue;
                    }
                },
            };
            state.waiting -= 1;
            drop(state);
            if !matches!(acquired, Acquired::Reader(_)) {
                // `acquire_last` may wait for this caller.
                self.changed.notify_all();
            }
            return acquired;
        }
    }

    /// Waits until no other caller waits. None where the connection has ended.
    pub(super) fn acquire_last(&self) -> Option<Guard<'_>> {
        let mut state = self.lock();
        loop {
            if state.waiting == 0 {
                match self.try_acquire(&mut state) {
                    Some(Acquired::Reader(guard)) => return Some(guard),
                    Some(Acquired::Ended | Acquired::TimedOut(_)) => return None,
                    None => {}
                }
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn try_acquire(&self, state: &mut State) -> Option<Acquired<'_>> {
        if state.ended {
            return Some(Acquired::Ended);
        }
        let reader = Some(state.reader.take()?);
        Some(Acquired::Reader(Guard {
            exclusive: self,
            reader,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guard<'_> {
    /// Leaves the connection to the next caller.
    pub(super) fn keep(mut self) {
        if let Some(reader) = self.reader.take() {
            self.exclusive.lock().reader = Some(reader);
            // All of them: `acquire_last` may be among them, and is not woken for its turn alone.
            self.exclusive.changed.notify_all();
        }
    }

    pub(super) fn reader(&mut self) -> Option<&mut Reader> {
        self.reader.as_deref_mut()
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            reader.finish(Ok(ConnectionError::Closed));
            // Before the stream is shut down, which may panic: the others must not wait for ever.
            self.exclusive.lock().ended = true;
            self.exclusive.changed.notify_all();
            // A stream that has panicked may do so again, which would end the process.
            if !thread::panicking() {
                reader.shut_down();
            }
        }
    }
}
