//! What a client is told of a request whose handler failed.

use core::error::Error;

use crate::message::Refusal;

/// What a client is told of a request whose handler failed with `error`, or panicked, for which
/// there is none. `cancelled`: the client has cancelled the request, or is gone.
///
/// The error itself stays on the server. A handler chooses what its client is told by failing with
/// a [`Refusal`]; of any other error the client learns that the handler [failed](Refusal::Failed).
/// A handler that gives up because nobody waits any more has not failed.
///
/// ```
/// use falco_core::Refusal;
/// use falco_core::mux::refusal_of;
///
/// assert_eq!(refusal_of(Some(&Refusal::Busy), false), Refusal::Busy);
/// assert_eq!(refusal_of(Some(&std::fmt::Error), false), Refusal::Failed);
/// assert_eq!(refusal_of(Some(&std::fmt::Error), true), Refusal::Cancelled);
/// assert_eq!(refusal_of(None, true), Refusal::Failed);
/// ```
#[must_use]
pub fn refusal_of(error: Option<&(dyn Error + Send + Sync + 'static)>, cancelled: bool) -> Refusal {
    match error {
        None => Refusal::Failed,
        Some(_) if cancelled => Refusal::Cancelled,
        Some(error) => error.downcast_ref().copied().unwrap_or(Refusal::Failed),
    }
}
