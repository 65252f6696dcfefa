//! The threads on which handlers run. Their number is limited. They start when there is work, and
//! end when there has been none for a while. Connections take turns, even if many requests of one
//! of them wait.

use core::fmt;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::collections::VecDeque;
use std::panic::catch_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A thread without work ends after this time.
const IDLE: Duration = Duration::from_secs(2);

/// A source of jobs for the pool: a connection. It is in the queue at most once, even if it has
/// many jobs.
pub(super) trait JobSource: Send + Sync {
    /// Runs one job, if there is one. If there are more jobs, calls `more` before it runs this one.
    fn run_one(&self, more: &dyn Fn());
}

pub(super) struct Pool {
    queue: Mutex<Queue>,
    submitted: Condvar,
    max: usize,
}

#[derive(Default)]
struct Queue {
    /// Each source that has jobs, in the order of their turns.
    sources: VecDeque<Arc<dyn JobSource>>,
    threads: usize,
    idle: usize,
}

impl Pool {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            queue: Mutex::new(Queue::default()),
            submitted: Condvar::new(),
            max: workers,
        }
    }

    /// Adds `source` to the end of the queue. The next free worker takes one job from the first
    /// source of the queue.
    pub(super) fn submit<S: JobSource + 'static>(self: &Arc<Self>, source: Arc<S>) {
        if !self.push(source) {
            // There is no worker, and none could be started.
            while let Some(source) = self.next() {
                self.run_one(source);
            }
        }
    }

    /// Removes a source whose connection has ended.
    pub(super) fn withdraw<S: JobSource + 'static>(&self, source: &Arc<S>) {
        let own = Arc::as_ptr(source);
        self.lock()
            .sources
            .retain(|source| !core::ptr::addr_eq(Arc::as_ptr(source), own));
    }

    /// Returns whether a worker will take the source.
    fn push(self: &Arc<Self>, source: Arc<dyn JobSource>) -> bool {
        let mut queue = self.lock();
        queue.sources.push_back(source);
        if queue.sources.len() <= queue.idle {
            self.submitted.notify_one();
            return true;
        }
        if queue.threads >= self.max {
            return true;
        }
        queue.threads += 1;
        drop(queue);
        let own = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("falco worker".to_owned())
            .spawn(move || own.work());
        if spawned.is_ok() {
            return true;
        }
        let mut queue = self.lock();
        queue.threads -= 1;
        queue.threads > 0
    }

    fn next(&self) -> Option<Arc<dyn JobSource>> {
        self.lock().sources.pop_front()
    }

    fn run_one(self: &Arc<Self>, source: Arc<dyn JobSource>) {
        // What a handler returns, or panics with, may panic when it is dropped. That must not end a
        // worker.
        let ran = catch_unwind(AssertUnwindSafe(|| {
            source.run_one(&|| {
                self.push(Arc::clone(&source));
            });
            drop(source);
        }));
        if let Err(payload) = ran {
            core::mem::forget(payload);
        }
    }

    fn work(self: &Arc<Self>) {
        loop {
            while let Some(source) = self.next() {
                self.run_one(source);
            }
            let mut queue = self.lock();
            queue.idle += 1;
            let waited = self
                .submitted
                .wait_timeout_while(queue, IDLE, |queue| queue.sources.is_empty());
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.idle -= 1;
            if queue.sources.is_empty() {
                queue.threads -= 1;
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that can panic runs under this lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("max", &self.max).finish_non_exhaustive()
    }
}
