//! What a handler is given and gives.

use core::error::Error;
use core::fmt;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use falco_core::KeyId;

/// What a handler fails with. It stays on this side: the client learns only that its request
/// failed, and on the classic wire that its connection ended.
///
/// A [`Refusal`](crate::Refusal) is the exception: a handler that fails with one chooses the words
/// in which its request is refused.
pub type HandlerError = Box<dyn Error + Send + Sync>;

/// A request, decrypted.
///
/// A server makes one of what a client has sent. A test of a handler makes its own, without a
/// connection:
///
/// ```
/// use falco_std::{HandlerError, Key, KeyId, Refusal, Request};
///
/// fn greet(request: Request, admin: KeyId) -> Result<Vec<u8>, HandlerError> {
///     if request.key_id() != Some(admin) {
///         return Err(Refusal::NotProcessed.into());
///     }
///     let peer = request.peer().ok_or("not over a Unix socket")?;
///     Ok(format!("{} from {peer}", str::from_utf8(request.body())?).into_bytes())
/// }
///
/// let (admin, other) = (Key::from_bytes([1; 32])?.id(), Key::from_bytes([2; 32])?.id());
/// let request = || Request::new("hello").with_peer(([192, 0, 2, 7], 9).into());
/// let answer = greet(request().with_key_id(admin), admin).expect("it is the admin");
/// assert_eq!(answer, b"hello from 192.0.2.7:9");
/// assert!(greet(request().with_key_id(other), admin).is_err());
/// assert!(greet(Request::new("hello").with_key_id(admin), admin).is_err());
/// # Ok::<(), falco_std::KeyError>(())
/// ```
pub struct Request {
    body: Vec<u8>,
    peer: Option<SocketAddr>,
    key_id: Option<KeyId>,
    cancelled: Arc<AtomicBool>,
}

impl Request {
    /// A request that came over no connection, for tests of handlers. It has no peer and no key id,
    /// and is never cancelled.
    #[must_use]
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self::received(body.into(), None, None, Arc::default())
    }

    /// The same request with another [`peer`](Self::peer).
    #[must_use]
    pub const fn with_peer(mut self, peer: SocketAddr) -> Self {
        self.peer = Some(peer);
        self
    }

    /// The same request with another [`key_id`](Self::key_id).
    #[must_use]
    pub const fn with_key_id(mut self, key_id: KeyId) -> Self {
        self.key_id = Some(key_id);
        self
    }

    pub(super) const fn received(
        body: Vec<u8>,
        peer: Option<SocketAddr>,
        key_id: Option<KeyId>,
        cancelled: Arc<AtomicBool>,
    ) -> Self {
        Self {
            body,
            peer,
            key_id,
            cancelled,
        }
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

    /// The [id](crate::Key::id) of the key that the client has proved to have. The classic wire has
    /// none.
    #[must_use]
    pub const fn key_id(&self) -> Option<KeyId> {
        self.key_id
    }

    /// Whether nobody waits for the answer any more: the client has cancelled the request, or is
    /// gone. A handler that takes long asks this now and then, and gives up; what it returns then
    /// does not matter.
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
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}
