//! The client: one connection that threads may share, made anew when it has ended. What happens on a connection is in `link`, how to
//! get one in `builder`.

mod builder;
mod link;

use core::fmt;
use core::time::Duration;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use falco_core::Settings;

use self::builder::Dial;
use self::link::Link;
use crate::error::{Error, Fate};
use crate::wire_key::WireKey;

pub use self::builder::ClientBuilder;

/// A client of one server. All methods take `&self`: threads may share it, and their requests then go one after another.
///
/// A client holds one connection. When that has ended (its lifetime lapsed, the server closed it, a request timed out on it) the next call
/// makes a new one before it sends anything.
///
/// To keep a connection alive without requests, [`ping`](Self::ping) more often than once per lifetime.
///
/// ```no_run
/// use falco_std::{Client, Error, Fate};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::classic(std::fs::read_to_string("key.hex")?.trim().parse()?).connect("127.0.0.1:4287")?;
/// match client.request("hello") {
///     Ok(answer) => println!("{} bytes", answer.len()),
///     Err(error) if error.fate() == Fate::NotProcessed => println!("may be sent again: {error}"),
///     Err(error) => println!("may have been done: {error}"),
/// }
/// # Ok(())
/// # }
/// ```
pub struct Client {
    key: Arc<WireKey>,
    settings: Settings,
    request_timeout: Option<Duration>,
    dial: Dial,
    /// The connection; none while it is in use, and after it has ended.
    link: Mutex<Option<Link>>,
}

impl Client {
    /// Sends a request and waits for its answer.
    ///
    /// The wait is bounded by the [lifetime](Settings::with_lifetime), which on this side counts from the sending of the request: a handler
    /// that is slower needs a longer lifetime at the client. A [request timeout](ClientBuilder::request_timeout) bounds it further.
    ///
    /// # Errors
    /// [`Error`]; its [`fate`](Error::fate) says whether the request may have been processed. A request is never sent twice.
    pub fn request(&self, body: impl AsRef<[u8]>) -> Result<Vec<u8>, Error> {
        let mut place = self.lock();
        let mut link = self.live_link(&mut place)?;
        let answer = link.request(body.as_ref(), self.request_timeout);
        // After a failure it is not known how far each side has come: only an error of the request alone leaves the connection of use.
        if matches!(answer, Ok(_) | Err(Error::Request(_))) {
            *place = Some(link);
        } else {
            link.abort();
        }
        answer
    }

    /// Sends a ping, which begins the connection's lifetime anew on both sides. The classic wire has no answer to it: `Ok` says that it was sent.
    ///
    /// # Errors
    /// [`Error`].
    pub fn ping(&self) -> Result<(), Error> {
        let mut place = self.lock();
        let mut link = self.live_link(&mut place)?;
        let sent = link.ping();
        if sent.is_ok() {
            *place = Some(link);
        } else {
            link.abort();
        }
        sent
    }

    /// Ends the connection in good order. It waits until the server has seen the end, for a second at most.
    ///
    /// A client that is dropped instead just closes its socket.
    pub fn close(self) {
        if let Some(mut link) = self.link.into_inner().unwrap_or_else(PoisonError::into_inner) {
            link.close();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Link>> {
        // The place is whole at any time: a link that was in use in a panic is gone from it.
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, if it has not ended by now, or else a new one. Nothing is sent on one that has ended.
    fn live_link(&self, place: &mut Option<Link>) -> Result<Link, Error> {
        let ended = match place.take() {
            Some(mut link) => match link.catch_up() {
                Ok(()) => return Ok(link),
                Err(error) => {
                    link.abort();
                    Some(error)
                }
            },
            None => None,
        };
        match self.dial.dial()? {
            Some(stream) => Link::open(stream, Arc::clone(&self.key), &self.settings),
            // A stream that was handed over cannot be made anew.
            None => Err(ended.unwrap_or_else(|| {
                Error::io(
                    "the connection has ended",
                    std::io::ErrorKind::NotConnected.into(),
                    Fate::NotProcessed,
                )
            })),
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
