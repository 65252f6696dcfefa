//! Handlers that run on the thread of their connection. That thread reads and writes nothing while
//! it runs a handler. If the handler takes long, another thread takes over the connection. One
//! thread checks all of these handlers periodically. It exists only while there are such handlers,
//! and for a while after.

use core::time::Duration;
use std::sync::{Arc, PoisonError};
use std::thread;

use super::{IDLE, Pool};

/// How often the handlers are checked. If a handler was already running at the previous check, it
/// takes long, and another thread takes over its connection. So that happens one to two of these
/// intervals after the handler has begun.
const CHECK_INTERVAL: Duration = Duration::from_millis(1);

/// A connection while its thread runs a handler.
pub(in crate::server) trait Standby: Send + Sync {
    /// Whether no other thread has taken over the connection.
    fn waits(&self) -> bool;

    /// Takes over the connection on this thread, if it still waits. Returns when the connection has
    /// ended.
    fn take_over(&self);
}

/// The handlers that run on threads of connections.
#[derive(Default)]
pub(super) struct Lends {
    running: Vec<(u64, Arc<dyn Standby>)>,
    /// The number of the last one.
    last: u64,
    /// The thread that checks the handlers exists.
    thread: bool,
    /// It checks periodically. Otherwise it waits for the next handler.
    checks: bool,
}

impl Lends {
    pub(super) const fn len(&self) -> usize {
        self.running.len()
    }

    /// The connections that still wait for their handler, of the handlers up to `number`.
    fn waiting(&self, number: u64) -> Vec<Arc<dyn Standby>> {
        let begun = self.running.iter().filter(|(begun, _)| *begun <= number);
        let waiting = begun.filter(|(_, standby)| standby.waits());
        waiting.map(|(_, standby)| Arc::clone(standby)).collect()
    }
}

/// The place of a worker, for a handler on the thread of a connection.
pub(in crate::server) struct Lent {
    pool: Arc<Pool>,
    number: u64,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pool.give_back(self.number);
    }
}

impl Pool {
    /// Takes the place of a worker, if there is one and no connection waits for it.
    pub(in crate::server) fn lend(self: &Arc<Self>, standby: Arc<dyn Standby>) -> Option<Lent> {
        let mut queue = self.lock();
        if !queue.sources.is_empty() || queue.busy() >= self.max {
            return None;
        }
        let lends = &mut queue.lends;
        if !lends.checks && !self.start_checks(lends) {
            return None;
        }
        lends.last += 1;
        let number = lends.last;
        lends.running.push((number, standby));
        drop(queue);
        let pool = Arc::clone(self);
        Some(Lent { pool, number })
    }

    /// Starts or wakes the thread that checks the handlers. Returns `false` if it could not be
    /// started.
    fn start_checks(self: &Arc<Self>, lends: &mut Lends) -> bool {
        if lends.thread {
            self.lending.notify_one();
        } else {
            let own = Arc::clone(self);
            let spawned = thread::Builder::new()
                .name("falco watch".to_owned())
                .spawn(move || own.watch());
            lends.thread = spawned.is_ok();
        }
        lends.checks = lends.thread;
        lends.checks
    }

    /// The handler has ended. If connections wait, a worker takes its place.
    fn give_back(self: &Arc<Self>, number: u64) {
        let mut queue = self.lock();
        let running = &mut queue.lends.running;
        let index = running.iter().position(|(other, _)| *other == number);
        // Dropped without the lock: it may have the handler, which is of the user.
        let _ended = index.map(|index| running.swap_remove(index));
        let called = if queue.sources.is_empty() {
            drop(queue);
            true
        } else {
            self.call_worker(queue)
        };
        if !called {
            self.run_here();
        }
    }

    /// Finds other threads for the connections whose handlers take long.
    fn watch(self: &Arc<Self>) {
        let mut seen = 0;
        loop {
            thread::sleep(CHECK_INTERVAL);
            let mut queue = self.lock();
            let lends = &mut queue.lends;
            let (long, last) = (lends.waiting(seen), lends.last);
            if last == core::mem::replace(&mut seen, last) && long.is_empty() {
                lends.checks = false;
                let waited = self
                    .lending
                    .wait_timeout_while(queue, IDLE, |queue| !queue.lends.checks);
                let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                if !queue.lends.checks {
                    queue.lends.thread = false;
                    return;
                }
                continue;
            }
            drop(queue);
            for standby in long {
                // If no thread can be started, the connection still waits at the next check.
                let _ = self.threads.run(Box::new(move || standby.take_over()));
            }
        }
    }
}
