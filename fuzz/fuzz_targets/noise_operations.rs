//! See `falco_core::testing::fuzz::noise_operations`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| falco_core::testing::fuzz::noise_operations(data));
