//! A blocking FalcoTCP server and client: encrypted requests and answers under one shared 32-byte
//! key.
//!
//! [`Server`] runs a handler for each request, [`Client`] sends requests and waits for their
//! answers. [`Client::open`] and [`Server::serve_streams`] carry bodies of any length.
//! [`falco_core`] implements the protocol; this crate adds sockets, timers, threads and buffers.
//! `docs/threads.md` in the repository is a guide.
//!
//! ```
//! use falco_std::{Client, Key, Request, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554";
//! let key: Key = text.parse()?;
//! let server = Server::builder(key).bind("127.0.0.1:0")?;
//! let (address, handle) = (server.local_addr()?, server.handle());
//! let echo = |request: Request| Ok(request.into_body());
//! let serving = std::thread::spawn(move || server.serve(echo));
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
//! The default is the noise wire: mutual authentication, forward secrecy, and multiplexed requests
//! that are answered as handlers finish. [`Server::classic`] and [`Client::classic`] speak the
//! protocol of the published falcotcp 0.1.x packages; see [`falco_core::classic`] for its
//! limitations. A server may accept both on one port, under different keys
//! ([`ServerBuilder::classic`]).
//!
//! # Streams
//!
//! A connection runs over a TCP stream, a Unix socket, any type that implements [`Stream`], or any
//! `Read + Write` in the wrapper [`Blocking`]. That wrapper has no time limits: a deadline takes
//! effect only when a read or write returns. A stream without [`Stream::split`] carries one request
//! at a time and no open requests.
//!
//! # Time
//!
//! A connection has an idle timeout (`lifetime`, 60 s). On the noise wire clients send keep-alive
//! pings and report [`PeerDead`](ConnectionError::PeerDead) if one is not answered.
//!
//! A request takes at most 30 s by default ([`request_timeout`](ClientBuilder::request_timeout)).
//! Without a connection the client connects, and retries while callers wait. Requests that were not
//! processed are resent; the others fail with [`Fate::MaybeProcessed`] ([`Error::fate`]). A server
//! refuses a request as busy if no worker is free for it within 5 s.
//!
//! # Threads
//!
//! - **A client** has one thread per connection. That thread connects, and reads while no caller
//!   does. Callers write their requests. A caller whose request is the only one in flight also
//!   reads until its answer has arrived. On the classic wire, and over a stream that does not
//!   split, only callers read, one at a time.
//! - **A server** has one thread per connection, which reads and runs short handlers. A bounded
//!   pool of workers runs the other handlers. If a handler on the thread of a connection takes more
//!   than 1 to 2 ms, another thread continues with that connection.
//! - **Both** start a thread that writes while a peer reads slowly.
//! - **Connecting** takes a thread to resolve a name, and one for each attempt to connect if there
//!   are several addresses.

mod client;
mod clock;
mod entropy;
mod error;
mod line;
mod open;
mod peek;
mod server;
mod shared;
mod socket;
mod stats;
mod stream;
mod writer;

pub use client::{Address, Client, ClientBuilder, ClientStats};
pub use error::Error;
pub use falco_core::keys::SetupError;
pub use falco_core::{
    ConnectionError, EntropyError, Fate, Key, KeyError, KeyId, Refusal, RequestError, Settings, SettingsError,
};
pub use open::{Call, RecvStream, SendStream};
pub use server::{Handle, HandlerError, Report, Request, Server, ServerBuilder, ServerStats, StreamRequest};
pub use stream::{Blocking, BoxedStream, Stream};

/// Generates a key with random numbers from the operating system.
///
/// ```
/// let key = falco_std::generate_key()?;
/// let mut text = [0; 64];
/// assert_eq!(key.write_hex(&mut text).len(), 64); // for the other side
/// # Ok::<(), falco_std::KeyError>(())
/// ```
///
/// # Errors
/// [`KeyError::Entropy`] if the operating system has no random numbers.
pub fn generate_key() -> Result<Key, KeyError> {
    Key::generate(&mut entropy::system())
}
