//! See `falco_core::testing::fuzz::noise_client_to_server`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| falco_core::testing::fuzz::noise_client_to_server(data));
