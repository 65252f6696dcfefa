//! Ends streams whose sending half was shut down and whose peer has not ended them within a time
//! limit. One thread does so. It exists only while there are such streams.

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use crate::shared::{Output, Shared};

pub(super) struct LingerTimer<T>(Mutex<Queue<T>>);

struct Queue<T> {
    /// All have the same time limit, so the first in the queue is due first.
    streams: VecDeque<(Instant, Weak<Shared<T>>)>,
    running: bool,
}

impl<T> Default for LingerTimer<T> {
    fn default() -> Self {
        Self(Mutex::new(Queue {
            streams: VecDeque::new(),
            running: false,
        }))
    }
}

impl<T: Output> LingerTimer<T> {
    /// Shuts the stream down after `left`, unless the connection has ended by then.
    pub(super) fn push(self: &Arc<Self>, shared: Weak<Shared<T>>, left: Duration) {
        let mut queue = self.lock();
        queue.streams.push_back((Instant::now() + left, shared));
        if queue.running {
            return;
        }
        let own = Arc::clone(self);
        // If no thread can be started, the stream ends with the lifetime of the connection.
        queue.running = thread::Builder::new()
            .name("falco linger".to_owned())
            .spawn(move || own.run())
            .is_ok();
    }

    fn run(&self) {
        loop {
            let mut queue = self.lock();
            let Some((due, shared)) = queue.streams.pop_front() else {
                queue.running = false;
                return;
            };
            drop(queue);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if let Some(shared) = shared.upgrade() {
                shared.shutdown(Shutdown::Both);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for LingerTimer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LingerTimer(..)")
    }
}
