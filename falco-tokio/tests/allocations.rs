//! How often a client and a server allocate for each message in the steady state. A test binary of
//! its own, because it replaces the allocator with one that counts.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

use core::net::SocketAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;

use allocation_counter::measure;
use falco_tokio::{Client, Key, Request, Server, StreamRequest};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Notify;

/// The body of a request whose answer is a stream without an end.
const STREAM: &str = "subscribe";
/// Bytes of a body.
const SIZE: usize = 64;
/// Requests before the measurement.
const WARM_UP: u64 = 256;
/// Requests that are measured.
const MEASURED: u64 = 2048;
/// Requests in flight at once.
const DEPTH: u64 = 128;
/// For each message, a client allocates the body of the answer, and a server that of the request.
const EACH: (u64, u64) = (1, 1);
/// A client keeps its tables of requests until a caller has its answer and sends no other request.
/// A server keeps those of few requests at once only while it has requests. So for requests one
/// after another, it also allocates two tables for each, and the future of the handler.
const SEQUENTIAL: (u64, u64) = (1, 4);
/// How much more there may be for each hundred requests one after another: the sending task.
const SLACK: (u64, u64) = (1, 1);
/// The same for requests in flight at once, for which both ends keep their tables. At the client,
/// each caller has a task.
const SHARED: (u64, u64) = (20, 5);

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn key() -> Key {
    Key::from_bytes([1; 32]).unwrap()
}

/// A server on a thread of its own, which reports how often that thread has allocated from one
/// request to another.
fn serve() -> (SocketAddr, mpsc::Receiver<u64>) {
    let (address, at) = mpsc::channel();
    let (count, counted) = mpsc::channel();
    thread::spawn(move || {
        let runtime = runtime();
        let (seen, reached) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
        runtime.block_on(async {
            let server = Server::builder(key()).bind("127.0.0.1:0").await.unwrap();
            address.send(server.local_addr().unwrap()).unwrap();
            let reached = Arc::clone(&reached);
            tokio::spawn(server.serve(move |request: Request| {
                let number = seen.fetch_add(1, Ordering::Relaxed) + 1;
                if number == WARM_UP || number == WARM_UP + MEASURED {
                    reached.notify_one();
                }
                async move { Ok(request.into_body()) }
            }));
        });
        runtime.block_on(reached.notified());
        let allocated = measure(|| runtime.block_on(reached.notified()));
        count.send(allocated.count_total).unwrap();
        // The last requests are answered until the test ends.
        runtime.block_on(core::future::pending::<()>());
    });
    (at.recv().unwrap(), counted)
}

/// A server on a thread of its own that echoes, and answers [`STREAM`] without an end.
fn serve_streams() -> SocketAddr {
    let (address, at) = mpsc::channel();
    thread::spawn(move || {
        runtime().block_on(async {
            let server = Server::builder(key()).bind("127.0.0.1:0").await.unwrap();
            address.send(server.local_addr().unwrap()).unwrap();
            let answers = |mut request: StreamRequest| async move {
                let first = request.body.next().await.unwrap()?;
                if first == STREAM {
                    request.answer.send("begun").await?;
                    core::future::pending::<()>().await;
                }
                request.answer.finish_with(first).await?;
                Ok(())
            };
            server.serve_all_streams(answers).await.unwrap();
        });
    });
    at.recv().unwrap()
}

/// Sends so many requests, `depth` at a time.
async fn send(client: &Client, count: u64, depth: u64) {
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..depth {
        let client = client.clone();
        callers.spawn(async move {
            let body = bytes::Bytes::from_static(&[7; SIZE]);
            for _ in 0..count / depth {
                assert_eq!(client.request(body.clone()).await.unwrap(), body);
            }
        });
    }
    while let Some(sent) = callers.join_next().await {
        sent.unwrap();
    }
}

/// How often the client and the server allocate for `MEASURED` requests.
fn allocations(depth: u64) -> (u64, u64) {
    let (address, server) = serve();
    let runtime = runtime();
    let client = runtime.block_on(Client::builder(key()).connect(address)).unwrap();
    runtime.block_on(send(&client, WARM_UP, depth));
    let sent = measure(|| runtime.block_on(send(&client, MEASURED, depth)));
    let counted = (sent.count_total, server.recv().unwrap());
    println!("{depth} in flight, {MEASURED} requests: client and server allocate {counted:?} times");
    counted
}

/// The measured numbers may be higher by so many for each hundred requests.
fn check(depth: u64, each: (u64, u64), percent: (u64, u64)) {
    let counted = allocations(depth);
    let in_range = |count, each, percent| {
        let more = MEASURED * percent / 100;
        (each * (MEASURED - 8)..=each * MEASURED + more).contains(&count)
    };
    assert!(in_range(counted.0, each.0, percent.0), "the client: {counted:?}");
    assert!(in_range(counted.1, each.1, percent.1), "the server: {counted:?}");
}

#[test]
fn requests_one_after_another_allocate_no_more_than_is_known() {
    check(1, SEQUENTIAL, SLACK);
}

#[test]
fn requests_in_flight_at_once_allocate_a_body_at_either_end() {
    check(DEPTH, EACH, SHARED);
}

/// Bytes that a client allocates for a burst of requests, and keeps.
fn kept_after_a_burst(runtime: &Runtime, client: &Client, depth: u64) -> i64 {
    let burst = measure(|| {
        runtime.block_on(async {
            send(client, depth, depth).await;
            // The task of the connection runs once more, after the last caller.
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        });
    });
    burst.bytes_current
}

#[test]
fn a_client_keeps_no_tables_when_all_callers_have_their_answers() {
    let (address, _server) = serve();
    let runtime = runtime();
    let client = runtime.block_on(Client::builder(key()).connect(address)).unwrap();
    runtime.block_on(send(&client, 1, 1));
    // The tables for 128 requests are many times as large.
    assert!(kept_after_a_burst(&runtime, &client, DEPTH) < 4096);
}

#[test]
fn a_long_stream_does_not_keep_the_tables_of_a_burst() {
    let address = serve_streams();
    for is_open in [true, false] {
        let runtime = runtime();
        let client = runtime.block_on(Client::builder(key()).connect(address)).unwrap();
        runtime.block_on(send(&client, 1, 1));
        let stream = runtime.block_on(async {
            if is_open {
                let mut call = client.open(STREAM).await.unwrap();
                assert_eq!(call.next().await.unwrap().unwrap(), "begun");
                (Some(call), None)
            } else {
                let mut answer = client.request_stream(STREAM).await.unwrap();
                assert_eq!(answer.next().await.unwrap().unwrap(), "begun");
                (None, Some(answer))
            }
        });
        // Of some 7 KiB that the runtime keeps, and more than 300 KiB of tables.
        let kept = kept_after_a_burst(&runtime, &client, 1_000);
        assert!(kept < 16 << 10, "{kept}, {is_open}");
        drop(stream);
    }
}

/// A client and a server on one thread.
fn pair(runtime: &Runtime) -> Client {
    runtime.block_on(async {
        let server = Server::builder(key()).bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        tokio::spawn(server.serve(|request: Request| async move { Ok(request.into_body()) }));
        let client = Client::builder(key()).connect(address).await.unwrap();
        send(&client, 1, 1).await;
        client
    })
}

#[test]
fn both_ends_keep_no_tables_after_a_ping_on_an_idle_connection() {
    let runtime = runtime();
    let client = pair(&runtime);
    let burst = measure(|| {
        runtime.block_on(async {
            send(&client, DEPTH, DEPTH).await;
            for _ in 0..2 {
                client.ping().await.unwrap();
            }
        });
    });
    // The tables for 128 requests are many times as large.
    assert!(burst.bytes_current < 4096, "{burst:?}");
}

#[test]
fn both_ends_keep_no_tables_after_many_requests_at_once() {
    let runtime = runtime();
    let client = pair(&runtime);
    // The runtime keeps memory for so many tasks.
    runtime.block_on(send(&client, 600, 600));
    for _ in 0..2 {
        runtime.block_on(client.ping()).unwrap();
    }
    let burst = measure(|| {
        runtime.block_on(async {
            send(&client, 600, 600).await;
            for _ in 0..4 {
                tokio::task::yield_now().await;
            }
        });
    });
    assert!(burst.bytes_current < 4096, "{burst:?}");
}
