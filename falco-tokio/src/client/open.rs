//! Open requests of a client, and requests whose answers are read while they arrive.

use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;

use super::call::Limit;
use super::{Client, wait_for_place};
use crate::error::Error;
use crate::stream::{Call, RecvStream};

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

    /// Sends a request and reads its answer while it arrives, of any length: for results that are
    /// larger than a message, and for notifications.
    ///
    /// Returns once the answer begins, which takes the [request
    /// timeout](super::ClientBuilder::request_timeout) at most. After that, it has no time limit.
    /// It counts towards [`max_outstanding`](super::ClientBuilder::max_outstanding) until it is
    /// dropped, which cancels the request. Until the answer begins, everything else is as for
    /// [`request`](Self::request). A server that takes no open requests answers as well: its answer
    /// arrives as a whole.
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// ```no_run
    /// # async fn example(client: falco_tokio::Client) -> Result<(), falco_tokio::Error> {
    /// let mut orders = client.request_stream("orders").await?;
    /// while let Some(bytes) = orders.next().await {
    ///     println!("{} bytes", bytes?.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn request_stream(&self, body: impl Into<Bytes>) -> Result<RecvStream, Error> {
        self.stream_answer(body.into(), self.inner.request_timeout).await
    }

    /// As [`request_stream`](Self::request_stream), with this time limit instead of the request
    /// timeout.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn request_stream_within(&self, body: impl Into<Bytes>, limit: Duration) -> Result<RecvStream, Error> {
        self.stream_answer(body.into(), Some(limit)).await
    }

    async fn stream_answer(&self, body: Bytes, limit: Option<Duration>) -> Result<RecvStream, Error> {
        let inner = &*self.inner;
        inner.env.counters.requests.add(1);
        let queued = async {
            let mut limit = limit.map(Limit::new);
            let place = wait_for_place(Arc::clone(&inner.places), &mut limit).await?;
            inner.least_loaded()?.request_stream(body, limit, place, &inner.env)
        };
        let queued = queued.await;
        let answer = queued.inspect_err(|error| inner.env.counters.failed(error.fate()))?;
        answer.begun().await?;
        Ok(answer)
    }

    async fn queue(&self, first: Bytes) -> Result<Call, Error> {
        let inner = &*self.inner;
        let mut limit = inner.request_timeout.map(Limit::new);
        let place = wait_for_place(Arc::clone(&inner.places), &mut limit).await?;
        inner.least_loaded()?.open(first, limit, place, &inner.env)
    }
}
