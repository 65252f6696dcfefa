//! The providers that this crate has. Their names are those of the crate.

/// The default provider, on crates of the RustCrypto project: portable, without an allocator, with
/// AES instructions if the processor has them. It implements [`Crypto`](crate::crypto::Crypto) with
/// the feature `rustcrypto`. With the feature `aes-gcm` its AEAD is the crate aes-gcm.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "users write it as a value")]
pub struct RustCrypto;

/// A provider on AWS-LC, by the crate aws-lc-rs. It is faster for long messages; the benchmark
/// `tests/benches/peers` of the repository measures either provider. It needs an operating system,
/// and a C compiler to build. The adapters use it with their feature `aws-lc-rs`.
#[cfg(feature = "aws-lc-rs")]
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::exhaustive_structs, reason = "users write it as a value")]
pub struct AwsLc;
