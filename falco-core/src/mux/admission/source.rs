//! The network that a connection comes from, by which limits count.

use core::net::IpAddr;

/// How many leading bits of an address identify a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "there are two kinds of addresses")]
pub struct SourcePrefix {
    /// For IPv4 addresses, also those mapped into IPv6. The default is 32, the whole address.
    pub v4: u8,
    /// For IPv6 addresses. The default is 64, because one subscriber usually has a whole /64
    /// network.
    pub v6: u8,
}

impl Default for SourcePrefix {
    fn default() -> Self {
        Self { v4: 32, v6: 64 }
    }
}

/// The network that a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(u8, u128);

impl Source {
    /// The source of all streams without an address, such as Unix sockets.
    pub const NONE: Self = Self(0, 0);

    /// The source of an address.
    ///
    /// ```
    /// use falco_core::mux::{Source, SourcePrefix};
    ///
    /// let of = |address: &str| Some(Source::of(address.parse().ok()?, SourcePrefix::default()));
    /// assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    /// assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    /// assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
    /// assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    /// ```
    #[must_use]
    pub fn of(address: IpAddr, prefix: SourcePrefix) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(prefix.v4.into()));
                Self(4, u128::from(u32::from(address) & mask.unwrap_or(0)))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.v6.into()));
                Self(6, u128::from(address) & mask.unwrap_or(0))
            }
        }
    }
}
