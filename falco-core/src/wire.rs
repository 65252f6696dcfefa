//! Bounds for references to keys. The traits are sealed: only this crate implements wires.

use core::ops::Deref;

use crate::role::{ClientSide, Role, ServerSide};
use crate::session::{self, Keyed};

/// A reference to a key that can be used in the role `R`, such as `&NoiseClient<..>` or
/// `Arc<NoiseServer<..>>`. A [`Connection`](crate::Connection) holds one.
///
/// Every type that dereferences to such a key implements it. The trait is sealed: its bounds name
/// types that only this crate can use.
///
/// ```
/// use falco_core::{Connection, Instant, KeyRef, Role};
///
/// fn is_due<R: Role, H: KeyRef<R>>(connection: &Connection<R, H>, now: Instant) -> bool {
///     connection.poll_timeout().is_some_and(|due| due <= now)
/// }
/// ```
pub trait KeyRef<R: Role>: Deref<Target: Keyed<R>> {}

impl<R: Role, H: Deref<Target: Keyed<R>>> KeyRef<R> for H {}

/// A reference to a client's key: `NoiseClient`, `ClassicKey` or `ClientKeys`. Sealed as
/// [`KeyRef`].
pub trait ClientKeyRef: KeyRef<ClientSide> + Deref<Target: Keyed<ClientSide, Session: session::Client>> {}

impl<H: Deref<Target: Keyed<ClientSide, Session: session::Client>>> ClientKeyRef for H {}

/// A reference to a server's keys: `NoiseServer`, `ClassicKey` or `ServerKeys`. Sealed as
/// [`KeyRef`].
pub trait ServerKeyRef: KeyRef<ServerSide> + Deref<Target: Keyed<ServerSide, Session: session::Server>> {}

impl<H: Deref<Target: Keyed<ServerSide, Session: session::Server>>> ServerKeyRef for H {}
