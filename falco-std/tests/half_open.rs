//! Clients that connect and do not authenticate. Their number is limited, and they delay no other
//! client.

mod common;

use core::net::SocketAddr;
use core::time::Duration;
#[cfg(target_os = "linux")]
use std::fs::File;
use std::io::Write;
#[cfg(target_os = "linux")]
use std::io::{Read, Seek};
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use common::{Running, bounded, client, echo, half_way, has_ended, key, millis};
use falco_std::{Client, ConnectionError, Error, Server, Settings};

/// Connects and sends nothing, or a part of a hello.
fn connect_only(address: SocketAddr, number: usize) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("it listens");
    if number % 2 == 1 {
        stream.write_all(&[0; 50]).expect("the server has room for it");
    }
    stream
}

/// The longest of twenty times: for connecting and one request, and for one request.
fn latencies(address: SocketAddr) -> (Duration, Duration) {
    let builder = client();
    let (mut connecting, mut asking) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..20 {
        let start = Instant::now();
        let client = builder.clone().connect(address).expect("the server accepts it");
        assert_eq!(client.request("hello").expect("an answer"), b"hello");
        connecting = connecting.max(start.elapsed());
        let start = Instant::now();
        assert_eq!(client.request("hello").expect("an answer"), b"hello");
        asking = asking.max(start.elapsed());
    }
    (connecting, asking)
}

#[test]
fn half_open_connections_delay_no_client() {
    bounded(|| {
        let limit = millis(50);
        let settings = Settings::new()
            .with_handshake_timeout(Duration::from_secs(30))
            .expect("it is in range");
        for half_open in [1, 50, 200] {
            let server = Running::start(Server::classic(key()).settings(settings), echo);
            let silent: Vec<_> = (0..half_open)
                .map(|number| connect_only(server.address, number))
                .collect();
            // Other processes may spoil one round. The half-open connections would spoil each.
            let measured: Vec<_> = (0..3).map(|_| latencies(server.address)).collect();
            println!("{half_open} half-open: connect and request, request: {measured:?}");
            let held = measured
                .iter()
                .any(|(connecting, asking)| *connecting < limit && *asking < limit);
            assert!(held, "{half_open} half-open: {measured:?}");
            let report = server.stop();
            assert_eq!((report.stats.established, report.stats.half_open_dropped), (60, 0));
            drop(silent);
        }
    });
}

#[test]
fn a_silent_connection_is_dropped_at_the_handshake_deadline() {
    bounded(|| {
        let settings = Settings::new()
            .with_handshake_timeout(millis(300))
            .expect("it is in range");
        let server = Running::start(Server::classic(key()).settings(settings), echo);
        for number in 0..2 {
            let start = Instant::now();
            let mut stream = connect_only(server.address, number);
            while !has_ended(&mut stream) {}
            let waited = start.elapsed();
            assert!(waited >= millis(290) && waited < millis(2_000), "{waited:?}");
        }
        server.stop();
    });
}

#[test]
fn a_flood_drops_connections_without_a_hello_and_at_once() {
    bounded(|| {
        let settings = Settings::new()
            .with_handshake_timeout(Duration::from_secs(30))
            .expect("it is in range");
        let server = Running::start(Server::builder(key()).settings(settings).max_connections(8), echo);
        let connect = || Client::builder(key()).connect(server.address).expect("there is room");
        let honest = connect();
        assert_eq!(honest.request("first").expect("an answer"), b"first");
        let mut with_hello = [1, 2].map(|number| half_way(server.address, 74, number));
        let start = Instant::now();
        let mut silent = Vec::new();
        for number in 0..20 {
            // Nothing, or a part of a hello.
            silent.push(half_way(server.address, number % 2 * 50, 3));
            // So that the server accepts them in this order, and waits for each.
            thread::sleep(millis(5));
        }
        let late = connect();
        assert_eq!(late.request("let in").expect("an answer"), b"let in");
        assert!(start.elapsed() < millis(900), "{:?}", start.elapsed());
        assert_eq!(honest.request("still here").expect("an answer"), b"still here");
        assert_eq!(with_hello.each_mut().map(has_ended), [false, false]);
        // Eight connections: two established, two with a hello, and four of the silent ones. One of
        // the older half was dropped each time.
        let ended: Vec<_> = silent.iter_mut().map(has_ended).collect();
        assert_eq!(ended.iter().filter(|ended| **ended).count(), 16, "{ended:?}");
        assert_eq!(ended.last(), Some(&false), "{ended:?}");
        let report = server.stop();
        assert_eq!(
            (
                report.stats.accepted,
                report.stats.established,
                report.stats.half_open_dropped,
                report.stats.rejected
            ),
            (24, 2, 16, 0)
        );
    });
}

#[test]
fn with_all_connections_established_a_new_one_is_closed() {
    bounded(|| {
        let server = Running::start(Server::classic(key()).max_connections(2), echo);
        let (one, two) = (server.connect(), server.connect());
        // A connection is established for the server a moment later than for the client.
        assert_eq!(one.request("1").expect("an answer"), b"1");
        assert_eq!(two.request("2").expect("an answer"), b"2");
        let error = client().connect(server.address).expect_err("there is no seat");
        assert!(
            matches!(
                error,
                Error::Connection {
                    end: ConnectionError::Refused,
                    ..
                } | Error::Io { .. }
            ),
            "{error:?}"
        );
        assert_eq!(one.request("1").expect("an answer"), b"1");
        Client::close(&one);
        // There is room when the server has read the end of the stream.
        assert_eq!(two.request("2").expect("an answer"), b"2");
        let three = (0..50).find_map(|_| {
            thread::sleep(millis(10));
            client().connect(server.address).ok()
        });
        assert_eq!(three.expect("a seat is free").request("3").expect("an answer"), b"3");
        assert_eq!(server.stop().stats.established, 3);
    });
}

/// Half-open connections take all file descriptors that are left. The server neither ends nor
/// spins, and admits an honest client.
#[cfg(target_os = "linux")]
#[test]
fn without_file_descriptors_the_server_neither_ends_nor_spins() {
    const CHILD: &str = "FALCO_STD_TEST_FEW_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        // The limit is that of a process, so the test runs in one of its own.
        let name = "without_file_descriptors_the_server_neither_ends_nor_spins";
        let mut child = std::process::Command::new("sh");
        child.args(["-c", "ulimit -n 24 && exec \"$0\" --exact --nocapture \"$1\""]);
        child
            .arg(std::env::current_exe().expect("it runs"))
            .arg(name)
            .env(CHILD, "1");
        let output = child.output().expect("there is a shell");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    bounded(|| {
        let settings = Settings::new()
            .with_handshake_timeout(Duration::from_secs(30))
            .expect("it is in range");
        let server = Server::classic(key())
            .settings(settings)
            .bind("127.0.0.1:0")
            .expect("a free port");
        let (address, handle) = (server.local_addr().expect("it is bound"), server.handle());
        let mut stat = File::open("/proc/self/stat").expect("it is Linux");
        // All that are left, before the server accepts the first connection.
        let mut half_open = Vec::new();
        while let Ok(stream) = TcpStream::connect(address) {
            half_open.push(stream);
        }
        let serving = thread::spawn(move || server.serve(echo).expect("it never fails"));
        let before = processor_time(&mut stat);
        thread::sleep(millis(500));
        let spent = processor_time(&mut stat).saturating_sub(before);
        assert!(
            spent < millis(200),
            "{spent:?} of processor time in half a second of waiting"
        );
        // A few descriptors for the server. An honest client at the end of the backlog is admitted
        // when those before it are late.
        let last = half_open.pop().expect("there were some left");
        half_open.truncate(half_open.len().saturating_sub(3));
        let client = client().settings(settings).over(last).expect("the server accepts it");
        assert_eq!(client.request("hello").expect("an answer"), b"hello");
        handle.shutdown();
        let report = serving.join().expect("serve does not panic");
        assert_eq!(report.stats.established, 1);
        assert!(report.stats.half_open_dropped > 0, "{report:?}");
    });
}

/// The processor time that this process has used, in ticks of 10 ms.
#[cfg(target_os = "linux")]
fn processor_time(stat: &mut File) -> Duration {
    stat.rewind().expect("it is a file");
    let mut text = String::new();
    stat.read_to_string(&mut text).expect("it is text");
    let (_, fields) = text.rsplit_once(')').expect("the name is in brackets");
    let ticks: u64 = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(|field| field.parse::<u64>().expect("a number"))
        .sum();
    millis(ticks * 10)
}
