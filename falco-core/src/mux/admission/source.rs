//! The network that a connection comes from, by which limits count.

use core::net::IpAddr;

/// The network that a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Source(u8, u128);

impl Source {
    /// The source of all streams without an address, such as Unix sockets.
    pub const NONE: Self = Self(0, 0);

    /// How many leading bits of an address identify a source, for most servers: of an IPv4 address
    /// all 32, and of an IPv6 address 64, because one subscriber usually has a whole /64 network.
    pub const PREFIX: (u8, u8) = (32, 64);

    /// The source of an address. `prefix` has how many leading bits count: of an IPv4 address, also
    /// of one mapped into IPv6, and of an IPv6 address.
    ///
    /// ```
    /// use falco_core::mux::Source;
    ///
    /// let of = |address: &str| Some(Source::of(address.parse().ok()?, Source::PREFIX));
    /// assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    /// assert_eq!(of("192.0.2.1"), of("::ffff:192.0.2.1"));
    /// assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
    /// assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
    /// ```
    #[must_use]
    pub fn of(address: IpAddr, (v4_bits, v6_bits): (u8, u8)) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32_u32.saturating_sub(v4_bits.into()));
                Self(4, u128::from(u32::from(address) & mask.unwrap_or(0)))
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128_u32.saturating_sub(v6_bits.into()));
                Self(6, u128::from(address) & mask.unwrap_or(0))
            }
        }
    }
}
