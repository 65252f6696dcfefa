//! What a connection returns for received bytes.

use core::fmt;

use crate::message::{CloseReason, PingId, Refusal, RequestId};

/// The result of [`recv`](crate::Connection::recv): an event `E`, or what has to happen first. `W`
/// is what a side may wait for besides bytes: [`ClientWait`] or [`ServerWait`].
///
/// The body of an event borrows from the unread bytes that were passed in. What was consumed is no
/// longer unread: see [`Unread`](crate::Unread).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received<E, W> {
    /// No frame is complete. Call again with `total` unread bytes; calling earlier does no harm.
    /// `total` is within the settings, but may follow from a length that the peer has only
    /// announced. So do not allocate that much at once: a [`RecvBuf`](crate::RecvBuf) grows with
    /// the bytes that arrive.
    NeedMore {
        /// Unread bytes needed in all.
        total: usize,
    },
    /// This has to happen before the connection reads on. No byte was consumed.
    Wait(W),
    /// Something happened, and has taken effect. Call again.
    Event(E),
    /// Bytes without an event were consumed. Call again.
    Skip,
}

/// What has to happen before a client reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientWait {
    /// Output is pending: call `poll_transmit` or `seal`, then `recv` again.
    TransmitFirst,
}

/// What has to happen before a server reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerWait {
    /// Output is pending: call `poll_transmit` or `seal`, then `recv` again.
    TransmitFirst,
    /// Classic wire only: as many requests are unanswered as the settings allow, or the connection
    /// is closing. Call `recv` again once an answer is sealed.
    AnswerFirst,
}

/// What the connection of a client returns.
pub(crate) type ClientReceived<'u> = Received<ClientEvent<'u>, ClientWait>;
/// What the connection of a server returns.
pub(crate) type ServerReceived<'u> = Received<ServerEvent<'u>, ServerWait>;

/// An event on a client's connection. Bodies borrow from the unread bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientEvent<'u> {
    /// The server accepted the hello. Requests may be sent.
    Established,
    /// The whole answer to a request.
    Answer {
        /// The request.
        id: RequestId,
        /// Its decrypted body.
        body: &'u [u8],
    },
    /// The first part of an answer too large for one frame.
    Begin {
        /// The request.
        id: RequestId,
        /// Bytes in the whole answer.
        total: u32,
        /// Its first bytes, decrypted.
        body: &'u [u8],
    },
    /// The next part of such an answer. The answer is complete with the last part, and not before.
    Part {
        /// The request.
        id: RequestId,
        /// Its next bytes, decrypted.
        body: &'u [u8],
        /// Whether this is the last part.
        last: bool,
    },
    /// The first part of an open answer, which may be empty. [`Part`](Self::Part)s follow; the
    /// answer is whole with the last of them, and not before. Give
    /// [credit](crate::Connection::credit) for what you take.
    #[cfg(feature = "streams")]
    Opened {
        /// The request.
        id: RequestId,
        /// The first bytes of its answer, decrypted.
        body: &'u [u8],
    },
    /// The server gave credit for the open body of a request: see
    /// [`sendable`](crate::Connection::sendable).
    #[cfg(feature = "streams")]
    Credit {
        /// The request.
        id: RequestId,
    },
    /// A ping was answered, and with it all earlier pings.
    Pong {
        /// The ping.
        ping: PingId,
    },
    /// The server closes: requests that have begun are completed, new ones need another connection.
    Closing {
        /// Why.
        reason: CloseReason,
    },
    /// The server refused a request. If parts of an answer had arrived, no more of them follow.
    Refused {
        /// The request.
        id: RequestId,
        /// Why.
        refusal: Refusal,
    },
}

/// An event on a server's connection. Bodies borrow from the unread bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerEvent<'u> {
    /// The client has proved that it has the key.
    Established,
    /// A whole request, to be answered by
    /// [`ServerConnection::answer`](crate::ServerConnection::answer).
    Request {
        /// The request.
        id: RequestId,
        /// Its decrypted body.
        body: &'u [u8],
    },
    /// The first part of a request too large for one frame.
    Begin {
        /// The request.
        id: RequestId,
        /// Bytes in the whole request.
        total: u32,
        /// Its first bytes, decrypted.
        body: &'u [u8],
    },
    /// The next part of such a request. Answer it once it is complete, and not before.
    Part {
        /// The request.
        id: RequestId,
        /// Its next bytes, decrypted.
        body: &'u [u8],
        /// Whether this is the last part.
        last: bool,
    },
    /// The first part of an open request, which may be empty. [`Part`](Self::Part)s follow; the
    /// request is whole with the last of them, and not before. It may be answered at any time, with
    /// an answer of known length or an open one. Give [credit](crate::Connection::credit) for what
    /// you take.
    #[cfg(feature = "streams")]
    Opened {
        /// The request.
        id: RequestId,
        /// The first bytes of its body, decrypted.
        body: &'u [u8],
    },
    /// The client gave credit for the open answer to a request: see
    /// [`sendable`](crate::Connection::sendable).
    #[cfg(feature = "streams")]
    Credit {
        /// The request.
        id: RequestId,
    },
    /// A request that had arrived in part will not be completed: the client cancelled it, the rest
    /// did not arrive in time, or it exceeded the limit on held bytes. Drop its parts; no answer is
    /// due.
    Abandoned {
        /// The request.
        id: RequestId,
    },
    /// The client no longer wants the answer. Stop the handler and refuse the request as cancelled,
    /// or answer it anyway. Of an open request, or one with an open answer, nothing more arrives:
    /// no part, no end and no credit. The connection also returns this event if the client's
    /// stream ends before the end of an open request.
    Cancelled {
        /// The request.
        id: RequestId,
    },
    /// The client closes: it sends no new requests and still expects the answers to earlier ones.
    Closing {
        /// Why.
        reason: CloseReason,
    },
    /// The client sent a ping. The connection has processed it; there is nothing to do.
    Ping,
}

/// Shows the length of a body in `Debug`, and none of its bytes.
pub(crate) struct Length(pub(crate) usize);

impl fmt::Debug for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

impl fmt::Debug for ClientEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Established => f.write_str("Established"),
            Self::Answer { id, body } => (f.debug_struct("Answer").field("id", id))
                .field("body", &Length(body.len()))
                .finish(),
            Self::Begin { id, total, body } => (f.debug_struct("Begin").field("id", id).field("total", total))
                .field("body", &Length(body.len()))
                .finish(),
            Self::Part { id, body, last } => (f.debug_struct("Part").field("id", id))
                .field("body", &Length(body.len()))
                .field("last", last)
                .finish(),
            #[cfg(feature = "streams")]
            Self::Opened { id, body } => (f.debug_struct("Opened").field("id", id))
                .field("body", &Length(body.len()))
                .finish(),
            #[cfg(feature = "streams")]
            Self::Credit { id } => f.debug_struct("Credit").field("id", id).finish(),
            Self::Pong { ping } => f.debug_struct("Pong").field("ping", ping).finish(),
            Self::Closing { reason } => f.debug_struct("Closing").field("reason", reason).finish(),
            Self::Refused { id, refusal } => (f.debug_struct("Refused").field("id", id))
                .field("refusal", refusal)
                .finish(),
        }
    }
}

impl fmt::Debug for ServerEvent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Established => f.write_str("Established"),
            Self::Request { id, body } => (f.debug_struct("Request").field("id", id))
                .field("body", &Length(body.len()))
                .finish(),
            Self::Begin { id, total, body } => (f.debug_struct("Begin").field("id", id).field("total", total))
                .field("body", &Length(body.len()))
                .finish(),
            Self::Part { id, body, last } => (f.debug_struct("Part").field("id", id))
                .field("body", &Length(body.len()))
                .field("last", last)
                .finish(),
            #[cfg(feature = "streams")]
            Self::Opened { id, body } => (f.debug_struct("Opened").field("id", id))
                .field("body", &Length(body.len()))
                .finish(),
            #[cfg(feature = "streams")]
            Self::Credit { id } => f.debug_struct("Credit").field("id", id).finish(),
            Self::Abandoned { id } => f.debug_struct("Abandoned").field("id", id).finish(),
            Self::Cancelled { id } => f.debug_struct("Cancelled").field("id", id).finish(),
            Self::Closing { reason } => f.debug_struct("Closing").field("reason", reason).finish(),
            Self::Ping => f.write_str("Ping"),
        }
    }
}
