//! The rules of the noise wire, to the byte and the millisecond.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

#[path = "../common/mod.rs"]
mod common;

mod client_on_close;
mod devices;
mod endings;
mod failed_seal;
mod fair_turns;
mod first_bytes;
mod first_record;
mod frames_at_client;
mod frames_at_server;
mod handshake;
mod handshake_cost;
mod late_polls;
mod lifetime;
mod no_window;
#[cfg(feature = "streams")]
mod open_cuts;
#[cfg(feature = "streams")]
mod open_ends;
#[cfg(feature = "streams")]
mod open_frames;
#[cfg(feature = "streams")]
mod open_states;
#[cfg(feature = "streams")]
mod open_writes;
#[cfg(feature = "streams")]
mod queue_cost;
#[cfg(feature = "streams")]
mod reads_of_any_size;
mod reassembly;
mod record_size;
mod rekey;
mod secrets;
mod server_limits;
mod stalls;
#[cfg(feature = "streams")]
mod table_cost;
mod tampering;
mod truncation;
