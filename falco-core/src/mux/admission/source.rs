//! Where a connection comes from.

use core::net::IpAddr;

/// How many leading bits of an address make a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "there are two kinds of addresses")]
pub struct SourcePrefix {
    /// Of IPv4 addresses, also where they are mapped into IPv6: 32 by default, the whole address.
    pub v4: u8,
    /// Of IPv6 addresses: 64 by default, as one subscriber has at least that many addresses.
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
    /// That of streams without an address, such as Unix sockets: all count as one source.
    pub const NONE: Self = Self(0, 0);

    /// That of an address.
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
