//! Ends streams whose sending half was shut down and whose other side takes too long to end as
//! well. One thread, there only while there are such.

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use crate::line::{Line, Source};

pub(super) struct Reaper<T>(Mutex<Waiting<T>>);

struct Waiting<T> {
    /// All wait equally long, so the first is the next.
    lines: VecDeque<(Instant, Weak<Line<T>>)>,
    running: bool,
}

impl<T> Default for Reaper<T> {
    fn default() -> Self {
        Self(Mutex::new(Waiting {
            lines: VecDeque::new(),
            running: false,
        }))
    }
}

impl<T: Source> Reaper<T> {
    /// Ends the stream in `left`, if it has not ended by itself.
    pub(super) fn push(self: &Arc<Self>, line: Weak<Line<T>>, left: Duration) {
        let mut waiting = self.lock();
        waiting.lines.push_back((Instant::now() + left, line));
        if waiting.running {
            return;
        }
        let own = Arc::clone(self);
        // Without a thread the stream ends with the connection's lifetime.
        waiting.running = thread::Builder::new()
            .name("falco reaper".to_owned())
            .spawn(move || own.run())
            .is_ok();
    }

    fn run(&self) {
        loop {
            let mut waiting = self.lock();
            let Some((due, line)) = waiting.lines.pop_front() else {
                waiting.running = false;
                return;
            };
            drop(waiting);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if let Some(line) = line.upgrade() {
                line.shutdown(Shutdown::Both);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> fmt::Debug for Reaper<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reaper(..)")
    }
}
