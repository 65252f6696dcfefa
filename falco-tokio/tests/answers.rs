//! Answers that clients do not read are bounded, and so is the memory that they take. Each test
//! runs in a process of its own, whose memory is measured.
#![cfg(target_os = "linux")]
#![allow(
    missing_docs,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

mod common;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Instant;

use common::peak::{MIB, alone, peak, reset_peak};
use common::{Running, counted, key};
use falco_core::noise::{HeapTable, NoiseClient};
use falco_core::{ClientConnection, Received, RustCrypto, Unread};
use falco_tokio::{Client, HandlerError, Request, Server, Settings};
use getrandom::SysRng;
use tokio::sync::{Barrier, Mutex};
use tokio::time::sleep;

/// Answers that the system may hold for one connection, on both sides.
const IN_SYSTEM: usize = 8;
/// MiB that the process may take besides: the allocator keeps memory for each thread.
const BESIDES: usize = 8;

/// A client that sends `requests` requests of one byte at once, and reads nothing.
fn silent(server: SocketAddr, requests: usize) -> TcpStream {
    let (now, keys) = (
        falco_core::Instant::ZERO,
        NoiseClient::<HeapTable, _>::new(key(1), &b""[..], RustCrypto).unwrap(),
    );
    let mut machine = ClientConnection::new(&keys, &Settings::new(), now, &mut SysRng).unwrap();
    let mut stream = TcpStream::connect(server).unwrap();
    let mut buffer = vec![0; 70_000];
    let hello = machine.poll_transmit(now, &mut buffer).unwrap();
    stream.write_all(&buffer[..hello]).unwrap();
    let mut welcome = [0; 64];
    stream.read_exact(&mut welcome).unwrap();
    assert!(matches!(
        machine.recv(now, Unread::new(&mut welcome, &mut 0)),
        Ok(Received::Event(_))
    ));
    let first = machine.poll_transmit(now, &mut buffer).unwrap();
    stream.write_all(&buffer[..first]).unwrap();
    let mut asked: Vec<_> = (0..requests).map(|_| machine.request(1).unwrap()).collect();
    let asked = asked.iter_mut().map(|request| (request, &b"?"[..]));
    let sealed = machine.seal(now, asked, &mut buffer).unwrap();
    stream.write_all(&buffer[..sealed]).unwrap();
    stream
}

/// Waits until no handler has started for a while.
async fn settled(started: &AtomicUsize) -> usize {
    let mut last = (started.load(Ordering::SeqCst), Instant::now());
    while last.0 == 0 || last.1.elapsed() < Duration::from_millis(500) {
        sleep(Duration::from_millis(10)).await;
        let now = started.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    last.0
}

/// Counts a handler that has started, and answers with 1 MiB.
#[expect(clippy::unnecessary_wraps, reason = "that is what a handler returns")]
fn answers(started: &AtomicUsize) -> Result<Vec<u8>, HandlerError> {
    started.fetch_add(1, Ordering::SeqCst);
    Ok(vec![7; MIB])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_a_client_that_does_not_read_are_bounded() {
    const REQUESTS: usize = 512;
    if !alone("answers_of_a_client_that_does_not_read_are_bounded") {
        return;
    }
    let settings = Settings::new().with_max_message(1 << 20).with_max_held(1 << 20);
    let started = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&started);
    let handler = move |_: Request| {
        let answer = answers(&counter);
        async move { answer }
    };
    let server = Running::start(Server::builder(key(1)).settings(settings), handler).await;
    let address = server.address;
    let before = reset_peak();
    let mut stream = tokio::task::spawn_blocking(move || silent(address, REQUESTS))
        .await
        .unwrap();
    let begun = settled(&started).await;
    let grown = peak().saturating_sub(before);
    println!(
        "{REQUESTS} answers of 1 MiB: {begun} handlers started, {} KiB",
        grown >> 10
    );
    // One connection's bound and one more answer, and what the system has taken.
    assert!(begun <= 2 + IN_SYSTEM, "{begun} handlers started");
    assert!(grown < (2 + BESIDES) * MIB, "{grown} bytes");
    // Once the client reads it gets all of them, and they take no more memory.
    let reading = tokio::task::spawn_blocking(move || {
        let (mut buffer, mut left) = (vec![0; MIB], REQUESTS * MIB);
        while left > 0 {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "{left} bytes are missing");
            left = left.saturating_sub(count);
        }
    });
    reading.await.unwrap();
    assert_eq!(started.load(Ordering::SeqCst), REQUESTS);
    let grown = peak().saturating_sub(before);
    println!("all of them read: {} KiB", grown >> 10);
    assert!(grown < (2 + BESIDES) * MIB, "{grown} bytes");
    server.stop().await;
}

/// Handlers that run before the first of them has its answer: of these there are as many as
/// requests in flight.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_handlers_that_run_at_once_are_bounded_by_the_requests_in_flight() {
    const IN_FLIGHT: u16 = 16;
    if !alone("answers_of_handlers_that_run_at_once_are_bounded_by_the_requests_in_flight") {
        return;
    }
    let settings = Settings::new()
        .with_max_message(1 << 20)
        .with_max_held(1 << 20)
        .with_max_in_flight(IN_FLIGHT)
        .unwrap();
    let all = usize::from(IN_FLIGHT);
    let (started, together) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(all)));
    let (counter, barrier) = (Arc::clone(&started), together);
    let handler = move |_: Request| {
        let (counter, barrier) = (Arc::clone(&counter), Arc::clone(&barrier));
        async move {
            barrier.wait().await;
            answers(&counter)
        }
    };
    let server = Running::start(Server::builder(key(1)).settings(settings), handler).await;
    let address = server.address;
    let before = reset_peak();
    let stream = tokio::task::spawn_blocking(move || silent(address, all)).await.unwrap();
    let begun = settled(&started).await;
    let grown = peak().saturating_sub(before);
    println!("{begun} handlers at once: {} KiB", grown >> 10);
    assert!(grown < (1 + all + BESIDES) * MIB, "{grown} bytes");
    drop(stream);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_all_connections_are_bounded_and_who_reads_does_not_wait_for_the_others() {
    const CLIENTS: usize = 10;
    const REQUESTS: usize = 32;
    if !alone("answers_of_all_connections_are_bounded_and_who_reads_does_not_wait_for_the_others") {
        return;
    }
    let started = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&started);
    let handler = move |_: Request| {
        let answer = answers(&counter);
        async move { answer }
    };
    let server = Running::start(Server::builder(key(1)).max_held(8 * MIB), handler).await;
    let address = server.address;
    let before = reset_peak();
    let asking = move || (0..CLIENTS).map(|_| silent(address, REQUESTS)).collect::<Vec<_>>();
    let silent = tokio::task::spawn_blocking(asking).await.unwrap();
    let begun = settled(&started).await;
    let grown = peak().saturating_sub(before);
    println!("{CLIENTS} clients: {begun} handlers started, {} KiB", grown >> 10);
    // What all connections may have, and one answer of each, whose queue was empty.
    let most = 8 + CLIENTS;
    assert!(begun <= most + CLIENTS * IN_SYSTEM, "{begun} handlers started");
    assert!(grown < (most + BESIDES) * MIB, "{grown} bytes");
    let client = server.client().await;
    for _ in 0..50 {
        let answer = client.request_within("?", Duration::from_secs(5)).await.unwrap();
        assert_eq!(answer.len(), MIB);
    }
    client.close().await;
    drop(silent);
    server.stop().await;
}

/// All handlers of a connection end before it has a turn. Each of their answers is so short that it
/// alone would not count.
#[tokio::test]
async fn short_answers_that_their_connection_has_not_taken_are_bounded() {
    const REQUESTS: usize = 1024;
    const LENGTH: usize = 16 << 10;
    let (together, in_memory) = (Arc::new(Barrier::new(REQUESTS)), Arc::new(AtomicUsize::new(0)));
    let (most, all) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&in_memory));
    let highest = Arc::clone(&most);
    let server = Running::start(Server::builder(key(1)).max_answers(4 * MIB), move |_: Request| {
        let (together, all, highest) = (Arc::clone(&together), Arc::clone(&all), Arc::clone(&highest));
        async move {
            together.wait().await;
            let (body, now) = counted::body(LENGTH, &all);
            highest.fetch_max(now, Ordering::SeqCst);
            Ok(body)
        }
    })
    .await;
    let address = server.address;
    let stream = tokio::task::spawn_blocking(move || silent(address, REQUESTS))
        .await
        .unwrap();
    let ended = || server.handle.stats().answers + server.handle.stats().refusals;
    while ended() < u64::try_from(REQUESTS).unwrap() {
        sleep(Duration::from_millis(10)).await;
    }
    let most = most.load(Ordering::SeqCst);
    assert!(
        most <= 2 * MIB + 3 * LENGTH,
        "{most} bytes, of which one connection may have half"
    );
    drop(stream);
    server.stop().await;
    assert_eq!(in_memory.load(Ordering::SeqCst), 0);
}

/// Clients of one key read nothing, on many connections. Each of these leaves a part to the next,
/// and all of them leave enough to a client of another key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_one_key_leave_room_to_another() {
    const CLIENTS: usize = 20;
    const REQUESTS: usize = 200;
    let builder = Server::builder(key(1)).key(key(2)).max_answers(8 * MIB);
    let one = Arc::new(Mutex::new(()));
    let server = Running::start(builder, move |request: Request| {
        let one = Arc::clone(&one);
        async move {
            if *request.body() == b"other"[..] {
                return Ok(vec![7; 300 << 10]);
            }
            // One after the other, so that connections write meanwhile what the system takes.
            let _one = one.lock().await;
            tokio::task::yield_now().await;
            Ok(vec![7; 64 << 10])
        }
    })
    .await;
    let address = server.address;
    let asking = move || (0..CLIENTS).map(|_| silent(address, REQUESTS)).collect::<Vec<_>>();
    let silent = tokio::task::spawn_blocking(asking).await.unwrap();
    let ended = || server.handle.stats().answers + server.handle.stats().refusals;
    while ended() < u64::try_from(CLIENTS * REQUESTS).unwrap() {
        sleep(Duration::from_millis(10)).await;
    }
    assert!(server.handle.stats().refusals > 0);
    let other = Client::builder(key(2)).connect(address).await.unwrap();
    let answer = other.request_within("other", Duration::from_secs(10)).await;
    assert_eq!(answer.unwrap().len(), 300 << 10);
    drop(silent);
    server.stop().await;
}
