//! The client: one connection that threads share, made anew when it has ended. How to get one is in `builder`, what it is in `connection`: a `link` with a
//! thread that reads, or a `serial` one without.

mod builder;
mod connection;
mod link;
mod reader;
mod serial;
mod state;

use core::fmt;
use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use falco_core::Settings;
use falco_core::keys::ClientKeys;

use self::builder::Dial;
use self::connection::{Connection, Outcome, over};
use crate::error::Error;

pub use self::builder::ClientBuilder;

/// A request that could not begin moves on to another connection, but not for ever.
const CONNECTIONS: usize = 4;

/// A client of one server. All methods take `&self`: threads may share it, and on the noise wire their requests are under way at once over one connection, each
/// answered as its handler finishes. On the classic wire, and over a stream that cannot be [split](crate::Stream::split), they go one after another.
///
/// A client holds one connection. When that has ended (its lifetime lapsed, the server closed it) the next call makes a new one before it sends anything; requests that had
/// not begun on the old one move over. On the noise wire the client pings by itself, so that a connection without requests stays; on the classic wire,
/// [`ping`](Self::ping) more often than once per lifetime.
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
pub struct Client {
    key: Arc<ClientKeys>,
    settings: Settings,
    request_timeout: Option<Duration>,
    dial: Dial,
    current: Mutex<Option<Arc<Connection>>>,
}

impl Client {
    /// Sends a request and waits for its answer.
    ///
    /// The [request timeout](ClientBuilder::request_timeout) bounds the wait, 30 s by default. On the
    /// classic wire so does the [lifetime](Settings::with_lifetime), which on this side counts from
    /// the sending of the request: a handler that is slower needs a longer lifetime at the client.
    ///
    /// # Errors
    /// [`Error`]; its [`fate`](Error::fate) says whether the request may have been processed. A request is never sent twice.
    pub fn request(&self, body: impl AsRef<[u8]>) -> Result<Vec<u8>, Error> {
        self.call(|connection| connection.request(body.as_ref(), self.request_timeout))
    }

    /// Pings the server, which begins the connection's lifetime anew on both sides, and says how long the answer took. The classic wire has no answer: there `None` says that the ping was sent.
    ///
    /// # Errors
    /// [`Error`].
    pub fn ping(&self) -> Result<Option<Duration>, Error> {
        self.call(|connection| connection.ping(self.request_timeout))
    }

    /// Ends the connection in good order: requests that are under way on other threads still get their ends. It waits until the server has seen the end, for a second at most.
    ///
    /// A client that is dropped instead just closes its socket.
    pub fn close(self) {
        if let Some(connection) = self.lock().take() {
            connection.close();
        }
    }

    fn call<T>(&self, go: impl Fn(&Connection) -> Outcome<T>) -> Result<T, Error> {
        let mut reason = None;
        for _ in 0..CONNECTIONS {
            let connection = self.open_connection(&mut reason)?;
            match go(&connection) {
                Outcome::Done(done) => return Ok(done),
                Outcome::Failed(error) => return Err(error),
                // Nothing was sent, so nothing is sent twice.
                Outcome::NotBegun(why) => {
                    reason = why.or(reason);
                    self.give_up(&connection);
                }
            }
        }
        Err(over(reason))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Connection>>> {
        // The place is whole at any time.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, if it is open, or else a new one. Who comes while one is being made waits for it.
    fn open_connection(&self, reason: &mut Option<Error>) -> Result<Arc<Connection>, Error> {
        let mut current = self.lock();
        if let Some(connection) = current.as_ref().filter(|connection| connection.is_open()) {
            return Ok(Arc::clone(connection));
        }
        let Some(stream) = self.dial.dial()? else {
            // A stream that was handed over cannot be made anew; how it ended may be told by it.
            return match (current.as_ref(), reason.take()) {
                (Some(connection), None) => Ok(Arc::clone(connection)),
                (_, reason) => Err(over(reason)),
            };
        };
        let made = Connection::open(stream, Arc::clone(&self.key), &self.settings)?;
        let made = Arc::new(made);
        *current = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Takes a connection that has ended from its place, unless it is the only one there can be.
    fn give_up(&self, connection: &Arc<Connection>) {
        let mut current = self.lock();
        if !matches!(self.dial, Dial::Never) && current.as_ref().is_some_and(|own| Arc::ptr_eq(own, connection)) {
            *current = None;
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(connection) = self.lock().take() {
            connection.abandon();
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("dial", &self.dial)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
