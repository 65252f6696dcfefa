//! What a client does when an attempt at a connection fails, a connection is lost, or a request is
//! refused. The rules stand here once; an adapter asks and obeys.

use crate::error::ConnectionError;
use crate::message::{Fate, Refusal};

/// How many connections a request is handed to before it is given up, though none has processed it.
pub const MAX_TRIES: u32 = 3;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "there is nothing else to do with a request")]
pub enum Next {
    /// It goes to the next connection, within its own time.
    Again,
    /// Whoever waits for it receives the error.
    Tell,
}

/// What becomes of the requests that wait for a connection, where the attempt at one has failed.
/// `end` is what the connection ended with before it was established; none where the stream itself
/// could not be had. `admitted` says whether this client has ever been let in under its key.
///
/// A connection that ends before the server has proved that it has the key is no proof of a wrong
/// key: a proxy whose server is restarting, and a server that is full, end it in the same way. Where
/// the client was let in before, that is the likelier cause and passes. Where it never was, its owner
/// is told at once, with all causes.
///
/// ```
/// use falco_core::ConnectionError;
/// use falco_core::mux::{Next, after_attempt};
///
/// assert_eq!(after_attempt(Some(ConnectionError::Refused), false), Next::Tell);
/// assert_eq!(after_attempt(Some(ConnectionError::Refused), true), Next::Again);
/// assert_eq!(after_attempt(Some(ConnectionError::HandshakeTimeout), false), Next::Again);
/// assert_eq!(after_attempt(None, false), Next::Again);
/// ```
#[must_use]
pub const fn after_attempt(end: Option<ConnectionError>, admitted: bool) -> Next {
    match end {
        Some(ConnectionError::Refused) if !admitted => Next::Tell,
        // No connection can be made under this key any more.
        Some(ConnectionError::KeyExhausted) => Next::Tell,
        _ => Next::Again,
    }
}

/// What becomes of a request that a lost connection leaves behind; `tries` is how many connections
/// it was handed to.
#[must_use]
pub const fn after_loss(fate: Fate, tries: u32) -> Next {
    match fate {
        Fate::NotProcessed if tries < MAX_TRIES => Next::Again,
        Fate::NotProcessed | Fate::MaybeProcessed => Next::Tell,
    }
}

/// What becomes of a request that the server has refused. A server that is busy is not asked again
/// at once: that is for the caller to judge.
#[must_use]
pub const fn after_refusal(refusal: Refusal, tries: u32) -> Next {
    if matches!(refusal, Refusal::NotProcessed) && tries < MAX_TRIES {
        Next::Again
    } else {
        Next::Tell
    }
}
