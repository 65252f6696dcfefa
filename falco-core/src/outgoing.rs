//! Messages on their way out: how long they are and how far they have gone. Their bodies stay with
//! the caller.

use crate::error::{Misuse, RequestError};
use crate::message::RequestId;

/// What requests and answers on their way have in common.
pub trait Outgoing: private::Sealed {
    /// Bytes in the body.
    fn length(&self) -> usize;

    /// Whether nothing more of it is to be sealed.
    fn is_done(&self) -> bool;

    /// Bytes of the body that have been sealed.
    fn sealed_bytes(&self) -> usize;
}

mod private {
    /// Keeps the trait this crate's own.
    #[allow(unnameable_types, reason = "that is what seals")]
    pub trait Sealed {}
}

impl private::Sealed for OutgoingRequest {}
impl private::Sealed for OutgoingAnswer {}

impl Outgoing for OutgoingRequest {
    #[inline]
    fn length(&self) -> usize {
        self.length
    }

    #[inline]
    fn is_done(&self) -> bool {
        self.done
    }

    #[inline]
    fn sealed_bytes(&self) -> usize {
        self.sealed
    }
}

impl Outgoing for OutgoingAnswer {
    #[inline]
    fn length(&self) -> usize {
        self.length
    }

    #[inline]
    fn is_done(&self) -> bool {
        self.done
    }

    #[inline]
    fn sealed_bytes(&self) -> usize {
        self.sealed
    }
}

/// A request on its way: how long it is and how far it has gone. The body stays with the caller,
/// who hands both to [`ClientConnection::seal`](crate::ClientConnection::seal) until
/// [`is_done`](Self::is_done).
///
/// It gets its number when its first byte is sealed, so that one that is dropped before has never
/// been.
#[derive(Debug)]
#[must_use = "a request is sent by sealing it"]
pub struct OutgoingRequest {
    serial: u32,
    /// 0 until begun.
    number: u32,
    length: usize,
    sealed: usize,
    done: bool,
    failure: Option<RequestError>,
}

impl OutgoingRequest {
    #[inline]
    pub(crate) const fn new(serial: u32, length: usize) -> Self {
        Self {
            serial,
            number: 0,
            length,
            sealed: 0,
            done: false,
            failure: None,
        }
    }

    /// Why it will never be sent: it was made before the server had said what it reads, and is
    /// larger.
    #[must_use]
    pub const fn failure(&self) -> Option<RequestError> {
        self.failure
    }

    #[cfg(feature = "noise")]
    pub(crate) fn fail(&mut self, failure: RequestError) {
        self.failure = Some(failure);
        self.done = true;
    }

    /// Its number; none while nothing of it has been sealed.
    #[must_use]
    pub const fn id(&self) -> Option<RequestId> {
        if self.number == 0 {
            None
        } else {
            Some(RequestId::new(self.serial, self.number))
        }
    }

    /// Whether nothing more of it is to be sealed: all of it was, or its end came before.
    #[must_use]
    #[inline]
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// Bytes of the body that have been sealed.
    #[must_use]
    #[inline]
    pub const fn sealed(&self) -> usize {
        self.sealed
    }

    /// Bytes in the body.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    #[inline]
    pub(crate) fn check(&self, serial: u32, body: &[u8]) -> Result<(), Misuse> {
        check(self.serial == serial, self.length, body)
    }

    #[cfg(feature = "noise")]
    #[inline]
    pub(crate) const fn number(&self) -> u32 {
        self.number
    }

    /// Counts `bytes` of the body as sealed, under `number`.
    #[cfg(feature = "noise")]
    #[inline]
    pub(crate) fn seal_part(&mut self, number: u32, bytes: usize) {
        self.number = number;
        self.sealed += bytes;
        self.done = self.sealed >= self.length;
    }

    /// Nothing more of it goes: it has completed, or may not have it.
    #[cfg(feature = "noise")]
    pub(crate) fn stop(&mut self) {
        self.done = true;
    }

    pub(crate) fn seal_whole(&mut self, number: u32) {
        self.number = number;
        self.sealed = self.length;
        self.done = true;
    }
}

/// An answer on its way: how long it is and how far it has gone. The body stays with the caller,
/// who hands both to [`ServerConnection::seal`](crate::ServerConnection::seal) until
/// [`is_done`](Self::is_done).
#[derive(Debug)]
#[must_use = "an answer is sent by sealing it"]
pub struct OutgoingAnswer {
    id: RequestId,
    length: usize,
    sealed: usize,
    done: bool,
}

impl OutgoingAnswer {
    #[inline]
    pub(crate) const fn new(id: RequestId, length: usize) -> Self {
        Self {
            id,
            length,
            sealed: 0,
            done: false,
        }
    }

    /// The request that it answers.
    #[must_use]
    pub const fn id(&self) -> RequestId {
        self.id
    }

    /// Whether nothing more of it is to be sealed: all of it was, or its end came before.
    #[must_use]
    #[inline]
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// Bytes of the body that have been sealed.
    #[must_use]
    #[inline]
    pub const fn sealed(&self) -> usize {
        self.sealed
    }

    /// Bytes in the body.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    #[inline]
    pub(crate) fn check(&self, serial: u32, body: &[u8]) -> Result<(), Misuse> {
        check(self.id.is_of(serial), self.length, body)
    }

    /// Counts `bytes` of the body as sealed.
    #[cfg(feature = "noise")]
    #[inline]
    pub(crate) fn seal_part(&mut self, bytes: usize) {
        self.sealed += bytes;
        self.done = self.sealed >= self.length;
    }

    pub(crate) fn seal_whole(&mut self) {
        self.sealed = self.length;
        self.done = true;
    }
}

#[inline]
fn check(own: bool, announced: usize, body: &[u8]) -> Result<(), Misuse> {
    if !own {
        return Err(Misuse::Foreign);
    }
    if body.len() != announced {
        return Err(Misuse::BodyLength {
            announced,
            given: body.len(),
        });
    }
    Ok(())
}
