//! What both wires share, and what needs no connection.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

#[path = "../common/mod.rs"]
mod common;

mod error_messages;
mod key_ring;
mod key_sources;
mod key_text;
mod no_answer;
mod recv_buf;
mod unread;
mod wire_selection;
