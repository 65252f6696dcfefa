//! The thread of a connection may run a handler itself, which saves waking a worker and being woken
//! by it. It does not read meanwhile. So it runs a handler only if the request is the only one on
//! the connection and the previous handler was short. If the handler still takes long, another
//! thread takes over the connection, and this thread only completes the request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::super::handler::{HandlerError, Request};
use super::super::pool::{Standby, isolated};
use super::super::state::{Job, State};
use super::Reader;

/// Holds a connection while its thread runs a handler. The thread that takes the connection from
/// here drives it.
pub(super) struct Parked<H>(Mutex<Option<Box<Reader<H>>>>);

impl<H> Default for Parked<H> {
    fn default() -> Self {
        Self(Mutex::new(None))
    }
}

impl<H> Parked<H> {
    fn lock(&self) -> MutexGuard<'_, Option<Box<Reader<H>>>> {
        // No code that can panic runs under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Box<Reader<H>>> {
        self.lock().take()
    }
}

impl<H> Standby for Parked<H>
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    fn waits(&self) -> bool {
        self.lock().is_some()
    }

    fn take_over(&self) {
        if let Some(reader) = self.take() {
            // The result, what ended the connection, has no receiver here.
            let _ = reader.serve();
        }
    }
}

impl<H> Reader<H>
where
    H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
{
    /// Whether this thread may run the handler of a request after which nothing has been read.
    pub(super) fn may_handle(&self, state: &State) -> bool {
        self.parked.is_some() && state.is_free() && !self.requests.are_slow()
    }

    /// Runs a handler, or has a worker run it if no place is free. Returns `None` if another thread
    /// has taken over the connection.
    pub(super) fn handle(self: Box<Self>, job: Job) -> Option<Box<Self>> {
        let parked = Arc::clone(self.parked.as_ref()?);
        let (pool, requests) = (Arc::clone(&self.service.pool), Arc::clone(&self.requests));
        // Parked first: as soon as the pool has lent a place, another thread may take over.
        *parked.lock() = Some(self);
        let standby = Arc::clone(&parked);
        let Some(lent) = pool.lend(standby) else {
            let own = parked.take()?;
            let schedule = own.conn.lock().state.put_back(own.conn.now(), job);
            if schedule {
                pool.submit(requests);
            }
            return Some(own);
        };
        isolated(|| requests.handle(job));
        drop(lent);
        let own = parked.take();
        if own.is_none() {
            requests.send();
        }
        // Otherwise this thread sends the answer when it continues.
        own
    }
}
