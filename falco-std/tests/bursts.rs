//! Many clients at once. A burst waits in the backlog, and a handshake in progress is not dropped.
//! Others are dropped to make room, and their clients read the end of the stream.

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use common::{Running, at_once, bounded, echo, half_way, has_ended, key, millis};
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

/// A stream whose second write is slow: the proof that follows the hello.
struct Slow {
    stream: TcpStream,
    writes: u32,
    hellos: Arc<AtomicUsize>,
}

impl Read for Slow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}

impl Write for Slow {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.writes += 1;
        if self.writes == 2 {
            thread::sleep(millis(100));
        }
        let written = self.stream.write(buf);
        self.hellos.fetch_add(usize::from(self.writes == 1), Ordering::SeqCst);
        written
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
        let builder = Server::builder(key()).max_half_open(4);
        let server = builder.bind("127.0.0.1:0").expect("a free port");
        let (address, handle) = (server.local_addr().expect("it is bound"), server.handle());
        let hellos = Arc::new(AtomicUsize::new(0));
        let sent = Arc::clone(&hellos);
        let serving = thread::spawn(move || {
            // Without its hello a connection may be dropped.
            while sent.load(Ordering::SeqCst) < 24 {
                thread::sleep(millis(1));
            }
            server.serve(echo).expect("it never fails")
        });
        let settings = Settings::new()
            .with_handshake_timeout(Duration::from_secs(20))
            .expect("it is in range");
        let ends = at_once(24, move || {
            let stream = TcpStream::connect(address).expect("there is room in the backlog");
            let slow = Slow {
                stream,
                writes: 0,
                hellos: Arc::clone(&hellos),
            };
            let client = Client::builder(key()).settings(settings).over(slow);
            client.and_then(|client| client.request("hello"))
        });
        for (answer, _) in &ends {
            assert!(answer.is_ok(), "{ends:?}");
        }
        handle.shutdown_within(Duration::from_secs(10));
        let report = serving.join().expect("serve does not panic");
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

#[test]
fn a_half_open_connection_is_ended_without_a_reset_to_make_room() {
    bounded(|| {
        let settings = Settings::new()
            .with_handshake_timeout(Duration::from_secs(20))
            .expect("it is in range");
        // A connection without a hello is dropped at once, and one with a hello if its PING is 1 s
        // late.
        for (length, least, most) in [(0, 0, 300), (50, 0, 300), (74, 800, 2_500)] {
            let server = Running::start(Server::builder(key()).settings(settings).max_half_open(2), echo);
            let mut half_open = [1, 2].map(|number| half_way(server.address, length, number));
            // The server has read both.
            thread::sleep(millis(100));
            let start = Instant::now();
            let client = Client::builder(key()).settings(settings).connect(server.address);
            assert_eq!(
                client.expect("there is room").request("hello").expect("an answer"),
                b"hello"
            );
            let took = start.elapsed();
            assert!(took >= millis(least) && took < millis(most), "{length}: {took:?}");
            // One was dropped. The other goes on.
            let ended = half_open.each_mut().map(has_ended);
            assert_eq!(ended.iter().filter(|ended| **ended).count(), 1, "{ended:?}");
            assert_eq!(server.stop().stats.half_open_dropped, 1);
        }
    });
}

#[test]
fn a_replayed_hello_is_dropped_before_one_that_is_new() {
    bounded(|| {
        let settings = Settings::new()
            .with_handshake_timeout(Duration::from_secs(20))
            .expect("it is in range");
        let server = Running::start(Server::builder(key()).settings(settings).max_half_open(3), echo);
        let mut half_open = [1, 2, 1].map(|number| half_way(server.address, 74, number));
        let start = Instant::now();
        let client = Client::builder(key()).settings(settings).connect(server.address);
        assert_eq!(
            client.expect("there is room").request("hello").expect("an answer"),
            b"hello"
        );
        assert!(start.elapsed() < millis(700), "{:?}", start.elapsed());
        assert_eq!(half_open.each_mut().map(has_ended), [false, false, true]);
        server.stop();
    });
}
