//! The client. It has one connection at a time, which its callers share. `builder` has its
//! settings, `connector` and `dial` make connections, `connection` submits requests to one,
//! `reader` reads it, and `read_guard` decides which thread does.

mod address;
mod builder;
mod connection;
mod connector;
mod dial;
mod exclusive;
mod limit;
mod open;
mod outcome;
mod read_guard;
mod reader;
mod state;
mod stats;

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use falco_core::Key;

use self::connection::Connection;
use self::connector::{Connector, Wait};
use self::limit::Limit;
use self::outcome::{Job, Outcome};
use self::stats::{Counters, Counts, Outstanding};
use crate::error::Error;

pub use self::address::Address;
pub use self::builder::ClientBuilder;
pub use self::stats::ClientStats;

/// A client of one server, or of [several](ClientBuilder::connect_any) of which it uses one at a
/// time. Clones are cheap and share its connection. Requests of many threads are in flight at once,
/// and each is answered when its handler returns. On the classic wire, and over a stream that does
/// not [split](crate::Stream::split), they go one after another.
///
/// When the connection has ended, the client makes another for the next request. Requests wait for
/// it, each within its own [time limit](ClientBuilder::request_timeout). The client tries again
/// while requests wait, after random [pauses](ClientBuilder::backoff) that grow. A request that was
/// not processed on a lost connection goes to the next one. Any other request fails with an error
/// which says that it may have been processed, and is not sent again.
///
/// On the noise wire the client sends keep-alive pings, so that an idle connection does not expire.
/// It does not do so on the classic wire, nor over a stream that does not split. There, call
/// [`ping`](Self::ping) more often than once per lifetime to keep the connection.
///
/// ```no_run
/// use falco_std::{Client, Error, Fate};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let key = std::fs::read_to_string("key.hex")?.trim().parse()?;
/// let client = Client::builder(key).connect("127.0.0.1:4287")?;
/// match client.request("hello") {
///     Ok(answer) => println!("{} bytes", answer.len()),
///     Err(error) if error.fate() == Fate::NotProcessed => println!("not processed: {error}"),
///     Err(error) => println!("may have been processed: {error}"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    connector: Arc<Connector>,
    request_timeout: Option<Duration>,
}

impl Client {
    /// Sends a request and waits for its answer.
    ///
    /// The [request timeout](ClientBuilder::request_timeout) limits the wait, 30 s by default. On
    /// the classic wire the client's [lifetime](crate::Settings::with_lifetime) also limits it,
    /// counted from the time at which the request was sent. Set a longer lifetime for handlers that
    /// take longer.
    ///
    /// # Errors
    /// [`Error`]; its [`fate`](Error::fate) says whether the request may have been processed.
    pub fn request(&self, body: impl AsRef<[u8]>) -> Result<Vec<u8>, Error> {
        self.inner.request(body.as_ref(), self.inner.request_timeout)
    }

    /// Sends a request and waits for its answer, for `limit` at most.
    ///
    /// # Errors
    /// [`Error`].
    pub fn request_within(&self, body: impl AsRef<[u8]>, limit: Duration) -> Result<Vec<u8>, Error> {
        self.inner.request(body.as_ref(), Some(limit))
    }

    /// Pings the server, and returns the round-trip time. The connection's lifetime starts again on
    /// both sides. The classic wire has no answer to a ping: there this returns `None` when the
    /// ping was written. The request timeout limits the wait. A ping of a lost connection goes to
    /// the next one, as a request that was not processed.
    ///
    /// # Errors
    /// [`Error`].
    pub fn ping(&self) -> Result<Option<Duration>, Error> {
        self.inner
            .call(Job::default(), self.inner.request_timeout, Connection::ping)
    }

    /// Changes the key, for example before a server [retires](crate::Handle::retire_key) the old
    /// one. Makes a connection under the new key. All further requests go over it, and requests in
    /// flight under the old key complete. A client of several servers asks one after the other, and
    /// it is enough that one of them accepts the key.
    ///
    /// # Errors
    /// [`Error`] of the last server, for example if none has the key yet. Then the old key stays in
    /// use.
    pub fn set_key(&self, key: Key) -> Result<(), Error> {
        self.inner.connector.set_key(key)
    }

    /// Drains the connection, for all clones: requests that it has accepted complete. Those that
    /// wait for a connection, and new ones, fail as [closed](Error::Closed). This waits until the
    /// server has ended its side, for at most one second after the last answer.
    ///
    /// If all clones of a client are dropped instead, its socket is closed at once. No request can
    /// be in flight then.
    pub fn close(&self) {
        self.inner.connector.close();
    }

    /// Whether there is a connection now, on which a request could be sent. A client without one
    /// connects when there is something to send.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.inner.connector.is_connected()
    }

    /// The client's counters.
    #[must_use]
    pub fn stats(&self) -> ClientStats {
        self.inner.connector.counters().read()
    }
}

impl Inner {
    fn request(&self, body: &[u8], limit: Option<Duration>) -> Result<Vec<u8>, Error> {
        let counters: &Counters = self.connector.counters();
        counters.requests.add(1);
        let outstanding = Outstanding::new(counters);
        let answered = self.call(Job::new(body), limit, Connection::request);
        drop(outstanding);
        let counter = if answered.is_ok() {
            &counters.answers
        } else {
            &counters.errors
        };
        counter.add(1);
        answered
    }

    fn call<T>(
        &self,
        mut job: Job,
        limit: Option<Duration>,
        go: impl Fn(&Connection, Job, Option<Limit>) -> Outcome<T>,
    ) -> Result<T, Error> {
        let limit = Limit::from_now(limit);
        loop {
            let connection = self.connector.connection(limit, Wait::Connection)?;
            match go(&connection, job, limit) {
                Outcome::Done(done) => return Ok(done),
                Outcome::Failed(error) => return Err(error),
                Outcome::Retry(again) => job = again,
            }
        }
    }
}

impl Counts for Arc<Inner> {
    fn counters(&self) -> &Counters {
        self.connector.counters()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.connector.abandon();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("connector", &self.inner.connector)
            .finish_non_exhaustive()
    }
}
