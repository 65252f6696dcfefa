//! Requests that wait for a worker. None waits forever, or for all requests of another connection.

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Instant;

use common::{Running, at_once, bounded, echo, key, millis};
use falco_std::{Client, ClientBuilder, ConnectionError, Error, Fate, Refusal, Request, RequestError, Server};

/// Both wires. On the classic wire the connection ends in place of a refusal.
const WIRES: [bool; 2] = [false, true];

fn client(classic: bool) -> ClientBuilder {
    let builder = if classic {
        Client::classic(key())
    } else {
        Client::builder(key())
    };
    builder.request_timeout(None)
}

fn server(classic: bool) -> falco_std::ServerBuilder {
    let builder = if classic {
        Server::classic(key())
    } else {
        Server::builder(key())
    };
    builder.queue_timeout(millis(500))
}

fn is_busy(error: &Error, classic: bool) -> bool {
    if classic {
        matches!(
            error,
            Error::Connection {
                end: ConnectionError::ClosedByPeer,
                ..
            }
        )
    } else {
        matches!(error, Error::Request(RequestError::Refused(Refusal::Busy))) && error.fate() == Fate::NotProcessed
    }
}

#[test]
fn handlers_that_call_their_own_server_do_not_stop_it() {
    for classic in WIRES {
        bounded(move || {
            let inner = Arc::new(OnceLock::<Client>::new());
            let own = Arc::clone(&inner);
            let outer = AtomicUsize::new(0);
            let running = Running::start(server(classic).workers(2), move |request: Request| {
                if request.body() == b"outer" {
                    // Both workers are taken before a handler calls the server.
                    outer.fetch_add(1, Ordering::SeqCst);
                    while outer.load(Ordering::SeqCst) < 2 {
                        thread::sleep(millis(1));
                    }
                    return Ok(own.get().expect("it is connected").request("inner")?);
                }
                echo(request)
            });
            let connected = client(classic).connect(running.address).expect("the server accepts it");
            inner.set(connected).expect("it is the first");
            let address = running.address;
            let start = Instant::now();
            let ends = at_once(6, move || {
                let client = client(classic).connect(address).expect("the server accepts it");
                client.request("outer").is_err()
            });
            assert!(ends.iter().any(|(failed, _)| *failed), "two workers are too few");
            assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
            let fresh = client(classic).connect(address).expect("the server accepts it");
            assert_eq!(fresh.request("plain").expect("the server goes on"), b"plain");
            drop(fresh);
            let report = running.stop();
            assert!(report.stats.busy > 0 && report.cut_connections == 0, "{report:?}");
        });
    }
}

/// Handlers of "stuck" run until this is dropped.
struct Stuck {
    running: Arc<AtomicUsize>,
    _free: mpsc::Sender<()>,
}

fn stuck() -> (
    Stuck,
    impl Fn(Request) -> Result<Vec<u8>, falco_std::HandlerError> + Send + Sync + 'static,
) {
    let (free, wait) = mpsc::channel::<()>();
    let (wait, running) = (Mutex::new(wait), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&running);
    let handler = move |request: Request| {
        if request.body() == b"stuck" {
            counter.fetch_add(1, Ordering::SeqCst);
            let _ = wait.lock().expect("it does not panic").recv();
        }
        echo(request)
    };
    let stuck = Stuck { running, _free: free };
    (stuck, handler)
}

impl Stuck {
    fn wait_until_running(&self, handlers: usize) {
        while self.running.load(Ordering::SeqCst) < handlers {
            thread::sleep(millis(2));
        }
    }
}

#[test]
fn without_a_free_worker_requests_are_refused_as_busy_in_time() {
    for classic in WIRES {
        bounded(move || {
            let (stuck, handler) = stuck();
            // Longer than the second after which a connection frees its buffers.
            let builder = server(classic).workers(1).queue_timeout(millis(1_200));
            let running = Running::start(builder, handler);
            let address = running.address;
            // The connection of the handler that is stuck has more requests.
            let first = Arc::new(client(classic).connect(address).expect("the server accepts it"));
            let own = Arc::clone(&first);
            let for_ever = thread::spawn(move || own.request("stuck"));
            stuck.wait_until_running(1);
            let mut connections: Vec<_> = (0..6)
                .map(|_| Arc::new(client(classic).connect(address).expect("the server accepts it")))
                .collect();
            if !classic {
                // On the classic wire requests go one after another.
                connections.push(first);
            }
            let threads: Vec<_> = connections
                .iter()
                .map(|client| {
                    let client = Arc::clone(client);
                    thread::spawn(move || at_once(3, move || client.request("waits").expect_err("no worker is free")))
                })
                .collect();
            for thread in threads {
                let ends = thread.join().expect("it does not panic");
                for (error, took) in &ends {
                    assert!(is_busy(error, classic), "{error:?}");
                    // On the classic wire each waits for the one before it.
                    let most = if classic { 10_000 } else { 4_000 };
                    assert!(*took >= millis(1_150) && *took < millis(most), "{ends:?}");
                }
            }
            running.handle.shutdown_within(millis(100));
            let report = running.serving.join().expect("serve does not panic");
            assert!(report.stats.busy >= 18, "{report:?}");
            drop(stuck);
            let _ = for_ever.join().expect("it does not panic");
        });
    }
}

#[cfg(unix)]
#[test]
fn a_request_over_a_stream_that_does_not_split_is_refused_as_busy_in_time() {
    use std::os::unix::net::UnixStream;

    use falco_std::Blocking;

    for classic in WIRES {
        bounded(move || {
            let (stuck, handler) = stuck();
            let handler = Arc::new(handler);
            let server = Arc::new(server(classic).workers(1).unbound().expect("there is entropy"));
            let serve = |far| {
                let (server, handler) = (Arc::clone(&server), Arc::clone(&handler));
                thread::spawn(move || server.serve_connection(Blocking(far), move |request| handler(request)))
            };
            let (near, far) = UnixStream::pair().expect("a pair of sockets");
            serve(far);
            let first = client(classic).over(near).expect("the server accepts it");
            thread::spawn(move || first.request("stuck"));
            stuck.wait_until_running(1);
            let (near, far) = UnixStream::pair().expect("a pair of sockets");
            let serving = serve(far);
            let second = client(classic).over(near).expect("the server accepts it");
            let start = Instant::now();
            let error = second.request("waits").expect_err("no worker is free");
            assert!(is_busy(&error, classic), "{error:?}");
            let took = start.elapsed();
            assert!(took >= millis(450) && took < millis(3_000), "{took:?}");
            if !classic {
                // The connection goes on.
                let error = second.request("waits").expect_err("no worker is free");
                assert!(is_busy(&error, classic), "{error:?}");
            }
            drop(second);
            assert!(serving.join().expect("it does not panic").is_ok());
        });
    }
}

#[test]
fn connections_take_turns() {
    bounded(|| {
        let (greedy_done, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counter, own_seen) = (Arc::clone(&greedy_done), Arc::clone(&seen));
        let running = Running::start(
            server(false).workers(1).queue_timeout(Duration::from_secs(20)),
            move |request| {
                if request.body() == b"modest" {
                    own_seen.store(counter.load(Ordering::SeqCst), Ordering::SeqCst);
                } else {
                    thread::sleep(millis(5));
                    counter.fetch_add(1, Ordering::SeqCst);
                }
                echo(request)
            },
        );
        let greedy = Arc::new(client(false).connect(running.address).expect("the server accepts it"));
        let modest = client(false).connect(running.address).expect("the server accepts it");
        assert_eq!(modest.request("warm").expect("an answer"), b"warm");
        let asking = thread::spawn(move || at_once(200, move || greedy.request("greedy").is_ok()));
        // Also on a slow machine, most requests of the one connection are in the queue by then.
        while greedy_done.load(Ordering::SeqCst) < 20 {
            thread::sleep(millis(1));
        }
        let before = greedy_done.load(Ordering::SeqCst);
        assert_eq!(modest.request("modest").expect("an answer"), b"modest");
        assert!(
            asking
                .join()
                .expect("it does not panic")
                .iter()
                .all(|(answered, _)| *answered)
        );
        let waited = seen.load(Ordering::SeqCst) - before;
        println!("{waited} of 200 went before the one of another connection");
        assert!(waited < 60, "{waited} went before it");
        assert_eq!(running.stop().stats.busy, 0);
    });
}

/// Waits until a client has so many requests in flight and its server has received them all: the
/// server answers a ping after it has received what was sent before.
fn wait_until_received(client: &Client, requests: usize) {
    while client.stats().outstanding < u64::try_from(requests).expect("it is small") {
        thread::sleep(millis(1));
    }
    // The last of them may be counted and not written yet.
    for _ in 0..2 {
        thread::sleep(millis(20));
        client.ping().expect("the server answers");
    }
}

#[test]
fn a_thousand_requests_of_one_connection_delay_another_connection_by_one() {
    const MANY: usize = 1_000;
    bounded(|| {
        let (greedy_done, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (counter, own_seen) = (Arc::clone(&greedy_done), Arc::clone(&seen));
        let (begun, has_begun) = mpsc::channel::<()>();
        let (open, gate) = mpsc::channel::<()>();
        let gate = Mutex::new(gate);
        let builder = server(false).workers(1).queue_timeout(Duration::from_secs(20));
        let running = Running::start(builder, move |request| {
            match request.body() {
                // The only worker waits until all requests are in the queue.
                b"first" => {
                    begun.send(()).expect("the test waits");
                    let _ = gate.lock().expect("it does not panic").recv();
                }
                b"modest" => own_seen.store(counter.load(Ordering::SeqCst), Ordering::SeqCst),
                _ => {
                    thread::sleep(millis(2));
                    counter.fetch_add(1, Ordering::SeqCst);
                }
            }
            echo(request)
        });
        let connect = || client(false).connect(running.address).expect("the server accepts it");
        let (first, greedy, modest) = (connect(), connect(), connect());
        let waiting = thread::spawn(move || first.request("first").is_ok());
        has_begun.recv().expect("the handler begins");
        let own = greedy.clone();
        let greedy_requests = thread::spawn(move || at_once(MANY, move || own.request("greedy").is_ok()));
        wait_until_received(&greedy, MANY);
        let own = modest.clone();
        let modest_request = thread::spawn(move || own.request("modest").expect("an answer"));
        wait_until_received(&modest, 1);
        let start = Instant::now();
        drop(open);
        modest_request.join().expect("it does not panic");
        let (took, before) = (start.elapsed(), seen.load(Ordering::SeqCst));
        println!("{before} of {MANY} requests were handled before that of another connection, in {took:?}");
        assert!(before <= 2, "{before}");
        let answered = greedy_requests.join().expect("it does not panic");
        assert!(answered.iter().all(|(answered, _)| *answered));
        assert!(waiting.join().expect("it does not panic"));
        assert_eq!(running.stop().stats.busy, 0);
    });
}
