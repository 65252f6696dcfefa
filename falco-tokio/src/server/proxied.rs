//! Connections that a proxy passes on: their first bytes are a header of the PROXY protocol,
//! version 1 or 2, with the address of the client.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::io;

use falco_core::mux::Source;
use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The longest header that is read, with its extensions, which may be certificates of clients. It
/// is the default size of the buffers of `HAProxy`. A warning has this number.
const LONGEST: usize = 16 << 10;
/// As much of a header as is looked at first. One with addresses alone has at most 232 bytes.
const USUAL: usize = 512;
/// How long to wait for the rest of a header before the next look at the socket. Proxies send the
/// header in one piece.
const RETRY_INTERVAL: Duration = Duration::from_millis(2);

/// The networks of trusted proxies.
#[derive(Debug, Default)]
pub(super) struct Proxies(Vec<(Source, u8)>);

impl Proxies {
    /// Trusts all addresses whose first `bits` bits are those of `network`.
    pub(super) fn trust(&mut self, network: IpAddr, bits: u8) {
        // A mapped address has 96 bits more in front.
        let bits = match (network, network.to_canonical()) {
            (IpAddr::V6(_), IpAddr::V4(_)) => bits.saturating_sub(96),
            _ => bits,
        };
        self.0.push((Source::of(network, (bits, bits)), bits));
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn trusts(&self, address: IpAddr) -> bool {
        self.0
            .iter()
            .any(|(source, bits)| Source::of(address, (*bits, *bits)) == *source)
    }
}

/// Why the header of a connection could not be read.
#[derive(Debug)]
pub(super) enum NoClient {
    /// The first bytes are not a header.
    NoHeader,
    /// The header is longer than [`LONGEST`].
    TooLong,
    /// [`UnexpectedEof`](io::ErrorKind::UnexpectedEof) if the connection has ended without a byte,
    /// as when the proxy checks whether the port is open.
    Io(io::Error),
}

impl From<io::Error> for NoClient {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Reads the header of a connection, and returns the address of the client. If the header has no
/// address, as in a health check of the proxy, it is that of the proxy.
pub(super) async fn client_of(stream: &mut TcpStream, proxy: SocketAddr) -> Result<SocketAddr, NoClient> {
    let config = ParseConfig {
        include_tlvs: false,
        ..ParseConfig::default()
    };
    let mut bytes = vec![0; USUAL];
    loop {
        let count = stream.peek(&mut bytes).await?;
        let arrived = bytes.get(..count).unwrap_or_default();
        if arrived.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        match ProxyHeader::parse(arrived, config) {
            Ok((header, length)) => {
                let client = header.proxied_address().map_or(proxy, |addresses| addresses.source);
                let header = bytes.get_mut(..length).unwrap_or_default();
                stream.read_exact(header).await?;
                return Ok(client);
            }
            Err(proxy_header::Error::BufferTooShort) if count < bytes.len() => {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            Err(proxy_header::Error::BufferTooShort) if count < LONGEST => bytes.resize(LONGEST, 0),
            Err(proxy_header::Error::BufferTooShort) => return Err(NoClient::TooLong),
            Err(_) => return Err(NoClient::NoHeader),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_with_its_first_bits() {
        let mut proxies = Proxies::default();
        let address = |text: &str| text.parse::<IpAddr>().unwrap_or(IpAddr::from([0; 4]));
        for (network, bits) in [
            ("192.0.2.7", 32),
            ("198.51.100.0", 24),
            ("2001:db8::", 32),
            ("::ffff:203.0.113.0", 120),
        ] {
            proxies.trust(address(network), bits);
        }
        for trusted in [
            "192.0.2.7",
            "::ffff:192.0.2.7",
            "198.51.100.200",
            "2001:db8:1::1",
            "203.0.113.9",
        ] {
            assert!(proxies.trusts(address(trusted)), "{trusted}");
        }
        for other in ["192.0.2.8", "198.51.101.1", "2001:db9::1", "203.0.114.1", "::1"] {
            assert!(!proxies.trusts(address(other)), "{other}");
        }
        assert!(!Proxies::default().trusts(address("127.0.0.1")));
    }
}
