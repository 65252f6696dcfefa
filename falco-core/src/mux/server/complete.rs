//! How a handler has ended, and the outcome of its request.

use super::ServerMux;
use crate::error::RequestError;
use crate::message::{Refusal, RequestId};
use crate::mux::Budget;
use crate::no_answer::NoAnswer;
use crate::wire::ServerKeyRef;

impl<H: ServerKeyRef, B: AsRef<[u8]>, G: Budget> ServerMux<H, B, G> {
    /// The handler of a request has ended: answers or refuses the request. `cancelled` says whether
    /// the client has cancelled it or the connection has ended.
    ///
    /// An answer is sent even if its request was cancelled meanwhile. Nothing is sent if the
    /// request has completed already or the connection has ended.
    ///
    /// Returns whether an answer is queued. `false` means that no caller waits for one: the client
    /// has cancelled the request, it has completed in another way, or the connection has ended.
    ///
    /// # Errors
    /// The request was refused, with the refusal that the client receives: an open request that has
    /// reached its handler fails, even if the handler chose to refuse it as not processed.
    /// [`RequestError::TooLarge`] is sent as [`Refusal::AnswerTooLarge`]. A request is refused as
    /// that, too, if the answers that are queued leave no room for this one.
    pub fn complete(
        &mut self,
        id: RequestId,
        result: Result<B, NoAnswer<'_>>,
        cancelled: bool,
    ) -> Result<bool, RequestError> {
        if !self.is_held(id) {
            return Ok(false);
        }
        let refusal = match result {
            Ok(body) => return self.queue_answer(id, body),
            Err(failure) => failure.refusal(cancelled),
        };
        // Before the request is forgotten.
        #[cfg(feature = "streams")]
        let refusal = self.refusal_of_open(id, refusal);
        self.refuse(id, refusal);
        if cancelled && refusal == Refusal::Cancelled {
            Ok(false)
        } else {
            Err(RequestError::Refused(refusal))
        }
    }
}
