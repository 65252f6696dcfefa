//! Handlers on threads of connections. Such a thread reads and writes nothing while it runs a
//! handler, so its connection is on standby meanwhile: if the handler takes long, a thread of its
//! own goes on with the connection. One thread watches all of these handlers. It exists only while
//! there are such handlers, and for a while after.

use core::time::Duration;
use std::sync::{Arc, PoisonError};
use std::thread;

use super::{IDLE, Pool};

/// How often the handlers are looked at. A handler that ran at the last look already is long. So
/// another thread is asked to go on with the connection one to two of these after the handler has
/// begun.
const LOOK: Duration = Duration::from_millis(1);

/// A connection while its thread runs a handler.
pub(in crate::server) trait Standby: Send + Sync {
    /// Whether no thread has gone on with the connection yet.
    fn waits(&self) -> bool;

    /// Goes on with the connection on this thread, if it still waits. Returns when the connection
    /// has ended.
    fn go_on(&self);
}

/// The handlers that run on threads of connections.
#[derive(Default)]
pub(super) struct Lends {
    running: Vec<(u64, Arc<dyn Standby>)>,
    /// The number of the last one.
    last: u64,
    /// The thread that watches exists.
    thread: bool,
    /// It looks periodically. Otherwise it waits for the next handler.
    looks: bool,
}

impl Lends {
    pub(super) const fn len(&self) -> usize {
        self.running.len()
    }

    /// The connections of handlers that have begun until `number` and that still wait.
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
        if !lends.looks && !self.start_looking(lends) {
            return None;
        }
        lends.last += 1;
        let number = lends.last;
        lends.running.push((number, standby));
        drop(queue);
        let pool = Arc::clone(self);
        Some(Lent { pool, number })
    }

    /// Has the thread watch. Returns `false` if it could not be started.
    fn start_looking(self: &Arc<Self>, lends: &mut Lends) -> bool {
        if lends.thread {
            self.lending.notify_one();
        } else {
            let own = Arc::clone(self);
            let spawned = thread::Builder::new()
                .name("falco watch".to_owned())
                .spawn(move || own.watch());
            lends.thread = spawned.is_ok();
        }
        lends.looks = lends.thread;
        lends.looks
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
            thread::sleep(LOOK);
            let mut queue = self.lock();
            let lends = &mut queue.lends;
            let (long, last) = (lends.waiting(seen), lends.last);
            if last == core::mem::replace(&mut seen, last) && long.is_empty() {
                lends.looks = false;
                let waited = self.lending.wait_timeout_while(queue, IDLE, |queue| !queue.lends.looks);
                let mut queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                if !queue.lends.looks {
                    queue.lends.thread = false;
                    return;
                }
                continue;
            }
            drop(queue);
            for standby in long {
                // If no thread can be started, the connection still waits at the next look.
                let _ = self.threads.run(Box::new(move || standby.go_on()));
            }
        }
    }
}
