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
mod open_cuts;
mod open_ends;
mod open_frames;
mod open_states;
mod open_writes;
mod reads_of_any_size;
mod reassembly;
mod record_size;
mod rekey;
mod secrets;
mod server_limits;
mod stalls;
mod table_cost;
mod tampering;
mod truncation;
