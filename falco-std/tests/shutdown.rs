//! How a server shuts down: at once where no request is in flight, otherwise after the answers, and
//! at the deadline at the latest.

mod common;

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use common::{Running, bounded, echo, key, millis};
use falco_std::{Client, Fate, Request, Server};

/// A client that fails fast without a server.
fn hasty(server: &Running) -> Client {
    let client = common::client().fail_fast(true).connect(server.address);
    client.expect("the server accepts it")
}

#[test]
fn a_server_with_idle_connections_shuts_down_within_their_linger() {
    bounded(|| {
        let server = Running::echo();
        let clients: Vec<_> = (0..50).map(|_| hasty(&server)).collect();
        for client in &clients {
            assert_eq!(client.request("hello").expect("an answer"), b"hello");
        }
        let half_open: Vec<_> = (0..10)
            .map(|_| TcpStream::connect(server.address).expect("it listens"))
            .collect();
        thread::sleep(millis(50));
        let start = Instant::now();
        server.handle.shutdown();
        let report = server.serving.join().expect("serve does not panic");
        let took = start.elapsed();
        // A client on the classic wire reads only when it sends. The server waits for it, so that
        // no answer is lost.
        assert!(took < millis(1_500), "{took:?}");
        assert_eq!(
            (report.stats.accepted, report.stats.established, report.cut_connections),
            (60, 50, 0)
        );
        drop(half_open);
        for client in &clients {
            let error = client.request("too late").expect_err("nobody is there");
            assert_eq!(error.fate(), Fate::NotProcessed, "{error}");
        }
    });
}

#[test]
fn a_server_can_be_shut_down_before_it_serves_and_more_than_once() {
    bounded(|| {
        let server = Server::classic(key()).bind("127.0.0.1:0").expect("a free port");
        let handle = server.handle();
        handle.shutdown();
        handle.clone().shutdown_within(millis(10));
        assert_eq!(server.serve(echo).expect("it never fails").stats.accepted, 0);
        handle.shutdown();
    });
}

#[test]
fn during_a_shutdown_under_load_every_handled_request_is_answered() {
    bounded(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&ran);
        let server = Running::start(Server::classic(key()).workers(4), move |request: Request| {
            thread::sleep(millis(10));
            counter.fetch_add(1, Ordering::SeqCst);
            echo(request)
        });
        let address = server.address;
        let threads: Vec<_> = (0..8)
            .map(|number| {
                thread::spawn(move || {
                    let client = common::client().fail_fast(true).connect(address);
                    let client = client.expect("the server accepts it");
                    let mut answered = 0_usize;
                    loop {
                        let text = format!("{number}, {answered}");
                        match client.request(&text) {
                            Ok(answer) => {
                                assert_eq!(answer, text.as_bytes());
                                answered += 1;
                            }
                            Err(_) => return answered,
                        }
                    }
                })
            })
            .collect();
        thread::sleep(millis(300));
        let start = Instant::now();
        server.handle.shutdown();
        let report = server.serving.join().expect("serve does not panic");
        let took = start.elapsed();
        assert!(took < millis(3_000), "{took:?}");
        let answered: usize = threads
            .into_iter()
            .map(|thread| thread.join().expect("its answers are its own"))
            .sum();
        assert_eq!(
            answered,
            ran.load(Ordering::SeqCst),
            "every request that ran has its answer"
        );
        assert!(answered > 8);
        assert_eq!((report.cut_connections, report.stats.failed), (0, 0));
    });
}

#[test]
fn the_deadline_of_a_shutdown_cuts_the_remaining_connections() {
    bounded(|| {
        let (free, wait) = mpsc::channel::<()>();
        let (wait, done) = (Mutex::new(wait), Arc::new(AtomicBool::new(false)));
        let own = Arc::clone(&done);
        let server = Running::start(Server::classic(key()), move |request: Request| {
            // Runs until the test has ended.
            let _ = wait.lock().expect("one handler runs").recv();
            own.store(true, Ordering::SeqCst);
            echo(request)
        });
        let client = server.connect();
        let asking = thread::spawn(move || client.request("for ever"));
        thread::sleep(millis(100));
        let start = Instant::now();
        server.handle.shutdown();
        thread::sleep(millis(200));
        assert!(!server.serving.is_finished(), "without a deadline it waits");
        server.handle.shutdown_within(millis(200));
        let report = server.serving.join().expect("serve does not panic");
        let took = start.elapsed();
        assert!(took >= millis(390) && took < millis(1_500), "{took:?}");
        assert_eq!(report.cut_connections, 1);
        let error = asking.join().expect("it does not panic").expect_err("it was cut off");
        assert_eq!(error.fate(), Fate::MaybeProcessed, "{error}");
        assert!(!done.load(Ordering::SeqCst));
        drop(free);
    });
}

#[test]
fn no_more_handlers_run_at_once_than_there_are_workers() {
    bounded(|| {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (own_now, own_most) = (Arc::clone(&now), Arc::clone(&most));
        let server = Running::start(Server::classic(key()).workers(3), move |request: Request| {
            own_most.fetch_max(own_now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(millis(30));
            own_now.fetch_sub(1, Ordering::SeqCst);
            echo(request)
        });
        let address = server.address;
        let threads: Vec<_> = (0..9)
            .map(|_| {
                thread::spawn(move || {
                    let client = common::client().connect(address).expect("the server accepts it");
                    for _ in 0..3 {
                        client.request("work").expect("an answer");
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("all have their answers");
        }
        assert_eq!((now.load(Ordering::SeqCst), most.load(Ordering::SeqCst)), (0, 3));
        server.stop();
    });
}

#[cfg(unix)]
#[test]
fn a_guest_ends_when_the_server_shuts_down() {
    bounded(|| {
        let (near, far) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        let server = Server::classic(key()).unbound().expect("there is entropy");
        let handle = server.handle();
        let serving = thread::spawn(move || server.serve_connection(far, echo));
        let client = common::client().over(near).expect("the server accepts it");
        assert_eq!(client.request("hello").expect("an answer"), b"hello");
        let start = Instant::now();
        handle.shutdown();
        let reading = thread::spawn(move || {
            thread::sleep(core::time::Duration::from_millis(400));
            client.request("too late").expect_err("the server has stopped").fate()
        });
        let ended = serving
            .join()
            .expect("it does not panic")
            .expect("the stream is in order");
        assert_eq!(ended, falco_std::ConnectionError::Closed);
        // A quarter of a second until it notices, and a second of linger.
        assert!(start.elapsed() < millis(2_000));
        assert_eq!(reading.join().expect("it does not panic"), Fate::NotProcessed);
    });
}

#[test]
fn clients_move_to_new_connections_when_theirs_are_old_and_no_request_fails() {
    bounded(|| {
        let builder = Server::builder(key()).max_connection_age(millis(100));
        let server = Running::start(builder, echo);
        let client = Client::builder(key()).connect(server.address).expect("it is taken");
        assert!(client.is_connected());
        let begun = Instant::now();
        while begun.elapsed() < millis(1_000) {
            assert_eq!(client.request("x").expect("an answer"), b"x");
        }
        let established = server.stop().stats.established;
        assert!(!client.is_connected());
        assert!((4..=12).contains(&established), "{established}");
    });
}
