//! What a handler is given and gives.

use core::error::Error;
use core::fmt;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// What a handler fails with. It stays on this side: the client learns only that its request failed, and on the classic wire that its connection ended.
pub type HandlerError = Box<dyn Error + Send + Sync>;

/// A request, decrypted.
pub struct Request {
    body: Vec<u8>,
    peer: Option<SocketAddr>,
    cancelled: Arc<AtomicBool>,
}

impl Request {
    pub(super) const fn new(body: Vec<u8>, peer: Option<SocketAddr>, cancelled: Arc<AtomicBool>) -> Self {
        Self { body, peer, cancelled }
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

    /// Whether nobody waits for the answer any more: the client has cancelled the request, or is gone. A handler that takes long asks this now and then, and gives up; what it
    /// returns then does not matter.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
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
