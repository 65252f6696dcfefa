//! The outcome of a request on one connection, for the decision whether it goes to another.

use falco_core::{ConnectionError, Fate};

use super::state::{End, Reply};
use crate::error::Error;

pub(super) enum Outcome<T> {
    Done(T),
    Failed(Error),
    /// The connection had ended or was closing. It has not begun the request.
    NotTaken(Option<Error>),
    /// The connection ended or the server refused the request, and no handler has received it.
    NotProcessed(Error),
    /// The request goes to this connection again.
    Again,
}

impl Outcome<Reply> {
    pub(super) fn of(end: End) -> Self {
        match end {
            End::Reply(reply) => Self::Done(reply),
            End::Failed(error) => Self::Failed(error),
            End::NotProcessed(error) => Self::NotProcessed(error),
            End::NotSent(error) => Self::NotTaken(error),
            End::Again => Self::Again,
        }
    }
}

impl<T> Outcome<T> {
    pub(super) fn map<U>(self, done: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Self::Done(value) => Outcome::Done(done(value)),
            Self::Failed(error) => Outcome::Failed(error),
            Self::NotTaken(error) => Outcome::NotTaken(error),
            Self::NotProcessed(error) => Outcome::NotProcessed(error),
            Self::Again => Outcome::Again,
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
