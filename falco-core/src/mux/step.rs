//! What a call of `recv` returns, on both sides.

use alloc::vec::Vec;
use core::fmt;

use super::Body;
use super::call::Call;
#[cfg(feature = "streams")]
use crate::event::Length;
use crate::message::{CloseReason, Refusal, RequestId};

/// The result of processing unread bytes at a client. What was consumed is no longer unread.
#[non_exhaustive]
pub enum ClientStep<'u, B, W, P = W> {
    /// No frame is complete. Call again with `total` unread bytes.
    NeedMore {
        /// Unread bytes needed in all.
        total: usize,
    },
    /// Nothing for the caller. Call again.
    Skip,
    /// The handshake has completed.
    Established,
    /// A request was answered.
    Answer {
        /// What waited for the answer.
        waiter: W,
        /// The answer.
        body: Body<'u>,
    },
    /// A request was refused.
    Refused {
        /// The request.
        call: Call<B, W>,
        /// Why.
        refusal: Refusal,
        /// Whether it goes to another connection, within its own time limit. If not, it fails.
        retry: bool,
    },
    /// The open answer to a request begins, with its first bytes, of which there may be none. The
    /// request is an [open](super::ClientMux::open) or a [streaming](Call::streaming) one. Give
    /// [credit](super::ClientMux::credit) for what its caller takes.
    #[cfg(feature = "streams")]
    Opened {
        /// The request.
        ticket: u64,
        /// The first bytes of the answer.
        body: &'u [u8],
    },
    /// The next bytes of an open answer.
    #[cfg(feature = "streams")]
    Part {
        /// The request.
        ticket: u64,
        /// The next bytes of the answer.
        body: &'u [u8],
    },
    /// An open answer is whole, and its request has completed.
    #[cfg(feature = "streams")]
    Ended {
        /// The request.
        ticket: u64,
        /// What waited for the answer.
        waiter: W,
    },
    /// An open request was refused. If a part of its answer has arrived, no more of it follows.
    #[cfg(feature = "streams")]
    OpenRefused {
        /// The request.
        ticket: u64,
        /// What waited for the answer.
        waiter: W,
        /// Why.
        refusal: Refusal,
    },
    /// A ping was answered, and with it all earlier pings.
    Pong {
        /// The waiters of these pings. Empty if only keep-alive has sent a ping.
        waiters: Vec<P>,
    },
    /// The server closes. Requests in flight still complete, and
    /// [`poll_closing`](super::ClientMux::poll_closing) returns those that go to another
    /// connection.
    Closing {
        /// Why.
        reason: CloseReason,
    },
}

impl<B, W, P> ClientStep<'_, B, W, P> {
    const fn name(&self) -> &'static str {
        match self {
            Self::NeedMore { .. } => "NeedMore",
            Self::Skip => "Skip",
            Self::Established => "Established",
            Self::Answer { .. } => "Answer",
            Self::Refused { .. } => "Refused",
            Self::Pong { .. } => "Pong",
            Self::Closing { .. } => "Closing",
            #[cfg(feature = "streams")]
            Self::Opened { .. } => "Opened",
            #[cfg(feature = "streams")]
            Self::Part { .. } => "Part",
            #[cfg(feature = "streams")]
            Self::Ended { .. } => "Ended",
            #[cfg(feature = "streams")]
            Self::OpenRefused { .. } => "OpenRefused",
        }
    }
}

impl<B, W, P> fmt::Debug for ClientStep<'_, B, W, P> {
    /// Shows lengths, and neither bodies nor waiters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut step = f.debug_struct(self.name());
        match self {
            Self::NeedMore { total } => return step.field("total", total).finish(),
            Self::Skip | Self::Established => {}
            Self::Answer { body, .. } => _ = step.field("body", body),
            Self::Refused {
                call, refusal, retry, ..
            } => _ = step.field("call", call).field("refusal", refusal).field("retry", retry),
            Self::Pong { waiters, .. } => _ = step.field("waiters", &waiters.len()),
            Self::Closing { reason, .. } => _ = step.field("reason", reason),
            #[cfg(feature = "streams")]
            Self::Opened { ticket, body, .. } | Self::Part { ticket, body, .. } => {
                step.field("ticket", ticket).field("body", &Length(body.len()));
            }
            #[cfg(feature = "streams")]
            Self::Ended { ticket, .. } => _ = step.field("ticket", ticket),
            #[cfg(feature = "streams")]
            Self::OpenRefused { ticket, refusal, .. } => {
                step.field("ticket", ticket).field("refusal", refusal);
            }
        }
        step.finish()
    }
}

/// The result of processing unread bytes at a server. What was consumed is no longer unread.
#[non_exhaustive]
pub enum ServerStep<'u> {
    /// No frame is complete. Call again with `total` unread bytes.
    NeedMore {
        /// Unread bytes needed in all.
        total: usize,
    },
    /// Pass what [`seal`](super::ServerMux::seal) returns to the stream first, then call again. It
    /// also comes while [`may_read`](super::ServerMux::may_read) returns `false`: before
    /// [`flushed`](super::ServerMux::flushed) is called for the first time after the handshake, and
    /// while the client does not take its answers.
    TransmitFirst,
    /// Answer a request first, then call again.
    AnswerFirst,
    /// Nothing for the caller. Call again.
    Skip,
    /// A hello of the noise wire has decrypted under a key of the server. It may be a replay. On
    /// the classic wire there is no such step: a hello there proves the key.
    Hello {
        /// The fingerprint of the hello, for [`Admission::hello`](super::Admission::hello). A
        /// replay has the same one.
        fingerprint: u64,
    },
    /// The client has proved that it has the key and that its hello is not a replay.
    Established,
    /// A whole request, to be answered or refused.
    Request {
        /// The request.
        id: RequestId,
        /// Its body.
        body: Body<'u>,
    },
    /// An open request begins, with its first bytes, of which there may be none. It may be answered
    /// at any time. Give [credit](super::ServerMux::credit) for what the handler takes.
    #[cfg(feature = "streams")]
    Opened {
        /// The request.
        id: RequestId,
        /// The first bytes of its body.
        body: Body<'u>,
    },
    /// The next bytes of an open request.
    #[cfg(feature = "streams")]
    Part {
        /// The request.
        id: RequestId,
        /// The next bytes of its body.
        body: &'u [u8],
    },
    /// The body of an open request is whole.
    #[cfg(feature = "streams")]
    Ended {
        /// The request.
        id: RequestId,
    },
    /// The client no longer wants the answer. Stop the handler and refuse the request as cancelled,
    /// or answer it anyway. Nothing more of an open request arrives, and nothing more of an open
    /// answer is accepted: refuse or [complete](super::ServerMux::complete) it.
    Cancelled {
        /// The request.
        id: RequestId,
    },
    /// The client closes: it begins no new requests.
    Closing {
        /// Why.
        reason: CloseReason,
    },
}

impl ServerStep<'_> {
    const fn name(&self) -> &'static str {
        match self {
            Self::NeedMore { .. } => "NeedMore",
            Self::TransmitFirst => "TransmitFirst",
            Self::AnswerFirst => "AnswerFirst",
            Self::Skip => "Skip",
            Self::Hello { .. } => "Hello",
            Self::Established => "Established",
            Self::Request { .. } => "Request",
            #[cfg(feature = "streams")]
            Self::Opened { .. } => "Opened",
            #[cfg(feature = "streams")]
            Self::Part { .. } => "Part",
            #[cfg(feature = "streams")]
            Self::Ended { .. } => "Ended",
            Self::Cancelled { .. } => "Cancelled",
            Self::Closing { .. } => "Closing",
        }
    }
}

impl fmt::Debug for ServerStep<'_> {
    /// Shows lengths, and no bodies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut step = f.debug_struct(self.name());
        match self {
            Self::NeedMore { total } => _ = step.field("total", total),
            Self::Hello { fingerprint } => _ = step.field("fingerprint", fingerprint),
            Self::Request { id, body } => _ = step.field("id", id).field("body", body),
            #[cfg(feature = "streams")]
            Self::Opened { id, body } => _ = step.field("id", id).field("body", body),
            #[cfg(feature = "streams")]
            Self::Part { id, body } => _ = step.field("id", id).field("body", &Length(body.len())),
            #[cfg(feature = "streams")]
            Self::Ended { id } => _ = step.field("id", id),
            Self::Cancelled { id } => _ = step.field("id", id),
            Self::Closing { reason } => _ = step.field("reason", reason),
            Self::TransmitFirst | Self::AnswerFirst | Self::Skip | Self::Established => {}
        }
        step.finish()
    }
}
