//! See `falco_core::testing::fuzz::noise_pair_on_corrupting_link`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| falco_core::testing::fuzz::noise_pair_on_corrupting_link(data));
