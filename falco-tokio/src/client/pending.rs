//! A request on its way through the client, until it has its answer.

use core::fmt;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::Error;

/// Where the answer to a request goes.
pub(super) type AnswerTo = oneshot::Sender<Result<Bytes, Error>>;

/// A request that has had no end.
pub(super) struct Pending {
    pub(super) ticket: u64,
    pub(super) body: Bytes,
    pub(super) to: AnswerTo,
    /// On how many connections something of it was sent.
    pub(super) tries: u32,
    /// How often the server was busy for it, and it was sent again.
    pub(super) busy: u32,
}

impl fmt::Debug for Pending {
    /// Shows how long the body is, and nothing of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending")
            .field("ticket", &self.ticket)
            .field("length", &self.body.len())
            .field("tries", &self.tries)
            .finish_non_exhaustive()
    }
}
