//! Known bytes: our own vectors, those of Project Wycheproof, and another implementation of
//! AES-256-GCM.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test that panics has failed"
)]

#[path = "../common/mod.rs"]
mod common;

mod aead;
mod classic;
mod crypto_interface;
mod provider;
mod wycheproof;
