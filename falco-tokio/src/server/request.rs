//! A request as its handler gets it.

use core::fmt;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use bytes::Bytes;
use falco_core::{KeyId, RequestId};

use super::control::Control;

/// A request, decrypted.
pub struct Request {
    body: Bytes,
    id: RequestId,
    control: Arc<Control>,
    /// Where it is noted that somebody has looked at the body, if anybody wants to know.
    seen: Option<Arc<AtomicBool>>,
}

impl Request {
    pub(crate) const fn new(body: Bytes, id: RequestId, control: Arc<Control>) -> Self {
        let seen = None;
        Self {
            body,
            id,
            control,
            seen,
        }
    }

    /// From now on the flag says whether anybody has looked at the body.
    pub(super) fn watch(&mut self) -> Arc<AtomicBool> {
        Arc::clone(self.seen.get_or_insert_default())
    }

    fn see(&self) {
        if let Some(seen) = &self.seen {
            seen.store(true, Ordering::Relaxed);
        }
    }

    /// The bytes that the client sent.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        self.see();
        &self.body
    }

    /// The bytes that the client sent, to keep.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.see();
        self.body
    }

    /// The client's address; none where the connection is not one of the internet.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        self.control.peer
    }

    /// The id of the key that the client has proved to have. The classic wire has none.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.control.key.get().copied()
    }

    /// Whether nobody waits for the answer any more: the client has cancelled the request, or is gone.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.control.is_cancelled(self.id)
    }

    /// Waits until nobody waits for the answer any more. For what a handler has set going elsewhere, and for handlers that are not dropped
    /// ([`OnCancel::Signal`](crate::OnCancel::Signal)).
    pub async fn cancelled(&self) {
        self.control.cancelled(self.id).await;
    }
}

impl fmt::Debug for Request {
    /// Shows how long the body is, and nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("number", &self.id.number())
            .field("length", &self.body.len())
            .field("peer", &self.peer())
            .field("key_id", &self.key_id())
            .finish_non_exhaustive()
    }
}
