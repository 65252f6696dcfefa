//! Many clients at once. A burst waits in the backlog, and a handshake in progress is not dropped.
//! A late one is dropped to make room, and its client reads the end of the stream.

mod common;

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::Instant;

use common::{Running, at_once, bounded, echo, key, millis};
use falco_core::keys::Secrets;
use falco_core::testing::CountingRng;
use falco_core::{ClientConnection, Status};
use falco_std::{Client, Server, Settings, Stream};

/// Whether the system allows a backlog of this size.
fn backlog_allows(connections: usize) -> bool {
    let most = std::fs::read_to_string("/proc/sys/net/core/somaxconn");
    let most = most.ok().and_then(|text| text.trim().parse::<usize>().ok());
    most.is_none_or(|most| most >= connections)
}

#[test]
fn a_burst_of_300_connections_waits_in_the_backlog() {
    bounded(|| {
        if !backlog_allows(300) {
            return;
        }
        // The server does not accept yet.
        let server = Server::builder(key()).bind("127.0.0.1:0").expect("a free port");
        let (address, handle) = (server.local_addr().expect("it is bound"), server.handle());
        let streams: Vec<_> = (0..300)
            .map(|number| {
                let stream = TcpStream::connect_timeout(&address, millis(2_000));
                stream.unwrap_or_else(|error| panic!("number {number}: {error}"))
            })
            .collect();
        let serving = thread::spawn(move || server.serve(echo).expect("it never fails"));
        let last = streams.last().expect("there are some").try_clone();
        let client = Client::builder(key()).over(last.expect("it is a socket"));
        assert_eq!(
            client.expect("its turn comes").request("hello").expect("an answer"),
            b"hello"
        );
        handle.shutdown_within(millis(100));
        serving.join().expect("serve does not panic");
    });
}

/// A stream whose first writes are slow: the hello and the proof.
struct Slow {
    stream: TcpStream,
    writes: u32,
}

impl Read for Slow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}

impl Write for Slow {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.writes > 0 {
            self.writes -= 1;
            thread::sleep(millis(100));
        }
        self.stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Stream for Slow {
    fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(timeout)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.stream.shutdown(how)
    }
}

#[test]
fn many_slow_clients_are_admitted_one_after_another_and_none_is_dropped() {
    bounded(|| {
        let server = Running::start(Server::builder(key()).max_half_open(4), echo);
        let address = server.address;
        let settings = Settings::new()
            .with_handshake_timeout(Duration::from_secs(20))
            .expect("it is in range");
        let ends = at_once(24, move || {
            let stream = TcpStream::connect(address).expect("there is room in the backlog");
            let client = Client::builder(key())
                .settings(settings)
                .over(Slow { stream, writes: 2 });
            client.and_then(|client| client.request("hello"))
        });
        for (answer, _) in &ends {
            assert!(answer.is_ok(), "{ends:?}");
        }
        let report = server.stop();
        assert_eq!(
            (
                report.stats.accepted,
                report.stats.established,
                report.stats.half_open_dropped
            ),
            (24, 24, 0)
        );
    });
}

/// Connects and sends this much of a hello. If it is all of it, reads the welcome.
fn half_way(address: SocketAddr, length: usize) -> TcpStream {
    let secrets = Secrets {
        noise: vec![key()],
        ..Secrets::default()
    };
    let keys = secrets.into_client(&mut CountingRng::new(3)).expect("there is a key");
    let now = falco_core::Instant::ZERO;
    let machine = ClientConnection::new(&keys, &Settings::new(), now, &mut CountingRng::new(4));
    let mut machine = machine.expect("entropy");
    assert_eq!(machine.status(), Status::Handshaking);
    let mut hello = [0; 74];
    assert_eq!(machine.poll_transmit(now, &mut hello), Ok(74));
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream
        .write_all(hello.get(..length).expect("it is that long"))
        .expect("the server has room for it");
    if length == hello.len() {
        stream.read_exact(&mut [0; 64]).expect("a welcome");
    }
    stream
}

#[test]
fn a_late_half_open_connection_is_ended_without_a_reset_to_make_room() {
    bounded(|| {
        let settings = Settings::new()
            .with_handshake_timeout(Duration::from_secs(20))
            .expect("it is in range");
        for (length, least, most) in [(0, 400, 1_500), (50, 400, 1_500), (74, 2_900, 5_000)] {
            let server = Running::start(Server::builder(key()).settings(settings).max_half_open(2), echo);
            let mut late = [half_way(server.address, length), half_way(server.address, length)];
            // The server has read both.
            thread::sleep(millis(100));
            let start = Instant::now();
            let client = Client::builder(key()).settings(settings).connect(server.address);
            assert_eq!(
                client.expect("there is room").request("hello").expect("an answer"),
                b"hello"
            );
            let took = start.elapsed();
            assert!(took >= millis(least - 200) && took < millis(most), "{length}: {took:?}");
            let ended = late.each_mut().map(|stream| {
                stream.set_read_timeout(Some(millis(100))).expect("it is a socket");
                stream.read(&mut [0; 1]).map_err(|error| error.kind())
            });
            // One was dropped without a reset. The other goes on.
            assert_eq!(ended.iter().filter(|end| **end == Ok(0)).count(), 1, "{ended:?}");
            assert!(!ended.contains(&Err(io::ErrorKind::ConnectionReset)), "{ended:?}");
            assert_eq!(server.stop().stats.half_open_dropped, 1);
        }
    });
}
