//! What a machine says when it is given bytes.

use crate::message::{CloseReason, PingId, Refusal, RequestId};

/// What came of the unread bytes: something has happened, which `E` says, or something has to come
/// first. What a side may wait for besides bytes is `W`: [`ClientWait`] or [`ServerWait`].
///
/// An event lends its body from the unread bytes that were handed in. Whoever is done with the event
/// drops the first `consumed` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Received<E, W> {
    /// There is no whole frame. `total` unread bytes bring the next step; to come earlier does no harm. It is a hint of what
    /// may come and not of what to allocate: it grows only with what has come and within the settings.
    NeedMore {
        /// Unread bytes needed in all.
        total: usize,
    },
    /// Before it reads on, the machine wants this. No byte was taken.
    Wait(W),
    /// Something happened. It has taken effect: drop the first `consumed` unread bytes when done with the event.
    Event {
        /// Bytes to drop.
        consumed: usize,
        /// What happened.
        event: E,
    },
    /// Bytes that mean nothing to the caller: drop the first `consumed` unread bytes and call again.
    Skip {
        /// Bytes to drop.
        consumed: usize,
    },
}

/// What a client wants before it reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientWait {
    /// Its own bytes are to be taken: call `poll_transmit` or `seal`, then `recv` again.
    TransmitFirst,
}

/// What a server wants before it reads on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerWait {
    /// Its own bytes are to be taken: call `poll_transmit` or `seal`, then `recv` again.
    TransmitFirst,
    /// Answers: as many requests are unanswered as the settings allow, or the connection is closing.
    /// Call `recv` again once an answer is sealed.
    AnswerFirst,
}

/// What a client's machine returns.
pub(crate) type ClientReceived<'u> = Received<ClientEvent<'u>, ClientWait>;
/// What a server's machine returns.
pub(crate) type ServerReceived<'u> = Received<ServerEvent<'u>, ServerWait>;

/// What happens to a client. Bodies are lent from the unread bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientEvent<'u> {
    /// The server has taken the hello. Requests may go.
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
    /// The next part of such an answer. A client that has not got the last one has got nothing.
    Part {
        /// The request.
        id: RequestId,
        /// Its next bytes, decrypted.
        body: &'u [u8],
        /// Whether the answer is whole with them.
        last: bool,
    },
    /// A ping was answered, and with it all before it.
    Pong {
        /// The ping.
        ping: PingId,
    },
    /// The server closes: requests that have begun get their end, new ones need another connection.
    Closing {
        /// Why.
        reason: CloseReason,
    },
    /// A request had no answer but a refusal; of an answer half received, nothing more comes.
    Refused {
        /// The request.
        id: RequestId,
        /// Why.
        refusal: Refusal,
    },
}

/// What happens to a server. Bodies are lent from the unread bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerEvent<'u> {
    /// The client has the key. Its requests may come.
    Established,
    /// A whole request, to be answered by [`ServerConnection::answer`](crate::ServerConnection::answer).
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
    /// The next part of such a request. It is to be answered once it is whole, and not before.
    Part {
        /// The request.
        id: RequestId,
        /// Its next bytes, decrypted.
        body: &'u [u8],
        /// Whether the request is whole with them.
        last: bool,
    },
    /// Nothing more comes of a request half received, and nothing is owed for it: forget its parts.
    Abandoned {
        /// The request.
        id: RequestId,
    },
    /// The client no longer wants the answer. Stop the handler and refuse the request as cancelled, or answer it all the same.
    Cancelled {
        /// The request.
        id: RequestId,
    },
    /// The client closes: it begins nothing new and still wants the answers to what it has begun.
    Closing {
        /// Why.
        reason: CloseReason,
    },
    /// The client pinged, and the lifetime has begun anew. Nothing is to be done.
    Ping,
}
