//! A server process that is killed and restarted while it has a thousand clients. No request fails,
//! except those that a handler had received.

#![cfg(unix)]

mod common;

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Instant;

use common::{echo, key, millis};
use falco_std::{Client, Fate, Request, Server};

const CHILD: &str = "FALCO_STD_TEST_RESTART";
const NAME: &str = "a_thousand_clients_reconnect_at_once_after_a_kill";
const CLIENTS: usize = 1_000;
/// How many handlers run when the server is killed.
const IN_HANDLERS: usize = 20;

/// Serves until it is killed.
fn child(address: &str) {
    let server = Server::builder(key()).bind(address).expect("the address is free");
    println!("child: {}", server.local_addr().expect("it is bound"));
    let report = server.serve(|request: Request| {
        if request.body() == b"for ever" {
            thread::sleep(Duration::from_secs(600));
        }
        echo(request)
    });
    report.expect("it never fails");
}

/// A server process and its address.
fn start(address: &str) -> (Child, SocketAddr) {
    let mut command = Command::new(std::env::current_exe().expect("it runs"));
    command.args(["--exact", "--nocapture", NAME]).env(CHILD, address);
    let mut process = command.stdout(Stdio::piped()).spawn().expect("it is this program");
    let output = process.stdout.take().expect("it is piped");
    let mut lines = BufReader::new(output).lines().map(|line| line.expect("it is text"));
    let address = lines.find_map(|line| line.strip_prefix("child: ").map(str::to_owned));
    let address = address.expect("it listens").parse().expect("an address");
    // Nothing reads what it prints later.
    thread::spawn(move || lines.for_each(drop));
    (process, address)
}

/// A thread with a small stack.
fn spawn<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> thread::JoinHandle<T> {
    let builder = thread::Builder::new().stack_size(256 << 10);
    builder.spawn(work).expect("a thread more")
}

#[test]
fn a_thousand_clients_reconnect_at_once_after_a_kill() {
    if let Ok(address) = std::env::var(CHILD) {
        return child(&address);
    }
    let descriptors = rlimit::increase_nofile_limit(4_096).unwrap_or(0);
    let clients = CLIENTS.min(usize::try_from(descriptors).unwrap_or(usize::MAX).saturating_sub(200));
    println!("{clients} clients");
    let (mut process, address) = start("127.0.0.1:0");
    let connect = || {
        let client = Client::builder(key()).connect(address).expect("the server accepts it");
        assert_eq!(client.request("warm").expect("an answer"), b"warm");
        Arc::new(client)
    };
    let clients: Vec<_> = (0..clients).map(|_| connect()).collect();
    let (in_handlers, idle) = clients.split_at(IN_HANDLERS);
    let in_handlers: Vec<_> = in_handlers
        .iter()
        .map(|client| {
            let client = Arc::clone(client);
            spawn(move || client.request("for ever").map_err(|error| error.fate()))
        })
        .collect();
    // They send at the same moment.
    let barrier = Arc::new(Barrier::new(idle.len() + 1));
    let asking: Vec<_> = idle
        .iter()
        .enumerate()
        .map(|(number, client)| {
            let (client, barrier) = (Arc::clone(client), Arc::clone(&barrier));
            spawn(move || {
                barrier.wait();
                let start = Instant::now();
                let text = format!("{number}");
                let answer = client.request(&text);
                (answer.map(|answer| answer == text.as_bytes()), start.elapsed())
            })
        })
        .collect();
    // All handlers have begun: their requests were sent before those that are answered.
    let last = clients.last().expect("there are some");
    for _ in 0..10 {
        thread::sleep(millis(20));
        last.ping().expect("the server is there");
    }
    process.kill().expect("it is our child");
    process.wait().expect("it has ended");
    let killed = Instant::now();
    barrier.wait();
    thread::sleep(millis(200));
    let (mut process, _) = start(&address.to_string());
    let back = killed.elapsed();
    let ends: Vec<_> = asking
        .into_iter()
        .map(|thread| thread.join().expect("it does not panic"))
        .collect();
    let slowest = ends.iter().map(|(_, took)| *took).max().unwrap_or_default();
    let failed: Vec<_> = ends.iter().filter(|(answer, _)| !matches!(answer, Ok(true))).collect();
    println!(
        "the server was back after {back:?}; {} requests, {} failed, the slowest took {slowest:?}",
        ends.len(),
        failed.len()
    );
    let few: Vec<_> = failed.iter().take(5).collect();
    let fates: Vec<_> = in_handlers
        .into_iter()
        .map(|thread| thread.join().expect("it does not panic"))
        .collect();
    drop(clients);
    process.kill().expect("it is our child");
    process.wait().expect("it has ended");
    assert!(failed.is_empty(), "{} failed: {few:?}", failed.len());
    assert!(slowest < Duration::from_secs(25), "{slowest:?}");
    let unknown = Err(Fate::MaybeProcessed);
    assert!(fates.iter().all(|fate| *fate == unknown), "{fates:?}");
}
