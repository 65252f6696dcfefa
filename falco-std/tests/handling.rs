//! Where handlers run: on the thread of their connection while they are short and alone, and how
//! that thread's connection goes on while one takes long.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Arc, Barrier, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use common::{Running, at_once, bounded, key, millis};
use falco_std::{Client, Error, HandlerError, Refusal, Request, RequestError, Server, ServerBuilder};

/// On a connection whose thread runs a handler that takes long, nothing waits longer than this
/// before another thread takes over: two checks of a millisecond, and time for a busy machine.
const GOES_ON: Duration = Duration::from_millis(500);

fn server() -> ServerBuilder {
    Server::builder(key())
}

fn client(running: &Running) -> Client {
    Client::builder(key()).connect(running.address).unwrap()
}

/// The name of the thread that runs the handler.
fn thread_name() -> Vec<u8> {
    let current = thread::current();
    current.name().unwrap_or_default().as_bytes().to_vec()
}

/// Handlers of "stuck" run until they are freed. Others answer with the name of their thread.
struct Stuck {
    free: Arc<AtomicBool>,
    running: Arc<AtomicUsize>,
    cancelled: Arc<AtomicBool>,
}

impl Stuck {
    fn new() -> (
        Self,
        impl Fn(Request) -> Result<Vec<u8>, HandlerError> + Send + Sync + 'static,
    ) {
        let stuck = Self {
            free: Arc::default(),
            running: Arc::default(),
            cancelled: Arc::default(),
        };
        let (free, running) = (Arc::clone(&stuck.free), Arc::clone(&stuck.running));
        let cancelled = Arc::clone(&stuck.cancelled);
        let handler = move |request: Request| {
            if request.body() == b"stuck" {
                running.fetch_add(1, Ordering::SeqCst);
                while !free.load(Ordering::SeqCst) {
                    cancelled.fetch_or(request.is_cancelled(), Ordering::SeqCst);
                    thread::sleep(millis(1));
                }
            }
            Ok(thread_name())
        };
        (stuck, handler)
    }

    /// Sends a request whose handler is stuck, and waits until it runs.
    fn hold(&self, client: &Client) -> thread::JoinHandle<Result<Vec<u8>, Error>> {
        let before = self.running.load(Ordering::SeqCst);
        let own = client.clone();
        let waiting = thread::spawn(move || own.request("stuck"));
        while self.running.load(Ordering::SeqCst) == before {
            thread::sleep(millis(1));
        }
        waiting
    }

    fn free(&self) {
        self.free.store(true, Ordering::SeqCst);
    }
}

fn until(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "it does not happen");
        thread::sleep(millis(1));
    }
}

#[test]
fn short_handlers_run_on_the_thread_of_their_connection() {
    bounded(|| {
        let (_, handler) = Stuck::new();
        let running = Running::start(server(), handler);
        let client = client(&running);
        let names: Vec<_> = (0..200).map(|_| client.request("name").unwrap()).collect();
        let own = names.iter().filter(|name| *name == b"falco connection").count();
        // A handler that was interrupted sends the next one to a worker.
        assert!(own > 150, "{own} of 200");
        running.stop();
    });
}

#[test]
fn requests_after_a_long_handler_go_to_workers_until_one_is_short() {
    bounded(|| {
        let running = Running::start(server(), |request| {
            if request.body() == b"long" {
                thread::sleep(millis(20));
            }
            Ok(thread_name())
        });
        let client = client(&running);
        assert_eq!(client.request("long").unwrap(), b"falco connection");
        for _ in 0..5 {
            assert_eq!(client.request("long").unwrap(), b"falco worker");
        }
        assert_eq!(client.request("short").unwrap(), b"falco worker");
        let again = (0..20).any(|_| client.request("short").unwrap() == b"falco connection");
        assert!(again);
        running.stop();
    });
}

#[test]
fn a_handler_that_takes_long_delays_nothing_of_its_connection() {
    bounded(|| {
        let (stuck, handler) = Stuck::new();
        let running = Running::start(server(), handler);
        let client = client(&running);
        let waiting = stuck.hold(&client);
        let start = Instant::now();
        client.ping().unwrap();
        let name = client.request("name").unwrap();
        assert!(start.elapsed() < GOES_ON, "{:?}", start.elapsed());
        assert_eq!(name, b"falco worker", "the first one has not ended");
        let freed = Instant::now();
        stuck.free();
        assert_eq!(waiting.join().unwrap().unwrap(), b"falco connection");
        assert!(freed.elapsed() < GOES_ON, "{:?}", freed.elapsed());
        let stats = running.stop().stats;
        assert_eq!((stats.requests, stats.answers, stats.cancelled), (2, 2, 0));
    });
}

#[test]
fn a_handler_learns_that_its_request_was_cancelled() {
    bounded(|| {
        let (stuck, handler) = Stuck::new();
        let running = Running::start(server(), handler);
        let client = client(&running);
        let own = client.clone();
        let limited = thread::spawn(move || own.request_within("stuck", millis(50)));
        until(|| stuck.cancelled.load(Ordering::SeqCst));
        limited.join().unwrap().unwrap_err();
        assert!(client.request("name").is_ok(), "the connection goes on");
        stuck.free();
        // An answer is sent although its request was cancelled.
        assert_eq!(running.stop().stats.answers, 2);
    });
}

#[test]
fn a_shutdown_answers_what_runs_on_the_thread_of_a_connection() {
    bounded(|| {
        let (stuck, handler) = Stuck::new();
        let running = Running::start(server(), handler);
        let client = client(&running);
        let waiting = stuck.hold(&client);
        running.handle.shutdown();
        let late = client.request_within("name", millis(200));
        assert!(late.is_err(), "the connection drains");
        stuck.free();
        assert_eq!(waiting.join().unwrap().unwrap(), b"falco connection");
        let report = running.serving.join().unwrap();
        assert_eq!((report.stats.answers, report.cut_requests), (1, 0));
    });
}

#[test]
fn a_shutdown_and_a_revoked_key_cut_a_connection_whose_thread_runs_a_handler() {
    for revoke in [false, true] {
        bounded(move || {
            let (stuck, handler) = Stuck::new();
            let running = Running::start(server(), handler);
            let client = Client::builder(key()).fail_fast(true).connect(running.address).unwrap();
            let waiting = stuck.hold(&client);
            let start = Instant::now();
            if revoke {
                running.handle.revoke_key(key().id());
            } else {
                running.handle.shutdown_within(millis(1));
            }
            until(|| running.handle.stats().connections == 0);
            waiting.join().unwrap().unwrap_err();
            until(|| stuck.cancelled.load(Ordering::SeqCst));
            running.handle.shutdown();
            let report = running.serving.join().unwrap();
            assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
            assert_eq!((report.stats.requests, report.stats.answers), (1, 0));
            stuck.free();
        });
    }
}

#[test]
fn a_handler_that_panics_fails_its_own_request_only() {
    bounded(|| {
        let running = Running::start(server(), |request: Request| {
            if request.body() == b"late" {
                thread::sleep(millis(20));
            }
            assert_eq!(request.body(), b"name", "the test wants this panic");
            Ok(thread_name())
        });
        let client = client(&running);
        for body in ["at once", "at once", "late", "at once"] {
            let failed = client.request(body).unwrap_err();
            let failed = matches!(failed, Error::Request(RequestError::Refused(Refusal::Failed)));
            assert!(failed, "{body}");
        }
        assert!(client.request("name").is_ok());
        let stats = running.stop().stats;
        assert_eq!((stats.established, stats.failed, stats.answers), (1, 4, 1));
    });
}

#[test]
fn no_more_handlers_run_at_once_than_there_are_workers() {
    const WORKERS: usize = 3;
    bounded(|| {
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let own = (Arc::clone(&now), Arc::clone(&most));
        let names = Arc::<Mutex<Vec<Vec<u8>>>>::default();
        let own_names = Arc::clone(&names);
        let running = Running::start(server().workers(WORKERS), move |_| {
            let running = own.0.fetch_add(1, Ordering::SeqCst) + 1;
            own.1.fetch_max(running, Ordering::SeqCst);
            own_names.lock().unwrap().push(thread_name());
            thread::sleep(millis(1));
            own.0.fetch_sub(1, Ordering::SeqCst);
            Ok(Vec::new())
        });
        let address = running.address;
        // New connections, whose first handlers run on their threads if there is a place.
        let ends = at_once(8, move || {
            for _ in 0..20 {
                let client = Client::builder(key()).connect(address).unwrap();
                for _ in 0..3 {
                    client.request("x").unwrap();
                }
            }
        });
        assert_eq!(ends.len(), 8);
        assert_eq!(most.load(Ordering::SeqCst), WORKERS);
        let names = names.lock().unwrap();
        for name in ["falco connection", "falco worker"] {
            assert!(names.iter().any(|own| own == name.as_bytes()), "none on a {name}");
        }
        assert_eq!(running.stop().stats.answers, 8 * 20 * 3);
    });
}

#[test]
fn handlers_that_wait_for_each_other_do_not_stop_each_other() {
    const WORKERS: usize = 4;
    bounded(|| {
        for shared in [false, true] {
            let barrier = Arc::new(Barrier::new(WORKERS));
            let running = Running::start(server().workers(WORKERS), move |_| {
                barrier.wait();
                Ok(Vec::new())
            });
            let (address, one) = (running.address, client(&running));
            for _ in 0..5 {
                let one = one.clone();
                at_once(WORKERS, move || {
                    let own = (!shared).then(|| Client::builder(key()).connect(address).unwrap());
                    own.as_ref().unwrap_or(&one).request("x").unwrap();
                });
            }
            assert_eq!(running.stop().stats.busy, 0);
        }
    });
}

#[test]
fn a_worker_takes_the_place_of_a_handler_that_has_ended() {
    bounded(|| {
        let (stuck, handler) = Stuck::new();
        let running = Running::start(server().workers(1), handler);
        let (first, second) = (client(&running), client(&running));
        // The only place is that of a handler on the thread of a connection.
        let waiting = stuck.hold(&first);
        let (sent, answered) = mpsc::channel();
        let own = second.clone();
        thread::spawn(move || sent.send(own.request("name").unwrap()));
        assert!(answered.recv_timeout(millis(100)).is_err(), "no place is free");
        second.ping().unwrap();
        stuck.free();
        assert_eq!(answered.recv().unwrap(), b"falco worker");
        assert_eq!(waiting.join().unwrap().unwrap(), b"falco connection");
        running.stop();
    });
}
