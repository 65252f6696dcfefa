//! The server: what it is made of and how it is run. How connections are let in and shut down is in
//! `admission`, what happens on one in `connection`.

mod accept;
mod admission;
mod builder;
mod connection;
mod half_open;
mod handler;
mod linger;
mod pool;
mod queue;
mod state;
mod stats;

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::{Arc, Weak};

use falco_core::keys::{Entropy, ServerKeys, SetupError};
use falco_core::mux::SharedBudget;
use falco_core::{CloseReason, ConnectionError, Key, KeyId, Settings};

use self::accept::Listener;
use self::admission::Admission;
use self::linger::LingerTimer;
use self::pool::Pool;
use self::state::State;
use crate::clock::Clock;
use crate::error::Error;
use crate::stream::Stream;

pub use self::builder::ServerBuilder;
pub use self::handler::{HandlerError, Request};
pub use self::stats::{Report, ServerStats};

/// A server: it takes connections, and runs a handler for each request.
///
/// Each connection has a thread. The number of connections is bounded
/// ([`ServerBuilder::max_connections`]), and so is the number of handlers that run at once
/// ([`ServerBuilder::workers`]). Requests of one connection are handled at once, and answered as
/// their handlers finish; on the classic wire in the order in which they came.
///
/// ```
/// use falco_std::{Request, Server};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let server = Server::builder(falco_std::generate_key()?).workers(8).bind("127.0.0.1:0")?;
/// let handle = server.handle();
/// # handle.shutdown();
/// let report = server.serve(|request: Request| {
///     let text = str::from_utf8(request.body())?; // an error fails this request, and nothing else
///     Ok(text.to_uppercase().into_bytes())
/// })?;
/// println!("{report:?}");
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Server {
    service: Arc<Service>,
    listener: Option<Arc<Listener>>,
}

/// What all connections of a server share.
#[derive(Debug)]
struct Service {
    keys: Arc<ServerKeys>,
    settings: Settings,
    entropy: Entropy,
    queue_timeout: Duration,
    clock: Clock,
    admission: Arc<Admission>,
    pool: Arc<Pool>,
    budget: SharedBudget,
    linger: Arc<LingerTimer<State>>,
}

impl Server {
    /// The address that the server is bound to.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) where that is not an address of the internet.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let listener = self.listener.as_ref().ok_or(io::ErrorKind::Unsupported)?;
        listener.local_addr()
    }

    /// What shuts the server down, changes its keys and reads its counters, from any thread.
    #[must_use]
    pub fn handle(&self) -> Handle {
        let listener = self.listener.as_ref().map_or_else(Weak::new, Arc::downgrade);
        Handle {
            service: Arc::clone(&self.service),
            listener,
        }
    }

    /// Takes connections and runs `handler` for their requests, until a [`Handle`] shuts the server
    /// down; then says what has been.
    ///
    /// A handler that returns an error or panics costs its own request; on the classic wire, which
    /// has no other word for it, the connection of that request, and nothing else. A server that is
    /// bound to nothing ([`ServerBuilder::unbound`]) just waits to be shut down.
    ///
    /// It returns when all connections have ended, or at the deadline given to
    /// [`Handle::shutdown_within`]. A handler that is still running then cannot be interrupted: its
    /// thread goes on without a connection.
    ///
    /// # Errors
    /// None at present: errors of accepting are survived, and counted.
    pub fn serve<H>(self, handler: H) -> Result<Report, Error>
    where
        H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
    {
        if let Some(listener) = &self.listener {
            accept::accept_until_stopped(listener, &self.service, &Arc::new(handler));
        }
        Ok(self.service.admission.wait_until_empty())
    }

    /// Serves one connection, over any stream, from this thread. It says what ended the connection.
    /// Over a stream that cannot be [split](Stream::split), requests are handled one after another,
    /// and the protocol's times are kept between them.
    ///
    /// The stream takes no seat of the [`max_connections`](ServerBuilder::max_connections), and is
    /// never dropped to make room. When the server is shut down, the connection notices within a
    /// quarter of a second, if the stream has time limits.
    ///
    /// ```
    /// # #[cfg(unix)] {
    /// use std::os::unix::net::UnixStream;
    /// use falco_std::{Client, ConnectionError, Key, Request, Server};
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (near, far) = UnixStream::pair()?;
    /// let server = Server::builder(Key::from_bytes([7; 32])?).unbound()?;
    /// let serving = std::thread::spawn(move || server.serve_connection(far, |request: Request| Ok(request.into_body())));
    ///
    /// let client = Client::builder(Key::from_bytes([7; 32])?).over(near)?;
    /// assert_eq!(client.request("over anything")?, b"over anything");
    /// client.close();
    /// assert_eq!(serving.join().expect("it does not panic")?, ConnectionError::Closed);
    /// # Ok(())
    /// # }
    /// # main().unwrap();
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of the stream.
    pub fn serve_connection<S, H>(&self, stream: S, handler: H) -> io::Result<ConnectionError>
    where
        S: Stream + Send + 'static,
        H: Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
    {
        let (conn, stream) = connection::prepare(&self.service, Box::new(stream))?;
        let permit = self.service.admission.guest(conn);
        connection::serve(&self.service, &permit, stream, None, &Arc::new(handler))
    }
}

/// Shuts a [`Server`] down, changes its keys and reads its counters, from any thread. Clones do so
/// to the same server.
#[derive(Clone, Debug)]
pub struct Handle {
    service: Arc<Service>,
    /// Weak, so that a handle does not keep an address bound.
    listener: Weak<Listener>,
}

impl Handle {
    /// Shuts the server down in good order: it takes no more connections and no more requests, lets
    /// the requests that are running finish, sends their answers, and closes. This returns at once;
    /// [`Server::serve`] returns when it is done.
    ///
    /// On the noise wire clients are told, and what they have begun to send is still handled. A
    /// connection that has nothing more to do waits up to a second for its client to end as well.
    pub fn shutdown(&self) {
        self.shutdown_at(None);
    }

    /// The same, but what is not done within `limit` is cut off. Of several limits the earliest
    /// counts.
    pub fn shutdown_within(&self, limit: Duration) {
        self.shutdown_at(Some(limit));
    }

    /// Takes another key into service on the noise wire, at once.
    ///
    /// # Errors
    /// [`SetupError`]; then nothing has changed.
    pub fn add_key(&self, key: Key) -> Result<KeyId, SetupError> {
        self.service.keys.ring().ok_or(SetupError::NoRing)?.add(key)
    }

    /// Takes a key out of service on the noise wire, and says whether it was in it. Hellos under it
    /// are refused from now on. Its connections take no more requests, and end when those that have
    /// begun have had their answers; their clients are told why.
    #[expect(
        clippy::must_use_candidate,
        reason = "a caller who knows that it was there need not ask"
    )]
    pub fn retire_key(&self, id: KeyId) -> bool {
        let retired = self.service.keys.ring().is_some_and(|ring| ring.retire(id));
        if retired {
            for conn in self.service.admission.conns() {
                let key = conn.lock().state.mux.machine().key_id();
                if key == Some(id) {
                    conn.close(CloseReason::KeyRetired);
                }
            }
        }
        retired
    }

    /// What the server has counted.
    #[must_use]
    pub fn stats(&self) -> ServerStats {
        self.service.admission.stats()
    }

    fn shutdown_at(&self, limit: Option<Duration>) {
        self.service.admission.stop(limit);
        if let Some(listener) = self.listener.upgrade() {
            listener.wake();
        }
    }
}
