//! The outcome of a request on one connection, for the decision whether it goes to another.

use falco_core::mux::Attempts;
use falco_core::{ConnectionError, Fate};

use super::limit::Limit;
use super::state::{End, Reply, waiting_for};
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
    /// The caller of a request of this fate no longer waits, because its limit has passed or the
    /// connection has ended. Only what was not processed goes to another connection.
    pub(super) const fn cancelled(attempts: Attempts, fate: Fate, limit: Option<Limit>) -> Self {
        match (limit, fate) {
            (Some(limit), _) => Self::Failed(limit.error(waiting_for(fate), fate)),
            (None, Fate::NotProcessed) => Self::Retry(attempts, None),
            (None, Fate::MaybeProcessed | _) => {
                let end = ConnectionError::Closed;
                Self::Failed(Error::Connection { end, fate })
            }
        }
    }

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

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use super::*;

    #[test]
    fn a_request_that_may_have_been_processed_is_not_sent_again() {
        let cancelled = |fate, limit| Outcome::<()>::cancelled(Attempts::default(), fate, limit);
        for limit in [None, Limit::from_now(Some(Duration::ZERO))] {
            let outcome = cancelled(Fate::MaybeProcessed, limit);
            assert!(
                matches!(&outcome, Outcome::Failed(error) if error.fate() == Fate::MaybeProcessed),
                "{limit:?}"
            );
        }
        assert!(matches!(cancelled(Fate::NotProcessed, None), Outcome::Retry(..)));
    }
}
