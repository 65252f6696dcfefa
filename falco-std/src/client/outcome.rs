//! What came of a request on one connection, for whoever decides whether it goes to another.

use falco_core::mux::Attempts;
use falco_core::{ConnectionError, Fate};

use super::state::End;
use crate::error::Error;

/// What came of a request on one connection.
pub(super) enum Outcome<T> {
    Done(T),
    Failed(Error),
    /// It was not processed, and goes to another connection. With the reason, if there is one.
    Retry(Attempts, Option<Error>),
}

impl<T> Outcome<T> {
    /// What `end` comes to; `done` makes something of an answer.
    pub(super) fn of(end: End, done: impl FnOnce(Vec<u8>) -> T) -> Self {
        match end {
            End::Answer(body) => Self::Done(done(body)),
            End::Failed(error) => Self::Failed(error),
            End::Retry(attempts, why) => Self::Retry(attempts, why),
        }
    }
}

/// What a caller is told of a connection that is over and cannot be made anew.
pub(super) fn over(reason: Option<Error>) -> Error {
    reason.unwrap_or(Error::Connection {
        end: ConnectionError::Closed,
        fate: Fate::NotProcessed,
    })
}
