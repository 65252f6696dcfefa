//! What one look at the unread bytes comes to, and what is given back of a request.

use alloc::vec::Vec;
use core::fmt;

use super::Body;
use crate::error::Error;
use crate::message::{CloseReason, Fate, Refusal, RequestId};

/// What came of the unread bytes of a client.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientStep<'u, W, P = W> {
    /// There is no whole frame: `total` unread bytes bring the next step.
    NeedMore {
        /// Unread bytes needed in all.
        total: usize,
    },
    /// Take what [`seal`](super::ClientMux::seal) has first, then call again.
    TransmitFirst,
    /// Nothing for the caller: drop these bytes and call again.
    Skip {
        /// Bytes to drop.
        consumed: usize,
    },
    /// The server has taken the hello.
    Established {
        /// Bytes to drop.
        consumed: usize,
    },
    /// A request has its answer.
    Answer {
        /// Bytes to drop, once the body is copied.
        consumed: usize,
        /// Who waited for it.
        waiter: W,
        /// The answer.
        body: Body<'u>,
    },
    /// A request was refused.
    Refused {
        /// Bytes to drop.
        consumed: usize,
        /// Who waited for it.
        waiter: W,
        /// Why.
        refusal: Refusal,
        /// The server was busy while this and other requests had more bytes in flight than 1 MiB,
        /// or than its [largest message](crate::ClientConnection::peer_max_message) if that is
        /// less. That may be why: fewer bytes are in flight from now on, and more again with each
        /// answer. The request may be handed over again.
        again: bool,
    },
    /// A ping was answered, and with it all before it.
    Pong {
        /// Bytes to drop.
        consumed: usize,
        /// Who waited for that; nobody for a ping of the machine's own.
        waiters: Vec<P>,
    },
    /// The server closes. What has begun still gets its end;
    /// [`take_unbegun`](super::ClientMux::take_unbegun) has what is to go elsewhere.
    Closing {
        /// Bytes to drop.
        consumed: usize,
        /// Why.
        reason: CloseReason,
    },
}

/// A request that was not taken.
#[non_exhaustive]
pub struct Rejected<B, W> {
    /// Its body.
    pub body: B,
    /// Who would have waited.
    pub waiter: W,
    /// [`RequestError::TooLarge`](crate::RequestError::TooLarge), or else the connection takes
    /// nothing new and the request may go to another.
    pub why: Error,
}

/// A request that a connection leaves behind.
#[non_exhaustive]
pub struct Left<B, W> {
    /// The caller's number.
    pub ticket: u64,
    /// Who waits.
    pub waiter: W,
    /// Its body, where nothing of it was sent: it may go to another connection.
    pub body: Option<B>,
    /// Whether it may have been processed.
    pub fate: Fate,
}

/// What came of the unread bytes of a server.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServerStep<'u> {
    /// There is no whole frame: `total` unread bytes bring the next step.
    NeedMore {
        /// Unread bytes needed in all.
        total: usize,
    },
    /// Take what [`seal`](super::ServerMux::seal) has and hand it to the stream, then call again. A
    /// client that hears nothing relies on it that no handler ran before the answer to its first
    /// PING was on its way.
    TransmitFirst,
    /// Answer first, then call again.
    AnswerFirst,
    /// Nothing for the caller: drop these bytes and call again.
    Skip {
        /// Bytes to drop.
        consumed: usize,
    },
    /// The client has proved that it has the key and is there.
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
        /// What it says.
        body: Body<'u>,
    },
    /// The client no longer wants the answer: stop the handler and refuse as cancelled, or answer
    /// all the same.
    Cancelled {
        /// Bytes to drop.
        consumed: usize,
        /// The request.
        id: RequestId,
    },
    /// The client closes: it begins nothing new.
    Closing {
        /// Bytes to drop.
        consumed: usize,
        /// Why.
        reason: CloseReason,
    },
}

impl<B, W> fmt::Debug for Rejected<B, W> {
    /// Shows why, and nothing of the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rejected")
            .field("why", &self.why)
            .finish_non_exhaustive()
    }
}

impl<B, W> fmt::Debug for Left<B, W> {
    /// Shows the ticket and the fate, and nothing of the body.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Left")
            .field("ticket", &self.ticket)
            .field("fate", &self.fate)
            .finish_non_exhaustive()
    }
}
