//! Which thread of a client reads its connection.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use core::time::Duration;
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

use common::{Running, bounded, echo, key, millis};
use falco_std::{Client, Error, Request, Server};

fn connect(server: &Running) -> Client {
    Client::builder(key()).connect(server.address).unwrap()
}

/// A request whose handler runs, and what to drop so that it answers.
type Held = (Vec<u8>, Sender<()>);

/// A server whose handlers answer when they are told to.
fn held() -> (Running, Receiver<Held>) {
    let (started, running) = mpsc::channel();
    let started = Mutex::new(started);
    let server = Running::start(Server::builder(key()), move |request: Request| {
        let (release, released) = mpsc::channel();
        let begun = (request.body().to_vec(), release);
        started.lock().unwrap().send(begun).unwrap();
        let _ = released.recv();
        Ok(request.into_body())
    });
    (server, running)
}

/// The caller that reads leaves at its limit. The other one gets its answer without it.
#[test]
fn a_caller_that_waits_gets_its_answer_after_the_one_that_reads_has_left() {
    bounded(|| {
        let (server, running) = held();
        let client = connect(&server);
        // From then on the caller of a request reads, if it is the only one.
        let own = client.clone();
        let first = thread::spawn(move || own.request("first").unwrap());
        drop(running.recv().unwrap());
        assert_eq!(first.join().unwrap(), b"first");

        let own = client.clone();
        let reads = thread::spawn(move || own.request_within("reads", millis(300)));
        let (body, keep) = running.recv().unwrap();
        assert_eq!(body, b"reads");
        let own = client.clone();
        let waits = thread::spawn(move || own.request("waits"));
        let (body, release) = running.recv().unwrap();
        assert_eq!(body, b"waits");
        assert!(matches!(reads.join().unwrap(), Err(Error::TimedOut { .. })));
        drop(release);
        assert_eq!(waits.join().unwrap().unwrap(), b"waits");
        drop(keep);
        client.close();
        server.stop();
    });
}

/// The answer of the caller that reads comes first. The other one gets its own without it.
#[test]
fn a_caller_that_waits_gets_its_answer_after_the_one_that_reads_has_its_own() {
    bounded(|| {
        let (server, running) = held();
        let client = connect(&server);
        for _ in 0..20 {
            let mut callers = Vec::new();
            let mut held = Vec::new();
            for body in ["reads", "waits"] {
                let own = client.clone();
                callers.push(thread::spawn(move || own.request(body).unwrap()));
                held.push(running.recv().unwrap());
            }
            for ((body, release), caller) in held.into_iter().zip(callers) {
                drop(release);
                assert_eq!(caller.join().unwrap(), body);
            }
        }
        client.close();
        server.stop();
    });
}

/// No caller sends anything, and the client still notices that its server has ended the connection.
#[test]
fn the_end_of_a_connection_is_noticed_while_nobody_sends() {
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let client = connect(&server);
        for _ in 0..100 {
            client.request("hello").unwrap();
        }
        assert!(client.is_connected());
        server.stop();
        let start = Instant::now();
        while client.is_connected() {
            assert!(start.elapsed() < Duration::from_secs(20));
            thread::yield_now();
        }
    });
}

/// Connections drain at their age while requests follow at once. All are answered.
#[test]
fn requests_that_follow_at_once_survive_the_end_of_their_connection() {
    bounded(|| {
        let server = Running::start(Server::builder(key()).max_connection_age(millis(20)), echo);
        let client = connect(&server);
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            assert_eq!(client.request("hello").unwrap(), b"hello");
        }
        assert!(client.stats().connected > 5);
        client.close();
        server.stop();
    });
}

/// How often the threads of this process with this name have waited for something.
#[cfg(target_os = "linux")]
fn waits_of(name: &str) -> u64 {
    use std::fs::{read_dir, read_to_string};
    let mut waits = 0;
    for thread in read_dir("/proc/self/task").unwrap() {
        let thread = thread.unwrap().path();
        // The thread may have ended.
        let Ok(status) = read_to_string(thread.join("status")) else {
            continue;
        };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_default().trim().to_owned()
        };
        if field("Name:") == name {
            waits += field("voluntary_ctxt_switches:").parse::<u64>().unwrap();
        }
    }
    waits
}

/// Requests one after another: their caller reads the answers itself.
#[cfg(target_os = "linux")]
#[test]
fn a_request_alone_on_its_connection_wakes_no_other_thread_of_its_client() {
    const REQUESTS: u64 = 2_000;
    // The other tests of this file would be counted as well.
    if std::env::var_os(ALONE).is_none() {
        let test = "a_request_alone_on_its_connection_wakes_no_other_thread_of_its_client";
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        let status = child.args(["--exact", test]).env(ALONE, "1").status().unwrap();
        assert!(status.success());
        return;
    }
    bounded(|| {
        let server = Running::start(Server::builder(key()), echo);
        let client = connect(&server);
        client.request("hello").unwrap();
        let before = waits_of("falco client");
        for _ in 0..REQUESTS {
            client.request("hello").unwrap();
        }
        let waits = waits_of("falco client") - before;
        // It looks 50 times a second.
        assert!(waits < REQUESTS / 2, "the thread has waited {waits} times");
        client.close();
        server.stop();
    });
}

#[cfg(target_os = "linux")]
const ALONE: &str = "FALCO_STD_TEST_ALONE";
