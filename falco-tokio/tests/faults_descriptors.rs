//! A server that has run out of file descriptors continues to serve its connections, and accepts
//! others when descriptors are free.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::time::Duration;
use std::time::Instant;

use common::child::{self, Child, next_order, say};
use common::scene::Honest;
use common::{Running, key, scene};
use falco_tokio::{Client, Server};
use tokio::net::TcpStream;

/// Descriptors that the server may have beyond those that it has when it begins.
const ROOM: usize = 20;

#[test]
#[ignore = "the part of a test that has a process of its own"]
fn role() {
    if child::role().is_some() {
        server();
    }
}

fn server() {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    let running = runtime.block_on(Running::echo(Server::builder(key(1))));
    // The directory that is read is one of them itself.
    let held = std::fs::read_dir("/proc/self/fd").unwrap().count() - 1;
    let (_, hard) = rlimit::getrlimit(rlimit::Resource::NOFILE).unwrap();
    let limit = u64::try_from(held + ROOM).unwrap();
    rlimit::setrlimit(rlimit::Resource::NOFILE, limit, hard).unwrap();
    say(running.address);
    while next_order().is_some() {
        let stats = running.handle.stats();
        say(format!(
            "{} {} {}",
            stats.accept_errors, stats.connections, stats.half_open_dropped
        ));
    }
}

/// Errors of accepting, connections, handshakes dropped for others.
fn stats(server: &mut Child) -> [u64; 3] {
    let answer = server.ask("stats");
    let numbers: Vec<_> = answer.split(' ').map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

#[test]
fn a_server_without_descriptors_lives_and_serves_again() {
    let mut server = Child::spawn("server", "");
    let address: core::net::SocketAddr = server.line().parse().unwrap();
    let honest = Honest::start(address);
    let runtime = scene::runtime();

    // Unauthenticated connections that hold descriptors are dropped for others.
    let strangers: Vec<_> = runtime.block_on(async {
        let mut strangers = Vec::new();
        for _ in 0..3 * ROOM {
            strangers.push(TcpStream::connect(address).await.unwrap());
        }
        let patient = Client::builder(key(1)).connect(address).await.unwrap();
        assert_eq!(patient.request("in spite of them").await.unwrap(), "in spite of them");
        patient.close().await;
        strangers
    });
    let [errors, _, dropped] = stats(&mut server);
    assert!(errors > 0 && dropped > 0, "{errors} errors, {dropped} dropped");
    drop(strangers);
    let limit = Instant::now() + Duration::from_secs(10);
    while stats(&mut server)[1] > 1 {
        assert!(Instant::now() < limit);
        std::thread::sleep(Duration::from_millis(10));
    }

    // Connections of clients that have the key are kept. Those without a descriptor wait, and are
    // accepted when others go.
    runtime.block_on(async {
        let mut inside = Vec::new();
        let mut waiting = loop {
            let mut connecting = tokio::spawn(async move { Client::builder(key(1)).connect(address).await.unwrap() });
            match tokio::time::timeout(Duration::from_secs(1), &mut connecting).await {
                Ok(client) => inside.push(client.unwrap()),
                Err(_) => break connecting,
            }
            assert!(inside.len() <= 2 * ROOM);
        };
        let [before, ..] = stats(&mut server);
        assert!(
            tokio::time::timeout(Duration::from_millis(500), &mut waiting)
                .await
                .is_err()
        );
        let [after, connections, _] = stats(&mut server);
        // The server does not try in vain again and again.
        assert!(after - before < 50, "{before} errors, then {after}");
        assert_eq!(connections, 1 + u64::try_from(inside.len()).unwrap());
        for client in &inside {
            assert_eq!(client.request("still here").await.unwrap(), "still here");
        }
        inside.pop().unwrap().close().await;
        let client = waiting.await.unwrap();
        assert_eq!(client.request("at last").await.unwrap(), "at last");
    });
    let (count, p99, _) = honest.finish();
    println!(
        "with no descriptors left: {count} honest requests, p99 {p99:?}; {:?}",
        stats(&mut server)
    );
    assert!(p99 < Duration::from_millis(50), "{p99:?}");
}
