//! What an adapter with an allocator needs between a connection and its callers or handlers: a
//! table of outstanding requests, a send queue, reassembly of messages in parts, bounds on memory,
//! retries, write deadlines, admission, and the end of a stream.
//!
//! This module does no I/O and reads no clock. An adapter or a simulation passes bytes and times to
//! a [`ClientMux`] or a [`ServerMux`], as it would to the connection inside.
//!
//! ```
//! use falco_core::mux::{Body, Call, ClientMux, ClientStep, ServerMux, ServerStep};
//! # use falco_core::noise::{HeapTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
//! # use falco_core::{ClientConnection, Instant, Key, RustCrypto, ServerConnection, Settings};
//! use falco_core::RecvBuf;
//! # fn entropy() -> falco_core::testing::CountingRng { falco_core::testing::CountingRng::new(1) }
//! # let key = || Key::from_bytes([7; 32]).unwrap();
//! # let secrets = vec![Some(NoiseSecret::derive(key(), &RustCrypto))];
//! # let ring = std::sync::RwLock::new(KeyRing::new(secrets, &mut entropy()).unwrap());
//! # let server_key = NoiseServer::<HeapTable, _, _>::new(ring, &[][..], RustCrypto).unwrap();
//! # let client_key = NoiseClient::<HeapTable, _>::new(key(), &[][..], RustCrypto).unwrap();
//! # let (settings, now) = (Settings::new(), Instant::ZERO);
//! # let client = ClientConnection::new(&client_key, &settings, now, &mut entropy())?;
//! # let server = ServerConnection::new(&server_key, &settings, now, &mut entropy())?;
//! // The last argument of `Call::new` is the waiter, which comes back with the answer.
//! let mut client = ClientMux::<_, _, _, ()>::new(client, &settings);
//! let mut server = ServerMux::new(server, (), &settings);
//! assert!(client.request(Call::new(1, b"hello".to_vec(), "somebody")).is_ok());
//!
//! let (mut to_server, mut to_client) = (RecvBuf::new([0; 1024]), RecvBuf::new([0; 1024]));
//! let answer = loop {
//!     let sealed = client.seal(now, to_server.space(0)?, |_, _| {})?;
//!     to_server.filled(sealed);
//!     if let ServerStep::Request { id, body } = server.recv(now, to_server.unread())? {
//!         let reply = body.into_vec().to_ascii_uppercase();
//!         server.answer(id, reply)?;
//!     }
//!     let sealed = server.seal(now, to_client.space(0)?)?;
//!     to_client.filled(sealed);
//!     if sealed == 0 {
//!         server.flushed();
//!     }
//!     if let ClientStep::Answer { waiter, body } = client.recv(now, to_client.unread())? {
//!         break (waiter, body.into_vec());
//!     }
//! };
//! assert_eq!(answer, ("somebody", b"HELLO".to_vec()));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod admission;
mod budget;
mod call;
mod client;
mod connect_attempts;
mod deadlines;
#[cfg(feature = "streams")]
mod halves;
mod held;
#[cfg(feature = "streams")]
mod open_call;
mod partial;
mod retry;
mod server;
mod servers;
#[cfg(feature = "std")]
mod shares;
mod step;
#[cfg(feature = "streams")]
mod streams;
mod table;

use alloc::vec::Vec;
use core::fmt;

pub use admission::{Admission, AdmissionLimits, MustClose, Source};
pub use budget::Budget;
#[cfg(feature = "std")]
pub use budget::SharedBudget;
pub use call::{Call, Unfinished};
pub use client::ClientMux;
pub use connect_attempts::{Admitted, AttemptEnd, ConnectAttempts, History, NextAttempt};
#[cfg(feature = "streams")]
pub use halves::Halves;
pub use held::HeldBytes;
#[cfg(feature = "streams")]
pub use open_call::OpenCall;
pub use retry::{Attempts, Backoff};
pub use server::ServerMux;
pub use servers::{Round, Servers};
#[cfg(feature = "std")]
pub use shares::KeyShares;
pub use step::{ClientStep, ServerStep};
#[cfg(feature = "streams")]
pub use streams::{LONGEST_PART, StreamError};

/// The decrypted body of a message.
#[allow(clippy::exhaustive_enums, reason = "a body is either borrowed or owned")]
pub enum Body<'u> {
    /// A body that arrived in one frame, borrowed from the unread bytes.
    Lent(&'u [u8]),
    /// A body that arrived in parts and was joined.
    Whole(Vec<u8>),
}

impl fmt::Debug for Body<'_> {
    /// Shows the length, and no bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.bytes().len())
    }
}

impl Body<'_> {
    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Lent(bytes) => bytes,
            Self::Whole(bytes) => bytes,
        }
    }

    /// The bytes, copied if they are borrowed.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        match self {
            Self::Lent(bytes) => bytes.to_vec(),
            Self::Whole(bytes) => bytes,
        }
    }
}
