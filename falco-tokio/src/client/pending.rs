//! A request on its way through the client, until it has its answer.

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::error::Error;

/// Where the answer to a request goes.
pub(super) type AnswerTo = oneshot::Sender<Result<Bytes, Error>>;

/// A request that has had no end.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) ticket: u64,
    pub(super) body: Bytes,
    pub(super) to: AnswerTo,
    /// On how many connections something of it was sent.
    pub(super) tries: u32,
}
