//! Where handlers run: on workers, which are threads of this pool, and on threads of connections,
//! which take the place of a worker for one handler (`lend`). The number of both together is
//! limited. Workers start when there is work, and end when there has been none for a while.
//! Connections take turns, even if many requests of one of them wait.

mod lend;

use core::fmt;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::collections::VecDeque;
use std::panic::catch_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use self::lend::Lends;
use super::threads::Threads;

pub(super) use self::lend::Standby;

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
    /// Wakes the thread that watches the handlers on threads of connections.
    lending: Condvar,
    max: usize,
    /// For connections whose threads run handlers.
    threads: Arc<Threads>,
}

#[derive(Default)]
struct Queue {
    /// Each source that has jobs, in the order of their turns.
    sources: VecDeque<Arc<dyn JobSource>>,
    /// Workers, idle ones included.
    threads: usize,
    idle: usize,
    lends: Lends,
}

impl Queue {
    /// How many handlers run at most. Never more than the limit: a thread checks it before it
    /// becomes busy.
    fn busy(&self) -> usize {
        self.threads - self.idle + self.lends.len()
    }
}

impl Pool {
    pub(super) fn new(workers: usize, threads: Arc<Threads>) -> Self {
        Self {
            queue: Mutex::new(Queue::default()),
            submitted: Condvar::new(),
            lending: Condvar::new(),
            max: workers,
            threads,
        }
    }

    /// Adds `source` to the end of the queue. The next free worker takes one job from the first
    /// source of the queue.
    pub(super) fn submit<S: JobSource + 'static>(self: &Arc<Self>, source: Arc<S>) {
        if !self.push(source) {
            self.run_here();
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
        self.call_worker(queue)
    }

    /// Has a worker take a source of the queue. Returns whether one will.
    fn call_worker(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) -> bool {
        // One that was called while the limit was reached may have waited again.
        if queue.idle > 0 {
            self.submitted.notify_one();
        }
        if queue.sources.len() <= queue.idle {
            return true;
        }
        // A handler that runs has a worker called when it ends, or its worker goes on.
        if queue.threads >= self.max || queue.busy() >= self.max {
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

    /// Runs all jobs on this thread: there is no worker, and none could be started.
    fn run_here(self: &Arc<Self>) {
        while let Some(source) = self.next() {
            self.run_one(source);
        }
    }

    fn next(&self) -> Option<Arc<dyn JobSource>> {
        self.lock().sources.pop_front()
    }

    fn run_one(self: &Arc<Self>, source: Arc<dyn JobSource>) {
        isolated(|| {
            source.run_one(&|| {
                self.push(Arc::clone(&source));
            });
            drop(source);
        });
    }

    fn work(self: &Arc<Self>) {
        let mut next = self.next();
        loop {
            while let Some(source) = next {
                self.run_one(source);
                next = self.next();
            }
            let mut queue = self.lock();
            queue.idle += 1;
            let waited = self.submitted.wait_timeout_while(queue, IDLE, |queue| {
                queue.sources.is_empty() || queue.busy() >= self.max
            });
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.idle -= 1;
            // If the limit was reached, this thread must not be busy from now on either.
            if queue.busy() <= self.max {
                next = queue.sources.pop_front();
            }
            if next.is_none() {
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

/// Runs a job of a user. What a handler returns, or panics with, may panic when it is dropped. That
/// must not end the thread.
pub(super) fn isolated(job: impl FnOnce()) {
    if let Err(payload) = catch_unwind(AssertUnwindSafe(job)) {
        core::mem::forget(payload);
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("max", &self.max).finish_non_exhaustive()
    }
}
