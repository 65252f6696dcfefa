//! An open request with its caller, on its way from the adapter to the mux and back.

use core::fmt;

use super::streams::{Chunks, StreamError};
use crate::error::RequestError;
use crate::message::Fate;

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

/// An open request that a connection did not accept.
#[allow(clippy::exhaustive_enums, reason = "an adapter has to handle each of them")]
pub enum OpenRejected<B, W> {
    /// The connection accepts no new requests. This one may go to another connection.
    Closed(OpenCall<B, W>),
    /// The request fails: the server takes no open bodies.
    Failed(OpenCall<B, W>, RequestError),
}

/// An open request that a connection leaves behind when it ends.
#[non_exhaustive]
pub struct UnfinishedOpen<B, W> {
    /// The request. If it has begun, without its body.
    pub call: OpenCall<B, W>,
    /// Whether it may have been processed.
    pub fate: Fate,
    /// Whether it goes to another connection or fails. It fails if it has begun.
    pub retry: bool,
}

impl<B, W> fmt::Debug for OpenCall<B, W> {
    /// Shows no bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenCall")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

impl<B, W> fmt::Debug for OpenRejected<B, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed(call) => f.debug_tuple("Closed").field(call).finish(),
            Self::Failed(call, error) => f.debug_tuple("Failed").field(call).field(error).finish(),
        }
    }
}

impl<B, W> fmt::Debug for UnfinishedOpen<B, W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnfinishedOpen")
            .field("call", &self.call)
            .field("fate", &self.fate)
            .field("retry", &self.retry)
            .finish()
    }
}
