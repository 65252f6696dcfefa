//! The FalcoTCP protocol as a sans-IO state machine: an encrypted connection between two ends that
//! share one 32-byte key. No I/O, no clock, no global state, and no allocation per connection.
//!
//! A client connects and proves that it has the key. If the proof does not decrypt, the server
//! closes the stream without sending a byte. A connection lives for 60 seconds after the last
//! message or ping. A request is decrypted and given to the owner of the server; the answer is
//! encrypted and sent back.
//!
//! You pass in bytes and times, and get back bytes to send and events. `falco-tokio`, `falco-std`
//! and `falco-embedded` drive this crate over Tokio, blocking sockets and `embedded-io` streams.
//! Read on to drive it yourself: in an event loop, on a microcontroller or in a simulation.
//!
//! # The loop
//!
//! A [`ClientConnection`] or a [`ServerConnection`] is one side of one connection. Whoever owns the
//! transport repeats:
//!
//! 1. **Send** what [`seal`](Connection::seal) or [`poll_transmit`](Connection::poll_transmit)
//!    wrote, in that order, all of it.
//! 2. **Receive**: call [`recv`](Connection::recv) with all unread bytes, until it says something
//!    other than an event or a skip. After each, drop what it consumed. A [`RecvBuf`] does the
//!    bookkeeping.
//! 3. **Read** more bytes if it said [`NeedMore`](Received::NeedMore); answer or transmit first if
//!    it said so. When the stream has no more, call [`end_of_stream`](Connection::end_of_stream).
//! 4. **Sleep** no longer than [`poll_timeout`](Connection::poll_timeout); then call
//!    [`handle_timeout`](Connection::handle_timeout).
//!
//! When one of them says what ended the connection, send what `poll_transmit` still has, and close
//! the stream.
//!
//! ```
//! # #[cfg(all(feature = "noise", feature = "rustcrypto"))] {
//! use falco_core::noise::{FixedTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
//! use falco_core::{ClientConnection, ClientEvent, Instant, Key, Received, RecvBuf, RustCrypto};
//! use falco_core::{ServerConnection, ServerEvent, Settings};
//!
//! # fn entropy() -> falco_core::testing::CountingRng { falco_core::testing::CountingRng::new(1) }
//! let text = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554";
//! let key = || text.parse::<Key>();
//!
//! // Keys are expanded once and shared by all connections.
//! let client_key = NoiseClient::<FixedTable<4>, _>::new(key()?, b"", RustCrypto)?;
//! let ring = KeyRing::new([Some(NoiseSecret::derive(key()?, &RustCrypto))], &mut entropy())?;
//! let server_key = NoiseServer::<FixedTable<4>, _, _>::new(ring, b"", RustCrypto)?;
//!
//! // Both ends of a connection, and two byte buffers in place of a network.
//! let (settings, now) = (Settings::new(), Instant::ZERO);
//! let mut client = ClientConnection::new(&client_key, &settings, now, &mut entropy())?;
//! let mut server = ServerConnection::new(&server_key, &settings, now, &mut entropy())?;
//! let (mut at_client, mut at_server) = (RecvBuf::new([0; 256]), RecvBuf::new([0; 256]));
//!
//! let mut request = client.request(5)?;
//! loop {
//!     let sent = client.seal(now, [(&mut request, &b"hello"[..])], at_server.space(0)?)?;
//!     at_server.filled(sent);
//!     match server.recv(now, at_server.unread())? {
//!         Received::Event { consumed, event: ServerEvent::Request { id, body } } => {
//!             let reply = body.to_ascii_uppercase();
//!             at_server.consume(consumed);
//!             let mut answer = server.answer(id, reply.len())?;
//!             let sent = server.seal(now, [(&mut answer, &reply[..])], at_client.space(0)?)?;
//!             at_client.filled(sent);
//!         }
//!         Received::Event { consumed, .. } | Received::Skip { consumed } => at_server.consume(consumed),
//!         _ => {}
//!     }
//!     let sent = server.poll_transmit(now, at_client.space(0)?)?;
//!     at_client.filled(sent);
//!     match client.recv(now, at_client.unread())? {
//!         Received::Event { event: ClientEvent::Answer { body, .. }, .. } => {
//!             assert_eq!(body, b"HELLO");
//!             break;
//!         }
//!         Received::Event { consumed, .. } | Received::Skip { consumed } => at_client.consume(consumed),
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
//!                       hello taken                      close, or refuse on
//!                       or accepted                      a wire without words
//!   new --> Handshaking ------------> Established ------------------------> Draining
//!                |                         |                                    |
//!                | wrong key, wrong bytes, | lapsed, tampered, replayed,        | all owed answers sent,
//!                | deadline                | wrong bytes, end of stream         | or any other end
//!                v                         v                                    v
//!              Ended <-------------------- + <----------------------------------+
//! ```
//!
//! | status | `recv` | `seal` | deadline |
//! |---|---|---|---|
//! | `Handshaking` | hello or accept only | the hello; requests wait | the handshake's, moved by nothing |
//! | `Established` | events | messages | the lifetime, anew from each message and ping |
//! | `Draining` | answers; nothing new | what was begun | as before |
//! | `Ended` | the same error for ever | nothing | none |
//!
//! # What is whose
//!
//! - **Memory** is the caller's: unread bytes, output, bodies. A machine holds a few hundred bytes
//!   and [sizes are known](Connection::seal_size) before anything is written. Nothing is reserved
//!   because a peer promised a length.
//! - **Keys** outlive connections and are expanded once: a [`ClassicKey`] is lent to all machines
//!   that use it.
//! - **Entropy** is drawn when a machine is made and never after; **time** is what the caller says
//!   it is.
//! - **Errors** come in three types: what befell one request ([`RequestError`]), what ended the
//!   connection ([`ConnectionError`], the same ever after) and what the caller did wrong
//!   ([`Misuse`], nothing has changed).
//! - **Cryptography** stands behind [`crypto::Crypto`]; [`RustCrypto`] is the default.
//!
//! # Features
//!
//! | feature | default | what it adds |
//! |---|---|---|
//! | `noise` | yes | the noise wire, for all new deployments |
//! | `rustcrypto` | yes | AES-256-GCM from the crates aes, ctr and ghash; for the noise wire X25519 and SHA-256 too |
//! | `std` | yes | `Mutex` and `RwLock` around what connections share; with `noise` and `rustcrypto` the module `keys`; implies `alloc` |
//! | `alloc` | by `std` | the module `mux`; `Vec<u8>` as storage of a [`RecvBuf`] |
//! | `heapless` | no | `heapless::Vec` as storage of a [`RecvBuf`] |
//! | `testing` | no | a virtual clock, deterministic entropy, an AEAD without security, fuzz targets; never in production |
//!
//! On a device, set `default-features = false` and choose `noise` and `rustcrypto`, or implement
//! [`crypto::Crypto`] for a hardware engine.
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "alloc")]
extern crate alloc;
#[cfg(feature = "std")]
extern crate std;

pub mod classic;
mod connection;
pub mod crypto;
mod error;
mod event;
mod key;
#[cfg(all(feature = "std", feature = "noise", feature = "rustcrypto"))]
pub mod keys;
mod life;
mod message;
#[cfg(feature = "alloc")]
pub mod mux;
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
mod wire;

pub use classic::ClassicKey;
pub use connection::{ClientConnection, Connection, ServerConnection, TRANSMIT_SIZE};
pub use crypto::RustCrypto;
pub use error::{
    ConnectionError, EntropyError, Error, LINGER, Misuse, OutputTooSmall, ReplyError, RequestError, SealError,
};
pub use event::{ClientEvent, ClientWait, Received, ServerEvent, ServerWait};
pub use key::{KEY_LENGTH, Key, KeyError};
pub use message::{CloseReason, Fate, KeyId, PingId, Refusal, RequestId, Status};
pub use outgoing::{Outgoing, OutgoingAnswer, OutgoingRequest};
pub use reassembly::{NoRoom, Partial, Partials, Reassembly};
pub use recv_buf::{RecvBuf, Storage, StorageFull};
#[cfg(feature = "std")]
pub use replay_cache::HeapReplayCache;
pub use replay_cache::{FixedReplayCache, NonceSeen, ReplayCache, SEALS_PER_KEY, SealRefused};
pub use role::{ClientSide, Role, ServerSide};
#[cfg(feature = "alloc")]
pub use send_queue::SendQueue;
pub use session::BufferSizes;
pub use settings::{
    DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_LIFETIME, DEFAULT_MAX_HELD, DEFAULT_MAX_IN_FLIGHT, DEFAULT_MAX_MESSAGE,
    DEFAULT_MAX_RECORD, Settings, SettingsError,
};
pub use settings_builder::SettingsBuilder;
pub use time::Instant;
pub use wire::{ClientKeyRef, KeyRef, ServerKeyRef};
