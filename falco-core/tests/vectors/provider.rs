//! The provider of cryptography that is tested: with the feature `aws-lc-rs`, the one of that name.

#[cfg(feature = "aws-lc-rs")]
pub(crate) use falco_core::AwsLc as Provider;
#[cfg(not(feature = "aws-lc-rs"))]
pub(crate) use falco_core::RustCrypto as Provider;

/// Whether a text that is not authentic is left as it was. No wire needs that.
pub(crate) const LEAVES_REFUSED_TEXT: bool = cfg!(not(feature = "aws-lc-rs"));
