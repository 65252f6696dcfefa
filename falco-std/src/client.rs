//! The client: one connection that threads share, made anew when it has ended. How a client is set
//! up is in `builder`, how it gets a connection in `place` and `dial`, what that is in
//! `connection`: a `link` with a thread that reads, or a `serial` one without.

mod address;
mod builder;
mod connection;
mod connector;
mod dial;
mod exclusive;
mod limit;
mod outcome;
mod reader;
mod state;
mod stats;

use core::fmt;
use core::time::Duration;
use std::sync::Arc;

use falco_core::mux::{MAX_BUSY, Retry, after_loss};
use falco_core::{Fate, Key, Refusal, RequestError};

use self::connection::Connection;
use self::connector::{Connector, Wait};
use self::limit::Limit;
use self::outcome::Outcome;
use self::stats::{Counters, Outstanding};
use crate::error::Error;

pub use self::address::Address;
pub use self::builder::ClientBuilder;
pub use self::stats::ClientStats;

/// A client of one server. Clones are cheap and share its connection; requests of many threads are
/// under way at once over it, each answered as its handler finishes. On the classic wire, and over
/// a stream that cannot be [split](crate::Stream::split), they go one after another.
///
/// A client holds one connection, and makes another when that has ended and there is something to
/// send. While there is none, requests wait for one, each for its own
/// [time](ClientBuilder::request_timeout); attempts are made while somebody waits, with pauses that
/// grow and are random. Requests of which nothing was processed on a connection that was lost move
/// to the next; of others the error says that they may have been, and they are not sent again.
///
/// On the noise wire the client pings by itself, so that a connection without requests stays; on
/// the classic wire, [`ping`](Self::ping) more often than once per lifetime.
///
/// ```no_run
/// use falco_std::{Client, Error, Fate};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::builder(std::fs::read_to_string("key.hex")?.trim().parse()?).connect("127.0.0.1:4287")?;
/// match client.request("hello") {
///     Ok(answer) => println!("{} bytes", answer.len()),
///     Err(error) if error.fate() == Fate::NotProcessed => println!("may be sent again: {error}"),
///     Err(error) => println!("may have been done: {error}"),
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
    /// The [request timeout](ClientBuilder::request_timeout) bounds the wait, 30 s by default. On
    /// the classic wire so does the [lifetime](crate::Settings::with_lifetime), which on this side
    /// counts from the sending of the request: a handler that is slower needs a longer lifetime at
    /// the client.
    ///
    /// # Errors
    /// [`Error`]; its [`fate`](Error::fate) says whether the request may have been processed.
    pub fn request(&self, body: impl AsRef<[u8]>) -> Result<Vec<u8>, Error> {
        self.inner.request(body.as_ref(), self.inner.request_timeout)
    }

    /// The same with a time limit of its own.
    ///
    /// # Errors
    /// [`Error`].
    pub fn request_within(&self, body: impl AsRef<[u8]>, limit: Duration) -> Result<Vec<u8>, Error> {
        self.inner.request(body.as_ref(), Some(limit))
    }

    /// Pings the server, which begins the connection's lifetime anew on both sides, and says how
    /// long the answer took. The classic wire has no answer: there `None` says that the ping was
    /// sent. The request timeout bounds the wait.
    ///
    /// # Errors
    /// [`Error`].
    pub fn ping(&self) -> Result<Option<Duration>, Error> {
        self.inner.call(self.inner.request_timeout, Connection::ping)
    }

    /// Changes the key, as when the old one is about to be [retired](crate::Handle::retire_key):
    /// connects and shakes hands under the new one, then sends all requests over that connection,
    /// while what has begun under the old one finishes. No request fails by it.
    ///
    /// # Errors
    /// [`Error`], such as of a server that does not have the key yet; then the old one stays in
    /// use.
    pub fn set_key(&self, key: Key) -> Result<(), Error> {
        self.inner.connector.set_key(key)
    }

    /// Ends the connection in good order: requests that are under way still get their ends, on all
    /// clones; new ones are refused as [closed](Error::Closed). It waits until the server has seen
    /// the end, for a second at most after the last answer.
    ///
    /// When all clones of a client are dropped instead, its socket is just closed: no request can
    /// be under way then.
    pub fn close(&self) {
        self.inner.connector.close();
    }

    /// What the client has counted.
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
        let answered = self.call(limit, |connection, limit| connection.request(body, limit));
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
        limit: Option<Duration>,
        go: impl Fn(&Connection, Option<Limit>) -> Outcome<T>,
    ) -> Result<T, Error> {
        let limit = Limit::from_now(limit);
        let (mut handed, mut busy) = (0, 0);
        loop {
            let connection = self.connector.connection(limit, Wait::Connection)?;
            let why = match go(&connection, limit) {
                Outcome::Done(done) => return Ok(done),
                Outcome::Failed(error) => return Err(error),
                Outcome::NotTaken(why) => why,
                // The connection keeps its place.
                Outcome::Again if busy < MAX_BUSY => {
                    busy += 1;
                    continue;
                }
                Outcome::Again => return Err(Error::Request(RequestError::Refused(Refusal::Busy))),
                Outcome::NotProcessed(why) => {
                    handed += 1;
                    if after_loss(Fate::NotProcessed, handed) == Retry::Fail {
                        return Err(why);
                    }
                    Some(why)
                }
            };
            self.connector.give_up(&connection, why);
        }
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
