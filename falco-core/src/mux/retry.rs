//! What a client does when an attempt at a connection fails, a connection is lost, or a request is
//! refused. The rules stand here once; an adapter asks and obeys.

use crate::error::ConnectionError;
use crate::message::{Fate, Refusal};

/// How many connections a request is handed to before it is given up, though none has processed it.
pub const MAX_TRIES: u32 = 3;

/// How often a request is sent again on its connection because the server was busy. The bytes in
/// flight are halved each time, from 64 MiB to 1 MiB in six. A server that is still busy then, or
/// for another reason, is the caller's to judge.
pub const MAX_BUSY: u32 = 16;

/// Whether a request is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "there is nothing else to do with a request")]
pub enum Retry {
    /// It goes to the next connection, within its own time.
    Again,
    /// It fails: whoever waits for it receives the error.
    Fail,
}

/// What becomes of the requests that wait for a connection, where the attempt at one has failed.
/// `end` is what the connection ended with before it was established; none where the stream itself
/// could not be had. `admitted` says whether this client has ever been let in under its key.
///
/// A connection that ends before the server has proved that it has the key is no proof of a wrong
/// key: a proxy whose server is restarting, and a server that is full, end it in the same way.
/// Where the client was let in before, that is the likelier cause and passes. Where it never was,
/// its owner is told at once, with all causes.
///
/// ```
/// use falco_core::ConnectionError;
/// use falco_core::mux::{Retry, after_attempt};
///
/// assert_eq!(after_attempt(Some(ConnectionError::Refused), false), Retry::Fail);
/// assert_eq!(after_attempt(Some(ConnectionError::Refused), true), Retry::Again);
/// assert_eq!(after_attempt(Some(ConnectionError::HandshakeTimeout), false), Retry::Again);
/// assert_eq!(after_attempt(None, false), Retry::Again);
/// ```
#[must_use]
pub const fn after_attempt(end: Option<ConnectionError>, admitted: bool) -> Retry {
    match end {
        Some(ConnectionError::Refused) if !admitted => Retry::Fail,
        // No connection can be made under this key any more.
        Some(ConnectionError::KeyExhausted) => Retry::Fail,
        _ => Retry::Again,
    }
}

/// What becomes of a request that a lost connection leaves behind; `tries` is how many connections
/// it was handed to.
#[must_use]
pub const fn after_loss(fate: Fate, tries: u32) -> Retry {
    match fate {
        Fate::NotProcessed if tries < MAX_TRIES => Retry::Again,
        Fate::NotProcessed | Fate::MaybeProcessed => Retry::Fail,
    }
}

/// What becomes of a request that the server has refused. A server that is busy is not asked again
/// at once: that is for the caller to judge.
#[must_use]
pub const fn after_refusal(refusal: Refusal, tries: u32) -> Retry {
    if matches!(refusal, Refusal::NotProcessed) && tries < MAX_TRIES {
        Retry::Again
    } else {
        Retry::Fail
    }
}
