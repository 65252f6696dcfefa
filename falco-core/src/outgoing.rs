//! Messages to send: their length, and how much of them is sealed. The caller keeps the bodies.

use crate::error::{Misuse, RequestError};
use crate::message::RequestId;

/// What [`OutgoingRequest`] and [`OutgoingAnswer`] have in common.
#[allow(unnameable_types, reason = "this seals the trait")]
pub trait Outgoing {
    /// Bytes in the body. 0 for an open body.
    fn length(&self) -> usize;

    /// Whether nothing is left to seal.
    fn is_done(&self) -> bool;

    /// Bytes of the body that have been sealed: of an open body, since the last call of
    /// `take_sealed`.
    fn sealed_bytes(&self) -> usize;

    /// Whether the body is open.
    #[cfg(feature = "streams")]
    fn is_open(&self) -> bool;

    /// Whether the first frame is sealed.
    #[cfg(feature = "streams")]
    fn has_begun(&self) -> bool;

    /// Returns how many bytes at the front of an open body are sealed, and restarts the count.
    #[cfg(feature = "streams")]
    fn take_sealed(&mut self) -> usize;

    /// Reports that what is passed to `seal` from now on is the rest of an open body.
    #[cfg(feature = "streams")]
    fn finish(&mut self);
}

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

    #[cfg(feature = "streams")]
    fn is_open(&self) -> bool {
        self.open != Open::No
    }

    #[cfg(feature = "streams")]
    fn has_begun(&self) -> bool {
        self.number > 0
    }

    #[cfg(feature = "streams")]
    fn take_sealed(&mut self) -> usize {
        Self::take_sealed(self)
    }

    #[cfg(feature = "streams")]
    fn finish(&mut self) {
        Self::finish(self);
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

    #[cfg(feature = "streams")]
    fn is_open(&self) -> bool {
        self.open != Open::No
    }

    #[cfg(feature = "streams")]
    fn has_begun(&self) -> bool {
        self.has_sealed()
    }

    #[cfg(feature = "streams")]
    fn take_sealed(&mut self) -> usize {
        Self::take_sealed(self)
    }

    #[cfg(feature = "streams")]
    fn finish(&mut self) {
        Self::finish(self);
    }
}

/// A request to send: its length, and how much of it is sealed. Pass it with its body to
/// [`ClientConnection::seal`](crate::ClientConnection::seal) until [`is_done`](Self::is_done).
///
/// A request begins, and gets its number, when its first frame is sealed. A request that is dropped
/// before that has no effect.
#[derive(Debug)]
#[must_use = "a request is sent by sealing it"]
pub struct OutgoingRequest {
    serial: u32,
    /// 0 until the request begins.
    number: u32,
    length: usize,
    sealed: usize,
    done: bool,
    failure: Option<RequestError>,
    #[cfg(feature = "streams")]
    open: Open,
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
            #[cfg(feature = "streams")]
            open: Open::No,
        }
    }

    /// A request with an open body.
    #[cfg(feature = "streams")]
    pub(crate) const fn open(serial: u32) -> Self {
        Self {
            open: Open::Yes,
            ..Self::new(serial, 0)
        }
    }

    /// Why the request was not sent: it is larger than the server's limit, or the server takes no
    /// open bodies, which was not known when the request was created.
    #[must_use]
    pub const fn failure(&self) -> Option<RequestError> {
        self.failure
    }

    #[cfg(feature = "noise")]
    pub(crate) fn fail(&mut self, failure: RequestError) {
        self.failure = Some(failure);
        self.done = true;
    }

    /// Its id, once it has begun.
    #[must_use]
    pub const fn id(&self) -> Option<RequestId> {
        if self.number == 0 {
            None
        } else {
            Some(RequestId::new(self.serial, self.number))
        }
    }

    /// Whether nothing is left to seal: the request is sealed as a whole, or the rest of it is not
    /// needed because it has failed, was completed or was cancelled.
    #[must_use]
    #[inline]
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// Whether the sealed part may reach a handler. It may if the request is sealed as a whole, or
    /// if its body is open and the first frame is sealed. If not, the request is [not
    /// processed](crate::Fate::NotProcessed), even if the server refused it before the rest was
    /// sealed.
    #[must_use]
    pub const fn reaches_handler(&self) -> bool {
        #[cfg(feature = "streams")]
        if !matches!(self.open, Open::No) {
            return self.number > 0;
        }
        self.number > 0 && self.sealed >= self.length
    }

    /// Bytes of the body that have been sealed: of an open body, since the last call of
    /// `take_sealed`.
    #[must_use]
    #[inline]
    pub const fn sealed(&self) -> usize {
        self.sealed
    }

    /// Bytes in the body. 0 for an open body.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    #[inline]
    pub(crate) fn check(&self, serial: u32, body: &[u8]) -> Result<(), Misuse> {
        check(self.serial == serial, self.length, body)
    }

    /// As [`check`](Self::check), for an open body. Returns what of it is not sealed.
    #[cfg(feature = "streams")]
    pub(crate) fn rest<'b>(&self, serial: u32, body: &'b [u8]) -> Result<&'b [u8], Misuse> {
        rest(self.serial == serial, self.sealed, body)
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

    /// Marks the request as done, because it has completed or was cancelled. The rest of it is not
    /// sealed.
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

/// An answer to send: its length, and how much of it is sealed. Pass it with its body to
/// [`ServerConnection::seal`](crate::ServerConnection::seal) until [`is_done`](Self::is_done).
#[derive(Debug)]
#[must_use = "an answer is sent by sealing it"]
pub struct OutgoingAnswer {
    id: RequestId,
    length: usize,
    sealed: usize,
    done: bool,
    #[cfg(feature = "streams")]
    open: Open,
    /// An open answer: its BEGIN is sealed.
    #[cfg(feature = "streams")]
    begun: bool,
    #[cfg(feature = "streams")]
    cut: bool,
}

impl OutgoingAnswer {
    #[inline]
    pub(crate) const fn new(id: RequestId, length: usize) -> Self {
        Self {
            id,
            length,
            sealed: 0,
            done: false,
            #[cfg(feature = "streams")]
            open: Open::No,
            #[cfg(feature = "streams")]
            begun: false,
            #[cfg(feature = "streams")]
            cut: false,
        }
    }

    /// An open answer.
    #[cfg(feature = "streams")]
    pub(crate) const fn open(id: RequestId) -> Self {
        Self {
            open: Open::Yes,
            ..Self::new(id, 0)
        }
    }

    /// The id of the request that it answers.
    #[must_use]
    pub const fn id(&self) -> RequestId {
        self.id
    }

    /// Whether nothing is left to seal: the answer is sealed as a whole.
    #[must_use]
    #[inline]
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// Bytes of the body that have been sealed: of an open body, since the last call of
    /// `take_sealed`.
    #[must_use]
    #[inline]
    pub const fn sealed(&self) -> usize {
        self.sealed
    }

    /// Bytes in the body. 0 for an open body.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    #[inline]
    pub(crate) fn check(&self, serial: u32, body: &[u8]) -> Result<(), Misuse> {
        check(self.id.is_of(serial), self.length, body)
    }

    /// As [`check`](Self::check), for an open body. Returns what of it is not sealed.
    #[cfg(feature = "streams")]
    pub(crate) fn rest<'b>(&self, serial: u32, body: &'b [u8]) -> Result<&'b [u8], Misuse> {
        rest(self.id.is_of(serial), self.sealed, body)
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

/// The bytes of an open body that are not sealed: all but the first `sealed` ones.
#[cfg(feature = "streams")]
fn rest(own: bool, sealed: usize, body: &[u8]) -> Result<&[u8], Misuse> {
    check(own, body.len(), body)?;
    unsealed(sealed, body)
}

/// The bytes of a body after the first `sealed` ones.
#[cfg(feature = "noise")]
pub(crate) fn unsealed(sealed: usize, body: &[u8]) -> Result<&[u8], Misuse> {
    body.get(sealed..).ok_or(Misuse::BodyLength {
        announced: sealed,
        given: body.len(),
    })
}

/// Whether the body of a message is open.
#[cfg(feature = "streams")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Open {
    /// The body is not open: its length was given.
    No,
    /// The body is open, and more bytes may follow those that are passed to `seal`.
    Yes,
    /// The body is open, and those that are passed to `seal` are the last.
    Finished,
}

#[cfg(feature = "streams")]
mod open;
