//! Open requests of a client: until they have begun.

use std::io;
use std::sync::Arc;

use falco_core::{ConnectionError, Fate};

use super::Client;
use super::connection::Connection;
use super::connector::Wait;
use super::limit::Limit;
use super::outcome::Outcome;
use super::stats::{Counters, Outstanding};
use crate::error::Error;
use crate::open::{Call, Kept, Pipe};

impl Client {
    /// Begins an open request: its body and that of the answer may have any length, and both may be
    /// written and read at the same time. `first` is the beginning of the body, which may be empty.
    ///
    /// Returns once the request has begun, which takes the [request
    /// timeout](super::ClientBuilder::request_timeout) at most. After that it has no time limit. If
    /// the server takes no more open requests at once, this waits until another one has completed.
    /// Until it has begun, a request of a lost connection goes to the next one; after that, never.
    ///
    /// The halves keep the connection of a client that is dropped. The classic wire has no open
    /// requests, nor has a stream that does not [split](crate::Stream::split).
    ///
    /// # Errors
    /// [`Error`]. If the server takes no open requests,
    /// [`RequestError::NoOpenBodies`](crate::RequestError::NoOpenBodies).
    pub fn open(&self, first: impl AsRef<[u8]>) -> Result<Call, Error> {
        let counters = self.inner.connector.counters();
        counters.requests.add(1);
        let opened = self.begin(first.as_ref());
        // How a request ends that has begun is counted there.
        opened.inspect_err(|_| counters.errors.add(1))
    }

    fn begin(&self, first: &[u8]) -> Result<Call, Error> {
        let limit = Limit::from_now(self.inner.request_timeout);
        let kept: Kept = Arc::new(Outstanding::new(Arc::clone(&self.inner)));
        loop {
            let connection = self.inner.connector.connection(limit, Wait::Connection)?;
            match connection.begin(first, limit, self.inner.connector.counters()) {
                Outcome::Done(pipe) => return Ok(Call::new(&pipe, &kept)),
                Outcome::Failed(error) => return Err(error),
                Outcome::Retry(_) => {}
            }
        }
    }
}

impl Connection {
    /// Begins an open request with these bytes.
    fn begin(&self, first: &[u8], limit: Option<Limit>, counters: &Arc<Counters>) -> Outcome<Arc<Pipe>> {
        if !self.shared.splits() {
            return Outcome::Failed(unsupported());
        }
        let chunk = first.to_vec();
        let mut locked = self.lock_current(limit);
        let (slot, pipe) = match locked.state.open(chunk, &self.shared, counters) {
            Ok(added) => added,
            Err(outcome) => return outcome,
        };
        locked.state.read_lock.call_thread();
        drop(locked);
        self.shared.flush();
        let mut end = slot.wait(limit);
        if end.is_none() {
            let fate = self.shared.lock().state.cancel_opening(slot.ticket());
            self.shared.flush();
            // It may have begun meanwhile.
            end = slot.take();
            if end.is_none() {
                let end = ConnectionError::Closed;
                let lost = || Error::Connection { end, fate };
                return Outcome::Failed(limit.map_or_else(lost, |limit| limit.error("opening a stream", fate)));
            }
        }
        match end {
            Some(Outcome::Done(_)) | None => Outcome::Done(pipe),
            Some(Outcome::Failed(error)) => Outcome::Failed(error),
            Some(Outcome::Retry(job)) => Outcome::Retry(job),
        }
    }
}

fn unsupported() -> Error {
    let why = "the classic wire, and a stream that does not split, carry one request at a time";
    let source = io::Error::new(io::ErrorKind::Unsupported, why);
    Error::io("opening a stream", source, Fate::NotProcessed)
}
