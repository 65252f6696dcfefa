//! The classic wire: what the published falcotcp 0.1.x peers speak.
//!
//! Turn it on to talk to those peers and for nothing else. It proves to the server that the client has the key, or once had a recording of one
//! who had. What the wire cannot give, no code can: it does not prove the server to the client, a key that leaks opens all recorded
//! traffic, a replay after the server's restart or beyond the reach of its [`NonceLedger`](crate::NonceLedger) is not
//! noticed, messages can be deleted and reordered on their way, pings can be forged, and so can the end of the stream.

mod client;
mod layout;
mod sealing;
mod server;

pub use client::ClientSession;
pub use layout::{ANSWER_OVERHEAD, HELLO_LENGTH, REQUEST_OVERHEAD, answer_size, request_size};
pub use sealing::ClassicKey;
pub use server::ServerSession;
