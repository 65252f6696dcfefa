//! What crosses the crates: peers, vectors, the fuzz corpus, benchmarks. The tests are in `tests/`;
//! here stand only the README and the pages of `docs/`, so that what they show is compiled and run.
#![allow(rustdoc::broken_intra_doc_links, reason = "their links are files of the repository")]
#![doc = include_str!("../../README.md")]

#[doc = include_str!("../../docs/services.md")]
pub mod services {}

#[doc = include_str!("../../docs/threads.md")]
pub mod threads {}

#[doc = include_str!("../../docs/own-loop.md")]
pub mod own_loop {}

#[doc = include_str!("../../docs/embedded.md")]
pub mod embedded {}
