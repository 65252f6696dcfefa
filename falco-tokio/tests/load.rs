//! Ten thousand connections at once to one server, with server and clients in separate processes:
//! what the connections cost while they are idle, and that each is served.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::time::Duration;
use std::time::Instant;

use common::child::{self, Child, next_order, say};
use common::usage::Usage;
use common::{Running, key};
use falco_tokio::{Client, Server, Settings};

const CONNECTIONS: u64 = 10_000;
/// A process here may hold 20,000 descriptors, so the clients need not share one.
const CLIENT_PROCESSES: u64 = 2;
/// What a process needs besides its connections.
const OTHER_DESCRIPTORS: u64 = 200;
/// Handshakes at once in a process of clients.
const AT_ONCE: usize = 64;
/// What an idle connection may take in user space.
const BYTES_EACH: u64 = 4096;
const IDLE: Duration = Duration::from_secs(5);

/// Pings are far apart, so that nothing is due while idleness is measured.
fn settings() -> Settings {
    Settings::new().with_lifetime(Duration::from_secs(1200)).unwrap()
}

#[test]
#[ignore = "the part of a test that has a process of its own"]
fn role() {
    match child::role() {
        Some((role, _)) if role == "server" => server(),
        Some((role, arguments)) if role == "clients" => clients(&arguments),
        _ => {}
    }
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

fn server() {
    let runtime = runtime();
    // Room for all handshakes: near the limit, a client whose hello is slow can be dropped.
    let builder = Server::builder(key(1)).settings(settings()).max_connections(12_000);
    let running = runtime.block_on(Running::echo(builder));
    say(running.address);
    while let Some(order) = next_order() {
        if order == "usage" {
            say(Usage::now());
            continue;
        }
        let stats = running.handle.stats();
        say(format!("{} {} {}", stats.connections, stats.answers, stats.rejected));
    }
}

/// So many clients of the server at an address, each with a connection.
fn clients(arguments: &str) {
    let (address, count) = arguments.split_once(' ').unwrap();
    let (address, count): (String, usize) = (address.to_owned(), count.parse().unwrap());
    let runtime = runtime();
    let places = std::sync::Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    let opened = runtime.block_on(async {
        let mut opening = tokio::task::JoinSet::new();
        for _ in 0..count {
            let (address, places) = (address.clone(), std::sync::Arc::clone(&places));
            opening.spawn(async move {
                let _place = places.acquire().await.unwrap();
                let client = Client::builder(key(1)).settings(settings());
                client.connect(address).await.unwrap()
            });
        }
        opening.join_all().await
    });
    say(format!("opened {}", opened.len()));
    while next_order().is_some() {
        let right = runtime.block_on(async {
            let mut asking = tokio::task::JoinSet::new();
            for (number, client) in opened.iter().cloned().enumerate() {
                asking.spawn(async move {
                    let body = format!("{number} of these");
                    client.request(body.clone()).await.unwrap() == body
                });
            }
            asking.join_all().await
        });
        say(format!("served {}", right.iter().filter(|right| **right).count()));
    }
}

/// Prints what is missing, and fails if the environment asks for that.
fn descriptors() -> bool {
    let needed = CONNECTIONS + OTHER_DESCRIPTORS;
    let raised = rlimit::increase_nofile_limit(needed);
    if raised.as_ref().is_ok_and(|limit| *limit >= needed) {
        return true;
    }
    let why = format!("RLIMIT_NOFILE cannot be raised to {needed}: {raised:?}");
    assert!(std::env::var_os("FALCO_REQUIRE_LOAD").is_none(), "{why}");
    println!("not run: {why}");
    false
}

#[test]
fn ten_thousand_idle_connections_cost_little_and_each_is_served() {
    if !descriptors() {
        return;
    }
    let mut server = Child::spawn("server", "");
    let address = server.line();
    let usage = |server: &mut Child| Usage::parse(&server.ask("usage"));
    // What is made once, such as the buffers that connections share, is not one connection's.
    drop(clients_of(&address, 50));
    std::thread::sleep(Duration::from_millis(100));

    let before = usage(&mut server);
    let start = Instant::now();
    let mut clients: Vec<_> = (0..CLIENT_PROCESSES)
        .map(|_| Child::spawn("clients", &format!("{address} {}", CONNECTIONS / CLIENT_PROCESSES)))
        .collect();
    for process in &clients {
        assert_eq!(process.line(), format!("opened {}", CONNECTIONS / CLIENT_PROCESSES));
    }
    let opened = start.elapsed();
    let connections = |server: &mut Child| server.ask("stats").split(' ').next().unwrap().to_owned();
    assert_eq!(connections(&mut server), CONNECTIONS.to_string());

    let idle = usage(&mut server);
    std::thread::sleep(IDLE);
    let after = usage(&mut server);
    let each = (idle.bytes - before.bytes) / CONNECTIONS;
    let cpu = Duration::from_nanos(after.nanoseconds - idle.nanoseconds);
    let woken = after.sleeps - idle.sleeps;
    println!("{CONNECTIONS} connections opened in {opened:?}; idle, each takes {each} bytes of the server");
    println!("the server was woken {woken} times in {IDLE:?} of idleness, and took {cpu:?} of a processor");

    let start = Instant::now();
    for process in &mut clients {
        process.order("request");
    }
    for process in &clients {
        assert_eq!(process.line(), format!("served {}", CONNECTIONS / CLIENT_PROCESSES));
    }
    let took = start.elapsed();
    std::thread::sleep(Duration::from_millis(200));
    let again = (usage(&mut server).bytes - before.bytes) / CONNECTIONS;
    println!("each was served one request, in {took:?} in all; idle again, each takes {again} bytes");
    assert_eq!(server.ask("stats"), format!("{CONNECTIONS} {CONNECTIONS} 0"));

    assert!(each <= BYTES_EACH && again <= BYTES_EACH, "{each} bytes, {again} bytes");
    assert!(cpu < Duration::from_millis(50) && woken < 200, "{cpu:?}, {woken} times");
}

/// A process with clients that have connected.
fn clients_of(address: &str, count: u64) -> Child {
    let process = Child::spawn("clients", &format!("{address} {count}"));
    assert_eq!(process.line(), format!("opened {count}"));
    process
}
