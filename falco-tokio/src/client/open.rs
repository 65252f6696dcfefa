//! Open requests of a client.

use std::sync::Arc;

use bytes::Bytes;

use super::call::Limit;
use super::{Client, wait_for_place};
use crate::error::Error;
use crate::stream::Call;

impl Client {
    /// Begins an open request: its body and that of the answer may have any length, and both may be
    /// written and read at the same time. `first` is the beginning of the body, which may be empty.
    ///
    /// Returns once the request has begun, which takes the [request
    /// timeout](super::ClientBuilder::request_timeout) at most. If the server takes no more open
    /// requests at once, this waits until another one has completed; without a request timeout, for
    /// however long that takes. After that, the request has no time limit. It counts towards
    /// [`max_outstanding`](super::ClientBuilder::max_outstanding) until both halves are dropped.
    /// Until it has begun, a request of a lost connection goes to the next one; after that, never.
    ///
    /// # Errors
    /// [`Error`]. If the server takes no open requests,
    /// [`RequestError::NoOpenBodies`](crate::RequestError::NoOpenBodies).
    pub async fn open(&self, first: impl Into<Bytes>) -> Result<Call, Error> {
        let counters = &self.inner.env.counters;
        counters.requests.add(1);
        let queued = self.queue(first.into()).await;
        // How a request ends that was queued is counted there.
        let call = queued.inspect_err(|error| counters.failed(error.fate()))?;
        call.begun().await?;
        Ok(call)
    }

    async fn queue(&self, first: Bytes) -> Result<Call, Error> {
        let inner = &*self.inner;
        let mut limit = inner.request_timeout.map(Limit::new);
        let place = Arc::clone(&inner.places).acquire_owned();
        let place = wait_for_place(place, &mut limit).await?;
        inner.least_loaded()?.open(first, limit, place, &inner.env)
    }
}
