//! What crosses the crates: peers, vectors, the fuzz corpus, benchmarks. The tests are in `tests/`; here stands only the README, so that what it shows is
//! compiled and run.
#![allow(rustdoc::broken_intra_doc_links, reason = "its links are files of the repository")]
#![doc = include_str!("../../README.md")]
