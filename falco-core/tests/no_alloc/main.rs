//! Connections allocate nothing, and have known sizes. A test binary of its own, because it
//! replaces the allocator with one that counts.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

mod classic;
mod counted;
mod noise;
mod streams;
