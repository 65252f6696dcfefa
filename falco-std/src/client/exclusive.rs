//! The reader of a connection without a reading thread. One caller at a time uses it, and the
//! others wait.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::limit::Limit;
use super::reader::Reader;

/// A lock with a time limit. Callers get it in the order in which they asked for it.
pub(super) struct Exclusive {
    state: Mutex<State>,
}

struct State {
    reader: Option<Box<Reader>>,
    /// The connection has ended, and no caller gets the reader any more.
    ended: bool,
    /// Wakes each waiting caller, in the order in which they called.
    queue: VecDeque<Arc<Condvar>>,
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
                queue: VecDeque::new(),
            }),
        }
    }

    pub(super) fn acquire(&self, limit: Option<Limit>) -> Acquired<'_> {
        let mut state = self.lock();
        // A caller that comes later does not overtake those in the queue.
        if (state.ended || state.queue.is_empty())
            && let Some(acquired) = self.try_acquire(&mut state)
        {
            return acquired;
        }
        let own = Arc::new(Condvar::new());
        state.queue.push_back(Arc::clone(&own));
        loop {
            state = match limit {
                Some(limit) => {
                    let waited = own.wait_timeout(state, limit.left());
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => own.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
            let is_first = state.queue.front().is_some_and(|first| Arc::ptr_eq(first, &own));
            let acquired = if is_first || state.ended {
                self.try_acquire(&mut state)
            } else {
                None
            };
            let timed_out = || limit.filter(|limit| limit.left().is_zero()).map(Acquired::TimedOut);
            if let Some(acquired) = acquired.or_else(timed_out) {
                if is_first {
                    state.queue.pop_front();
                } else {
                    state.queue.retain(|other| !Arc::ptr_eq(other, &own));
                }
                return acquired;
            }
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
            let mut state = self.exclusive.lock();
            state.reader = Some(reader);
            if let Some(first) = state.queue.front() {
                first.notify_one();
            }
        }
    }

    pub(super) fn reader(&mut self) -> Option<&mut Reader> {
        self.reader.as_deref_mut()
    }
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Some(mut reader) = self.reader.take() {
            reader.give_up();
            // Done before the stream is shut down, which may panic: the other callers must not wait
            // forever.
            let mut state = self.exclusive.lock();
            state.ended = true;
            for waiting in &state.queue {
                waiting.notify_one();
            }
            drop(state);
            // A stream that has panicked may panic again, and a panic during a panic aborts the
            // process.
            if !thread::panicking() {
                reader.shut_down();
            }
        }
    }
}
