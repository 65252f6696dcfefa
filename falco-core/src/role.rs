//! The two roles of a connection, and the types that differ between them.

use core::fmt::Debug;

use crate::event::{ClientEvent, ClientWait, ServerEvent, ServerWait};
use crate::outgoing::{Outgoing, OutgoingAnswer, OutgoingRequest};

mod private {
    /// Seals the trait.
    #[allow(unnameable_types, reason = "this seals the trait")]
    pub trait Sealed {}
}

/// The role of one side of a connection: [`ClientSide`] or [`ServerSide`]. The trait is sealed.
pub trait Role: private::Sealed {
    /// What [`recv`](crate::Connection::recv) reports. Bodies borrow from the unread bytes.
    type Event<'u>: Debug + Copy + PartialEq + Eq;
    /// What may have to happen before `recv` reads on.
    type Wait: Debug + Copy + PartialEq + Eq;
    /// The messages of this side.
    type Outgoing: Debug + Outgoing;
}

/// The side that connects, sends requests and receives answers.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClientSide;

/// The side that accepts, receives requests and sends answers.
#[derive(Debug)]
#[non_exhaustive]
pub struct ServerSide;

impl private::Sealed for ClientSide {}
impl private::Sealed for ServerSide {}

impl Role for ClientSide {
    type Event<'u> = ClientEvent<'u>;
    type Wait = ClientWait;
    type Outgoing = OutgoingRequest;
}

impl Role for ServerSide {
    type Event<'u> = ServerEvent<'u>;
    type Wait = ServerWait;
    type Outgoing = OutgoingAnswer;
}
