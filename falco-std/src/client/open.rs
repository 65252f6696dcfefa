//! Open requests of a client, until they have begun, and requests whose answers are read while they
//! arrive.

use core::time::Duration;
use std::io;
use std::sync::Arc;

use falco_core::mux::Halves;
use falco_core::{ConnectionError, Fate};

use super::Client;
use super::connection::Connection;
use super::connector::Wait;
use super::limit::Limit;
use super::outcome::{Job, Outcome, waiting_for};
use super::state::{Begin, State};
use super::stats::{Counters, Outstanding};
use crate::error::Error;
use crate::open::{Call, ConnectionHandle, Kept, Pipe, RecvStream};

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

    /// Sends a request and reads its answer while it arrives, of any length: for results that are
    /// larger than a message, and for notifications.
    ///
    /// Returns once the answer begins, which takes the [request
    /// timeout](super::ClientBuilder::request_timeout) at most. After that, it has no time limit.
    /// Until the answer begins, everything else is as for [`request`](Self::request). If the answer
    /// is dropped before its end, the request is cancelled.
    ///
    /// A server that takes no open requests answers as well: its answer arrives as a whole. So does
    /// each answer on the classic wire, and over a stream that does not
    /// [split](crate::Stream::split).
    ///
    /// # Errors
    /// [`Error`].
    ///
    /// ```no_run
    /// # fn example(client: falco_std::Client) -> Result<(), falco_std::Error> {
    /// let mut orders = client.request_stream("orders")?;
    /// while let Some(bytes) = orders.next() {
    ///     println!("{} bytes", bytes?.len());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn request_stream(&self, body: impl AsRef<[u8]>) -> Result<RecvStream, Error> {
        self.stream_answer(body.as_ref(), self.inner.request_timeout)
    }

    /// As [`request_stream`](Self::request_stream), with this time limit instead of the request
    /// timeout.
    ///
    /// # Errors
    /// [`Error`].
    pub fn request_stream_within(&self, body: impl AsRef<[u8]>, limit: Duration) -> Result<RecvStream, Error> {
        self.stream_answer(body.as_ref(), Some(limit))
    }

    fn stream_answer(&self, body: &[u8], limit: Option<Duration>) -> Result<RecvStream, Error> {
        let counters = self.inner.connector.counters();
        counters.requests.add(1);
        let kept: Kept = Arc::new(Outstanding::new(Arc::clone(&self.inner)));
        let streamed = self.inner.call(Job::new(body), limit, |connection, job, limit| {
            connection.request_stream(job, limit, self.inner.connector.counters())
        });
        // How a request ends whose answer has begun is counted there.
        let pipe = streamed.inspect_err(|_| counters.errors.add(1))?;
        Ok(RecvStream::new(&pipe, Some(&kept)))
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
        let opened = self.stream(limit, |state| state.open(chunk, &self.shared, counters));
        opened.unwrap_or_else(|(fate, limit)| Outcome::Failed(limit.error("opening a stream", fate)))
    }

    /// Begins a request whose answer is read while it arrives.
    fn request_stream(&self, job: Job, limit: Option<Limit>, counters: &Arc<Counters>) -> Outcome<Arc<Pipe>> {
        if !self.shared.splits() {
            return self.request(job, limit).map(|body| {
                counters.answers.add(1);
                complete(&body)
            });
        }
        let streamed = self.stream(limit, |state| state.request_stream(job, &self.shared, counters));
        streamed.unwrap_or_else(|(fate, limit)| Outcome::Failed(limit.error(waiting_for(fate), fate)))
    }

    /// Submits a request and waits until it, or its answer, has begun. If it has not within the
    /// limit, it is cancelled, and this returns its fate.
    fn stream(
        &self,
        limit: Option<Limit>,
        submit: impl FnOnce(&mut State) -> Result<Begin, Outcome<Arc<Pipe>>>,
    ) -> Result<Outcome<Arc<Pipe>>, (Fate, Limit)> {
        let (mut locked, now) = self.lock_current(limit);
        let (slot, pipe) = match submit(&mut locked.state) {
            Ok(added) => added,
            Err(outcome) => return Ok(outcome),
        };
        locked.state.read_lock.call_thread();
        drop(locked);
        self.shared.flush_at(now);
        let mut end = slot.wait(limit);
        if end.is_none() {
            let fate = self.shared.lock().state.cancel_opening(slot.ticket());
            self.shared.flush();
            // It may have begun meanwhile.
            end = slot.take();
            if end.is_none() {
                let end = ConnectionError::Closed;
                let lost = Outcome::Failed(Error::Connection { end, fate });
                return limit.map_or(Ok(lost), |limit| Err((fate, limit)));
            }
        }
        Ok(match end {
            Some(Outcome::Done(_)) | None => Outcome::Done(pipe),
            Some(Outcome::Failed(error)) => Outcome::Failed(error),
            Some(Outcome::Retry(job)) => Outcome::Retry(job),
        })
    }
}

/// Of an answer that has arrived as a whole.
struct Complete;

impl ConnectionHandle for Complete {
    fn notify(&self) {}
}

fn complete(answer: &[u8]) -> Arc<Pipe> {
    let pipe = Pipe::new(Box::new(Complete), Halves::of_reader(0));
    pipe.arrive(answer);
    pipe.update(Halves::complete);
    pipe
}

fn unsupported() -> Error {
    let why = "the classic wire, and a stream that does not split, carry one request at a time";
    let source = io::Error::new(io::ErrorKind::Unsupported, why);
    Error::io("opening a stream", source, Fate::NotProcessed)
}
