//! Honest clients get in while a flood of unauthenticated connections lasts, in less than 50 ms
//! more than without it. Each test prints what honest clients saw.
//!
//! The figures are those of an optimized build: `cargo test --release --test faults_admission`. A
//! build without optimization has smaller floods, in proportion to its places, and ten times the
//! time.
#![cfg(target_os = "linux")]
#![allow(
    missing_docs,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test may panic"
)]

#[path = "../../falco-tokio/tests/common/child.rs"]
mod child;
mod common;
#[path = "common/flood.rs"]
mod flood;

use core::net::SocketAddr;
use core::time::Duration;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};

use child::{Child, next_order, say};
use common::{Running, echo, key};
use falco_std::{Client, Server};
use flood::{Flood, From, endures};
use rlimit::Resource;

/// What a flood may cost an honest client's connect and request.
const BOUND: Duration = Duration::from_millis(if cfg!(debug_assertions) { 500 } else { 50 });
/// By how much floods are smaller.
const SMALLER: usize = if cfg!(debug_assertions) { 8 } else { 1 };
const CLIENTS: usize = 150;

fn smaller(flood: u64) -> u64 {
    flood / u64::try_from(SMALLER).unwrap()
}

/// One flood at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
#[ignore = "the part of a test that has a process of its own"]
fn role() {
    match child::role() {
        Some((role, arguments)) if role == "server" => flood::server(&arguments),
        Some((role, arguments)) if role == "flood" => flood::flood(&arguments),
        Some((role, arguments)) if role == "limits" => limits(&arguments),
        _ => {}
    }
}

#[track_caller]
fn returning(limit: u64, strangers: u64) {
    let _alone = alone();
    let max_half_open = if SMALLER > 1 { 256 / SMALLER } else { 0 };
    let flood = Flood::Returning(smaller(strangers));
    let clients = (CLIENTS, Duration::ZERO, BOUND);
    endures((limit, max_half_open), flood, From::HonestAddress, clients);
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
    // As many places as a second of the slowest flood takes.
    let limits = (0, 1024 / SMALLER);
    // Without optimization, a hello may be late and its connection be dropped.
    let bound = if SMALLER > 1 { 2 * BOUND } else { BOUND };
    let clients = (CLIENTS, Duration::from_millis(200), bound);
    endures(limits, flood(smaller(rate)), from, clients);
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
fn halves_of_hellos_1000_a_second_from_the_address_of_honest_clients() {
    distant(Flood::Halves, 1000, From::HonestAddress);
}

#[test]
fn halves_of_hellos_1000_a_second_from_everywhere() {
    distant(Flood::Halves, 1000, From::Everywhere);
}

#[test]
fn replayed_hellos_1000_a_second_from_the_address_of_honest_clients() {
    distant(Flood::Replaying, 1000, From::HonestAddress);
}

#[test]
fn replayed_hellos_1000_a_second_from_everywhere() {
    distant(Flood::Replaying, 1000, From::Everywhere);
}

/// A server of a process whose limit of open files is in the arguments. It prints its address and
/// the limits that apply.
fn limits(arguments: &str) {
    let words: Vec<_> = arguments.split(' ').collect();
    let [soft, hard, raise] = words.try_into().unwrap();
    rlimit::setrlimit(Resource::NOFILE, soft.parse().unwrap(), hard.parse().unwrap()).unwrap();
    let builder = Server::builder(key()).max_connections(1000).max_half_open(800);
    let running = Running::start(builder.raise_descriptor_limit(raise.parse().unwrap()), echo);
    say(running.address);
    while next_order().is_some() {
        let stats = running.handle.stats();
        let limit = rlimit::getrlimit(Resource::NOFILE).unwrap().0;
        say(format!(
            "{limit} {} {} {} {}",
            stats.max_connections, stats.max_half_open, stats.half_open, stats.accept_errors
        ));
    }
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
    rlimit::increase_nofile_limit(4096).unwrap();
    // Whether it must not be raised or cannot.
    for arguments in ["256 4096 false", "256 256 true"] {
        let mut server = Child::spawn("limits", arguments);
        let address: SocketAddr = server.line().parse().unwrap();
        let [soft, connections, max_half_open, ..] = ask(&mut server);
        assert_eq!(soft, 256);
        assert!((150..=192).contains(&connections), "{connections}");
        assert_eq!(max_half_open, connections / 2);
        let strangers: Vec<_> = (0..500).map(|_| TcpStream::connect(address).unwrap()).collect();
        let clients: Vec<_> = (0..100)
            .map(|_| {
                let client = Client::builder(key()).connect(address).unwrap();
                assert_eq!(client.request("let me through").unwrap(), b"let me through");
                client
            })
            .collect();
        let [_, _, _, half_open, errors] = ask(&mut server);
        assert!(half_open <= max_half_open, "{half_open}");
        assert_eq!(errors, 0, "no descriptor was lacking");
        drop((strangers, clients));
    }
}
