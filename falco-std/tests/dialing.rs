//! How a client connects. All callers share one attempt, each within its own time limit. Failures
//! that may pass are retried.

#![allow(clippy::indexing_slicing, reason = "a test may panic")]

mod common;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use common::{Blackhole, Running, at_once, bounded, echo, key, millis};
use falco_std::{Client, ClientBuilder, ConnectionError, Error, Fate, Server, Settings};

fn builder() -> ClientBuilder {
    // The tests must not wait long for the next attempt.
    Client::builder(key()).backoff(millis(10), millis(50))
}

/// An address without a listener.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound")
}

#[test]
fn each_caller_waits_for_a_connection_within_its_own_limit() {
    bounded(|| {
        let hole = Blackhole::new();
        let client = builder()
            .connect_timeout(Duration::from_secs(1))
            .request_timeout(Some(millis(200)))
            .connect_lazy(hole.address)
            .expect("it connects later");
        let ends = at_once(6, move || client.request("hello").expect_err("nobody answers"));
        for (error, took) in &ends {
            assert_eq!(error.fate(), Fate::NotProcessed, "{error:?}");
            assert!(*took >= millis(190) && *took < millis(900), "{ends:?}");
        }
    });
}

#[test]
fn all_callers_share_one_attempt_and_its_result() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let attempts = Arc::new(AtomicUsize::new(0));
        let (own, real) = (Arc::clone(&attempts), server.address);
        thread::spawn(move || {
            let mut mute = Vec::new();
            while let Ok((client, _)) = listener.accept() {
                // Two attempts end at the deadline of the handshake.
                if own.fetch_add(1, Ordering::SeqCst) < 2 {
                    mute.push(client);
                } else {
                    pass_on(client, real);
                }
            }
        });
        let settings = Settings::new()
            .with_handshake_timeout(millis(300))
            .expect("it is in range");
        let client = builder().settings(settings).connect_lazy(address);
        let client = client.expect("it connects later");
        for (answer, took) in at_once(20, move || client.request("hello")) {
            assert_eq!(answer.expect("the third attempt brings it"), b"hello");
            assert!(took >= millis(590), "{took:?}");
        }
        assert_eq!(attempts.load(Ordering::SeqCst), 3);
        server.stop();
    });
}

#[test]
fn requests_wait_while_a_server_is_away() {
    for limit in [Some(Duration::from_secs(20)), None] {
        bounded(move || {
            let server = Running::start(Server::builder(key()), echo);
            let address = server.address;
            let client = Arc::new(
                builder()
                    .request_timeout(limit)
                    .connect(address)
                    .expect("the server accepts it"),
            );
            server.stop();
            let waiting = Arc::clone(&client);
            let waiting = thread::spawn(move || at_once(4, move || waiting.request("hello")));
            thread::sleep(millis(500));
            assert!(!waiting.is_finished(), "they wait");
            let again = Server::builder(key()).bind(address).expect("the address is free again");
            let handle = again.handle();
            let serving = thread::spawn(move || again.serve(echo).expect("it never fails"));
            for (answer, _) in waiting.join().expect("it does not panic") {
                assert_eq!(answer.expect("the server is back"), b"hello");
            }
            drop(client);
            handle.shutdown();
            assert_eq!(serving.join().expect("serve does not panic").stats.established, 1);
        });
    }
}

#[test]
fn a_request_without_a_connection_fails_with_the_reason() {
    bounded(|| {
        let client = builder()
            .request_timeout(Some(millis(300)))
            .connect_lazy(nobody())
            .expect("it connects later");
        let start = Instant::now();
        let error = client.request("hello").expect_err("nobody listens");
        assert!(start.elapsed() >= millis(290), "{:?}", start.elapsed());
        assert!(
            matches!(&error, Error::Io { source, fate: Fate::NotProcessed, .. } if source.kind() == io::ErrorKind::ConnectionRefused),
            "{error:?}"
        );
    });
}

#[test]
fn with_fail_fast_the_first_failed_attempt_fails_the_requests() {
    bounded(|| {
        let client = builder().fail_fast(true).connect_lazy(nobody());
        let client = client.expect("it connects later");
        for _ in 0..3 {
            let start = Instant::now();
            let error = client.request("hello").expect_err("nobody listens");
            assert!(matches!(error, Error::Io { .. }), "{error:?}");
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        }
    });
}

/// Forwards bytes between a client and a server, until one of them ends.
fn pass_on(client: TcpStream, server: SocketAddr) -> [TcpStream; 2] {
    let server = TcpStream::connect(server).expect("it listens");
    for (from, to) in [(&client, &server), (&server, &client)] {
        let (mut from, mut to) = (
            from.try_clone().expect("it is a socket"),
            to.try_clone().expect("it is a socket"),
        );
        thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
    [client, server]
}

/// A proxy in front of a server. It forwards bytes, or ends each connection after it has accepted
/// it.
struct Proxy {
    address: SocketAddr,
    leaves: Arc<AtomicBool>,
    refused: Arc<AtomicUsize>,
    streams: Arc<std::sync::Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn before(server: SocketAddr, leaves: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let proxy = Self {
            address: listener.local_addr().expect("it is bound"),
            leaves: Arc::new(AtomicBool::new(leaves)),
            refused: Arc::default(),
            streams: Arc::default(),
        };
        let (leaves, refused) = (Arc::clone(&proxy.leaves), Arc::clone(&proxy.refused));
        let streams = Arc::clone(&proxy.streams);
        thread::spawn(move || {
            while let Ok((mut client, _)) = listener.accept() {
                if leaves.load(Ordering::SeqCst) {
                    refused.fetch_add(1, Ordering::SeqCst);
                    // With unread bytes the end would be a reset.
                    let _ = client.shutdown(Shutdown::Write);
                    let _ = client.set_read_timeout(Some(millis(100)));
                    while let Ok(1..) = client.read(&mut [0; 100]) {}
                    continue;
                }
                let both = pass_on(client, server);
                streams.lock().expect("it does not panic").extend(both);
            }
        });
        proxy
    }

    /// Ends all connections, and from now on each new one.
    fn leave(&self) {
        self.leaves.store(true, Ordering::SeqCst);
        for stream in self.streams.lock().expect("it does not panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_refused_connection_is_retried_if_the_client_was_admitted_before() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let proxy = Proxy::before(server.address, false);
        let client = Arc::new(builder().connect(proxy.address).expect("the server accepts it"));
        assert_eq!(client.request("before").expect("an answer"), b"before");
        proxy.leave();
        // Until the client knows, a request may be sent into the old connection.
        let gone = || client.request_within("gone", millis(50)).expect_err("nobody is there");
        while gone().fate() != Fate::NotProcessed {}
        let waiting = Arc::clone(&client);
        let waiting = thread::spawn(move || at_once(10, move || waiting.request("hello")));
        let before = proxy.refused.load(Ordering::SeqCst);
        while proxy.refused.load(Ordering::SeqCst) < before + 3 {
            thread::sleep(millis(5));
        }
        assert!(!waiting.is_finished(), "they wait");
        // A request with less time fails when its time has passed, with the reason.
        let error = client.request_within("hasty", millis(100));
        let error = error.expect_err("nobody is there");
        let refused = |error: &Error| {
            let (end, fate) = (ConnectionError::Refused, Fate::NotProcessed);
            matches!(error, Error::Connection { end: own, fate: other } if *own == end && *other == fate)
        };
        assert!(refused(&error), "{error:?}");
        proxy.leaves.store(false, Ordering::SeqCst);
        for (answer, _) in waiting.join().expect("it does not panic") {
            assert_eq!(answer.expect("the proxy is back"), b"hello");
        }

        // A client that was never admitted fails at once.
        proxy.leave();
        let start = Instant::now();
        let error = builder().connect(proxy.address).expect_err("it is refused");
        assert!(refused(&error), "{error:?}");
        let lazy = builder().connect_lazy(proxy.address).expect("it connects later");
        for (error, _) in at_once(4, move || lazy.request("hello").expect_err("it is refused")) {
            assert!(refused(&error), "{error:?}");
        }
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        server.stop();
    });
}

#[test]
fn each_caller_waits_for_the_connection_within_its_own_limit() {
    bounded(|| {
        let server = Running::start(Server::classic(key()), |request| {
            thread::sleep(millis(1_500));
            echo(request)
        });
        let client = Arc::new(server.connect());
        let slow = Arc::clone(&client);
        let slow = thread::spawn(move || slow.request("slow"));
        thread::sleep(millis(100));
        let ends = at_once(4, move || client.request_within("waits", millis(200)));
        for (end, took) in &ends {
            let error = end.as_ref().expect_err("its turn does not come");
            assert!(
                matches!(
                    error,
                    Error::TimedOut {
                        fate: Fate::NotProcessed,
                        ..
                    }
                ),
                "{error:?}"
            );
            assert!(*took < millis(900), "{ends:?}");
        }
        assert_eq!(slow.join().expect("it does not panic").expect("an answer"), b"slow");
        server.stop();
    });
}

/// Forwards this many bytes to the server, then ends.
struct Short {
    stream: TcpStream,
    left: usize,
}

impl Read for Short {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buf)
    }
}

impl Write for Short {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            self.stream.shutdown(Shutdown::Both)?;
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let written = self.stream.write(buf.get(..self.left).unwrap_or(buf))?;
        self.left -= written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl falco_std::Stream for Short {
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
fn a_request_sent_in_part_goes_to_the_next_connection_and_to_three_at_most() {
    bounded(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&ran);
        let server = Running::start(Server::builder(key()), move |request| {
            counter.fetch_add(1, Ordering::SeqCst);
            echo(request)
        });
        for (short, comes_through) in [(2, true), (3, false)] {
            let (attempts, address) = (Arc::new(AtomicUsize::new(0)), server.address);
            let own = Arc::clone(&attempts);
            let dial = move || {
                let stream = TcpStream::connect(address)?;
                let left = if own.fetch_add(1, Ordering::SeqCst) < short {
                    300_000
                } else {
                    usize::MAX
                };
                Ok(Short { stream, left })
            };
            let client = builder().connect_with(dial).expect("the server accepts it");
            let end = client.request(vec![7; 1 << 20]);
            assert_eq!(attempts.load(Ordering::SeqCst), 3);
            match end {
                Ok(answer) => assert!(comes_through && answer == vec![7; 1 << 20]),
                Err(error) => assert!(!comes_through && error.fate() == Fate::NotProcessed, "{error:?}"),
            }
        }
        assert_eq!(ran.load(Ordering::SeqCst), 1);
        server.stop();
    });
}

#[test]
fn an_address_that_does_not_answer_costs_a_moment_and_one_that_refuses_costs_nothing() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let holes = [Blackhole::new(), Blackhole::new()];
        let [hangs, other] = [&holes[0], &holes[1]].map(|hole| hole.address);
        let (refuses, answers) = (nobody(), server.address);
        for (addresses, least, most) in [
            (vec![hangs, answers], 250, 1_500),
            (vec![hangs, other, answers], 500, 2_000),
            (vec![hangs, refuses, answers], 250, 1_500),
            (vec![refuses, answers], 0, 240),
        ] {
            let start = Instant::now();
            let client = builder().connect(&addresses[..]).expect("one of them answers");
            let took = start.elapsed();
            assert_eq!(client.request("hello").expect("an answer"), b"hello");
            assert!(took >= millis(least) && took < millis(most), "{addresses:?}: {took:?}");
        }
        let builder = builder().connect_timeout(millis(400));
        let start = Instant::now();
        let error = builder.clone().connect([hangs, refuses]).expect_err("nobody answers");
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        assert!(start.elapsed() < millis(1_500), "{:?}", start.elapsed());
        let error = builder.connect([refuses, refuses]).expect_err("nobody answers");
        let kind = io::ErrorKind::ConnectionRefused;
        assert!(
            matches!(&error, Error::Io { source, .. } if source.kind() == kind),
            "{error:?}"
        );
        server.stop();
    });
}

#[test]
fn an_invalid_address_fails_at_once() {
    bounded(|| {
        for address in ["no port", ""] {
            let client = builder().connect_lazy(address).expect("it connects later");
            let start = Instant::now();
            let error = client.request("hello").expect_err("it is no address");
            assert!(matches!(error, Error::Io { .. }), "{error:?}");
            assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn connecting_to_a_unix_socket_with_a_full_backlog_waits_within_the_limit() {
    use std::os::unix::net::UnixStream;

    bounded(|| {
        let path = std::env::temp_dir().join(format!("falco-std-full-{}.socket", std::process::id()));
        let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).expect("a socket");
        let address = socket2::SockAddr::unix(&path).expect("it is short");
        listener.bind(&address).expect("the path is free");
        listener.listen(0).expect("it is bound");
        let _filling = UnixStream::connect(&path).expect("there is room for one");

        let hasty = builder().connect_timeout(millis(300));
        let start = Instant::now();
        let error = hasty.connect_unix(&path).expect_err("nobody accepts");
        assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
        assert!(
            start.elapsed() >= millis(290) && start.elapsed() < millis(2_000),
            "{:?}",
            start.elapsed()
        );

        // There is room within the limit.
        let server = Arc::new(Server::builder(key()).unbound().expect("there is entropy"));
        let own = Arc::clone(&server);
        thread::spawn(move || {
            thread::sleep(millis(300));
            listener.accept().expect("it is the one that fills");
            let (stream, _) = listener.accept().expect("another comes");
            let stream = UnixStream::from(std::os::fd::OwnedFd::from(stream));
            own.serve_connection(stream, echo)
        });
        let client = builder().connect_timeout(Duration::from_secs(10)).connect_unix(&path);
        assert_eq!(client.expect("it waits").request("hello").expect("an answer"), b"hello");
        std::fs::remove_file(path).expect("the file stays until it is removed");
    });
}

#[test]
fn a_server_that_has_served_is_reconnected_to_without_a_pause() {
    bounded(|| {
        let server = Running::start(Server::classic(key()), |request| {
            if request.body() == b"fail" {
                return Err("as told".into());
            }
            echo(request)
        });
        let client = Client::classic(key())
            .connect(server.address)
            .expect("the server accepts it");
        let start = Instant::now();
        for _ in 0..12 {
            assert_eq!(client.request("hello").expect("an answer"), b"hello");
            client.request("fail").expect_err("the wire has no other word for it");
        }
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        assert_eq!(server.stop().stats.accepted, 12);
    });
}

#[test]
fn a_panic_while_connecting_is_a_failed_attempt() {
    bounded(|| {
        let dial = || -> io::Result<TcpStream> { panic!("as told; the test wants this panic") };
        let error = builder().connect_with(dial).expect_err("there is no stream");
        assert!(
            matches!(
                error,
                Error::Io {
                    fate: Fate::NotProcessed,
                    ..
                }
            ),
            "{error:?}"
        );
    });
}
