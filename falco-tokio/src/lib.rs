//! FalcoTCP on Tokio: encrypted requests and answers between tasks, under one shared 32-byte key.
//!
//! [`Server`] runs a handler for each request, [`Client`] sends requests from many tasks at once.
//! [`falco_core`] implements the protocol; this crate adds sockets, timers, tasks and buffers.
//!
//! - **Many requests at once** over each connection, answered as their handlers finish. Dropping a
//!   request's future cancels only that request.
//! - **Reconnects** automatically, with random back-off ([`ClientBuilder::backoff`]).
//!   [`Error::fate`] reports whether a failed request may have been processed.
//! - **Graceful shutdown** ([`Handle::shutdown`], [`Handle::shutdown_within`]) and **key rotation** at
//!   runtime ([`Handle::add_key`], [`Client::set_key`], [`Handle::retire_key`]).
//! - **Bounded memory**: message size, requests in flight, bytes held per connection and in total.
//! - **Tower**: a handler can be a `tower::Service` ([`Server::serve_service`]), and a [`Client`] is
//!   one.
//! - **Tracing**: a span for each connection, without secrets or message bodies.
//!
//! `docs/services.md` in the repository is a guide, and `docs/failures.md` lists what a client does
//! after each kind of failure.
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
//! The default is the noise wire: mutual authentication, forward secrecy, and multiplexed requests
//! that are answered as handlers finish. [`Server::classic`] and [`Client::classic`] speak the
//! protocol of the published falcotcp 0.1.x packages; see [`falco_core::classic`] for its
//! limitations. A server may accept both on one port, under different keys
//! ([`ServerBuilder::classic`]).
//!
//! # Tasks, memory, time
//!
//! Each connection is driven by one task. A handler that is not ready on its first poll runs on a
//! separate task. Idle connections hold no buffers; active ones use per-thread buffers, and records
//! are decrypted in place.
//!
//! A connection has an idle timeout (`lifetime`, 60 s). On the noise wire clients send keep-alive
//! pings and report [`PeerDead`](ConnectionError::PeerDead) if one is not answered.
//!
//! All timers use `tokio::time`. With `tokio::time::pause`, use in-memory streams such as
//! `tokio::io::duplex`: with sockets, time advances before data arrives.
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

/// Generates a key with random numbers from the operating system.
///
/// # Errors
/// [`KeyError::Entropy`] if the operating system has no random numbers.
pub fn generate_key() -> Result<Key, KeyError> {
    Key::generate(&mut entropy::system())
}
