//! The outcome of a request on one connection, for the decision whether it goes to another.

use falco_core::mux::Attempts;
use falco_core::{ConnectionError, Fate};

use super::state::{End, Reply};
use crate::error::Error;

pub(super) enum Outcome<T> {
    Done(T),
    Failed(Error),
    /// It was not processed, and goes to another connection. With the reason, if there is one.
    Retry(Attempts, Option<Error>),
}

impl Outcome<Reply> {
    pub(super) fn of(end: End) -> Self {
        match end {
            End::Reply(reply) => Self::Done(reply),
            End::Failed(error) => Self::Failed(error),
            End::Retry(attempts, why) => Self::Retry(attempts, why),
        }
    }
}

impl<T> Outcome<T> {
    pub(super) fn map<U>(self, done: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Done(value) => Outcome::Done(done(value)),
            Self::Failed(error) => Outcome::Failed(error),
            Self::Retry(attempts, reason) => Outcome::Retry(attempts, reason),
        }
    }
}

/// The error of a client whose connection has ended and that cannot make another.
pub(super) fn ended(reason: Option<Error>) -> Error {
    reason.unwrap_or(Error::Connection {
        end: ConnectionError::Closed,
        fate: Fate::NotProcessed,
    })
}
