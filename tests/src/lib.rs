//! What crosses the crates: peers, vectors, the fuzz corpus, benchmarks. The tests are in `tests/`.
//! Here are only the READMEs and the pages of `docs/` with Rust examples, so that these are
//! compiled and run.
#![allow(rustdoc::broken_intra_doc_links, reason = "their links are files of the repository")]
#![doc = include_str!("../../README.md")]

#[doc = include_str!("../../docs/services.md")]
pub mod services {}

#[doc = include_str!("../../docs/threads.md")]
pub mod threads {}

#[doc = include_str!("../../docs/streams.md")]
pub mod streams {}

#[doc = include_str!("../../docs/keys.md")]
pub mod keys {}

#[doc = include_str!("../../docs/own-loop.md")]
pub mod own_loop {}

#[doc = include_str!("../../docs/embedded.md")]
pub mod embedded {}

#[doc = include_str!("../../falco-core/README.md")]
pub mod falco_core {}

#[doc = include_str!("../../falco-std/README.md")]
pub mod falco_std {}

#[doc = include_str!("../../falco-tokio/README.md")]
pub mod falco_tokio {}

#[doc = include_str!("../../falco-embedded/README.md")]
pub mod falco_embedded {}
