//! The threads on which handlers run: a bounded number, made when there is work and gone soon after
//! it. Connections take turns, however many requests of one of them wait.

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A thread without work goes after this long.
const IDLE: Duration = Duration::from_secs(2);

/// What has work for the pool, such as a connection. It is submitted once when it comes to have
/// some, whatever more it comes to have.
pub(super) trait Source: Send + Sync {
    /// Does one piece of work, if there is one. Where there is another behind it, `more` is called
    /// first. It does not panic.
    fn work(&self, more: &dyn Fn());
}

pub(super) struct Pool {
    work: Mutex<Work>,
    came: Condvar,
    max: usize,
}

#[derive(Default)]
struct Work {
    /// What has work, in the order of its turns.
    sources: VecDeque<Arc<dyn Source>>,
    threads: usize,
    idle: usize,
}

impl Pool {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            work: Mutex::new(Work::default()),
            came: Condvar::new(),
            max: workers,
        }
    }

    /// Has the next worker that is free do a piece of work of `source`, behind all others that have
    /// work.
    pub(super) fn submit<S: Source + 'static>(self: &Arc<Self>, source: Arc<S>) {
        if !self.push(source) {
            // Without a single worker the work is done here: slower, and done.
            while let Some(source) = self.next() {
                self.work(&source);
            }
        }
    }

    /// Forgets a source whose work has become pointless.
    pub(super) fn withdraw<S: Source + 'static>(&self, source: &Arc<S>) {
        let own = Arc::as_ptr(source);
        self.lock()
            .sources
            .retain(|source| !core::ptr::addr_eq(Arc::as_ptr(source), own));
    }

    /// Says whether there is a worker that comes to it.
    fn push(self: &Arc<Self>, source: Arc<dyn Source>) -> bool {
        let mut work = self.lock();
        work.sources.push_back(source);
        if work.sources.len() <= work.idle {
            self.came.notify_one();
            return true;
        }
        if work.threads >= self.max {
            return true;
        }
        work.threads += 1;
        drop(work);
        let own = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("falco worker".to_owned())
            .spawn(move || own.run());
        if spawned.is_ok() {
            return true;
        }
        let mut work = self.lock();
        work.threads -= 1;
        work.threads > 0
    }

    fn next(&self) -> Option<Arc<dyn Source>> {
        self.lock().sources.pop_front()
    }

    fn work(self: &Arc<Self>, source: &Arc<dyn Source>) {
        source.work(&|| {
            self.push(Arc::clone(source));
        });
    }

    fn run(self: &Arc<Self>) {
        loop {
            while let Some(source) = self.next() {
                self.work(&source);
            }
            let mut work = self.lock();
            work.idle += 1;
            let waited = self.came.wait_timeout_while(work, IDLE, |work| work.sources.is_empty());
            work = waited.unwrap_or_else(PoisonError::into_inner).0;
            work.idle -= 1;
            if work.sources.is_empty() {
                work.threads -= 1;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        // Whole between any two steps that can panic, of which there are none under the lock.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("max", &self.max).finish_non_exhaustive()
    }
}
