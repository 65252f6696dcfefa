//! FalcoTCP on Tokio: the server and the client that services depend on.
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
pub use error::Error;
pub use falco_core::keys::SetupError;
pub use falco_core::{
    ConnectionError, EntropyError, Fate, Key, KeyError, KeyId, Refusal, RequestError, Settings, SettingsError,
};
pub use server::{
    Handle, Handler, HandlerError, IntoBytes, OnCancel, Report, Request, Server, ServerBuilder, ServerStats,
};
pub use socket::Stream;

/// Draws a fresh key from the operating system.
///
/// # Errors
/// [`KeyError::Entropy`] where the operating system gives no random numbers.
pub fn generate_key() -> Result<Key, KeyError> {
    Key::generate(&mut getrandom::SysRng)
}

/// The id by which a server on the noise wire finds a key, and by which [`Handle::retire_key`] is told which one. It says nothing of the secret.
#[must_use]
pub fn key_id(key: &Key) -> KeyId {
    falco_core::noise::NoiseSecret::id_of(key, &falco_core::RustCrypto)
}
