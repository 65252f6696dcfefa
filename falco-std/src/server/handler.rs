//! What a handler is given and gives, and how many run at once.

use core::error::Error;
use core::fmt;
use core::net::SocketAddr;
use core::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::{Condvar, Mutex, PoisonError};

/// What a handler fails with. It stays on this side: the client learns only that its connection ended.
pub type HandlerError = Box<dyn Error + Send + Sync>;

/// A request, decrypted.
pub struct Request {
    body: Vec<u8>,
    peer: Option<SocketAddr>,
}

impl Request {
    pub(super) const fn new(body: Vec<u8>, peer: Option<SocketAddr>) -> Self {
        Self { body, peer }
    }

    /// The bytes that the client sent.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The bytes that the client sent, to keep.
    #[must_use]
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// The client's address; none where the connection is not one of the internet.
    #[must_use]
    pub const fn peer(&self) -> Option<SocketAddr> {
        self.peer
    }
}

impl fmt::Debug for Request {
    /// Shows how long the body is, and nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.body.len();
        f.debug_struct("Request")
            .field("length", &length)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// How many more handlers may start.
#[derive(Debug)]
pub(super) struct Workers {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Workers {
    pub(super) const fn new(workers: usize) -> Self {
        Self {
            free: Mutex::new(workers),
            freed: Condvar::new(),
        }
    }

    /// Waits for a worker's turn, then runs `handler`; `None` where it failed, or where `wanted` says that its answer is of no more use.
    pub(super) fn run<H>(&self, handler: &H, request: Request, wanted: impl FnOnce() -> bool) -> Option<Vec<u8>>
    where
        H: Fn(Request) -> Result<Vec<u8>, HandlerError>,
    {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self
            .freed
            .wait_while(free, |free| *free == 0)
            .unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
        drop(free);
        let turn = Turn(self);
        if !wanted() {
            return None;
        }
        // A handler that panics may leave its own state broken; what this crate holds is not touched by it.
        let answer = catch_unwind(AssertUnwindSafe(|| handler(request)));
        drop(turn);
        answer.ok()?.ok()
    }
}

/// Gives its place back, however the turn ends.
struct Turn<'w>(&'w Workers);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}
