//! FalcoTCP on Tokio: encrypted requests and answers between tasks, under one shared 32-byte key.
//!
//! [`Server`] runs a handler for each request, [`Client`] sends requests from many tasks at once.
//! Both are loops over [`falco_core`], which makes every decision of the protocol; here are the
//! sockets, the clock, the tasks and the memory.
//!
//! ```
//! use falco_tokio::{Client, Key, Request, Server};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554";
//! let server = Server::builder(text.parse()?).bind("127.0.0.1:0").await?;
//! let (address, handle) = (server.local_addr()?, server.handle());
//! let serving = tokio::spawn(server.serve(|request: Request| async move { Ok(request.into_body()) }));
//!
//! let client = Client::builder(text.parse()?).connect(address).await?;
//! assert_eq!(client.request("hello").await?, "hello");
//! client.close().await;
//!
//! handle.shutdown();
//! assert_eq!(serving.await??.cut_connections, 0);
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
//! # Tasks, memory, time
//!
//! A connection is one task on either side, which owns its socket, its machine and its requests,
//! and wakes for bytes, for orders and for its one deadline. While nothing is under way it holds no
//! buffer: bytes are read into one that the thread lends, decrypted where they lie, and sealed into
//! another. A call that is dropped, at whatever point, cancels its request and disturbs no other.
//!
//! A connection ends when for a lifetime (60 s by default) it has seen no message and no ping. On
//! the noise wire a client pings by itself, and finds out when its server is gone.
//!
//! All time is Tokio's, so that a test that pauses its clock pauses connections too: over an
//! in-memory stream, that is; over sockets a paused clock runs ahead of the bytes.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `cli` | no | the command-line tool `falco` |
#![cfg_attr(docsrs, feature(doc_cfg))]

mod client;
mod clock;
mod entropy;
mod error;
mod line;
mod pool;
mod server;
mod socket;
mod stats;
mod timer;

pub use client::{Client, ClientBuilder, ClientStats};
pub use error::{Error, HandlerError};
pub use falco_core::keys::SetupError;
pub use falco_core::{
    ConnectionError, EntropyError, Fate, Key, KeyError, KeyId, Refusal, RequestError, Settings, SettingsError,
};
pub use server::{Handle, Handler, IntoBytes, OnCancel, Report, Request, Server, ServerBuilder, ServerStats};
pub use socket::Stream;

/// Draws a fresh key from the operating system.
///
/// # Errors
/// [`KeyError::Entropy`] where the operating system gives no random numbers.
pub fn generate_key() -> Result<Key, KeyError> {
    Key::generate(&mut entropy::system())
}
