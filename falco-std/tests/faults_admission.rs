//! Honest clients get in while silent connections return as soon as they are dropped, in less than
//! 50 ms more than without them. Each test prints what honest clients saw.
//!
//! The figures are those of an optimized build: `cargo test --release --test faults_admission`. A
//! build without optimization has smaller floods, in proportion to its places, and ten times the
//! time.
#![cfg(target_os = "linux")]
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may panic")]

#[path = "../../falco-tokio/tests/common/child.rs"]
mod child;
mod common;

use core::net::SocketAddr;
use core::time::Duration;
use std::net::TcpStream;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use child::{Child, next_order, say};
use common::{Running, echo, key};
use falco_std::{Client, Server};
use rlimit::Resource;
use rustix::event::epoll;
use socket2::{Domain, Socket, Type};

/// What a flood may cost an honest client's connect and request.
const BOUND: Duration = Duration::from_millis(if cfg!(debug_assertions) { 500 } else { 50 });
/// By how much floods are smaller.
const SMALLER: usize = if cfg!(debug_assertions) { 8 } else { 1 };
const CLIENTS: usize = 150;
const ROUNDS: usize = 3;
/// How long a flood lasts before the first honest client connects.
const BEFORE: Duration = Duration::from_millis(500);
/// Between two honest clients.
const BETWEEN: Duration = Duration::from_millis(10);
/// How long one honest client tries.
const PATIENCE: Duration = Duration::from_secs(20);

/// One flood at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
#[ignore = "the part of a test that has a process of its own"]
fn role() {
    match child::role() {
        Some((role, arguments)) if role == "server" => server(&arguments),
        Some((role, arguments)) if role == "flood" => flood(&arguments),
        Some((role, arguments)) if role == "limits" => limits(&arguments),
        _ => {}
    }
}

/// A server of a process with a limit of open files. It says its address, and then what it has
/// counted.
fn server(arguments: &str) {
    let limit: u64 = arguments.parse().unwrap();
    rlimit::setrlimit(Resource::NOFILE, limit, limit).unwrap();
    let mut builder = Server::builder(key());
    if SMALLER > 1 {
        builder = builder.max_half_open(256 / SMALLER);
    }
    let running = Running::start(builder, echo);
    say(running.address);
    while next_order().is_some() {
        say(format!("{:?}", running.handle.stats()));
    }
}

/// So many silent connections, each of which is made again as soon as it is dropped.
fn flood(arguments: &str) {
    let (address, count) = arguments.split_once(' ').unwrap();
    let (address, count): (SocketAddr, u64) = (address.parse().unwrap(), count.parse().unwrap());
    rlimit::increase_nofile_limit(count + 100).unwrap();
    say("ready");
    assert!(next_order().is_some());
    let events = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap();
    let connect = |number: u64| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None).unwrap();
        // It is in progress.
        let _ = socket.connect(&address.into());
        let data = epoll::EventData::new_u64(number);
        epoll::add(&events, &socket, data, epoll::EventFlags::IN).unwrap();
        socket
    };
    let mut strangers: Vec<_> = (0..count).map(connect).collect();
    let mut ready = Vec::with_capacity(64);
    loop {
        epoll::wait(&events, rustix::buffer::spare_capacity(&mut ready), None).unwrap();
        for event in ready.drain(..) {
            let number = event.data.u64();
            let stranger = strangers.get_mut(usize::try_from(number).unwrap()).unwrap();
            *stranger = connect(number);
        }
    }
}

/// One honest client: connects, sends a request and closes. Its time ends with the answer. Also
/// says how many attempts failed.
fn honest(address: SocketAddr) -> (Duration, usize) {
    let (start, mut failed) = (Instant::now(), 0);
    loop {
        let client = Client::builder(key()).connect(address);
        let answer = client.and_then(|client| client.request("let me through"));
        if answer.is_ok() || start.elapsed() > PATIENCE {
            return (start.elapsed(), failed);
        }
        failed += 1;
        thread::sleep(Duration::from_millis(50));
    }
}

fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times.get(times.len() * percent / 100).copied().unwrap()
}

#[track_caller]
fn returning(limit: u64, strangers: usize) {
    let _alone = alone();
    let strangers = strangers / SMALLER;
    let [mut flooded, undisturbed] = [(); 2].map(|()| Child::spawn("server", &limit.to_string()));
    let [address, control]: [SocketAddr; 2] = [&flooded, &undisturbed].map(|server| server.line().parse().unwrap());
    let mut flooding = Child::spawn("flood", &format!("{address} {strangers}"));
    assert_eq!(flooding.line(), "ready");
    flooding.order("begin");
    thread::sleep(BEFORE);
    // Other processes may spoil one round. The flood would spoil each.
    let mut rounds = (0..ROUNDS).map(|_| {
        let (mut times, mut usual, mut attempts) = (Vec::new(), Vec::new(), 0);
        for _ in 0..CLIENTS {
            let (time, failed) = honest(address);
            times.push(time);
            attempts += failed;
            thread::sleep(BETWEEN);
            usual.push(honest(control).0);
            thread::sleep(BETWEEN);
        }
        let stats = flooded.ask("stats");
        let [p50, p99] = [50, 99].map(|percent| percentile(&mut times, percent));
        let [u50, u99] = [50, 99].map(|percent| percentile(&mut usual, percent));
        println!(
            "{strangers} silent connections, {limit} descriptors: {CLIENTS} honest clients, p50 {p50:?} p99 {p99:?} \
             (undisturbed {u50:?} and {u99:?}), {attempts} attempts failed; {stats}"
        );
        p99 < BOUND + u99
    });
    assert!(rounds.any(|held| held), "more than {BOUND:?} longer in each round");
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

/// A server of a process whose limit of open files is as the arguments say. It says its address and
/// the limits in force.
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
