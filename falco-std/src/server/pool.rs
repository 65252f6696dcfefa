//! The threads on which handlers run: a bounded number, made when there is work and gone soon after it.

use core::fmt;
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

/// What of one connection waits for a worker, in its order. A job is not for one request but for whichever is first then: so one that is cancelled leaves no job behind, and
/// whoever asks and cancels for ever makes the line of jobs no longer.
#[derive(Debug)]
pub(super) struct Turns<I> {
    waiting: VecDeque<I>,
    /// Jobs that were submitted and have not taken their turn.
    jobs: usize,
}

impl<I: PartialEq> Turns<I> {
    pub(super) const fn new() -> Self {
        Self {
            waiting: VecDeque::new(),
            jobs: 0,
        }
    }

    /// Puts one behind all others; says whether it takes another job.
    #[must_use]
    pub(super) fn add(&mut self, id: I) -> bool {
        self.waiting.push_back(id);
        let more = self.jobs < self.waiting.len();
        self.jobs += usize::from(more);
        more
    }

    /// A job takes its turn: the first, if there is one.
    pub(super) fn next(&mut self) -> Option<I> {
        self.jobs = self.jobs.saturating_sub(1);
        self.waiting.pop_front()
    }

    pub(super) fn remove(&mut self, id: &I) {
        self.waiting.retain(|waiting| waiting != id);
    }

    pub(super) fn clear(&mut self) {
        self.waiting = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::Turns;

    #[test]
    fn whoever_asks_and_cancels_for_ever_makes_no_line_of_jobs() {
        let mut turns = Turns::new();
        let jobs = (0..10_000).filter(|id| {
            let more = turns.add(*id);
            turns.remove(id);
            more
        });
        assert_eq!(jobs.count(), 1);
        assert_eq!(turns.next(), None, "the one job finds nothing to do");
        // With three waiting there are three jobs, whichever of them go.
        assert_eq!([1, 2, 3].map(|id| turns.add(id)), [true; 3]);
        turns.remove(&2);
        assert!(!turns.add(4), "the third job will do");
        assert_eq!([(); 4].map(|()| turns.next()), [Some(1), Some(3), Some(4), None]);
        assert!(turns.add(5));
        turns.clear();
        assert!(!turns.add(6));
    }
}
