//! See `falco_core::testing::fuzz::noise_server_to_client`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| falco_core::testing::fuzz::noise_server_to_client(data));
