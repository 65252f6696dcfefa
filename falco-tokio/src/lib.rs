//! FalcoTCP on Tokio: encrypted requests and answers between tasks, under one shared 32-byte key.
//!
//! [`Server`] runs a handler for each request, [`Client`] sends requests from many tasks at once.
//! [`falco_core`] implements the protocol; this crate adds sockets, timers, tasks and buffers.
//!
//! - **Many requests at once** over each connection, answered as their handlers finish. Dropping a
//!   request's future cancels only that request.
//! - **Open requests**: bodies of any length, both ways at once ([`Client::open`],
//!   [`Server::serve_streams`]), and [tunnels](tunnel) for other protocols.
//! - **Reconnects** automatically, with random back-off ([`ClientBuilder::backoff`]).
//!   [`Error::fate`] reports whether a failed request may have been processed.
//! - **Graceful shutdown** ([`Handle::shutdown`], [`Handle::shutdown_within`]) and **key rotation**
//!   at runtime ([`Handle::add_key`], [`Client::set_key`], [`Handle::retire_key`]).
//! - **Bounded memory**: message size, requests in flight, bytes held per connection and in total.
//! - **Tower**: a handler can be a `tower::Service` ([`Server::serve_service`]), and a [`Client`]
//!   is one.
//! - **Tracing**: a span for each connection, without secrets or message bodies.
//!
//! `docs/services.md` in the repository is a guide, and `docs/failures.md` lists what a client does
//! after each kind of failure.
//!
//! ```
//! use falco_tokio::{Client, Key, Request, Server};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let text = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554";
//! let server = Server::builder(text.parse()?).bind("127.0.0.1:0").await?;
//! let (address, handle) = (server.local_addr()?, server.handle());
//! let echo = |request: Request| async move { Ok(request.into_body()) };
//! let serving = tokio::spawn(server.serve(echo));
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
//! | `aws-lc-rs` | no | cryptography from AWS-LC: faster, and needs a C compiler |
//! | `proxy-protocol` | no | addresses of clients from a proxy ([`ServerBuilder::trust_proxy`]) |
//! | `http-body` | no | [`RecvStream`] is a body of the crate `http-body` |
//! | `metrics` | no | metrics through the facade of the crate `metrics` |
//! | `cli` | no | the command-line tool `falco`, with `metrics` and `proxy-protocol` |
//!
//! # Metrics
//!
//! With the feature `metrics`, servers and clients report to the recorder that is installed when
//! they are built. Durations are in seconds, sizes in bytes of bodies.
//!
//! | name | kind | labels |
//! |---|---|---|
//! | `falco_server_connections`, `falco_server_half_open_connections` | gauge | |
//! | `falco_server_accepted_total`, `falco_server_rejected_total` | counter | |
//! | `falco_server_half_open_dropped_total`, `falco_server_accept_errors_total` | counter | |
//! | `falco_server_established_total`, `falco_server_over_key_limit_total` | counter | |
//! | `falco_server_revoked_total` | counter | |
//! | `falco_server_handshakes_refused_total` | counter | `cause` |
//! | `falco_server_connections_ended_total` | counter | `end` |
//! | `falco_server_requests_total`, `falco_server_busy_total` | counter | |
//! | `falco_server_requests_ended_total` | counter | `outcome` |
//! | `falco_server_handlers_failed_total` | counter | |
//! | `falco_server_handler_seconds`, `falco_server_request_bytes` | histogram | |
//! | `falco_server_answer_bytes` | histogram | |
//! | `falco_server_received_bytes_total`, `falco_server_sent_bytes_total` | counter | |
//! | `falco_server_key_connections` | gauge | `key`, `label` |
//! | `falco_server_key_requests_total` | counter | `key`, `label` |
//! | `falco_client_connections`, `falco_client_connections_in_backoff` | gauge | `server` |
//! | `falco_client_attempts_total`, `falco_client_connected_total` | counter | `server` |
//! | `falco_client_attempts_failed_total` | counter | `server`, `cause` |
//! | `falco_client_received_bytes_total`, `falco_client_sent_bytes_total` | counter | `server` |
//! | `falco_client_requests_total` | counter | `server` |
//! | `falco_client_requests_ended_total` | counter | `server`, `outcome` |
//! | `falco_client_request_seconds` | histogram | |
//!
//! The metrics of a key exist as soon as the server accepts it, before a client uses it. They stay
//! when the key is retired. The gauge is 0 once the connections of the key have ended.
//!
//! The label `server` names one server. In the metrics of requests and back-off it names all
//! servers of the client, separated by commas.
//!
//! The `outcome` of a server is `answered`, `refused` or `cancelled`, and that of a client
//! `answered`, `not_processed` or `maybe_processed`. An `end`, and the `cause` of a refused
//! handshake, is a variant of [`ConnectionError`], such as `unauthenticated` (another key or
//! context), `unknown_wire` (another protocol) or `handshake_timeout`. The `cause` of a failed
//! attempt is `stream` if no stream could be opened, `slow` if another server of the client was
//! connected first, `unusable` if no attempt can succeed, such as for an invalid address, and
//! otherwise how the handshake ended. After each failed attempt its server is in back-off.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod client;
mod clock;
mod coalescing;
mod entropy;
mod error;
mod line;
mod metrics;
mod pool;
mod server;
mod socket;
mod stats;
mod stream;
mod timer;
pub mod tunnel;

pub use client::{Client, ClientBuilder, ClientStats};
pub use error::{Error, HandlerError};
pub use falco_core::keys::SetupError;
pub use falco_core::{
    ConnectionError, EntropyError, Fate, Key, KeyError, KeyId, Refusal, RequestError, Settings, SettingsError,
};
pub use server::{Handle, Handler, OnCancel, Report, Request, Server, ServerBuilder, ServerStats, StreamRequest};
pub use socket::Stream;
pub use stream::{Call, RecvStream, SendStream};

/// Generates a key with random numbers from the operating system.
///
/// # Errors
/// [`KeyError::Entropy`] if the operating system has no random numbers.
pub fn generate_key() -> Result<Key, KeyError> {
    Key::generate(&mut entropy::system())
}
