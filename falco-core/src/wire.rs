//! What a key may be used for, as users write it in bounds. Sealed: the wires are those of this
//! crate.

use crate::role::{ClientSide, Role, ServerSide};
use crate::session::{self, Keyed};

/// A key with the wire on which it is used in the role `R`, such as
/// [`ClassicKey`](crate::ClassicKey). A [`Connection`](crate::Connection) does with it whatever can
/// be done.
pub trait Wire<R: Role>: Keyed<R> {}

impl<R: Role, K: Keyed<R> + ?Sized> Wire<R> for K {}

/// A wire on which one can be a client.
pub trait ClientWire: Wire<ClientSide> + Keyed<ClientSide, Session: session::Client> {}

impl<K: Keyed<ClientSide, Session: session::Client> + ?Sized> ClientWire for K {}

/// A wire on which one can be a server.
pub trait ServerWire: Wire<ServerSide> + Keyed<ServerSide, Session: session::Server> {}

impl<K: Keyed<ServerSide, Session: session::Server> + ?Sized> ServerWire for K {}
