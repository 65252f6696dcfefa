//! See `falco_core::testing::fuzz::noise_streams_past_tag`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| falco_core::testing::fuzz::noise_streams_past_tag(data));
