//! The end of connections on the noise wire: shutdowns under load, servers that die, peers that do
//! not read, and the fate of each request.

mod common;

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use common::{Running, bounded, echo, key, lifetime, millis};
use falco_std::{Client, Fate, Server};

/// A client that fails fast without a server.
fn connect(server: &Running) -> Client {
    Client::builder(key())
        .fail_fast(true)
        .connect(server.address)
        .expect("the server accepts it")
}

#[test]
fn a_shutdown_under_load_loses_no_accepted_request() {
    bounded(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&ran);
        let server = Running::start(Server::builder(key()).workers(8), move |request| {
            thread::sleep(millis(5));
            counter.fetch_add(1, Ordering::SeqCst);
            echo(request)
        });
        let clients: Vec<_> = (0..2).map(|_| Arc::new(connect(&server))).collect();
        let threads: Vec<_> = clients
            .iter()
            .cycle()
            .take(12)
            .enumerate()
            .map(|(number, client)| {
                let client = Arc::clone(client);
                thread::spawn(move || {
                    let mut answered = 0_usize;
                    loop {
                        // Some are in parts.
                        let text = format!("{number}, {answered}").repeat(if number < 2 { 20_000 } else { 1 });
                        match client.request(&text) {
                            Ok(answer) => {
                                assert!(answer == text.as_bytes());
                                answered += 1;
                            }
                            Err(error) => {
                                assert_eq!(error.fate(), Fate::NotProcessed, "{error:?}");
                                return answered;
                            }
                        }
                    }
                })
            })
            .collect();
        // The load has begun before the shutdown, also on a slow machine.
        while ran.load(Ordering::SeqCst) < 60 {
            thread::sleep(millis(5));
        }
        let start = Instant::now();
        let report = server.stop();
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert_eq!(report.cut_connections, 0);
        let answered: usize = threads
            .into_iter()
            .map(|thread| thread.join().expect("it is as told"))
            .sum();
        assert!(answered > 20, "{answered}");
        assert_eq!(ran.load(Ordering::SeqCst), answered, "what ran was answered");
    });
}

#[test]
fn idle_connections_end_at_once() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let clients: Vec<_> = (0..20).map(|_| connect(&server)).collect();
        for client in &clients {
            assert_eq!(client.request("hello").expect("an answer"), b"hello");
        }
        let start = Instant::now();
        let report = server.stop();
        assert!(start.elapsed() < millis(700), "{:?}", start.elapsed());
        assert_eq!((report.stats.established, report.cut_connections), (20, 0));
        for client in &clients {
            let error = client.request("too late").expect_err("nobody is there");
            assert_eq!(error.fate(), Fate::NotProcessed, "{error}");
        }
    });
}

/// A proxy between a client and a server, which a test can kill.
struct Tap {
    address: core::net::SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
    mute: Arc<AtomicBool>,
    /// Nothing is read while this is set.
    hold: Arc<AtomicBool>,
}

impl Tap {
    fn before(server: core::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (streams, mute, hold) = (
            Arc::default(),
            Arc::<AtomicBool>::default(),
            Arc::<AtomicBool>::default(),
        );
        let (own, own_mute, own_hold): (Arc<Mutex<Vec<TcpStream>>>, _, _) =
            (Arc::clone(&streams), Arc::clone(&mute), Arc::clone(&hold));
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let server = TcpStream::connect(server).expect("it listens");
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (
                        from.try_clone().expect("it is a socket"),
                        to.try_clone().expect("it is a socket"),
                    );
                    let (mute, hold) = (Arc::clone(&own_mute), Arc::clone(&own_hold));
                    thread::spawn(move || {
                        let mut chunk = [0; 4_096];
                        while let Ok(count @ 1..) = from.read(&mut chunk) {
                            while hold.load(Ordering::SeqCst) {
                                thread::sleep(millis(10));
                            }
                            let bytes = chunk.get(..count).expect("as many were read");
                            if !mute.load(Ordering::SeqCst) && to.write_all(bytes).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                own.lock().expect("it does not panic").extend([client, server]);
            }
        });
        Self {
            address,
            streams,
            mute,
            hold,
        }
    }

    fn kill(&self) {
        for stream in self.streams.lock().expect("it does not panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_server_that_dies_leaves_the_right_fates_and_the_client_recovers() {
    bounded(|| {
        let (ran, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, gone) = (Arc::clone(&ran), Arc::clone(&seen));
        let server = Running::start(Server::builder(key()), move |request| {
            counter.fetch_add(1, Ordering::SeqCst);
            if request.body() == b"slow" {
                let start = Instant::now();
                while !request.is_cancelled() && start.elapsed() < Duration::from_secs(8) {
                    thread::sleep(millis(5));
                }
                gone.store(request.is_cancelled(), Ordering::SeqCst);
            }
            echo(request)
        });
        let tap = Tap::before(server.address);
        let client = Arc::new(
            Client::builder(key())
                .connect(tap.address)
                .expect("the server accepts it"),
        );
        assert_eq!(client.request("before").expect("an answer"), b"before");
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let client = Arc::clone(&client);
                thread::spawn(move || client.request("slow").expect_err("the server is gone").fate())
            })
            .collect();
        thread::sleep(millis(200));
        assert_eq!(ran.load(Ordering::SeqCst), 5);
        tap.kill();
        for thread in threads {
            assert_eq!(thread.join().expect("it does not panic"), Fate::MaybeProcessed);
        }
        assert_eq!(client.request("after").expect("a new connection"), b"after");
        thread::sleep(millis(100));
        assert!(seen.load(Ordering::SeqCst), "the handlers were told that nobody waits");
        assert_eq!(ran.load(Ordering::SeqCst), 6, "nothing ran twice");
        assert_eq!(server.stop().stats.accepted, 2);
    });
}

#[test]
fn a_server_that_sends_nothing_any_more_is_detected() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), |request| {
            thread::sleep(millis(300));
            echo(request)
        });
        let tap = Tap::before(server.address);
        let client = Client::builder(key())
            .settings(lifetime(millis(1_500)))
            .connect(tap.address)
            .expect("the server accepts it");
        assert_eq!(client.request("before").expect("an answer"), b"before");
        tap.mute.store(true, Ordering::SeqCst);
        let start = Instant::now();
        let error = client.request("lost").expect_err("nothing comes");
        let took = start.elapsed();
        assert_eq!(error.fate(), Fate::MaybeProcessed, "{error:?}");
        assert!(took >= millis(450) && took < millis(1_900), "{took:?}: {error:?}");
        tap.mute.store(false, Ordering::SeqCst);
        assert_eq!(client.request("after").expect("a new connection"), b"after");
        server.stop();
    });
}

#[cfg(unix)]
#[test]
fn a_large_request_sent_in_part_is_not_processed() {
    bounded(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&ran);
        let server = Server::builder(key()).unbound().expect("there is entropy");
        // A proxy that forwards the beginning and then ends both connections.
        let (near, far) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        let (to_server, from_tap) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        let serving = thread::spawn(move || {
            server.serve_connection(from_tap, move |request| {
                counter.fetch_add(1, Ordering::SeqCst);
                echo(request)
            })
        });
        let (mut up, mut down) = (
            far.try_clone().expect("it is a socket"),
            to_server.try_clone().expect("it is a socket"),
        );
        let back = thread::spawn(move || {
            let (mut from, mut to) = (to_server, far);
            std::io::copy(&mut from, &mut to)
        });
        thread::spawn(move || {
            let (mut chunk, mut passed) = ([0; 4_096], 0);
            while let Ok(count @ 1..) = up.read(&mut chunk) {
                passed += count;
                if passed > 300_000 {
                    break;
                }
                let _ = down.write_all(chunk.get(..count).expect("as many were read"));
            }
            let _ = (up.shutdown(Shutdown::Both), down.shutdown(Shutdown::Both));
        });
        let client = Client::builder(key()).over(near).expect("the server accepts it");
        let error = client.request(vec![7; 3 << 20]).expect_err("it is cut");
        assert_eq!(error.fate(), Fate::NotProcessed, "{error:?}");
        let _ = back.join();
        assert!(serving.join().expect("it does not panic").is_ok());
        assert_eq!(ran.load(Ordering::SeqCst), 0);
    });
}

#[test]
fn a_client_that_does_not_read_ends_within_a_lifetime_and_delays_no_other() {
    bounded(|| {
        let settings = lifetime(millis(1_000)).with_max_message(1 << 20).with_max_held(1 << 20);
        // One worker, which a client that does not read must not occupy.
        let server = Running::start(Server::builder(key()).settings(settings).workers(1), |request| {
            Ok(vec![7; if request.body() == b"much" { 1 << 20 } else { 1 }])
        });
        let tap = Tap::before(server.address);
        let greedy = Arc::new(
            Client::builder(key())
                .settings(settings)
                .request_timeout(Some(Duration::from_secs(4)))
                .connect(tap.address)
                .expect("the server accepts it"),
        );
        let other = connect(&server);
        let threads: Vec<_> = (0..12)
            .map(|_| {
                let greedy = Arc::clone(&greedy);
                thread::spawn(move || greedy.request("much").is_ok())
            })
            .collect();
        thread::sleep(millis(20));
        tap.hold.store(true, Ordering::SeqCst);
        let start = Instant::now();
        while start.elapsed() < millis(2_500) {
            let asked = Instant::now();
            assert_eq!(other.request("little").expect("an answer").len(), 1);
            assert!(asked.elapsed() < millis(1_500), "{:?}", asked.elapsed());
        }
        let answered = threads
            .into_iter()
            .map(|thread| thread.join().expect("it does not panic"));
        assert!(
            answered.filter(|answered| !answered).count() > 0,
            "not all of it fits what the kernel holds"
        );
        let start = Instant::now();
        drop(greedy);
        let report = server.stop();
        assert!(
            start.elapsed() < millis(2_500),
            "the one that does not read has ended: {:?}",
            start.elapsed()
        );
        assert_eq!(report.cut_connections, 0);
        tap.hold.store(false, Ordering::SeqCst);
    });
}
