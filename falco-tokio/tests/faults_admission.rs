//! Honest clients get in while a flood of unauthenticated connections lasts, in less than 50 ms
//! more than without it. Each test prints what honest clients saw.
//!
//! The figures are those of an optimized build: `cargo test --release --test faults_admission`. A
//! build without optimization cannot keep up with these floods, and has smaller ones in proportion
//! to its places, and ten times the time.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::time::Duration;
use std::sync::{Mutex, MutexGuard, PoisonError};

use common::child::{self, Child, next_order, say};
use common::flood::{self, Flood, From, assert_within, endure};
use common::{Running, key, scene};
use falco_tokio::{Client, Server};
use rlimit::Resource;
use tokio::net::TcpStream;

/// What a flood may cost an honest client's connect and request.
const BOUND: Duration = Duration::from_millis(if cfg!(debug_assertions) { 500 } else { 50 });
/// By how much floods are smaller.
const SMALLER: usize = if cfg!(debug_assertions) { 8 } else { 1 };
const CLIENTS: usize = 150;

/// One flood at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
#[ignore = "the part of a test that has a process of its own"]
fn role() {
    flood::role();
    if let Some((role, arguments)) = child::role()
        && role == "limits"
    {
        limits(&arguments);
    }
}

/// A server of a process whose limit of open files is in the arguments. It prints its address and
/// the limits that apply.
fn limits(arguments: &str) {
    let words: Vec<_> = arguments.split(' ').collect();
    let [soft, hard, raise] = words.try_into().unwrap();
    rlimit::setrlimit(Resource::NOFILE, soft.parse().unwrap(), hard.parse().unwrap()).unwrap();
    scene::runtime().block_on(async {
        let builder = Server::builder(key(1)).max_connections(1000).max_half_open(800);
        let running = Running::echo(builder.raise_descriptor_limit(raise.parse().unwrap())).await;
        say(running.address);
        let handle = running.handle.clone();
        let orders = tokio::task::spawn_blocking(move || {
            while next_order().is_some() {
                let stats = handle.stats();
                let limit = rlimit::getrlimit(Resource::NOFILE).unwrap().0;
                say(format!(
                    "{limit} {} {} {} {}",
                    stats.max_connections, stats.max_half_open, stats.half_open, stats.accept_errors
                ));
            }
        });
        orders.await.unwrap();
    });
}

/// The soft limit, the limits in force on all connections and on half-open ones, half-open
/// connections, and errors of accepting.
fn ask(server: &mut Child) -> [u64; 5] {
    let answer = server.ask("limits");
    let numbers: Vec<_> = answer.split(' ').map(|number| number.parse().unwrap()).collect();
    numbers.try_into().unwrap()
}

#[test]
fn the_soft_limit_of_open_files_is_raised_as_far_as_connections_need() {
    let _alone = alone();
    let mut server = Child::spawn("limits", "256 4096 true");
    server.line();
    let [soft, connections, half_open, ..] = ask(&mut server);
    assert!((1065..1200).contains(&soft), "{soft}");
    // Half of what there is now.
    assert_eq!((connections, half_open), (1000, 500));
}

#[test]
fn too_few_descriptors_are_divided_and_honest_clients_get_in_though_strangers_take_all_they_can() {
    let _alone = alone();
    // Whether it must not be raised or cannot.
    for arguments in ["256 4096 false", "256 256 true"] {
        let mut server = Child::spawn("limits", arguments);
        let address: core::net::SocketAddr = server.line().parse().unwrap();
        let [soft, connections, max_half_open, ..] = ask(&mut server);
        assert_eq!(soft, 256);
        assert!((150..=192).contains(&connections), "{connections}");
        assert_eq!(max_half_open, connections / 2);
        scene::runtime().block_on(async {
            let mut strangers = Vec::new();
            for _ in 0..500 {
                strangers.push(TcpStream::connect(address).await.unwrap());
            }
            let mut clients = Vec::new();
            for _ in 0..100 {
                let client = Client::builder(key(1)).connect(address).await.unwrap();
                assert_eq!(client.request("let me through").await.unwrap(), "let me through");
                clients.push(client);
            }
            let [_, _, _, half_open, errors] = ask(&mut server);
            assert!(half_open <= max_half_open, "{half_open}");
            assert_eq!(errors, 0, "no descriptor was lacking");
        });
    }
}

#[track_caller]
fn returning(limit: u64, strangers: usize) {
    let _alone = alone();
    let strangers = strangers / SMALLER;
    let max_half_open = if SMALLER > 1 {
        usize::try_from(limit).unwrap().min(8192) / 2 / SMALLER
    } else {
        0
    };
    let of = format!("{strangers} silent connections, {limit} descriptors");
    assert_within(BOUND, &of, || {
        endure(
            (limit, max_half_open),
            Flood::Returning(strangers),
            From::HonestAddress,
            CLIENTS,
            Duration::ZERO,
        )
    });
}

#[test]
fn two_hundred_silent_connections_and_1024_descriptors() {
    returning(1024, 200);
}

#[test]
fn two_hundred_silent_connections_and_16384_descriptors() {
    returning(16_384, 200);
}

#[test]
fn silent_connections_2500_and_1024_descriptors() {
    returning(1024, 2500);
}

#[test]
fn silent_connections_2500_and_16384_descriptors() {
    returning(16_384, 2500);
}

#[track_caller]
fn distant(flood: fn(u64) -> Flood, rate: u64, from: From) {
    let _alone = alone();
    let flood = flood(rate / u64::try_from(SMALLER).unwrap());
    // As many places as a second of the slowest flood takes.
    let limits = (0, 1024 / SMALLER);
    let of = format!("{flood:?} a second from {from:?}, a round trip of 200 ms");
    assert_within(BOUND, &of, || {
        endure(limits, flood, from, CLIENTS, Duration::from_millis(200))
    });
}

#[test]
fn silent_connections_8000_a_second_from_the_address_of_honest_clients() {
    distant(Flood::Paced, 8000, From::HonestAddress);
}

#[test]
fn silent_connections_8000_a_second_from_everywhere() {
    distant(Flood::Paced, 8000, From::Everywhere);
}

#[test]
fn replayed_hellos_1000_a_second_from_the_address_of_honest_clients() {
    distant(Flood::Replaying, 1000, From::HonestAddress);
}

#[test]
fn replayed_hellos_1000_a_second_from_everywhere() {
    distant(Flood::Replaying, 1000, From::Everywhere);
}
