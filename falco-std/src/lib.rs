//! FalcoTCP on blocking sockets: encrypted requests and answers between threads, under one shared
//! 32-byte key.
//!
//! [`Server`] runs a handler for each request, [`Client`] sends requests and waits for their
//! answers. Both are short loops over [`falco_core`], which makes every decision of the protocol;
//! here are the sockets, the clock, the threads and the memory.
//!
//! ```
//! use falco_std::{Client, Key, Request, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554";
//! let key: Key = text.parse()?;
//! let server = Server::builder(key).bind("127.0.0.1:0")?;
//! let (address, handle) = (server.local_addr()?, server.handle());
//! let serving = std::thread::spawn(move || server.serve(|request: Request| Ok(request.into_body())));
//!
//! let client = Client::builder(text.parse()?).connect(address)?;
//! assert_eq!(client.request("hello")?, b"hello");
//! client.close();
//!
//! handle.shutdown();
//! assert_eq!(serving.join().expect("serve does not panic")?.cut_connections, 0);
//! # Ok(())
//! # }
//! ```
//!
//! # The wire
//!
//! Who asks for nothing else gets the noise wire: both sides prove that they have the key and are
//! there now, each connection has keys of its own, and many requests are under way at once on one
//! connection, each answered as its handler finishes. [`Server::classic`] and [`Client::classic`]
//! speak the wire of the published falcotcp 0.1.x peers; what that wire cannot give is told in
//! [`falco_core::classic`]. A server may speak both on one port, under different keys
//! ([`ServerBuilder::classic`]).
//!
//! # Time
//!
//! A connection ends when for a lifetime (60 s by default) it has seen no message and no ping. On
//! the noise wire a client pings by itself, and finds out when its server is gone.
//!
//! A request takes 30 s at most unless told otherwise, whatever it waits for. When there is no
//! connection the client makes one, and tries again as long as somebody waits. Requests of which
//! nothing was processed move to it; of the others the error says that they may have been
//! [processed](Error::fate), and they are not sent again. A server refuses as busy what has waited
//! for a worker for 5 s.
//!
//! # Threads
//!
//! A client's connection on the noise wire has a thread that connects, shakes hands and reads;
//! callers write. A server's connection has a thread that reads, and handlers run on a bounded
//! number of workers that all connections share. Where the other side takes bytes slowly, a thread
//! is made that writes, for as long as there is something to write. A name of several addresses
//! takes a thread for each that is tried, and one to resolve it.

mod client;
mod clock;
mod entropy;
mod error;
mod line;
mod peek;
mod pipe;
mod server;
mod socket;
mod stats;
mod stream;

pub use client::{Address, Client, ClientBuilder, ClientStats};
pub use error::Error;
pub use falco_core::keys::SetupError;
pub use falco_core::{
    ConnectionError, EntropyError, Fate, Key, KeyError, KeyId, Refusal, RequestError, Settings, SettingsError,
};
pub use server::{Handle, HandlerError, Report, Request, Server, ServerBuilder, ServerStats};
pub use stream::{Blocking, BoxedStream, Stream};

/// Draws a fresh key from the operating system.
///
/// ```
/// let key = falco_std::generate_key()?;
/// let mut text = [0; 64];
/// assert_eq!(key.write_hex(&mut text).len(), 64); // what to carry to the other side
/// # Ok::<(), falco_std::KeyError>(())
/// ```
///
/// # Errors
/// [`KeyError::Entropy`] where the operating system gives no random numbers.
pub fn generate_key() -> Result<Key, KeyError> {
    Key::generate(&mut entropy::system())
}
