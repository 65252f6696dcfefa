//! A request as its handler receives it.

use core::fmt;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use bytes::Bytes;
use falco_core::{KeyId, RequestId};

use super::control::Control;
use super::holder::Holder;

/// A decrypted request.
///
/// A server creates it from what a client has sent. A test of a handler creates its own, without a
/// connection:
///
/// ```
/// use falco_tokio::{HandlerError, Key, KeyId, Refusal, Request};
///
/// async fn greet(request: Request, admin: KeyId) -> Result<Vec<u8>, HandlerError> {
///     if request.key_id() != Some(admin) {
///         return Err(Refusal::NotProcessed.into());
///     }
///     let peer = request.peer().ok_or("not over a Unix socket")?;
///     Ok(format!("{} from {peer}", str::from_utf8(request.body())?).into_bytes())
/// }
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (admin, other) = (Key::from_bytes([1; 32])?.id(), Key::from_bytes([2; 32])?.id());
/// let request = || Request::new("hello").with_peer(([192, 0, 2, 7], 9).into());
/// let answer = greet(request().with_key_id(admin), admin).await.expect("it is the admin");
/// assert_eq!(answer, b"hello from 192.0.2.7:9");
/// assert!(greet(request().with_key_id(other), admin).await.is_err());
/// assert!(greet(Request::new("hello").with_key_id(admin), admin).await.is_err());
/// # Ok(())
/// # }
/// ```
pub struct Request {
    body: Bytes,
    /// `None` if it was created by [`new`](Self::new).
    origin: Option<(RequestId, Arc<Control>)>,
    /// The holder of the client's key, if it has a label.
    holder: Option<Arc<Holder>>,
    /// What `with_peer` and `with_key_id` have set.
    set: Option<Box<Set>>,
    /// Set when the body is read, if [`watch_body`](Self::watch_body) was called.
    read: Option<Arc<AtomicBool>>,
}

struct Set {
    peer: Option<SocketAddr>,
    key_id: Option<KeyId>,
}

impl Request {
    /// Creates a request, for tests of handlers. It has no peer and no key id, and is never
    /// cancelled.
    #[must_use]
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            origin: None,
            holder: None,
            set: None,
            read: None,
        }
    }

    /// The same request with another [`peer`](Self::peer).
    #[must_use]
    pub fn with_peer(mut self, peer: SocketAddr) -> Self {
        self.set().peer = Some(peer);
        self
    }

    /// The same request with another [`key_id`](Self::key_id).
    #[must_use]
    pub fn with_key_id(mut self, key_id: KeyId) -> Self {
        self.set().key_id = Some(key_id);
        self
    }

    /// The same request with another [`key_label`](Self::key_label).
    #[must_use]
    pub fn with_key_label(mut self, label: impl Into<Arc<str>>) -> Self {
        self.holder = Some(Holder::new(self.key_id(), Some(label.into())));
        self
    }

    fn set(&mut self) -> &mut Set {
        let (peer, key_id) = (self.peer(), self.key_id());
        self.set.get_or_insert_with(|| Box::new(Set { peer, key_id }))
    }

    pub(crate) const fn received(
        body: Bytes,
        id: RequestId,
        holder: Option<Arc<Holder>>,
        control: Arc<Control>,
    ) -> Self {
        Self {
            body,
            origin: Some((id, control)),
            holder,
            set: None,
            read: None,
        }
    }

    /// A flag that is set when the body is read.
    pub(super) fn watch_body(&mut self) -> Arc<AtomicBool> {
        Arc::clone(self.read.get_or_insert_default())
    }

    fn note_read(&self) {
        if let Some(read) = &self.read {
            read.store(true, Ordering::Relaxed);
        }
    }

    /// The bytes that the client sent.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        self.note_read();
        &self.body
    }

    /// The bytes that the client sent, without a copy.
    #[must_use]
    pub fn into_body(self) -> Bytes {
        self.note_read();
        self.body
    }

    /// The client's address, or `None` if the connection is not over IP.
    #[must_use]
    pub fn peer(&self) -> Option<SocketAddr> {
        match (&self.set, &self.origin) {
            (Some(set), _) => set.peer,
            (None, Some((_, control))) => control.peer,
            (None, None) => None,
        }
    }

    /// The [id](crate::Key::id) of the client's key, which it has proved to have. `None` on the
    /// classic wire.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        match (&self.set, &self.origin) {
            (Some(set), _) => set.key_id,
            (None, Some((_, control))) => control.key.get().copied(),
            (None, None) => None,
        }
    }

    /// The label of the client's key, if the server has one for it
    /// ([`ServerBuilder::labeled_key`](crate::ServerBuilder::labeled_key)).
    #[must_use]
    pub fn key_label(&self) -> Option<&str> {
        self.holder.as_ref()?.label.as_deref()
    }

    /// Whether the answer is no longer needed: the client has cancelled the request, or the
    /// connection has ended.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let origin = self.origin.as_ref();
        origin.is_some_and(|(id, control)| control.is_cancelled(*id))
    }

    /// Waits until the answer is no longer needed. Use it to stop work that a handler has started
    /// elsewhere, and in handlers that are not dropped
    /// ([`OnCancel::Signal`](crate::OnCancel::Signal)).
    pub async fn cancelled(&self) {
        match &self.origin {
            Some((id, control)) => control.cancelled(*id).await,
            None => core::future::pending().await,
        }
    }

    /// The connection that it came on.
    pub(super) fn control(&self) -> Option<&Arc<Control>> {
        self.origin.as_ref().map(|(_, control)| control)
    }
}

impl fmt::Debug for Request {
    /// Shows the length of the body, and no bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.origin.as_ref().map(|(id, _)| id.number());
        f.debug_struct("Request")
            .field("number", &number)
            .field("length", &self.body.len())
            .field("peer", &self.peer())
            .field("key_id", &self.key_id())
            .field("key_label", &self.key_label())
            .finish_non_exhaustive()
    }
}
