//! Events of both roles of the noise wire as one type, with their bodies.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else there is does not come on this wire"
)]

use falco_core::{ClientEvent, CloseReason, Refusal, RequestId, ServerEvent};

/// An event with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Established,
    Whole(u32, Vec<u8>),
    Begin(u32, u32, Vec<u8>),
    Part(u32, Vec<u8>, bool),
    Refused(u32, Refusal),
    Abandoned(u32),
    Cancelled(u32),
    Closing(CloseReason),
    Ping,
    Pong,
}

/// Converts an event of either role.
pub(crate) trait Tell: Sized {
    fn tell(self) -> (Told, Option<RequestId>);
}

impl Tell for ServerEvent<'_> {
    fn tell(self) -> (Told, Option<RequestId>) {
        match self {
            Self::Established => (Told::Established, None),
            Self::Request { id, body } => (Told::Whole(id.number(), body.to_vec()), Some(id)),
            Self::Begin { id, total, body } => (Told::Begin(id.number(), total, body.to_vec()), Some(id)),
            Self::Part { id, body, last } => (Told::Part(id.number(), body.to_vec(), last), Some(id)),
            Self::Abandoned { id } => (Told::Abandoned(id.number()), Some(id)),
            Self::Cancelled { id } => (Told::Cancelled(id.number()), Some(id)),
            Self::Closing { reason } => (Told::Closing(reason), None),
            Self::Ping => (Told::Ping, None),
            other => panic!("{other:?}"),
        }
    }
}

impl Tell for ClientEvent<'_> {
    fn tell(self) -> (Told, Option<RequestId>) {
        match self {
            Self::Established => (Told::Established, None),
            Self::Answer { id, body } => (Told::Whole(id.number(), body.to_vec()), Some(id)),
            Self::Begin { id, total, body } => (Told::Begin(id.number(), total, body.to_vec()), Some(id)),
            Self::Part { id, body, last } => (Told::Part(id.number(), body.to_vec(), last), Some(id)),
            Self::Refused { id, refusal } => (Told::Refused(id.number(), refusal), Some(id)),
            Self::Closing { reason } => (Told::Closing(reason), None),
            Self::Pong { .. } => (Told::Pong, None),
            other => panic!("{other:?}"),
        }
    }
}
