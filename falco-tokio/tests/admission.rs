//! Limits on connections by source and by key, keys that are revoked, the log of a flooded server,
//! and clients that were dropped before the server proved itself.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use common::log::Log;
use common::raw::RawPeer;
use common::{Running, key};
use falco_tokio::{Client, ConnectionError, Error, Fate, Request, Server};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);

async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(SOON, waiting).await.expect("it is to happen soon");
}

/// Counts the handlers that run, which end when their futures are dropped.
struct Running1(Arc<AtomicUsize>);

impl Drop for Running1 {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test]
async fn a_revoked_key_loses_its_connections_at_once_and_a_retired_one_drains() {
    let running = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&running);
    let handler = move |request: Request| {
        counter.fetch_add(1, Ordering::SeqCst);
        let guard = Running1(Arc::clone(&counter));
        async move {
            let _guard = guard;
            if request.body() == "for ever" {
                core::future::pending::<()>().await;
            }
            Ok(request.into_body())
        }
    };
    let server = Running::start(Server::builder(key(1)).key(key(2)), handler).await;
    let (leaked, other) = (server.client().await, Client::builder(key(2)));
    let other = other.connect(server.address).await.unwrap();
    let waiting = [&leaked, &other].map(|client| {
        let client = client.clone();
        tokio::spawn(async move { client.request("for ever").await })
    });
    until(|| running.load(Ordering::SeqCst) == 2).await;

    // Draining waits for the request that has begun.
    assert!(server.handle.retire_key(key(1).id()));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(server.handle.stats().connections, 2);
    assert!(!waiting.iter().any(tokio::task::JoinHandle::is_finished));
    // Revoking does not, also after that.
    assert!(!server.handle.revoke_key(key(1).id()));
    let [cut, goes_on] = waiting;
    let error = timeout(SOON, cut).await.expect("at once").unwrap().unwrap_err();
    assert_eq!(error.fate(), Fate::MaybeProcessed, "{error}");
    until(|| running.load(Ordering::SeqCst) == 1).await;
    let stats = server.handle.stats();
    assert_eq!((stats.connections, stats.revoked), (1, 1), "{stats:?}");
    // The client knows why, and does not get in again; the other goes on.
    let refused = leaked.request("again").await.unwrap_err();
    assert!(refused.is_refused(), "{refused}");
    assert!(!goes_on.is_finished());
    assert_eq!(other.request("in spite of it").await.unwrap(), "in spite of it");

    assert!(server.handle.revoke_key(key(2).id()));
    let error = timeout(SOON, goes_on).await.expect("at once").unwrap().unwrap_err();
    assert_eq!(error.fate(), Fate::MaybeProcessed, "{error}");
    until(|| server.handle.stats().connections == 0).await;
    let report = server.stop().await;
    assert_eq!(report.stats.revoked, 2);
    assert_eq!(
        (report.cut_connections, report.cut_requests),
        (0, 0),
        "no shutdown cut them"
    );
}

/// A key that has been used for a handshake alone.
#[tokio::test]
async fn an_idle_client_of_a_revoked_key_receives_the_reason() {
    let server = Running::echo(Server::builder(key(1))).await;
    let client = server.client().await;
    assert_eq!(client.request("one").await.unwrap(), "one");
    assert!(server.handle.revoke_key(key(1).id()));
    until(|| server.handle.stats().connections == 0).await;
    let began = Instant::now();
    let error = client.request("two").await.unwrap_err();
    // Had it not received the reason, it would try again until its time limit.
    assert!(error.is_refused() && began.elapsed() < SOON, "{error}");
    assert_eq!(error.fate(), Fate::NotProcessed);
}

#[tokio::test]
async fn a_key_gets_no_more_connections_than_its_limit_and_other_keys_do() {
    let builder = Server::builder(key(1)).key(key(2)).max_connections_per_key(2);
    let server = Running::echo(builder).await;
    let (one, two) = (server.client().await, server.client().await);
    for client in [&one, &two] {
        assert_eq!(client.request("within").await.unwrap(), "within");
    }
    // The handshake itself is completed, and then the connection is closed.
    let third = Client::builder(key(1)).backoff(Duration::from_millis(1), Duration::from_millis(20));
    let third = third.connect_lazy(server.address).unwrap();
    let error = third.request("beyond").await.unwrap_err();
    assert_eq!(error.fate(), Fate::NotProcessed, "{error}");
    let stats = server.handle.stats();
    assert!(stats.over_key_limit > 0 && stats.requests == 2, "{stats:?}");
    let other = Client::builder(key(2)).connect(server.address).await.unwrap();
    assert_eq!(other.request("another key").await.unwrap(), "another key");
    assert_eq!(one.request("still here").await.unwrap(), "still here");
    // A place that is given back can be taken.
    one.close().await;
    let again = async {
        while third.request("after all").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, again).await.expect("there is a place");
    server.stop().await;
}

/// Clients of a key at its limit that do not end their streams, as many as there are places.
#[tokio::test]
async fn clients_over_the_limit_of_their_key_that_do_not_go_leave_their_places_to_others() {
    let builder = Server::builder(key(1)).key(key(2)).max_connections(10);
    let server = Running::echo(builder.max_connections_per_key(2)).await;
    let mut stubborn = Vec::new();
    for _ in 0..10 {
        stubborn.push(RawPeer::connect(server.address).await);
    }
    until(|| server.handle.stats().over_key_limit == 8).await;
    let other = Client::builder(key(2)).connect(server.address).await.unwrap();
    assert_eq!(other.request("another key").await.unwrap(), "another key");
    let stats = server.handle.stats();
    assert_eq!((stats.rejected, stats.connections), (0, 3), "{stats:?}");
    drop(stubborn);
    server.stop().await;
}

/// Connects from an address, and sends nothing.
#[cfg(target_os = "linux")]
async fn silent(from: [u8; 4], to: core::net::SocketAddr) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(core::net::SocketAddr::from((from, 0))).unwrap();
    socket.connect(to).await.unwrap()
}

/// Any address of 127.0.0.0/8 can be connected from.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_source_has_no_more_half_open_connections_than_its_limit() {
    for (prefix, expected) in [(32, 24), (24, 8)] {
        let builder = Server::builder(key(1)).max_half_open_per_source(8);
        let server = Running::echo(builder.source_prefix(prefix, 64)).await;
        let mut strangers = Vec::new();
        for number in 0..60 {
            strangers.push(silent([127, 1, 1, number % 3], server.address).await);
            // One at a time, so that each is looked at before the next.
            until(|| server.handle.stats().accepted == u64::from(number) + 1).await;
        }
        until(|| server.handle.stats().half_open <= expected).await;
        let stats = server.handle.stats();
        assert_eq!(stats.half_open, expected, "{stats:?}");
        let client = server.client().await;
        assert_eq!(client.request("from elsewhere").await.unwrap(), "from elsewhere");
        server.stop().await;
    }
}

#[tokio::test]
async fn connections_that_are_closed_at_once_do_not_fill_the_log() {
    let (log, _guard) = Log::warnings();

    let server = Running::echo(Server::builder(key(1)).max_connections(1)).await;
    let client = server.client().await;
    assert_eq!(client.request("one").await.unwrap(), "one");
    for _ in 0..200 {
        let mut stranger = TcpStream::connect(server.address).await.unwrap();
        assert_eq!(stranger.read(&mut [0]).await.unwrap_or(0), 0);
    }
    assert_eq!(server.handle.stats().rejected, 200);
    let text = log.text();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains("there is no place"), "{text}");
    drop(client);
    server.stop().await;
    let text = log.text();
    let counted = "closed a connection at once: further warnings were left out left_out=199";
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.trim_end().ends_with(counted), "{text}");
}

/// A server that is flooded drops a connection before its welcome; a client that it has never let
/// in cannot tell that from a wrong key, and tries again.
#[tokio::test]
async fn a_client_that_was_dropped_before_its_welcome_tries_again_and_all_that_wait_get_through() {
    const DROPPED: usize = 3;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder(key(1)).unbound().unwrap();
    let serving = tokio::spawn(async move {
        for _ in 0..DROPPED {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Its hello has come.
            let _ = stream.read(&mut [0; 256]).await;
        }
        let (stream, _) = listener.accept().await.unwrap();
        let echo = |request: Request| async move { Ok(request.into_body()) };
        let _ = server.serve_connection(stream, echo).await;
    });
    let builder = Client::builder(key(1)).backoff(Duration::from_millis(10), Duration::from_millis(20));
    let client = builder.connect_lazy(address).unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        waiting.spawn(async move { client.request("let me through").await });
    }
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.unwrap().unwrap(), "let me through");
    }
    assert_eq!(client.stats().attempts, 1 + u64::try_from(DROPPED).unwrap());
    client.close().await;
    serving.await.unwrap();
}

#[tokio::test]
async fn a_client_that_is_always_dropped_reports_that_nothing_was_processed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 256]).await;
        }
    });
    let builder = Client::builder(key(1)).backoff(Duration::from_millis(10), Duration::from_millis(20));
    let client = builder.connect_lazy(address).unwrap();
    let error = timeout(SOON, client.request("hello")).await.expect("soon").unwrap_err();
    let (end, fate) = (ConnectionError::Refused, Fate::NotProcessed);
    assert!(
        matches!(error, Error::Connection { end: own, fate: other } if own == end && other == fate),
        "{error:?}"
    );
    assert!(client.stats().attempts > 1);
}

/// A recording of a hello is enough for the classic wire after a restart, and a ping keeps the
/// connection. It gets no more than its part of the places.
#[tokio::test]
async fn the_classic_wire_gets_no_more_than_its_part_of_the_places() {
    let builder = Server::builder(key(1)).classic(key(2)).max_connections(8);
    let server = Running::echo(builder).await;
    let mut classic = Vec::new();
    for _ in 0..4 {
        let client = Client::classic(key(2)).connect(server.address).await.unwrap();
        assert_eq!(client.request("within").await.unwrap(), "within");
        classic.push(client);
    }
    for _ in 0..3 {
        // A refused handshake, or a reset.
        Client::classic(key(2)).connect(server.address).await.unwrap_err();
    }
    assert_eq!(server.handle.stats().over_key_limit, 3);
    let mut noise = Vec::new();
    for _ in 0..4 {
        noise.push(server.client().await);
    }
    for client in classic.iter().chain(&noise) {
        assert_eq!(client.request("served").await.unwrap(), "served");
    }
    drop(noise);
    until(|| server.handle.stats().connections == 4).await;
    // One that leaves makes room for another.
    classic.pop().unwrap().close().await;
    until(|| server.handle.stats().connections == 3).await;
    Client::classic(key(2)).connect(server.address).await.unwrap();
    server.stop().await;
}
