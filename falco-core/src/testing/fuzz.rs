//! The bodies of the fuzz targets, as functions of the fuzzer's bytes, so that stable Rust can
//! replay a corpus. Each panics if an invariant does not hold.

mod attacked;
mod noise_attacked;
mod noise_attacked_client;
mod noise_attacker;
mod noise_operations;
mod noise_pair;
mod noise_parser;
mod noise_side;
#[cfg(feature = "streams")]
mod noise_streams;
#[cfg(feature = "streams")]
mod noise_streams_attacked;
#[cfg(feature = "streams")]
mod noise_streams_body;
#[cfg(feature = "streams")]
mod noise_streams_notes;
mod pair;
mod parser;

pub use attacked::{client_past_tag, server_past_tag};
pub use noise_attacked::noise_server_past_tag;
pub use noise_attacked_client::noise_client_past_tag;
pub use noise_operations::noise_operations;
pub use noise_pair::noise_pair_on_corrupting_link;
pub use noise_parser::{noise_client_to_server, noise_server_to_client};
#[cfg(feature = "streams")]
pub use noise_streams::noise_streams;
#[cfg(feature = "streams")]
pub use noise_streams_attacked::noise_streams_past_tag;
pub use pair::pair_on_corrupting_link;
pub use parser::{client_to_server, server_to_client};

/// Reads decisions from the fuzzer's bytes. After their end every decision is 0.
#[derive(Debug)]
struct Input<'i> {
    bytes: &'i [u8],
}

impl<'i> Input<'i> {
    const fn new(bytes: &'i [u8]) -> Self {
        Self { bytes }
    }

    const fn is_done(&self) -> bool {
        self.bytes.is_empty()
    }

    fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    fn index(&mut self, below: usize) -> usize {
        usize::from(self.byte()).checked_rem(below).unwrap_or(0)
    }

    fn take(&mut self, count: usize) -> &'i [u8] {
        let (taken, rest) = self.bytes.split_at(count.min(self.bytes.len()));
        self.bytes = rest;
        taken
    }
}
