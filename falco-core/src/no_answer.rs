//! What becomes of a request that gets no answer: one table for the mux and for `falco-embedded`.

use core::error::Error;

use crate::error::ReplyError;
use crate::message::Refusal;

/// Why a server has no answer to a request. [`refusal`](Self::refusal) is what its client receives.
///
/// | a request | is refused as |
/// |---|---|
/// | `Busy`, `TooLarge`, `Cancelled` | the same |
/// | `OpenBody` | `TooLarge` |
/// | `Failed` | the [`Refusal`] that is the error, otherwise `Failed` |
/// | `Refused` | that refusal |
/// | `Failed`, `Refused`, `Dropped`, if it was cancelled | `Cancelled` |
/// | `Panicked`, `Dropped` | `Failed` |
/// | `NoRoom` | `AnswerTooLarge` |
///
/// ```
/// use falco_core::{NoAnswer, Refusal};
///
/// assert_eq!(NoAnswer::Busy.refusal(false), Refusal::Busy);
/// assert_eq!(NoAnswer::Dropped.refusal(false), Refusal::Failed);
/// assert_eq!(NoAnswer::Dropped.refusal(true), Refusal::Cancelled);
/// ```
#[derive(Clone, Copy, Debug)]
#[allow(clippy::exhaustive_enums, reason = "there is no other way to end without an answer")]
pub enum NoAnswer<'e> {
    /// No handler received it: the server has no room for it now.
    Busy,
    /// No handler received it: it is larger than the memory for a request.
    TooLarge,
    /// No handler received it: its body is open, and the server takes no such requests.
    OpenBody,
    /// No handler received it: the client cancelled it before.
    Cancelled,
    /// Its handler failed. The error itself stays on the server: with a [`Refusal`] a handler
    /// chooses what the client receives, and any other error is sent as [`Refusal::Failed`].
    Failed(&'e (dyn Error + Send + Sync + 'static)),
    /// Its handler chose this refusal.
    Refused(Refusal),
    /// Its handler panicked.
    Panicked,
    /// Its handler was dropped before it returned.
    Dropped,
    /// Its handler returned an answer for which there was no room: the client, this side or its
    /// memory does not take an answer of that length, or too many answers wait.
    NoRoom,
}

impl NoAnswer<'_> {
    /// The refusal of the request. `cancelled` says whether the client has cancelled it: a handler
    /// whose request was cancelled is taken to have failed, or to have been dropped, because of
    /// that.
    // Inlined, so that a device has the code of the rows that it uses.
    #[inline]
    #[must_use]
    pub fn refusal(self, cancelled: bool) -> Refusal {
        match self {
            Self::Failed(_) | Self::Refused(_) | Self::Dropped if cancelled => Refusal::Cancelled,
            Self::Failed(error) => error.downcast_ref().copied().unwrap_or(Refusal::Failed),
            Self::Refused(refusal) => refusal,
            Self::Panicked | Self::Dropped => Refusal::Failed,
            Self::Busy => Refusal::Busy,
            Self::TooLarge | Self::OpenBody => Refusal::TooLarge,
            Self::Cancelled => Refusal::Cancelled,
            Self::NoRoom => Refusal::AnswerTooLarge,
        }
    }

    /// The refusal that the handler has chosen, if it has.
    #[cfg(all(feature = "alloc", feature = "streams"))]
    pub(crate) fn chosen(self) -> Option<Refusal> {
        match self {
            Self::Failed(error) => error.downcast_ref().copied(),
            Self::Refused(refusal) => Some(refusal),
            Self::Busy
            | Self::TooLarge
            | Self::OpenBody
            | Self::Cancelled
            | Self::Panicked
            | Self::Dropped
            | Self::NoRoom => None,
        }
    }

    /// Why a request gets no answer, if the connection has rejected its answer with `error`. `None`
    /// if there is nothing to refuse: the request has completed, or the connection has ended.
    #[must_use]
    pub const fn after(error: ReplyError) -> Option<Self> {
        match error {
            ReplyError::Request(_) => Some(Self::NoRoom),
            ReplyError::NotWaiting(_)
            | ReplyError::TransmitFirst
            | ReplyError::Connection(_)
            | ReplyError::Misuse(_) => None,
        }
    }
}
