//! An open request with its caller, on its way from the adapter to the mux and back.

use core::fmt;

use super::streams::{Chunks, StreamError};

/// An open request with its caller: as a [`Call`](super::Call), with a body that is written while
/// it is sent. An adapter creates it and hands it to [`ClientMux::open`](super::ClientMux::open).
/// If the connection does not begin it, the mux returns it with what was written of its body. The
/// adapter then hands it to another connection, or fails it.
#[non_exhaustive]
pub struct OpenCall<B, W> {
    /// The adapter's number of the request. No two outstanding requests of a connection, open or
    /// not, have the same.
    pub ticket: u64,
    /// Whatever waits for the answer.
    pub waiter: W,
    pub(super) chunks: Chunks<B>,
}

impl<B: AsRef<[u8]>, W> OpenCall<B, W> {
    /// A request of which nothing is written.
    pub const fn new(ticket: u64, waiter: W) -> Self {
        let chunks = Chunks::new();
        Self { ticket, waiter, chunks }
    }

    /// Adds bytes to its body, for a request that no connection has accepted yet.
    ///
    /// # Errors
    /// [`StreamError::Ended`] if the body was finished before.
    pub fn write(&mut self, chunk: B) -> Result<(), StreamError> {
        if self.chunks.is_finished() {
            return Err(StreamError::Ended);
        }
        self.chunks.push(chunk);
        Ok(())
    }

    /// Ends its body.
    pub const fn finish(&mut self) {
        self.chunks.finish();
    }
}

impl<B, W> fmt::Debug for OpenCall<B, W> {
    /// Shows no bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenCall")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}
