//! The threads of connections. A thread whose connection has ended serves another one, because
//! starting a thread costs more than serving a connection that ends before its handshake.

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// A thread without a connection ends after this time.
const IDLE: Duration = Duration::from_secs(2);

/// Serves one connection until it has ended.
type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
pub(super) struct Threads {
    queue: Mutex<Queue>,
    /// Notified when a job was queued.
    queued: Condvar,
}

#[derive(Default)]
struct Queue {
    /// No more than there are idle threads.
    jobs: VecDeque<Job>,
    idle: usize,
}

impl Threads {
    /// Runs `job` on a thread of its own.
    pub(super) fn run(self: &Arc<Self>, job: Job) -> io::Result<()> {
        let mut queue = self.lock();
        if queue.jobs.len() < queue.idle {
            queue.jobs.push_back(job);
            drop(queue);
            self.queued.notify_one();
            return Ok(());
        }
        drop(queue);
        let own = Arc::clone(self);
        let spawned = thread::Builder::new()
            .name("falco connection".to_owned())
            .spawn(move || {
                job();
                while let Some(job) = own.next() {
                    job();
                }
            });
        spawned.map(drop)
    }

    /// Waits for the next connection for this thread.
    fn next(&self) -> Option<Job> {
        let mut queue = self.lock();
        queue.idle += 1;
        let waited = self
            .queued
            .wait_timeout_while(queue, IDLE, |queue| queue.jobs.is_empty());
        let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        queue.idle -= 1;
        queue.jobs.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No code that can panic runs under this lock.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Threads(..)")
    }
}
