//! Answers that clients do not read are bounded, and so is the memory that they take. A test that
//! measures memory runs in a process of its own.
#![cfg(target_os = "linux")]
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

mod common;
#[path = "../../falco-tokio/tests/common/peak.rs"]
mod peak;

use core::net::SocketAddr;
use core::sync::atomic::{AtomicUsize, Ordering};
use core::time::Duration;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use common::{Running, bounded, key, millis, other_key};
use falco_core::testing::{CountingRng, NoiseTestClient, noise_client};
use falco_core::{ClientConnection, Received, Unread};
use falco_std::{Client, Server, Settings};
use peak::{MIB, alone, peak, reset_peak};

const WORKERS: usize = 8;
/// Answers that the system may hold for one connection, on both sides.
const IN_SYSTEM: usize = 8;
/// MiB that the process may take besides: the allocator keeps memory for each thread.
const BESIDES: usize = 2 * WORKERS;

type Machine = ClientConnection<Arc<NoiseTestClient>>;

/// Sends `requests` requests of one byte at once.
fn ask(machine: &mut Machine, stream: &mut TcpStream, requests: usize) {
    let mut buffer = vec![0; 70_000];
    let mut asked: Vec<_> = (0..requests).map(|_| machine.request(1).unwrap()).collect();
    let asked = asked.iter_mut().map(|request| (request, &b"?"[..]));
    let sealed = machine.seal(falco_core::Instant::ZERO, asked, &mut buffer).unwrap();
    stream.write_all(&buffer[..sealed]).unwrap();
}

/// A client that sends `requests` requests of one byte at once, and reads nothing.
fn silent(server: SocketAddr, requests: usize) -> (Machine, TcpStream) {
    let (now, keys) = (falco_core::Instant::ZERO, Arc::new(noise_client(7)));
    let mut machine = ClientConnection::new(keys, &Settings::new(), now, &mut CountingRng::new(9)).unwrap();
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
    ask(&mut machine, &mut stream, requests);
    (machine, stream)
}

/// A server whose answers have 1 MiB each, and how many handlers have started.
fn start(builder: falco_std::ServerBuilder, workers: usize) -> (Running, Arc<AtomicUsize>) {
    let started = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&started);
    let server = Running::start(builder.workers(workers), move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(vec![7; MIB])
    });
    (server, started)
}

/// Waits until no handler has started for a while.
fn settled(started: &AtomicUsize) -> usize {
    let mut last = (started.load(Ordering::SeqCst), Instant::now());
    while last.0 == 0 || last.1.elapsed() < millis(500) {
        thread::sleep(millis(10));
        let now = started.load(Ordering::SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
    }
    last.0
}

#[test]
fn answers_of_a_client_that_does_not_read_are_bounded() {
    if !alone("answers_of_a_client_that_does_not_read_are_bounded") {
        return;
    }
    bounded(|| {
        const REQUESTS: usize = 512;
        const LATER: usize = 12;
        let settings = Settings::new().with_max_message(1 << 20).with_max_held(1 << 20);
        let (server, started) = start(Server::builder(key()).settings(settings), WORKERS);
        let before = reset_peak();
        let (mut machine, mut stream) = silent(server.address, REQUESTS - LATER);
        let handled = settled(&started);
        let grown = peak().saturating_sub(before);
        println!(
            "{REQUESTS} answers of 1 MiB: {handled} handlers started, {} KiB",
            grown >> 10
        );
        // One connection's bound and one more answer, those of all workers, and what the system has
        // taken.
        assert!(handled <= 2 + WORKERS + IN_SYSTEM, "{handled} handlers started");
        assert!(grown < (2 + WORKERS + BESIDES) * MIB, "{grown} bytes");
        // These arrive while too many answers are queued.
        ask(&mut machine, &mut stream, LATER);
        assert_eq!(settled(&started), handled);
        // Once the client reads it gets all of them, and they take no more memory.
        let (mut buffer, mut left) = (vec![0; MIB], REQUESTS * MIB);
        while left > 0 {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "{left} bytes are missing");
            left = left.saturating_sub(count);
        }
        assert_eq!(started.load(Ordering::SeqCst), REQUESTS);
        let grown = peak().saturating_sub(before);
        println!("all of them read: {} KiB", grown >> 10);
        assert!(grown < (2 + WORKERS + BESIDES) * MIB, "{grown} bytes");
        drop(stream);
        server.stop();
    });
}

#[test]
fn answers_of_all_connections_are_bounded_and_who_reads_does_not_wait_for_the_others() {
    if !alone("answers_of_all_connections_are_bounded_and_who_reads_does_not_wait_for_the_others") {
        return;
    }
    bounded(|| {
        const CLIENTS: usize = 10;
        const REQUESTS: usize = 32;
        const FEW: usize = 2;
        let (server, started) = start(Server::builder(key()).max_held(8 * MIB), FEW);
        let before = reset_peak();
        let silent: Vec<_> = (0..CLIENTS).map(|_| silent(server.address, REQUESTS)).collect();
        let handled = settled(&started);
        let grown = peak().saturating_sub(before);
        println!("{CLIENTS} clients: {handled} handlers started, {} KiB", grown >> 10);
        // What all connections may have, and for each the answers of workers that have found its
        // queue empty.
        let most = 8 + CLIENTS * FEW;
        assert!(handled <= most + CLIENTS * IN_SYSTEM, "{handled} handlers started");
        assert!(grown < (most + BESIDES) * MIB, "{grown} bytes");
        let client = Client::builder(key()).connect(server.address).unwrap();
        for _ in 0..50 {
            assert_eq!(client.request_within("?", Duration::from_secs(5)).unwrap().len(), MIB);
        }
        client.close();
        drop(silent);
        server.stop();
    });
}

#[test]
fn a_request_that_waits_for_a_slow_client_is_not_refused_as_busy() {
    bounded(|| {
        const REQUESTS: usize = 20;
        let settings = Settings::new().with_max_message(1 << 20).with_max_held(1 << 20);
        let builder = Server::builder(key()).settings(settings);
        let (server, started) = start(builder.queue_timeout(millis(200)), WORKERS);
        let (_, mut stream) = silent(server.address, REQUESTS);
        let handled = settled(&started);
        assert!(handled < REQUESTS, "{handled} of {REQUESTS} handlers started");
        // They have waited for longer than they may wait for a worker.
        let (mut buffer, mut left) = (vec![0; MIB], REQUESTS * MIB);
        while left > 0 && server.handle.stats().busy == 0 {
            left = left.saturating_sub(stream.read(&mut buffer).unwrap());
        }
        assert_eq!(
            (server.handle.stats().busy, started.load(Ordering::SeqCst)),
            (0, REQUESTS)
        );
        drop(stream);
        server.stop();
    });
}

/// Clients of one key read nothing, on many connections. Each of these leaves a part to the next,
/// and all of them leave enough to a client of another key.
#[test]
fn answers_of_one_key_leave_room_to_another() {
    bounded(|| {
        const CLIENTS: usize = 20;
        const REQUESTS: usize = 200;
        let builder = Server::builder(key()).key(other_key()).max_answers(8 * MIB);
        let server = Running::start(builder.queue_timeout(millis(60_000)), |request| {
            let length = if request.body() == b"?" { 64 << 10 } else { 300 << 10 };
            Ok(vec![7; length])
        });
        let silent: Vec<_> = (0..CLIENTS).map(|_| silent(server.address, REQUESTS)).collect();
        let ended = || server.handle.stats().answers + server.handle.stats().refusals;
        while ended() < u64::try_from(CLIENTS * REQUESTS).unwrap() {
            thread::sleep(millis(10));
        }
        assert!(server.handle.stats().refusals > 0);
        let other = Client::builder(other_key()).connect(server.address).unwrap();
        let answer = other.request_within("other", Duration::from_secs(10));
        assert_eq!(answer.unwrap().len(), 300 << 10);
        drop(silent);
        server.stop();
    });
}
