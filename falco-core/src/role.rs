//! The two sides of a connection, and what differs between them in type.

use core::fmt::Debug;

use crate::event::{ClientEvent, ClientWait, ServerEvent, ServerWait};
use crate::outgoing::{Outgoing, OutgoingAnswer, OutgoingRequest};

mod private {
    /// Keeps the roles those of this crate.
    #[allow(unnameable_types, reason = "that is what seals")]
    pub trait Sealed {}
}

/// Which side of a connection a machine is: [`ClientSide`] or [`ServerSide`].
pub trait Role: private::Sealed {
    /// What happens to this side, with bodies that are lent from the unread bytes.
    type Event<'u>: Debug + Copy + PartialEq + Eq;
    /// What this side may want before it reads on.
    type Wait: Debug + Copy + PartialEq + Eq;
    /// What this side sends.
    type Outgoing: Debug + Outgoing;
}

/// The side that connects, sends requests and gets answers.
#[derive(Debug)]
#[non_exhaustive]
pub struct ClientSide;

/// The side that is connected to, gets requests and sends answers.
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
