//! Where handlers run: on workers, which are threads of this pool, and on threads of connections,
//! which take the place of a worker for one handler (`lend`). The number of both together is
//! limited. Workers start when there is work, and end when there has been none for a while.
//! Connections take turns, even if many requests of one of them wait.

mod lend;

use core::fmt;
use core::panic::AssertUnwindSafe;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::BTreeMap;
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

    /// The turn of this source in the pool's queue.
    fn turn(&self) -> &Turn;
}

/// The number of the last turn of a source, or 0. It changes only under the lock of the pool.
pub(super) struct Turn(AtomicU64);

impl Turn {
    pub(super) const fn new() -> Self {
        Self(AtomicU64::new(0))
    }
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
    /// Each source that has jobs, by the number of its turn.
    sources: BTreeMap<u64, Arc<dyn JobSource>>,
    /// The number of the last turn.
    last: u64,
    /// Workers, idle ones included.
    threads: usize,
    idle: usize,
    lends: Lends,
}

impl Queue {
    fn push(&mut self, source: Arc<dyn JobSource>) {
        self.last += 1;
        source.turn().0.store(self.last, Ordering::Relaxed);
        self.sources.insert(self.last, source);
    }

    fn pop(&mut self) -> Option<Arc<dyn JobSource>> {
        self.sources.pop_first().map(|(_, source)| source)
    }

    /// Takes out a source, if it is here. This does not search those of other connections, which
    /// may be many.
    fn remove(&mut self, source: &impl JobSource) -> Option<Arc<dyn JobSource>> {
        self.sources.remove(&source.turn().0.load(Ordering::Relaxed))
    }

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
    pub(super) fn withdraw(&self, source: &impl JobSource) {
        let removed = self.lock().remove(source);
        // Without the lock: the last reference to a source drops the place of its connection.
        drop(removed);
    }

    /// Returns whether a worker will take the source.
    fn push(self: &Arc<Self>, source: Arc<dyn JobSource>) -> bool {
        let mut queue = self.lock();
        queue.push(source);
        self.call_worker(queue)
    }

    /// Has a worker take a source of the queue. Returns whether one will.
    fn call_worker(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) -> bool {
        // An idle worker waits until it is notified.
        if queue.idle > 0 {
            self.submitted.notify_one();
        }
        if queue.sources.len() <= queue.idle {
            return true;
        }
        // The limit is reached. When a handler ends, its worker takes the next source, or the
        // thread of its connection calls this function.
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
        self.lock().pop()
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
                next = queue.pop();
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

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicUsize;

    use super::*;

    /// A source that counts how often the pool looks at it.
    struct Counted {
        turn: Turn,
        looks: Arc<AtomicUsize>,
    }

    impl JobSource for Counted {
        fn run_one(&self, _: &dyn Fn()) {}

        fn turn(&self) -> &Turn {
            self.looks.fetch_add(1, Ordering::Relaxed);
            &self.turn
        }
    }

    fn source(looks: &Arc<AtomicUsize>) -> Arc<Counted> {
        let (turn, looks) = (Turn::new(), Arc::clone(looks));
        Arc::new(Counted { turn, looks })
    }

    /// How often a pool looks at its sources while all of them are withdrawn, the last ones first.
    fn looks(count: usize) -> usize {
        let looks = Arc::new(AtomicUsize::new(0));
        let sources: Vec<_> = (0..count).map(|_| source(&looks)).collect();
        let pool = Pool::new(0, Arc::default());
        for source in &sources {
            pool.lock().push(Arc::<Counted>::clone(source));
        }
        looks.store(0, Ordering::Relaxed);
        for source in sources.iter().rev() {
            assert_eq!(Arc::strong_count(source), 2);
            pool.withdraw(&**source);
            assert_eq!(Arc::strong_count(source), 1, "the pool does not keep it");
        }
        assert!(pool.lock().pop().is_none());
        looks.load(Ordering::Relaxed)
    }

    #[test]
    fn to_withdraw_a_source_takes_one_look_however_many_wait() {
        assert_eq!([1, 8, 5_000].map(looks), [1, 8, 5_000]);
    }

    #[test]
    fn sources_have_their_turns_in_the_order_in_which_they_came_and_a_withdrawn_one_may_come_again() {
        let [first, second, third] = [(); 3].map(|()| source(&Arc::default()));
        let pool = Pool::new(0, Arc::default());
        let push = |source: &Arc<Counted>| pool.lock().push(Arc::<Counted>::clone(source));
        let is_next = |source: &Arc<Counted>| {
            let next = pool.lock().pop();
            next.is_some_and(|next| core::ptr::addr_eq(Arc::as_ptr(&next), Arc::as_ptr(source)))
        };
        pool.withdraw(&*first);
        for source in [&first, &second, &third] {
            push(source);
        }
        pool.withdraw(&*first);
        push(&first);
        assert!(is_next(&second));
        // Without effect, because the source has had its turn.
        pool.withdraw(&*second);
        assert!(is_next(&third) && is_next(&first));
        assert!(pool.lock().pop().is_none());
    }
}
