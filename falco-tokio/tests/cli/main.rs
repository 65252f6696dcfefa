//! The tool `falco` as a child process with arguments, an environment, streams, signals and an exit
//! code.
#![cfg(unix)]
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod bench;
mod carrying;
mod exec;
mod exec_bounds;
mod forward;
mod forward_ends;
mod forward_threads;
mod heard;
mod keys;
mod left;
mod log;
mod messages;
mod metrics;
mod ping;
mod reload;
mod send;
mod serve;
mod socket_file;
mod streams;
mod tool;
