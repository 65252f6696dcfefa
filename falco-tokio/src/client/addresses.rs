//! Connects to the first address of a name that answers, as in RFC 8305. An address that does not
//! answer costs a short delay, and not the whole time limit.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::VecDeque;
use std::io;

use tokio::net::{TcpStream, lookup_host};
use tokio::task::JoinSet;

/// After this time without a result, the attempt at the next address begins as well. The value is
/// that of RFC 8305, section 5.
const STAGGER: Duration = Duration::from_millis(250);

/// Resolves `name`, a host and a port, and connects to the first of its addresses that answers. The
/// error is that of the last attempt that failed.
pub(super) async fn connect(name: &str) -> io::Result<TcpStream> {
    let addresses = lookup_host(name).await?;
    connect_to(in_turn(addresses.collect())).await
}

async fn connect_to(mut addresses: VecDeque<SocketAddr>) -> io::Result<TcpStream> {
    if addresses.len() == 1
        && let Some(only) = addresses.pop_front()
    {
        return TcpStream::connect(only).await;
    }
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    // Dropping this ends the other attempts when one has succeeded.
    let mut attempts = JoinSet::new();
    loop {
        if let Some(address) = addresses.pop_front() {
            attempts.spawn(TcpStream::connect(address));
        }
        let next = async {
            if addresses.is_empty() {
                core::future::pending::<()>().await;
            } else {
                tokio::time::sleep(STAGGER).await;
            }
        };
        tokio::select! {
            ended = attempts.join_next() => match ended {
                Some(Ok(Ok(stream))) => return Ok(stream),
                Some(Ok(Err(error))) => failed = error,
                Some(Err(panicked)) => failed = io::Error::other(panicked),
                None => return Err(failed),
            },
            () = next => {}
        }
        if addresses.is_empty() && attempts.is_empty() {
            return Err(failed);
        }
    }
}

/// The addresses in the order in which they were resolved, with the two families alternating. So a
/// family without a route delays the connection only once.
fn in_turn(addresses: Vec<SocketAddr>) -> VecDeque<SocketAddr> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let addresses = |texts: &[&str]| {
            texts
                .iter()
                .filter_map(|text| text.parse().ok())
                .collect::<Vec<SocketAddr>>()
        };
        let resolved = addresses(&["[::1]:1", "[::2]:1", "[::3]:1", "1.0.0.1:1", "1.0.0.2:1"]);
        let turns = addresses(&["[::1]:1", "1.0.0.1:1", "[::2]:1", "1.0.0.2:1", "[::3]:1"]);
        assert_eq!(in_turn(resolved), turns);
        assert_eq!(in_turn(Vec::new()), []);
    }

    /// A listener with a full backlog, which drops connection attempts. On Linux the backlog holds
    /// one more than was asked for.
    #[cfg(target_os = "linux")]
    fn black_hole() -> io::Result<(socket2::Socket, SocketAddr, Vec<std::net::TcpStream>)> {
        use socket2::{Domain, Socket, Type};

        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        listener.listen(0)?;
        let address = listener.local_addr()?.as_socket().ok_or(io::ErrorKind::Unsupported)?;
        let mut full = Vec::new();
        while let Ok(stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
            full.push(stream);
            assert!(full.len() < 10, "it takes no more than two");
        }
        Ok((listener, address, full))
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn an_address_that_hangs_costs_a_moment_and_one_that_refuses_none() -> io::Result<()> {
        let (_hole, hangs, _full) = black_hole()?;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let answers = listener.local_addr()?;
        let refuses = {
            let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            gone.local_addr()?
        };
        for (addresses, least, most) in [
            (vec![hangs, answers], 250, 1_000),
            (vec![hangs, hangs, answers], 500, 1_500),
            (vec![refuses, answers], 0, 240),
            (vec![hangs, refuses, answers], 250, 1_000),
        ] {
            let began = tokio::time::Instant::now();
            let stream = connect_to(addresses.into()).await?;
            let took = began.elapsed().as_millis();
            assert_eq!(stream.peer_addr()?, answers);
            assert!((least..most).contains(&took), "{took} ms, and not {least} to {most}");
        }
        let none = connect_to(vec![refuses, refuses].into()).await;
        assert!(none.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused));
        assert!(connect_to(VecDeque::new()).await.is_err());
        Ok(())
    }
}
