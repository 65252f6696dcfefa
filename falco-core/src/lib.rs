//! The FalcoTCP protocol as a sans-IO state machine: an encrypted connection between two peers that
//! share a 32-byte key. No I/O, no clock, no global state. With fixed-size storage a connection
//! does not allocate.
//!
//! The client sends a hello that is encrypted with a key derived from the shared key. If the hello
//! does not authenticate, the server closes the stream without sending a byte. After the handshake
//! each request is encrypted, decrypted by the server and passed to the application; the answer
//! (response) is encrypted and sent back. A connection has an idle timeout, 60 s by default
//! ([`lifetime`](Settings::with_lifetime)).
//!
//! You pass in bytes and times, and get back bytes to send and events. `falco-tokio`, `falco-std`
//! and `falco-embedded` drive this crate over Tokio, blocking sockets and `embedded-io` streams.
//! Read on to drive it yourself: in an event loop, on a microcontroller or in a simulation.
//!
//! # The loop
//!
//! A [`ClientConnection`] or a [`ServerConnection`] is the state machine of one endpoint. The
//! driver repeats these steps:
//!
//! 1. **Send** all bytes that [`seal`](Connection::seal) or
//!    [`poll_transmit`](Connection::poll_transmit) wrote, in the order in which they were written.
//! 2. **Receive**: call [`recv`](Connection::recv) with all unread bytes, until it returns neither
//!    [`Event`](Received::Event) nor [`Skip`](Received::Skip). `recv` discards the bytes that it
//!    consumes. A [`RecvBuf`] keeps the others.
//! 3. **Read** more bytes on [`NeedMore`](Received::NeedMore). On `Wait(TransmitFirst)` write
//!    pending output, and on `Wait(AnswerFirst)` send an answer, before the next `recv`. When the
//!    stream has no more bytes, call [`end_of_stream`](Connection::end_of_stream).
//! 4. **Sleep** no longer than [`poll_timeout`](Connection::poll_timeout). Then read what has
//!    arrived, and call [`handle_timeout`](Connection::handle_timeout).
//!
//! When a call returns the error that ended the connection, send the remaining output of
//! `poll_transmit`. If [`is_graceful`](ConnectionError::is_graceful), shut down the sending half
//! and read until the end of the stream, for at most [`Settings::LINGER`]; then close. Otherwise
//! close at once.
//!
//! ```
//! # #[cfg(all(feature = "noise", feature = "rustcrypto"))] {
//! use falco_core::noise::{FixedTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
//! use falco_core::{ClientConnection, ClientEvent, Instant, Key, Received, RecvBuf, RustCrypto};
//! use falco_core::{ServerConnection, ServerEvent, Settings};
//!
//! use getrandom::SysRng; // the operating system's generator: getrandom 0.4, feature `sys_rng`
//!
//! let text = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554";
//! let key = || text.parse::<Key>();
//!
//! // A key is created once and shared by all its connections. `FixedTable<4>`: up to 4 requests in
//! // flight on each. `b""`: no application context.
//! let client_key = NoiseClient::<FixedTable<4>, _>::new(key()?, b"", RustCrypto)?;
//! let ring = KeyRing::new([Some(NoiseSecret::derive(key()?, &RustCrypto))], &mut SysRng)?;
//! let server_key = NoiseServer::<FixedTable<4>, _, _>::new(ring, b"", RustCrypto)?;
//!
//! // Both sides of a connection, and two byte buffers in place of a network.
//! let (settings, now) = (Settings::new(), Instant::ZERO);
//! let mut client = ClientConnection::new(&client_key, &settings, now, &mut SysRng)?;
//! let mut server = ServerConnection::new(&server_key, &settings, now, &mut SysRng)?;
//! let (mut at_client, mut at_server) = (RecvBuf::new([0; 256]), RecvBuf::new([0; 256]));
//!
//! let mut request = client.request(5)?;
//! loop {
//!     let sent = client.seal(now, [(&mut request, &b"hello"[..])], at_server.space(0)?)?;
//!     at_server.filled(sent);
//!     match server.recv(now, at_server.unread())? {
//!         Received::Event(ServerEvent::Request { id, body }) => {
//!             let reply = body.to_ascii_uppercase();
//!             let mut answer = server.answer(id, reply.len())?;
//!             let sent = server.seal(now, [(&mut answer, &reply[..])], at_client.space(0)?)?;
//!             at_client.filled(sent);
//!         }
//!         _ => {}
//!     }
//!     let sent = server.poll_transmit(now, at_client.space(0)?)?;
//!     at_client.filled(sent);
//!     match client.recv(now, at_client.unread())? {
//!         Received::Event(ClientEvent::Answer { body, .. }) => {
//!             assert_eq!(body, b"HELLO");
//!             break;
//!         }
//!         _ => {}
//!     }
//! }
//! # }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # States
//!
//! ```text
//!                       handshake                      `close`, or `refuse` on
//!                       completed                      the classic wire
//!   new --> Handshaking ------------> Established ------------------------> Draining
//!                |                         |                                    |
//!                | wrong key, wrong bytes, | expired, tampered, replayed,       | drained, or
//!                | deadline, `close`       | wrong bytes, end of stream         | an error
//!                v                         v                                    v
//!              Ended <-------------------- + <----------------------------------+
//! ```
//!
//! | status | `recv` | `seal` | deadline |
//! |---|---|---|---|
//! | `Handshaking` | hello, welcome or accept only | the hello; requests wait | handshake timeout |
//! | `Established` | events | messages | idle timeout |
//! | `Draining` | answers; no new requests | what has begun | see below |
//! | `Ended` | the same error | nothing | none |
//!
//! Nothing extends the handshake timeout. On the noise wire each received record restarts the idle
//! timeout. On the classic wire each message and ping does. On the noise wire the module `mux` also
//! restarts it when the stream accepts output and more is queued. A connection of the noise wire
//! that drains ends one idle timeout after its CLOSE at the latest. On the classic wire draining
//! does not change the deadline.
//!
//! # Ownership
//!
//! - **Memory** is the caller's: unread bytes, output, bodies. On 64-bit targets a connection takes
//!   at most 328 bytes on the classic wire, and 2,900 on the noise wire with `FixedTable<4>` (tests
//!   check both). [Sizes are known](Connection::seal_size) before anything is written. A length
//!   announced by the peer does not cause an allocation.
//! - **Keys** outlive connections. A [`NoiseClient`](noise::NoiseClient),
//!   [`NoiseServer`](noise::NoiseServer) or [`ClassicKey`] is created once and shared by all its
//!   connections.
//! - **Randomness** is used only in [`Connection::new`], and the caller passes the current
//!   **time**.
//! - **Cryptography** is pluggable through [`crypto::Crypto`] and [`crypto::NoiseCrypto`];
//!   [`RustCrypto`] is the default.
//!
//! # Errors
//!
//! | type | meaning | returned by |
//! |---|---|---|
//! | [`ConnectionError`] | what ended the connection; returned again later | `recv` and others |
//! | [`RequestError`] | one request failed, not the connection | wrapped in the enums below |
//! | [`Misuse`] | the API forbids this call; nothing has changed | wrapped in the enums below |
//! | [`Error`] | one of these three; or the connection closes | `request`, `ping`, `cancel` |
//! | [`ReplyError`] | one of these; or not open, or refusals are pending | `answer`, `refuse` |
//! | [`SealError`] | ended, closing, misuse, no room, or request not open | `seal` |
//! | [`OutputTooSmall`] | the output slice is too small; nothing has changed | `poll_transmit` |
//! | [`EntropyError`] | no random numbers; nothing was sent | [`Connection::new`] |
//! | [`StorageFull`] | the storage has no room | [`RecvBuf`], [`Reassembly`] |
//!
//! `end_of_stream` and `handle_timeout` return a [`ConnectionError`], too. The errors of `request`,
//! `answer` and `seal` have a variant that contains one.
//!
//! # Features
//!
//! By default:
//!
//! - `noise`: the noise wire, for all new deployments.
//! - `rustcrypto`: AES-256-GCM, composed in this crate from `aes`, `ctr` and `ghash`; for the noise
//!   wire also X25519 (`x25519-dalek`), SHA-256 and HMAC (`sha2`, `hmac`).
//! - `std`: `Mutex` and `RwLock` for what connections share. With `noise` and `rustcrypto`, also
//!   the module `keys`. It implies `alloc`.
//! - `alloc`: the module `mux`; secrets on the heap, so that moves do not copy them; `Vec<u8>` as
//!   storage of a [`RecvBuf`].
//!
//! On request:
//!
//! - `aes-gcm`: AES-256-GCM from the crate `aes-gcm` instead. Slower for short records.
//! - `aws-lc-rs`: the provider `AwsLc` on AWS-LC, which the module `keys` then uses. Faster for
//!   long messages. It needs a C compiler.
//! - `heapless`: `heapless::Vec` as storage of a [`RecvBuf`].
//! - `streams`: open bodies on the noise wire, which are [requests](ClientConnection::open_request)
//!   and [answers](ServerConnection::open_answer) of unknown length, both ways at once, within
//!   [windows](Settings::with_streams). Each request in flight takes 4 more bytes.
//! - `testing`: a virtual clock, deterministic entropy, an AEAD without security, fuzz targets.
//!   Never in production.
//!
//! On a device, set `default-features = false` and choose `noise` and `rustcrypto`. To use a
//! hardware engine in place of `rustcrypto`, implement [`crypto::Crypto`]. The noise wire also
//! needs [`crypto::NoiseCrypto`].
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod classic;
mod connection;
mod counted;
pub mod crypto;
mod deadlines;
mod ending;
mod error;
mod event;
mod greeting;
mod key;
#[cfg(all(feature = "std", feature = "noise", feature = "rustcrypto"))]
pub mod keys;
mod life;
mod message;
#[cfg(feature = "alloc")]
pub mod mux;
mod no_answer;
#[cfg(feature = "noise")]
pub mod noise;
mod outgoing;
mod reassembly;
mod recv_buf;
mod replay_cache;
mod role;
#[cfg(feature = "alloc")]
mod send_queue;
mod session;
mod settings;
mod settings_builder;
#[cfg(feature = "testing")]
pub mod testing;
mod time;
mod unread;
mod wipe;
mod wire;

pub use classic::sealing::ClassicKey;
pub use connection::{ClientConnection, Connection, ServerConnection};
#[cfg(feature = "aws-lc-rs")]
pub use crypto::provider::AwsLc;
pub use crypto::provider::RustCrypto;
pub use deadlines::Deadlines;
pub use ending::{Ending, LastStep};
pub use error::{
    ConnectionError, EntropyError, Error, LostRequest, Misuse, OutputTooSmall, ReplyError, RequestError, SealError,
};
pub use event::{ClientEvent, ClientWait, Received, ServerEvent, ServerWait};
pub use greeting::Greeting;
pub use key::{Key, KeyError};
pub use message::{CloseReason, Fate, KeyId, PingId, Refusal, RequestId, Status};
pub use no_answer::NoAnswer;
pub use outgoing::{OutgoingAnswer, OutgoingRequest};
#[cfg(feature = "alloc")]
pub use reassembly::HeapPartials;
pub use reassembly::{Partial, Reassembly};
pub use recv_buf::{RecvBuf, Storage, StorageFull};
#[cfg(feature = "std")]
pub use replay_cache::HeapReplayCache;
pub use replay_cache::{FixedReplayCache, NonceRefused, ReplayCache};
pub use role::{ClientSide, Role, ServerSide};
pub use session::BufferSizes;
pub use settings::{Settings, SettingsError};
pub use settings_builder::SettingsBuilder;
pub use time::Instant;
pub use unread::Unread;
pub use wipe::wipe_stack;
pub use wire::{ClientKeyRef, KeyRef, ServerKeyRef};
