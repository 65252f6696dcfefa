//! How a handler has ended, and what becomes of its request.

use core::error::Error;

use super::ServerMux;
use crate::error::RequestError;
use crate::message::{Refusal, RequestId};
use crate::mux::Budget;
use crate::wire::ServerKeyRef;

/// Why a handler has no answer.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::exhaustive_enums, reason = "there is no fourth way to end without an answer")]
pub enum NoAnswer<'e> {
    /// It failed. The error itself stays on the server: with a [`Refusal`] a handler chooses what
    /// the client receives, and any other error is sent as [`Refusal::Failed`].
    Failed(&'e (dyn Error + Send + Sync + 'static)),
    /// It panicked.
    Panicked,
    /// It was dropped before it returned.
    Dropped,
}

impl NoAnswer<'_> {
    /// The refusal of its request. A handler whose request was cancelled is taken to have failed,
    /// or to have been dropped, because of that.
    fn refusal(self, cancelled: bool) -> Refusal {
        match self {
            Self::Failed(_) | Self::Dropped if cancelled => Refusal::Cancelled,
            Self::Failed(error) => error.downcast_ref().copied().unwrap_or(Refusal::Failed),
            Self::Panicked | Self::Dropped => Refusal::Failed,
        }
    }
}

/// What became of a request whose handler has ended, for counters and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "an adapter has to count each of them")]
pub enum Handled {
    /// Its answer is queued.
    Answered,
    /// It was refused as [`Refusal::AnswerTooLarge`].
    TooLarge {
        /// Bytes of the answer.
        length: u64,
        /// How many the client accepts, or this side may send.
        limit: u64,
    },
    /// It was refused for another reason.
    Refused(Refusal),
    /// The client has cancelled it, it has completed in another way, or the connection has ended.
    Cancelled,
}

impl<H: ServerKeyRef, B: AsRef<[u8]>, G: Budget> ServerMux<H, B, G> {
    /// The handler of a request has ended: answers or refuses the request. `cancelled` says whether
    /// the client has cancelled it or the connection has ended.
    ///
    /// An answer is sent even if its request was cancelled meanwhile. Nothing is sent if the
    /// request has completed already or the connection has ended.
    pub fn complete(&mut self, id: RequestId, result: Result<B, NoAnswer<'_>>, cancelled: bool) -> Handled {
        if !self.is_held(id) {
            return Handled::Cancelled;
        }
        let refusal = match result {
            Ok(body) => {
                return match self.queue_answer(id, body) {
                    Ok(true) => Handled::Answered,
                    Ok(false) => Handled::Cancelled,
                    Err(RequestError::TooLarge { length, limit }) => Handled::TooLarge { length, limit },
                    Err(RequestError::Refused(refusal)) => Handled::Refused(refusal),
                    // Only for an open answer.
                    #[cfg(feature = "streams")]
                    Err(RequestError::NoOpenBodies) => Handled::Refused(Refusal::Failed),
                };
            }
            Err(failure) => failure.refusal(cancelled),
        };
        self.refuse(id, refusal);
        if cancelled && refusal == Refusal::Cancelled {
            Handled::Cancelled
        } else {
            Handled::Refused(refusal)
        }
    }
}
