//! Open requests of a client.

use core::time::Duration;
use std::sync::Arc;

use bytes::Bytes;
use falco_core::Fate;

use super::Client;
use crate::error::Error;
use crate::stream::Call;

impl Client {
    /// Begins an open request: its body and that of the answer may have any length, and both may be
    /// written and read at the same time. `first` is the beginning of the body, which may be empty.
    ///
    /// Returns once a connection has accepted the request, which takes the [request
    /// timeout](super::ClientBuilder::request_timeout) at most. After that it has no time limit. It
    /// counts towards [`max_outstanding`](super::ClientBuilder::max_outstanding) until both halves
    /// are dropped. Once it has begun it is never sent again on another connection.
    ///
    /// # Errors
    /// [`Error`]. If the server takes no open requests, [`Error::Request`], here or from the
    /// halves.
    pub async fn open(&self, first: impl Into<Bytes>) -> Result<Call, Error> {
        let opening = self.begin(first.into());
        let Some(limit) = self.inner.request_timeout else {
            return opening.await;
        };
        tokio::time::timeout(limit, opening)
            .await
            .unwrap_or_else(|_| Err(late(limit)))
    }

    async fn begin(&self, first: Bytes) -> Result<Call, Error> {
        let place = Arc::clone(&self.inner.places).acquire_owned().await;
        let place = place.map_err(|_| Error::Closed)?;
        let call = self
            .inner
            .least_loaded()?
            .open(first, self.inner.env.settings.window_kib(), place)?;
        call.accepted().await?;
        Ok(call)
    }
}

const fn late(limit: Duration) -> Error {
    Error::TimedOut {
        doing: "opening a stream",
        limit,
        fate: Fate::NotProcessed,
    }
}
