//! A raw loop over the `Connection` of `falco-core`, without the mux: one on each side.

mod client;
mod server;
mod socket;

pub(super) use client::Dialer;
pub(super) use server::serve;
