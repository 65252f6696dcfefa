//! Many requests at once over one connection on the noise wire. Each receives its own answer when
//! its handler returns, and does not delay the others.

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Instant;

use common::{Running, bounded, echo, key, lifetime, millis};
use falco_std::{Client, Error, Fate, Refusal, Request, RequestError, Server, Settings};

const SIZES: [usize; 7] = [0, 1, 63, 1_000, 16_384, 65_000, 70_000];

/// A body that differs for each thread and round.
fn body(thread: usize, round: usize, length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| u8::try_from((at * 31 + thread * 17 + round * 7) % 251).expect("it is below 251"))
        .collect()
}

fn noise() -> Running {
    Running::start(Server::builder(key()), echo)
}

fn connect(server: &Running) -> Client {
    Client::builder(key())
        .connect(server.address)
        .expect("the server accepts it")
}

#[test]
fn many_threads_share_one_connection_and_each_receives_its_own_answer() {
    bounded(|| {
        let server = noise();
        let client = Arc::new(connect(&server));
        let threads: Vec<_> = (0..8)
            .map(|number| {
                let client = Arc::clone(&client);
                thread::spawn(move || {
                    for (round, own) in SIZES.iter().enumerate() {
                        // One of them is large.
                        let length = if (number, round) == (1, 3) { 4 << 20 } else { *own };
                        let sent = body(number, round, length);
                        let answer = client.request(&sent).expect("an answer");
                        assert!(answer == sent, "thread {number}, round {round}, {length} bytes");
                    }
                    for round in 0..200 {
                        let text = format!("thread {number}, round {round}");
                        assert_eq!(client.request(&text).expect("an answer"), text.as_bytes());
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("each thread has its own answers");
        }
        assert!(client.ping().expect("it lives").is_some());
        drop(client);
        let report = server.stop();
        assert_eq!(
            (report.stats.accepted, report.stats.established, report.stats.failed),
            (1, 1, 0)
        );
    });
}

#[test]
fn a_slow_handler_delays_no_other_request_of_its_connection() {
    bounded(|| {
        let (open, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let server = Running::start(Server::builder(key()), move |request: Request| {
            if request.body() == b"slow" {
                gate.lock().expect("one slow request").recv()?;
            }
            echo(request)
        });
        let client = Arc::new(connect(&server));
        let own = Arc::clone(&client);
        let slow = thread::spawn(move || own.request("slow"));
        thread::sleep(millis(50));
        for round in 0..50 {
            assert_eq!(
                client.request(format!("{round}")).expect("an answer"),
                format!("{round}").as_bytes()
            );
        }
        assert!(!slow.is_finished(), "its handler has not been let go");
        open.send(()).expect("the handler waits");
        assert_eq!(slow.join().expect("it does not panic").expect("an answer"), b"slow");
        assert_eq!(server.stop().stats.accepted, 1);
    });
}

/// Over a Unix socket, which has smaller buffers in the kernel than TCP. What is in them already
/// cannot be overtaken.
#[cfg(unix)]
#[test]
fn a_small_answer_overtakes_a_large_one() {
    /// Takes some hundreds of milliseconds, so that a thread that waits some tens for a core does
    /// not change the result.
    const LARGE: usize = 32 << 20;

    bounded(|| {
        let (near, far) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        let settings = Settings::new().with_max_message(u32::try_from(LARGE).expect("it fits"));
        let server = Server::builder(key()).settings(settings).unbound();
        let server = server.expect("there is entropy");
        let serving = thread::spawn(move || {
            server.serve_connection(far, |request: Request| {
                if request.body() == b"much" {
                    return Ok(body(1, 1, LARGE));
                }
                echo(request)
            })
        });
        let client = Client::builder(key()).settings(settings).over(near);
        let client = Arc::new(client.expect("the server accepts it"));
        // First the request is large, then the answer.
        for sent in [None, Some(b"much".to_vec())] {
            let own = Arc::clone(&client);
            let large = body(1, 1, LARGE);
            let (sent, started) = (sent.unwrap_or_else(|| large.clone()), Instant::now());
            let asking = thread::spawn(move || {
                let answer = own.request(sent).expect("an answer");
                (answer, started.elapsed())
            });
            let (mut overtook, mut worst) = (0, Duration::ZERO);
            while !asking.is_finished() {
                let start = Instant::now();
                assert_eq!(client.request("small").expect("an answer"), b"small");
                worst = worst.max(start.elapsed());
                overtook += usize::from(!asking.is_finished());
            }
            let (answer, took) = asking.join().expect("it does not panic");
            assert!(answer == large);
            println!("{LARGE} bytes took {took:?}; {overtook} small ones meanwhile, the slowest {worst:?}");
            assert!(
                overtook >= 8,
                "{overtook} small answers while the large one took {took:?}"
            );
            assert!(
                worst < took / 3,
                "no small one waits for the large one: {worst:?} of {took:?}"
            );
        }
        drop(client);
        let _ = serving.join().expect("it does not panic");
    });
}

#[test]
fn a_timeout_cancels_and_the_connection_goes_on() {
    bounded(|| {
        let (told, seen) = mpsc::channel();
        let told = Mutex::new(told);
        let server = Running::start(Server::builder(key()), move |request: Request| {
            if request.body() == b"slow" {
                let start = Instant::now();
                while !request.is_cancelled() && start.elapsed() < Duration::from_secs(10) {
                    thread::sleep(millis(5));
                }
                let _ = told.lock().expect("it does not panic").send(request.is_cancelled());
            }
            echo(request)
        });
        let client = Client::builder(key())
            .request_timeout(Some(millis(200)))
            .connect(server.address)
            .expect("the server accepts it");
        assert_eq!(client.request("quick").expect("an answer"), b"quick");
        let start = Instant::now();
        let error = client.request("slow").expect_err("it is too slow");
        assert!(
            matches!(
                error,
                Error::TimedOut {
                    fate: Fate::MaybeProcessed,
                    ..
                }
            ),
            "{error:?}"
        );
        assert!(start.elapsed() < millis(1_000));
        let cancelled = seen.recv_timeout(Duration::from_secs(5));
        assert_eq!(cancelled, Ok(true), "the handler is told");
        for _ in 0..20 {
            assert_eq!(client.request("quick again").expect("an answer"), b"quick again");
        }
        assert_eq!(server.stop().stats.accepted, 1, "on the same connection");
    });
}

#[test]
fn a_request_cancelled_before_its_handler_starts_is_not_handled() {
    bounded(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&ran);
        let server = Running::start(Server::builder(key()).workers(1), move |request: Request| {
            if request.body() == b"slow" {
                thread::sleep(millis(600));
            } else {
                counter.fetch_add(1, Ordering::SeqCst);
            }
            echo(request)
        });
        let patient = Arc::new(connect(&server));
        let own = Arc::clone(&patient);
        let slow = thread::spawn(move || own.request("slow"));
        thread::sleep(millis(100));
        let hasty = Client::builder(key())
            .request_timeout(Some(millis(150)))
            .connect(server.address)
            .expect("the server accepts it");
        hasty.request("waits behind it").expect_err("the one worker is busy");
        // The next request on the same connection is handled.
        while hasty.request("again").is_err() {}
        assert_eq!(slow.join().expect("it does not panic").expect("an answer"), b"slow");
        assert_eq!(patient.request("next").expect("an answer"), b"next");
        assert_eq!(ran.load(Ordering::SeqCst), 2, "only those ran that were waited for");
        server.stop();
    });
}

#[test]
fn a_failed_handler_fails_its_own_request_only() {
    bounded(|| {
        let server = Running::start(Server::builder(key()).workers(2), |request: Request| {
            match request.body() {
                b"fail" => Err("as told".into()),
                b"panic" => panic!("as told; the test wants this panic"),
                _ => echo(request),
            }
        });
        let client = connect(&server);
        for told in ["fail", "panic"] {
            let error = client.request(told).expect_err("the handler fails");
            assert!(
                matches!(error, Error::Request(RequestError::Refused(Refusal::Failed))),
                "{told}: {error:?}"
            );
            assert_eq!(error.fate(), Fate::MaybeProcessed);
            assert_eq!(client.request("after").expect("an answer"), b"after");
        }
        let report = server.stop();
        assert_eq!((report.stats.accepted, report.stats.failed), (1, 2));
    });
}

#[test]
fn a_request_over_the_servers_limit_is_refused_by_the_client_with_both_numbers() {
    bounded(|| {
        let ran = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&ran);
        let settings = Settings::new()
            .with_max_message(1_024)
            .with_max_record(256)
            .expect("it is in range");
        let server = Running::start(Server::builder(key()).settings(settings), move |request: Request| {
            counter.fetch_add(1, Ordering::SeqCst);
            echo(request)
        });
        let client = connect(&server);
        assert_eq!(client.request(body(1, 1, 1_024)).expect("an answer"), body(1, 1, 1_024));
        let error = client.request(body(1, 1, 1_025)).expect_err("it is over the limit");
        assert!(
            matches!(
                error,
                Error::Request(RequestError::TooLarge {
                    length: 1_025,
                    limit: 1_024
                })
            ),
            "{error:?}"
        );
        assert_eq!(error.fate(), Fate::NotProcessed);
        assert_eq!(client.request("after it").expect("an answer"), b"after it");
        assert_eq!(ran.load(Ordering::SeqCst), 2);
        assert_eq!(server.stop().stats.accepted, 1, "the connection lived on");
    });
}

#[test]
fn an_idle_client_stays_connected_and_measures_the_round_trip() {
    bounded(|| {
        let builder = Server::builder(key()).settings(lifetime(millis(1_000)));
        let server = Running::start(builder, echo);
        let client = connect(&server);
        thread::sleep(millis(2_500));
        let trip = client.ping().expect("it lives").expect("the noise wire answers pings");
        assert!(trip < millis(500), "{trip:?}");
        assert_eq!(client.request("still there").expect("an answer"), b"still there");
        client.close();
        let report = server.stop();
        assert_eq!((report.stats.accepted, report.cut_connections), (1, 0));
    });
}

#[test]
fn a_handler_may_take_longer_than_the_lifetime() {
    bounded(|| {
        let settings = lifetime(millis(1_000));
        let server = Running::start(Server::builder(key()).settings(settings), |request: Request| {
            thread::sleep(millis(2_200));
            echo(request)
        });
        let client = Client::builder(key())
            .settings(settings)
            .connect(server.address)
            .expect("the server accepts it");
        assert_eq!(client.request("slow").expect("pings keep it"), b"slow");
        assert_eq!(server.stop().stats.accepted, 1);
    });
}

#[test]
fn requests_beyond_the_in_flight_limit_wait() {
    bounded(|| {
        let most = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
        let own = Arc::clone(&most);
        let settings = Settings::new().with_max_in_flight(2).expect("it is in range");
        let server = Running::start(Server::builder(key()).settings(settings), move |request: Request| {
            own.1
                .fetch_max(own.0.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(millis(20));
            own.0.fetch_sub(1, Ordering::SeqCst);
            echo(request)
        });
        let client = Arc::new(connect(&server));
        let threads: Vec<_> = (0..16)
            .map(|number| {
                let client = Arc::clone(&client);
                thread::spawn(move || assert!(client.request(format!("{number}")).is_ok()))
            })
            .collect();
        for thread in threads {
            thread.join().expect("all have their answers");
        }
        assert_eq!(most.1.load(Ordering::SeqCst), 2);
        server.stop();
    });
}

#[test]
fn held_bytes_over_all_connections_are_limited() {
    bounded(|| {
        // The first handler holds its request until the test releases it.
        let (running, released) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (own_running, own_released) = (Arc::clone(&running), Arc::clone(&released));
        let server = Running::start(Server::builder(key()).max_held(100_000), move |request: Request| {
            own_running.fetch_add(1, Ordering::SeqCst);
            while own_released.load(Ordering::SeqCst) == 0 {
                thread::sleep(millis(2));
            }
            echo(request)
        });
        let (one, two) = (Arc::new(connect(&server)), connect(&server));
        let own = Arc::clone(&one);
        let first = thread::spawn(move || own.request(body(1, 1, 80_000)));
        while running.load(Ordering::SeqCst) == 0 {
            thread::sleep(millis(2));
        }
        for length in [30_000, 90_000] {
            let error = two.request(body(2, 2, length)).expect_err("there is no room");
            assert!(
                matches!(error, Error::Request(RequestError::Refused(Refusal::Busy))),
                "{error:?}"
            );
            assert_eq!(error.fate(), Fate::NotProcessed);
        }
        released.store(1, Ordering::SeqCst);
        assert!(first.join().expect("it does not panic").is_ok());
        assert_eq!(
            two.request(body(2, 2, 90_000)).expect("there is room"),
            body(2, 2, 90_000)
        );
        server.stop();
    });
}

#[cfg(unix)]
#[test]
fn echo_over_unix_sockets_and_streams_that_do_not_split() {
    use std::io;
    use std::os::unix::net::UnixStream;

    use falco_std::{Blocking, ConnectionError};

    bounded(|| {
        for whole in [false, true] {
            let (near, far) = UnixStream::pair().expect("a pair of sockets");
            let server = Server::builder(key()).unbound().expect("there is entropy");
            let serving = thread::spawn(move || -> io::Result<ConnectionError> {
                if whole {
                    server.serve_connection(Blocking(far), echo)
                } else {
                    server.serve_connection(far, echo)
                }
            });
            let builder = Client::builder(key());
            let client = if whole {
                builder.over(Blocking(near))
            } else {
                builder.over(near)
            };
            let client = client.expect("the server accepts it");
            for length in SIZES {
                assert!(client.request(body(0, 0, length)).expect("an answer") == body(0, 0, length));
            }
            assert!(client.ping().expect("it lives").is_some());
            if whole {
                drop(client);
                let ended = serving
                    .join()
                    .expect("it does not panic")
                    .expect("the stream is in order");
                assert_eq!(ended, ConnectionError::Truncated, "no CLOSE went before");
            } else {
                client.close();
                let ended = serving
                    .join()
                    .expect("it does not panic")
                    .expect("the stream is in order");
                assert_eq!(ended, ConnectionError::Closed);
            }
        }
    });
}
