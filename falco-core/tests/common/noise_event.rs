//! Events of both roles of the noise wire as one type, with their bodies.
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "whatever else there is does not come on this wire"
)]

use falco_core::{ClientEvent, CloseReason, Refusal, RequestId, ServerEvent};

/// An event with its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoiseEvent {
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
    Opened(u32, Vec<u8>),
    Credit(u32),
}

/// Converts an event of either role.
pub(crate) trait IntoNoiseEvent: Sized {
    fn into_noise_event(self) -> (NoiseEvent, Option<RequestId>);
}

impl IntoNoiseEvent for ServerEvent<'_> {
    fn into_noise_event(self) -> (NoiseEvent, Option<RequestId>) {
        match self {
            #[cfg(feature = "streams")]
            Self::Opened { id, body } => (NoiseEvent::Opened(id.number(), body.to_vec()), Some(id)),
            #[cfg(feature = "streams")]
            Self::Credit { id } => (NoiseEvent::Credit(id.number()), Some(id)),
            Self::Established => (NoiseEvent::Established, None),
            Self::Request { id, body } => (NoiseEvent::Whole(id.number(), body.to_vec()), Some(id)),
            Self::Begin { id, total, body } => (NoiseEvent::Begin(id.number(), total, body.to_vec()), Some(id)),
            Self::Part { id, body, last } => (NoiseEvent::Part(id.number(), body.to_vec(), last), Some(id)),
            Self::Abandoned { id } => (NoiseEvent::Abandoned(id.number()), Some(id)),
            Self::Cancelled { id } => (NoiseEvent::Cancelled(id.number()), Some(id)),
            Self::Closing { reason } => (NoiseEvent::Closing(reason), None),
            Self::Ping => (NoiseEvent::Ping, None),
            other => panic!("{other:?}"),
        }
    }
}

impl IntoNoiseEvent for ClientEvent<'_> {
    fn into_noise_event(self) -> (NoiseEvent, Option<RequestId>) {
        match self {
            #[cfg(feature = "streams")]
            Self::Opened { id, body } => (NoiseEvent::Opened(id.number(), body.to_vec()), Some(id)),
            #[cfg(feature = "streams")]
            Self::Credit { id } => (NoiseEvent::Credit(id.number()), Some(id)),
            Self::Established => (NoiseEvent::Established, None),
            Self::Answer { id, body } => (NoiseEvent::Whole(id.number(), body.to_vec()), Some(id)),
            Self::Begin { id, total, body } => (NoiseEvent::Begin(id.number(), total, body.to_vec()), Some(id)),
            Self::Part { id, body, last } => (NoiseEvent::Part(id.number(), body.to_vec(), last), Some(id)),
            Self::Refused { id, refusal } => (NoiseEvent::Refused(id.number(), refusal), Some(id)),
            Self::Closing { reason } => (NoiseEvent::Closing(reason), None),
            Self::Pong { .. } => (NoiseEvent::Pong, None),
            other => panic!("{other:?}"),
        }
    }
}
