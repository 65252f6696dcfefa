//! The rules of the classic wire, to the byte and the millisecond.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

#[path = "../common/mod.rs"]
mod common;

mod answer_order;
mod endings;
mod handshake_timeout;
mod hostile_bytes;
mod lifetime;
mod malformed_frames;
mod misuse;
mod reads_of_any_size;
mod replay_cache;
mod replays;
mod secrets;
