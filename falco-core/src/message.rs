//! Messages on their way out, and the numbers of requests.

use core::fmt;

use crate::error::Misuse;

/// Which request of which connection. A number of one connection means nothing to another, and is refused there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    serial: u32,
    number: u32,
}

impl RequestId {
    pub(crate) const fn new(serial: u32, number: u32) -> Self {
        Self { serial, number }
    }

    /// The number of the request within its connection, from 1.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.number
    }

    pub(crate) const fn is_of(self, serial: u32) -> bool {
        self.serial == serial
    }
}

/// Which ping of a connection, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PingId(pub(crate) u64);

/// Why a server did not answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The handler failed. It may have done part of its work.
    Failed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed => f.write_str("the handler failed"),
        }
    }
}

/// Why a connection is closed in good order. The classic wire has no word for it; there the stream just ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CloseReason {
    /// There is nothing more to say.
    Done,
    /// The process stops.
    ShuttingDown,
    /// The key was taken out of service.
    KeyRetired,
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Status {
    /// The peer has not yet proved that it has the key.
    Handshaking,
    /// Messages go both ways.
    Established,
    /// Closing: what was begun is being finished, nothing new is taken.
    Draining,
    /// Over. Take away what is still owed, then close the stream.
    Ended,
}

/// A request on its way: how long it is and how far it has gone. The body stays with the caller, who hands both to
/// [`ClientConnection::seal`](crate::ClientConnection::seal) until [`is_done`](Self::is_done).
///
/// It gets its number when its first byte is sealed, so that one that is dropped before has never been.
#[derive(Debug)]
#[must_use = "a request is sent by sealing it"]
pub struct OutgoingRequest {
    serial: u32,
    /// 0 until begun.
    number: u32,
    length: usize,
    sealed: usize,
    done: bool,
}

impl OutgoingRequest {
    pub(crate) const fn new(serial: u32, length: usize) -> Self {
        Self {
            serial,
            number: 0,
            length,
            sealed: 0,
            done: false,
        }
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

    /// Whether all of it has been sealed.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// Bytes of the body that have been sealed.
    #[must_use]
    pub const fn sealed(&self) -> usize {
        self.sealed
    }

    /// Bytes in the body.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn check(&self, serial: u32, body: &[u8]) -> Result<(), Misuse> {
        check(self.serial == serial, self.length, body)
    }

    pub(crate) fn seal_whole(&mut self, number: u32) {
        self.number = number;
        self.sealed = self.length;
        self.done = true;
    }
}

/// An answer on its way: how long it is and how far it has gone. The body stays with the caller, who hands both to
/// [`ServerConnection::seal`](crate::ServerConnection::seal) until [`is_done`](Self::is_done).
#[derive(Debug)]
#[must_use = "an answer is sent by sealing it"]
pub struct OutgoingAnswer {
    id: RequestId,
    length: usize,
    sealed: usize,
    done: bool,
}

impl OutgoingAnswer {
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

    /// Whether all of it has been sealed.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.done
    }

    /// Bytes of the body that have been sealed.
    #[must_use]
    pub const fn sealed(&self) -> usize {
        self.sealed
    }

    /// Bytes in the body.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    pub(crate) fn check(&self, serial: u32, body: &[u8]) -> Result<(), Misuse> {
        check(self.id.is_of(serial), self.length, body)
    }

    pub(crate) fn seal_whole(&mut self) {
        self.sealed = self.length;
        self.done = true;
    }
}

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
