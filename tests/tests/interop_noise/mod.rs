//! What the interop tests of the noise wire consist of: peers that do not use falco-core, and our
//! own side.
//!
//! `link.rs`, `mail.rs`, `server.rs` and `client.rs` are a peer on the crate snow. `peer_noise.py`
//! is a peer on the Python package noiseprotocol. `peer.rs` starts either. `ours.rs` and `side.rs`
//! drive our machines over a socket.

#[path = "../../peers/bodies.rs"]
pub(crate) mod bodies;
pub(crate) mod check;
mod client;
mod link;
mod mail;
pub(crate) mod ours;
pub(crate) mod peer;
mod pipe;
#[path = "../interop/python.rs"]
mod python;
mod server;
mod side;

use core::time::Duration;

/// No step of a test takes as long as this, on a slow machine either.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The settings of either side.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) secret: [u8; 32],
    /// The secret from which a peer derives the key id: its own, or another one for a test of a
    /// wrong id.
    pub(crate) named: [u8; 32],
    pub(crate) context: &'static str,
    pub(crate) max_record: u16,
    pub(crate) max_in_flight: u16,
    pub(crate) max_message: u32,
    pub(crate) rekey_period: u64,
}

/// The key of both sides.
pub(crate) const SECRET: [u8; 32] = *b"falcotcp interop, the shared key";
/// That key with its last bit flipped.
pub(crate) const WRONG_SECRET: [u8; 32] = *b"falcotcp interop, the shared kex";

impl Options {
    pub(crate) const fn new() -> Self {
        Self {
            secret: SECRET,
            named: SECRET,
            context: "an interop test",
            max_record: u16::MAX,
            max_in_flight: 128,
            max_message: 2 << 20,
            rekey_period: 1 << 20,
        }
    }
}
