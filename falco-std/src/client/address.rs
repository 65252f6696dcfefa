//! Where a client connects to. Of several addresses it uses the first that answers, as RFC 8305
//! describes: an address that does not answer delays the next attempt by a fraction of a second,
//! not by the whole time limit.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use core::time::Duration;
use std::collections::VecDeque;
use std::io;
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

/// How long after the attempt at one address the attempt at the next begins. RFC 8305 recommends
/// this value in section 5.
const STAGGER: Duration = Duration::from_millis(250);

/// Where a client connects to: a host and a port, such as `"db.internal:4287"` or
/// `("db.internal", 4287)`, or one or more socket addresses. It converts from the types that
/// implement [`ToSocketAddrs`]. A name is resolved again for each connection.
///
/// ```
/// use falco_std::Client;
///
/// let client = Client::builder(falco_std::generate_key()?);
/// assert!(client.clone().connect("localhost:1").is_err()); // connection refused
/// assert!(client.clone().connect(("localhost", 1)).is_err());
/// let replicas = ["[::1]:1", "127.0.0.1:1"].map(|text| text.parse().unwrap());
/// assert!(client.connect(replicas).is_err());
/// # Ok::<(), falco_std::KeyError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Address(Kind);

#[derive(Clone, Debug)]
enum Kind {
    Known(Vec<SocketAddr>),
    /// A host and a port in one string.
    Name(String),
    Host(String, u16),
}

impl Address {
    /// Resolves the name, if it is one, and connects to the first address that answers, within
    /// `limit`. The error is that of the last failed attempt.
    pub(super) fn connect(&self, limit: Duration) -> io::Result<TcpStream> {
        // The clock must not overflow. A year is as good as no limit.
        let year = Duration::from_secs(31_536_000);
        let until = Instant::now() + limit.min(year);
        let stream = connect_to(alternate(self.resolve(until)?), until)?;
        // A small request must not wait for the acknowledgement of the one before. This fails on
        // some systems if the peer has already closed the connection, which the first read reports.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    fn resolve(&self, until: Instant) -> io::Result<Vec<SocketAddr>> {
        match &self.0 {
            Kind::Known(addresses) => Ok(addresses.clone()),
            Kind::Name(name) => match name.parse() {
                Ok(address) => Ok(vec![address]),
                Err(_) => look_up(name.clone(), until),
            },
            Kind::Host(host, port) => match host.parse::<IpAddr>() {
                Ok(ip) => Ok(vec![(ip, *port).into()]),
                Err(_) => look_up((host.clone(), *port), until),
            },
        }
    }
}

/// Resolves a name on a thread of its own, because the system's resolver takes no time limit.
fn look_up(name: impl ToSocketAddrs + Send + 'static, until: Instant) -> io::Result<Vec<SocketAddr>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::Builder::new()
        .name("falco resolver".to_owned())
        .spawn(move || {
            // This fails if the caller no longer waits, because its time limit has passed.
            let _ = sender.send(name.to_socket_addrs().map(Iterator::collect));
        })?;
    let left = until.saturating_duration_since(Instant::now());
    receiver
        .recv_timeout(left)
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// The addresses in the order in which they were resolved, with the families alternating, so that a
/// family without a route costs little time.
fn alternate(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (VecDeque<_>, VecDeque<_>) = addresses
        .into_iter()
        .partition(|address| address.is_ipv6() == first_is_v6);
    let mut turns = VecDeque::with_capacity(one.len() + other.len());
    while !one.is_empty() || !other.is_empty() {
        turns.extend(one.pop_front());
        turns.extend(other.pop_front());
    }
    turns
}

fn connect_to(mut addresses: VecDeque<SocketAddr>, until: Instant) -> io::Result<TcpStream> {
    let left = || match until.saturating_duration_since(Instant::now()) {
        Duration::ZERO => Err(io::Error::from(io::ErrorKind::TimedOut)),
        left => Ok(left),
    };
    if addresses.len() == 1
        && let Some(only) = addresses.pop_front()
    {
        return TcpStream::connect_timeout(&only, left()?);
    }
    let mut failed = io::Error::new(io::ErrorKind::AddrNotAvailable, "the name has no address");
    let (sender, receiver) = mpsc::channel();
    let mut running = 0_usize;
    loop {
        if let Some(address) = addresses.pop_front() {
            let (sender, left) = (sender.clone(), left()?);
            // If another attempt has succeeded before, sending fails, which drops and closes this
            // connection.
            let spawned = thread::Builder::new()
                .name("falco dialer".to_owned())
                .spawn(move || drop(sender.send(TcpStream::connect_timeout(&address, left))));
            match spawned {
                Ok(_) => running += 1,
                Err(error) => failed = error,
            }
        }
        if running > 0 {
            let wait = if addresses.is_empty() {
                left()?
            } else {
                left()?.min(STAGGER)
            };
            match receiver.recv_timeout(wait) {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => {
                    running -= 1;
                    failed = error;
                }
                Err(_) => {}
            }
        }
        if running == 0 && addresses.is_empty() {
            return Err(failed);
        }
    }
}

impl From<String> for Address {
    fn from(name: String) -> Self {
        Self(Kind::Name(name))
    }
}

impl From<&String> for Address {
    fn from(name: &String) -> Self {
        name.clone().into()
    }
}

impl From<&str> for Address {
    fn from(name: &str) -> Self {
        name.to_owned().into()
    }
}

impl From<(String, u16)> for Address {
    fn from((host, port): (String, u16)) -> Self {
        Self(Kind::Host(host, port))
    }
}

impl From<(&str, u16)> for Address {
    fn from((host, port): (&str, u16)) -> Self {
        (host.to_owned(), port).into()
    }
}

impl From<Vec<SocketAddr>> for Address {
    fn from(addresses: Vec<SocketAddr>) -> Self {
        Self(Kind::Known(addresses))
    }
}

impl From<&[SocketAddr]> for Address {
    fn from(addresses: &[SocketAddr]) -> Self {
        addresses.to_vec().into()
    }
}

impl<const N: usize> From<[SocketAddr; N]> for Address {
    fn from(addresses: [SocketAddr; N]) -> Self {
        addresses.to_vec().into()
    }
}

impl From<&SocketAddr> for Address {
    fn from(address: &SocketAddr) -> Self {
        vec![*address].into()
    }
}

/// Conversions from types that are one socket address.
macro_rules! from_one {
    ($($of:ty),*) => {$(
        impl From<$of> for Address {
            fn from(address: $of) -> Self {
                vec![SocketAddr::from(address)].into()
            }
        }
    )*};
}

from_one!(
    SocketAddr,
    SocketAddrV4,
    SocketAddrV6,
    (IpAddr, u16),
    (Ipv4Addr, u16),
    (Ipv6Addr, u16)
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_alternate() {
        let addresses = |texts: &[&str]| {
            texts
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect::<Vec<SocketAddr>>()
        };
        let resolved = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.0.0.1:1", "1.0.0.2:1"]);
        let turns = addresses(&["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "[::3]:1"]);
        assert_eq!(alternate(resolved), turns);
        assert_eq!(alternate(Vec::new()), []);
    }
}
