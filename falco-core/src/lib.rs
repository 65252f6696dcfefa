//! FalcoTCP as a state machine: bytes and times in, bytes and events out.
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
mod ledger;
mod life;
mod message;
mod recv_buf;
mod settings;
mod time;
mod wire;
#[cfg(feature = "testing")]
pub mod testing;

pub use classic::ClassicKey;
pub use connection::{ClientConnection, Connection, ServerConnection, TRANSMIT_SIZE};
pub use crypto::RustCrypto;
pub use error::{ConnectionError, EntropyError, Error, Misuse, RequestError};
pub use event::{ClientEvent, Received, ServerEvent};
pub use key::{KEY_LENGTH, Key, KeyError};
pub use ledger::{Ledger, NonceLedger, NonceSeen, NonceSlot, SEALS_PER_KEY, SealRefused};
pub use message::{CloseReason, OutgoingAnswer, OutgoingRequest, PingId, Refusal, RequestId, Status};
pub use recv_buf::{RecvBuf, Storage, StorageFull};
pub use settings::{
    DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_LIFETIME, DEFAULT_MAX_IN_FLIGHT, DEFAULT_MAX_MESSAGE, Settings, SettingsError,
};
pub use time::Instant;
pub use wire::{Client, ClientWire, Role, Server, ServerWire, Wire};
