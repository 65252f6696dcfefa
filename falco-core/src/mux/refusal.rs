//! The refusal of a request whose handler failed.

use core::error::Error;

use crate::message::Refusal;

/// The refusal of a request whose handler failed with `error`. `None` means that the handler
/// panicked. `cancelled` says whether the client has cancelled the request or its connection has
/// ended.
///
/// The error itself stays on the server. A handler that fails with a [`Refusal`] chooses what the
/// client receives; any other error is sent as [`Refusal::Failed`]. If the request was cancelled,
/// any error of the handler is sent as [`Refusal::Cancelled`].
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
