//! Requests and errors of handlers.

use core::error::Error;
use core::fmt;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use falco_core::KeyId;

/// The error of a handler. If it is a [`Refusal`](crate::Refusal), the request is refused with that
/// reason. Otherwise the request is refused as [failed](crate::Refusal::Failed), and the client
/// does not receive the error. The classic wire has no refusals: there the connection ends.
pub type HandlerError = Box<dyn Error + Send + Sync>;

/// A request, decrypted.
///
/// A test of a handler can create one without a connection:
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
    label: Option<Arc<str>>,
    cancelled: Arc<AtomicBool>,
}

impl Request {
    /// Creates a request, for tests of handlers. It has no peer and no key id, and is never
    /// cancelled.
    #[must_use]
    pub fn new(body: impl Into<Vec<u8>>) -> Self {
        Self::received(body.into(), None, (None, None), Arc::default())
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

    /// The same request with another [`key_label`](Self::key_label).
    #[must_use]
    pub fn with_key_label(mut self, label: impl Into<Arc<str>>) -> Self {
        self.label = Some(label.into());
        self
    }

    pub(super) fn received(
        body: Vec<u8>,
        peer: Option<SocketAddr>,
        (key_id, label): (Option<KeyId>, Option<Arc<str>>),
        cancelled: Arc<AtomicBool>,
    ) -> Self {
        Self {
            body,
            peer,
            key_id,
            label,
            cancelled,
        }
    }

    /// The bytes that the client sent.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The bytes that the client sent, without a copy.
    #[must_use]
    pub fn into_body(self) -> Vec<u8> {
        self.body
    }

    /// The client's address. None over a Unix socket and in
    /// [`serve_connection`](crate::Server::serve_connection).
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

    /// The label of the client's key, if the server has one for it
    /// ([`ServerBuilder::labeled_key`](crate::ServerBuilder::labeled_key)).
    #[must_use]
    pub fn key_label(&self) -> Option<&str> {
        self.label.as_deref()
    }

    /// Whether the client has cancelled the request or its connection has ended. A handler that
    /// takes long can check this and return early. Then its answer is discarded.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

impl fmt::Debug for Request {
    /// Shows the length of the body, and none of its bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.body.len();
        f.debug_struct("Request")
            .field("length", &length)
            .field("peer", &self.peer)
            .field("key_id", &self.key_id)
            .field("key_label", &self.label)
            .finish_non_exhaustive()
    }
}
