//! Building blocks of tests, fuzz targets and simulations: a virtual clock, deterministic entropy,
//! an AEAD without security. They need the feature `testing`, which must not be used in production.

mod crypto;
pub mod fuzz;
mod pair;
mod raw;
mod recv_bytes;
mod rng;

pub use crypto::{NoSecurity, NoSecurityAead};
pub use pair::{ClientLog, Link, Pair, ServerLog, StepsExhausted};
pub use raw::{RawHandshake, RawPeer, raw_frame, raw_settings, raw_streams};
pub use recv_bytes::RecvBytes;
pub use rng::CountingRng;

pub use crate::send_queue::SendQueue;

use std::sync::RwLock;
use std::vec::Vec;

use crate::crypto::Crypto;
use crate::noise::{HeapTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use crate::{ClassicKey, HeapReplayCache, Key, RustCrypto};

/// Sets the rekey period to this many records instead of 2^20, for every client and server that is
/// created in this process from now on. For tests that run in a separate process, because adapters
/// have no setting for it.
pub fn set_rekey_period(records: u64) {
    crate::noise::set_rekey_period(records);
}

/// A key of the classic wire under [`NoSecurity`].
pub type ClassicNoSecurity = ClassicKey<HeapReplayCache, NoSecurity>;

/// The key whose 32 bytes are all `byte`, which is not 0.
///
/// # Panics
/// If `byte` is 0.
#[must_use]
pub fn key(byte: u8) -> Key {
    Key::from_bytes([byte; 32]).expect("the byte is not 0")
}

/// A replay cache of the last `nonces` nonces.
///
/// # Panics
/// Never: the counting generator does not fail.
#[must_use]
pub fn replay_cache(nonces: usize) -> HeapReplayCache {
    HeapReplayCache::new(nonces, &mut CountingRng::new(0)).expect("the counting generator does not fail")
}

/// The key of [`key`] on the classic wire, with a replay cache of 4096 nonces.
#[must_use]
pub fn classic_key(byte: u8) -> ClassicKey<HeapReplayCache> {
    ClassicKey::new(key(byte), replay_cache(4096))
}

/// As [`classic_key`], with any cryptography.
#[must_use]
pub fn classic_key_with<C: Crypto>(byte: u8, crypto: &C) -> ClassicKey<HeapReplayCache, C> {
    ClassicKey::with_crypto(key(byte), replay_cache(4096), crypto)
}

/// A client of the noise wire with the key of [`key`] and an empty context.
///
/// # Panics
/// If `byte` is 0.
#[must_use]
pub fn noise_client(byte: u8) -> NoiseTestClient {
    NoiseClient::new(key(byte), &[][..], RustCrypto).expect("an empty context is not too long")
}

/// A server of the noise wire with the key of [`key`] and an empty context. Its ring has room for
/// two more keys.
///
/// # Panics
/// If `byte` is 0.
#[must_use]
pub fn noise_server(byte: u8) -> NoiseTestServer {
    let places = std::vec![Some(NoiseSecret::derive(key(byte), &RustCrypto)), None, None];
    let ring = KeyRing::new(places, &mut CountingRng::new(0)).expect("the counting generator does not fail");
    NoiseServer::new(RwLock::new(ring), &[][..], RustCrypto).expect("an empty context is not too long")
}

/// See [`noise_client`].
pub type NoiseTestClient = NoiseClient<HeapTable, RustCrypto>;
/// See [`noise_server`].
pub type NoiseTestServer = NoiseServer<HeapTable, RwLock<KeyRing<Vec<Option<NoiseSecret>>>>, RustCrypto>;

/// Bytes that an answer of `length` bytes takes on the classic wire.
#[must_use]
pub const fn classic_answer_size(length: usize) -> usize {
    crate::classic::answer_size(length)
}
