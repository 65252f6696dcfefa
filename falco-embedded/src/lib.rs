//! FalcoTCP on devices: `falco-core` over streams of `embedded-io` and `embedded-io-async`, without
//! an allocator.
//!
//! - `asynchronous`: async client and server, for Embassy or any other executor.
//! - `blocking`: blocking client and server; the stream implements `ReadReady` and `WriteReady`.
//! - [`BufferedClient`] and [`BufferedServer`]: for a non-blocking super-loop of your own. You move
//!   the bytes between the stream and the buffers, and call [`step`](BufferedClient::step).
//!
//! Each connection runs one request at a time. For concurrent requests use
//! [`falco_core::Connection`].
//!
//! With the feature `streams`, a client can subscribe: a service then sends data at any time, and
//! the device reads it in pieces into fixed memory. See `Client::subscribe`.
//!
//! You provide fixed-size buffers for input, output, the request and the answer. Apart from these,
//! the crate uses only the stack. This crate's README lists the sizes, and `docs/embedded.md` in
//! the repository has the details.
//!
//! # A blocking client
//!
//! ```no_run
//! # #[cfg(all(feature = "blocking", feature = "noise", feature = "rustcrypto"))] mod example {
//! use core::time::Duration;
//! use embedded_io::{Read, ReadReady, Write, WriteReady};
//! use falco_embedded::falco_core::{Instant, Key, RustCrypto, Settings};
//! use falco_embedded::rand_core::CryptoRng;
//! use falco_embedded::{BufferedClient, Error, NoiseClientKey, blocking};
//!
//! /// Sends a reading, waits for the answer, and keeps the connection alive for a minute.
//! fn report<S>(
//!     port: S,
//!     now: fn() -> Instant,
//!     trng: &mut impl CryptoRng,
//!     key: Key,
//! ) -> Result<(), Error<S::Error>>
//! where
//!     S: Read + ReadReady + Write + WriteReady,
//! {
//!     let key = NoiseClientKey::new(key, b"", RustCrypto).expect("an empty context is short");
//!     let settings = Settings::new().with_max_record(512).expect("64 or more");
//!     let settings = settings.with_max_message(1024);
//!     let buffered = BufferedClient::start(&key, &settings, now(), trng, ([0; 514], [0; 514]))
//!         .expect("the buffers are large enough and the TRNG works");
//!     let mut client = blocking::Client::new(buffered, port, now);
//!     let mut answer = [0; 1024];
//!     let length = client.request(b"21.5", &mut answer)?;
//!     assert_eq!(&answer[..length], b"thanks");
//!     client.idle(now() + Duration::from_secs(60))?;
//!     client.close()
//! }
//! # }
//! ```
//!
//! # A super-loop
//!
//! ```
//! use falco_embedded::falco_core::noise::{KeyRing, NoiseSecret};
//! use falco_embedded::falco_core::{self, Instant, Key, RustCrypto, Settings};
//! use falco_embedded::{BufferedClient, BufferedServer, NoiseClientKey, NoiseServerKey};
//!
//! # use std::convert::Infallible;
//! # struct Trng(u8);
//! # impl rand_core::TryRng for Trng {
//! #     type Error = Infallible;
//! #     fn try_next_u32(&mut self) -> Result<u32, Infallible> { self.0 += 1; Ok(self.0.into()) }
//! #     fn try_next_u64(&mut self) -> Result<u64, Infallible> { self.0 += 1; Ok(self.0.into()) }
//! #     fn try_fill_bytes(&mut self, to: &mut [u8]) -> Result<(), Infallible> {
//! #         self.0 += 1;
//! #         to.fill(self.0);
//! #         Ok(())
//! #     }
//! # }
//! # impl rand_core::TryCryptoRng for Trng {}
//! # let mut trng = Trng(0);
//! # let key = || Key::from_bytes([7; 32]).unwrap();
//! // The limits that the device announces. The buffers below have the size that they require.
//! let settings = Settings::new().with_max_record(512)?.with_max_message(1024);
//! let now = Instant::ZERO;
//!
//! let client_key = NoiseClientKey::new(key(), b"", RustCrypto)?;
//! let buffers = ([0; 514], [0; 514]);
//! let mut client = BufferedClient::start(&client_key, &settings, now, &mut trng, buffers)?;
//!
//! let ring = KeyRing::new([Some(NoiseSecret::derive(key(), &RustCrypto))], &mut trng)?;
//! let server_key = NoiseServerKey::<1>::new(ring, b"", RustCrypto)?;
//! let bodies = ([0; 1024], [0; 1024]);
//! let mut server =
//!     BufferedServer::start(&server_key, &settings, now, &mut trng, buffers, bodies)?;
//!
//! // The super-loops of two devices, in one.
//! let (body, answer) = ([1; 1000], [0; 1024]);
//! let mut pending = client.request(body, answer)?;
//! let length = loop {
//!     carry(client.connection_mut(), server.connection_mut(), now)?;
//!     carry(server.connection_mut(), client.connection_mut(), now)?;
//!     // Process input before deadlines.
//!     while client.step(now, Some(&mut pending))? {}
//!     if let Some(length) = pending.answered()? {
//!         break length;
//!     }
//!     while server.step(now)? {}
//!     if let Some((request, answer)) = server.request() {
//!         let length = request.len();
//!         answer[..length].copy_from_slice(request);
//!         server.answer(length);
//!     }
//!     // Sends pings and applies timeouts. To sleep, wait for input or for the earliest
//!     // `poll_timeout`.
//!     client.connection_mut().handle_timeout(now);
//!     server.connection_mut().handle_timeout(now);
//! };
//! assert_eq!(length, 1000);
//! assert_eq!(pending.into_parts().1[..length], body);
//!
//! // Moves bytes as a serial port would.
//! use falco_core::{KeyRef, Role};
//! use falco_embedded::{BufferedConnection, Buffers};
//! fn carry<A: Role, B: Role, G: KeyRef<A>, H: KeyRef<B>, I: Buffers, J: Buffers>(
//!     from: &mut BufferedConnection<A, G, I>,
//!     to: &mut BufferedConnection<B, H, J>,
//!     now: Instant,
//! ) -> Result<(), falco_core::StorageFull> {
//!     let space = to.space()?;
//!     let count = space.len().min(from.unsent().len());
//!     space[..count].copy_from_slice(&from.unsent()[..count]);
//!     to.filled(count);
//!     from.sent(now, count);
//!     Ok(())
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![no_std]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "async")]
pub mod asynchronous;
#[cfg(feature = "blocking")]
pub mod blocking;
mod buffers;
mod client;
mod clock;
mod connection;
#[cfg(any(feature = "async", feature = "blocking"))]
mod driver;
mod error;
mod output;
mod server;
#[cfg(all(feature = "streams", any(feature = "async", feature = "blocking")))]
mod subscription;

pub use buffers::Buffers;
#[cfg(feature = "streams")]
pub use client::PendingSubscription;
pub use client::{BufferedClient, PendingRequest};
pub use clock::Clock;
#[cfg(feature = "embassy-time")]
pub use clock::EmbassyClock;
#[cfg(feature = "async")]
pub use clock::Timer;
pub use connection::BufferedConnection;
pub use error::{Buffer, Error, StartError};
pub use server::BufferedServer;

/// The protocol: keys, settings, times, errors.
pub use falco_core;
/// Re-export of the random number generator traits.
pub use rand_core;

/// The key of a client on the noise wire, with the built-in cryptography and room for one request
/// in flight. All connections may share it.
#[cfg(all(feature = "noise", feature = "rustcrypto"))]
pub type NoiseClientKey = falco_core::noise::NoiseClient<falco_core::noise::FixedTable<1>, falco_core::RustCrypto>;

/// The keys of a server on the noise wire, at most `KEYS`, with the built-in cryptography and room
/// for one request in flight. All connections may share them.
#[cfg(all(feature = "noise", feature = "rustcrypto"))]
pub type NoiseServerKey<const KEYS: usize> = falco_core::noise::NoiseServer<
    falco_core::noise::FixedTable<1>,
    falco_core::noise::KeyRing<[Option<falco_core::noise::NoiseSecret>; KEYS]>,
    falco_core::RustCrypto,
>;
