//! What a call of `recv` returns, on both sides.

use alloc::vec::Vec;

use super::Body;
use super::call::Call;
use crate::message::{CloseReason, Refusal, RequestId};

/// The result of processing unread bytes at a client. Drop the first `consumed` of them when you
/// are done with the step.
#[derive(Debug)]
#[allow(clippy::exhaustive_enums, reason = "an adapter has to handle each of them")]
pub enum ClientStep<'u, B, W, P = W> {
    /// No frame is complete. Call again with `total` unread bytes.
    NeedMore {
        /// Unread bytes needed in all.
        total: usize,
    },
    /// Nothing for the caller. Call again.
    Skip {
        /// Bytes to drop.
        consumed: usize,
    },
    /// The handshake has completed.
    Established {
        /// Bytes to drop.
        consumed: usize,
    },
    /// A request was answered.
    Answer {
        /// Bytes to drop, once the body is copied.
        consumed: usize,
        /// What waited for the answer.
        waiter: W,
        /// The answer.
        body: Body<'u>,
    },
    /// A request was refused.
    Refused {
        /// Bytes to drop.
        consumed: usize,
        /// The request.
        call: Call<B, W>,
        /// Why.
        refusal: Refusal,
        /// Whether it goes to another connection, within its own time limit. If not, it fails.
        retry: bool,
    },
    /// A ping was answered, and with it all earlier pings.
    Pong {
        /// Bytes to drop.
        consumed: usize,
        /// The waiters of these pings. Empty if only keep-alive has sent a ping.
        waiters: Vec<P>,
    },
    /// The server closes. Requests in flight still complete, and
    /// [`poll_closing`](super::ClientMux::poll_closing) returns those that go to another
    /// connection.
    Closing {
        /// Bytes to drop.
        consumed: usize,
        /// Why.
        reason: CloseReason,
    },
}

/// The result of processing unread bytes at a server. Drop the first `consumed` of them when you
/// are done with the step.
#[derive(Debug)]
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
    Skip {
        /// Bytes to drop.
        consumed: usize,
    },
    /// A hello of the noise wire has decrypted under a key of the server. It may be a replay. On
    /// the classic wire there is no such step: a hello there proves the key.
    Hello {
        /// Bytes to drop.
        consumed: usize,
        /// The fingerprint of the hello, for [`Admission::hello`](super::Admission::hello). A
        /// replay has the same one.
        fingerprint: u64,
    },
    /// The client has proved that it has the key and that its hello is not a replay.
    Established {
        /// Bytes to drop.
        consumed: usize,
    },
    /// A whole request, to be answered or refused.
    Request {
        /// Bytes to drop, once the body is copied.
        consumed: usize,
        /// The request.
        id: RequestId,
        /// Its body.
        body: Body<'u>,
    },
    /// The client no longer wants the answer. Stop the handler and refuse the request as cancelled,
    /// or answer it anyway.
    Cancelled {
        /// Bytes to drop.
        consumed: usize,
        /// The request.
        id: RequestId,
    },
    /// The client closes: it begins no new requests.
    Closing {
        /// Bytes to drop.
        consumed: usize,
        /// Why.
        reason: CloseReason,
    },
}
