//! What the interop tests are made of: the peers as child processes, our own side, and what the
//! messages hold.

#[path = "../../peers/bodies.rs"]
pub(crate) mod bodies;
pub(crate) mod ours;
pub(crate) mod peer;
mod python;
mod setup;
pub(crate) mod tap;
pub(crate) mod tool;
