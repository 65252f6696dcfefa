//! Open bodies, which only the noise wire has.

use super::Connection;
use crate::error::{Error, ReplyError};
use crate::message::RequestId;
use crate::outgoing::{OutgoingAnswer, OutgoingRequest};
use crate::role::{ClientSide, Role, ServerSide};
use crate::session::{Client as _, Server as _, Session as _};
use crate::wire::{ClientKeyRef, KeyRef, ServerKeyRef};

impl<R: Role, H: KeyRef<R>> Connection<R, H> {
    /// Reports that the caller has freed `bytes` of an open body that this side reads. The peer may
    /// then send as many more. `id` is the request. The bytes are those that
    /// [`Opened`](crate::ServerEvent::Opened) and [`Part`](crate::ServerEvent::Part) returned. Do
    /// not call it before their memory is free. Bytes beyond those that have arrived do not count.
    ///
    /// The credit is sent once half a window has been taken. With `waits`, it is sent at once: set
    /// it when you have nothing left of the body and want more. `bytes` may be 0. The CREDIT frame
    /// is pending output.
    ///
    /// Does nothing if no such body is open any more, or its request was cancelled.
    ///
    /// # Errors
    /// [`Misuse::Foreign`](crate::Misuse::Foreign), or what ended the connection.
    pub fn credit(&mut self, id: RequestId, bytes: usize, waits: bool) -> Result<(), Error> {
        self.session.credit(id, u32::try_from(bytes).unwrap_or(u32::MAX), waits)
    }

    /// How many more bytes of the open body of `id` this side may seal now, 0 if that body is not
    /// open. For an open answer that has not begun it is the client's whole window.
    #[must_use]
    pub fn sendable(&self, id: RequestId) -> u32 {
        self.session.sendable(id)
    }

    /// The window of the peer in bytes: how much of an open body this side may send before the peer
    /// gives credit. 0 if the peer takes no open bodies, and before the handshake.
    #[must_use]
    pub fn peer_window(&self) -> u32 {
        self.session.peer_window()
    }

    /// The window of this side in bytes: how much of an open body the peer may send before this
    /// side gives credit. 0 if this side takes no open bodies, and on the classic wire.
    #[must_use]
    pub fn window(&self) -> u32 {
        self.session.window()
    }
}

impl<H: ClientKeyRef> Connection<ClientSide, H> {
    /// Creates a request with an open body, whose length need not be known. Pass it to
    /// [`seal`](Self::seal) with all bytes of the body that are ready and not yet sealed
    /// ([`take_sealed`](OutgoingRequest::take_sealed) returns how many were sealed). Do so whenever
    /// there are more bytes or the server has given credit, and once more after
    /// [`finish`](OutgoingRequest::finish). Without credit, `seal` skips it.
    ///
    /// The answer may begin, and end, before the body of the request ends. Once the first frame of
    /// the request is sealed, the server may have processed it.
    ///
    /// # Errors
    /// [`RequestError::NoOpenBodies`](crate::RequestError::NoOpenBodies) if the server takes none.
    /// Otherwise as [`request`](Self::request).
    pub fn open_request(&mut self) -> Result<OutgoingRequest, Error> {
        self.session.open_request()
    }

    /// How many requests with open bodies the server accepts at once. [`seal`](Self::seal) skips
    /// further ones until others have completed. 0 if it takes none, and before the handshake.
    #[must_use]
    pub fn peer_max_open(&self) -> u16 {
        self.session.peer_max_open()
    }

    /// Reports a part of an open answer that the caller collects as a whole, in at most `most`
    /// bytes. `part` is the length of the part, and `length` that of the answer with it, in bytes.
    ///
    /// Returns whether the answer still fits. Then the server may send `part` bytes more, at once.
    /// If it does not fit, [`cancel`](Self::cancel) the request: its answer is too large.
    pub fn collect(&mut self, id: RequestId, part: usize, length: usize, most: usize) -> bool {
        let fits = length <= most;
        if fits {
            // Fails only if the connection has ended, which every other call returns.
            let _ = self.credit(id, part, true);
        }
        fits
    }
}

impl<H: ServerKeyRef> Connection<ServerSide, H> {
    /// Creates an open answer, whose length need not be known. Pass it to [`seal`](Self::seal) with
    /// all bytes of the body that are ready and not yet sealed
    /// ([`take_sealed`](OutgoingAnswer::take_sealed) returns how many were sealed). Do so whenever
    /// there are more bytes or the client has given credit, and once more after
    /// [`finish`](OutgoingAnswer::finish). Without credit, `seal` skips it. To cut it off,
    /// [`refuse`](Self::refuse) the request.
    ///
    /// # Errors
    /// [`RequestError::NoOpenBodies`](crate::RequestError::NoOpenBodies) if the client takes none.
    /// The request can then still be answered as a whole. Otherwise as [`answer`](Self::answer).
    pub fn open_answer(&mut self, id: RequestId) -> Result<OutgoingAnswer, ReplyError> {
        self.session.open_answer(id)
    }

    /// Drops the rest of the body of an open request: no more parts of it are returned, and the
    /// client gets credit for them. The request still has to be answered or refused.
    ///
    /// # Errors
    /// [`Misuse::Foreign`](crate::Misuse::Foreign), or what ended the connection.
    pub fn discard(&mut self, id: RequestId) -> Result<(), Error> {
        self.session.discard(id)
    }
}
