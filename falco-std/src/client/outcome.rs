//! A request on its way from one connection to the next, and its outcome on each.

use std::io;

use falco_core::mux::Attempts;
use falco_core::{ConnectionError, Fate};

use super::limit::Limit;
use crate::error::Error;

/// What ended a connection: an event of the protocol, or an error of the stream.
pub(super) type Ended = io::Result<ConnectionError>;

/// A request or a ping that is tried on one connection after another, until it has completed or
/// failed.
#[derive(Default)]
pub(super) struct Job {
    /// Copied once from the caller's body, while no lock is held. Empty for a ping.
    pub(super) body: Vec<u8>,
    /// How often connections have tried it.
    pub(super) attempts: Attempts,
}

impl Job {
    pub(super) fn new(body: &[u8]) -> Self {
        Self {
            body: body.to_vec(),
            attempts: Attempts::default(),
        }
    }
}

/// What a server, or the wire, replies to a request or a ping.
pub(super) enum Reply {
    Answer(Vec<u8>),
    Pong,
    /// The open request has begun.
    Begun,
    /// The ping was written. The wire has no answer to it.
    Unanswered,
}

/// The outcome of a request or a ping on one connection.
pub(super) enum Outcome<T> {
    Done(T),
    Failed(Error),
    /// It was not processed, and goes to another connection.
    Retry(Job),
}

impl<T> Outcome<T> {
    /// The outcome of a request that was cancelled with this fate, because the `limit` of its
    /// caller has passed or because the connection has ended with `end`.
    pub(super) fn cancelled(fate: Fate, limit: Option<Limit>, end: impl FnOnce() -> ConnectionError) -> Self {
        Self::Failed(match limit {
            Some(limit) => limit.error(waiting_for(fate), fate),
            None => Error::Connection { end: end(), fate },
        })
    }

    pub(super) fn map<U>(self, done: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Done(value) => Outcome::Done(done(value)),
            Self::Failed(error) => Outcome::Failed(error),
            Self::Retry(job) => Outcome::Retry(job),
        }
    }
}

/// What a client was doing with a request of this fate, for error messages.
pub(super) const fn waiting_for(fate: Fate) -> &'static str {
    match fate {
        Fate::NotProcessed => "sending the request",
        Fate::MaybeProcessed | _ => "waiting for the answer",
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    #[test]
    fn a_request_that_was_given_up_says_what_became_of_it() {
        for fate in [Fate::NotProcessed, Fate::MaybeProcessed] {
            for limit in [None, Limit::from_now(Some(Duration::ZERO))] {
                let outcome = Outcome::<()>::cancelled(fate, limit, || ConnectionError::Closed);
                assert!(
                    matches!(&outcome, Outcome::Failed(error) if error.fate() == fate),
                    "{limit:?}"
                );
            }
        }
    }
}
