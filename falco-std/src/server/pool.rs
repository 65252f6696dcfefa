//! The threads on which handlers run: a bounded number, made when there is work and gone soon after it. And the bytes that requests may hold in all.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A thread without work goes after this long.
const IDLE: Duration = Duration::from_secs(2);

/// What a worker does. It does not panic.
pub(super) type Job = Box<dyn FnOnce() + Send>;

pub(super) struct Pool {
    work: Mutex<Work>,
    came: Condvar,
    max: usize,
}

#[derive(Default)]
struct Work {
    jobs: VecDeque<Job>,
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

    /// Has a job done by the next worker that is free. Jobs wait in the order in which they came.
    pub(super) fn submit(self: &Arc<Self>, job: Job) {
        let mut work = self.lock();
        work.jobs.push_back(job);
        if work.jobs.len() <= work.idle {
            self.came.notify_one();
            return;
        }
        if work.threads >= self.max {
            return;
        }
        work.threads += 1;
        drop(work);
        let own = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("falco worker".to_owned())
            .spawn(move || own.run());
        if spawned.is_err() {
            let mut work = self.lock();
            work.threads -= 1;
            // Without a single worker the job is done here: slower, and done.
            let job = if work.threads == 0 { work.jobs.pop_front() } else { None };
            drop(work);
            if let Some(job) = job {
                job();
            }
        }
    }

    fn run(&self) {
        let mut work = self.lock();
        loop {
            if let Some(job) = work.jobs.pop_front() {
                drop(work);
                job();
                work = self.lock();
                continue;
            }
            work.idle += 1;
            let waited = self.came.wait_timeout_while(work, IDLE, |work| work.jobs.is_empty());
            work = waited.unwrap_or_else(PoisonError::into_inner).0;
            work.idle -= 1;
            if work.jobs.is_empty() {
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

/// The bytes of requests that have had no end, over all connections.
#[derive(Debug)]
pub(super) struct Budget {
    held: AtomicUsize,
    max: usize,
}

impl Budget {
    pub(super) const fn new(max: usize) -> Self {
        Self {
            held: AtomicUsize::new(0),
            max,
        }
    }
}

/// A request's share of a [`Budget`], given back when it is dropped.
#[derive(Debug)]
pub(super) struct Held {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Held {
    pub(super) const fn new(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    /// Takes more of it; says whether there was so much.
    #[must_use]
    pub(super) fn add(&mut self, bytes: usize) -> bool {
        let max = self.budget.max;
        let fits = |held: usize| held.checked_add(bytes).filter(|held| *held <= max);
        let taken = self
            .budget
            .held
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, fits)
            .is_ok();
        if taken {
            self.bytes += bytes;
        }
        taken
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}
