//! `falco serve`: where it listens, what it speaks, and how it ends.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::Instant;

use rustix::process::Signal;

use crate::tool::{KEY, OTHER_KEY, Run, Scratch, Served, falco, keyed, line_of, run, until_listening};

#[test]
fn an_address_that_is_taken_is_told() {
    let server = Served::start(&[]);
    run(keyed(&["serve", "--listen", &server.address])).failed_with(4);
    server.stop();
    for words in [
        &["--lifetime", "10ms"][..],
        &["--handshake-timeout", "0"],
        &["--max-in-flight", "0"],
        &["--max-connections", "0"],
        &["--max-message", "5G"],
        &["--classic-key-file", "x"],
        &["--wire", "classic", "--context", "x"],
        &["--wire", "classic", "--key-file", "x", "--classic-key-file", "y"],
        &["--listen", "unix:"],
        &["--exec"],
    ] {
        let mut command = keyed(&["serve"]);
        command.args(words);
        run(command).failed_with(2);
    }
}

#[test]
fn a_unix_socket_is_taken_over_from_the_dead_and_goes_in_the_end() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    // A server that is gone has left its socket.
    drop(UnixListener::bind(&path).unwrap());
    let address = format!("unix:{}", path.display());
    let server = Served::start(&["--listen", &address]);
    assert_eq!(server.address, address);
    assert_eq!(server.send("hello").good(), "hello");
    run(keyed(&["serve", "--listen", &address])).failed_with(4);
    assert_eq!(server.send("still there").good(), "still there");
    server.stop();
    assert!(!path.exists());
    // What is no socket stays.
    fs::write(&path, "precious").unwrap();
    run(keyed(&["serve", "--listen", &address])).failed_with(4);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn both_wires_are_served_each_under_its_own_key() {
    let scratch = Scratch::new();
    let other = scratch.file("other", OTHER_KEY.as_bytes());
    let server = Served::start(&["--wire", "both", "--classic-key-file", &other]);
    let to = server.address.as_str();
    assert_eq!(server.send("noise").good(), "noise");
    let classic = ["send", to, "classic", "--wire", "classic"];
    assert_eq!(
        run(falco(&[&classic[..], &["--key-file", &other]].concat())).good(),
        "classic"
    );
    run(keyed(&classic)).failed_with(3);
    server.stop();

    let mut same = keyed(&["serve", "--listen", "127.0.0.1:0", "--wire", "both"]);
    same.env("FALCO_CLASSIC_KEY", KEY);
    assert!(run(same).failed_with(2).contains("each needs one of its own"));
    run(keyed(&["serve", "--listen", "127.0.0.1:0", "--wire", "both"])).failed_with(6);
}

/// A server whose command says that it runs and then takes its time, and a request that is under
/// way.
fn under_way(scratch: &Scratch, seconds: &str, more: &[&str]) -> (Served, Run) {
    let script = format!("echo runs >{}; sleep {seconds}; cat", scratch.name("runs"));
    let exec = ["--exec", "sh", "-c", &script];
    let server = Served::start(&[more, &exec].concat());
    let request = Run::start(keyed(&["send", &server.address, "patient"]));
    line_of(&scratch.path("runs"));
    (server, request)
}

#[test]
fn the_first_signal_drains() {
    for signal in [Signal::INT, Signal::TERM] {
        let scratch = Scratch::new();
        let (server, request) = under_way(&scratch, "0.7", &[]);
        server.signal(signal);
        assert_eq!(request.end().good(), "patient");
        let ended = server.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(
            ended.err.contains("draining 1 connection and 1 request for"),
            "{}",
            ended.err
        );
        assert!(ended.err.contains("1 request, 1 answered"), "{}", ended.err);
    }
}

#[test]
fn the_second_signal_ends_at_once() {
    let scratch = Scratch::new();
    let (server, request) = under_way(&scratch, "60", &[]);
    let began = Instant::now();
    server.signal(Signal::INT);
    // Two signals of a kind that come together are one.
    server.signal(Signal::TERM);
    let ended = server.end();
    assert!(began.elapsed() < core::time::Duration::from_secs(20));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("1 request cut off"), "{}", ended.err);
    request.end().failed_with(1);
}

#[test]
fn a_drain_lasts_no_longer_than_it_may() {
    let scratch = Scratch::new();
    let (server, request) = under_way(&scratch, "60", &["--drain-timeout", "200ms"]);
    server.signal(Signal::INT);
    let ended = server.end();
    assert!(ended.failed_with(1).contains("1 request cut off"), "{}", ended.err);
    request.end().failed_with(1);
}

#[test]
fn a_server_tells_on_standard_error_what_it_is_asked_to() {
    let server = Served::start(&["-v"]);
    server.send("secret message").good();
    let ended = server.stop();
    assert!(
        ended.err.contains("established") && !ended.err.contains("secret"),
        "{}",
        ended.err
    );
    assert!(!ended.err.contains(KEY));
}

#[test]
fn a_server_whose_first_line_nobody_reads_serves_all_the_same() {
    let scratch = Scratch::new();
    let address = format!("unix:{}", scratch.name("socket"));
    let mut command = keyed(&["serve", "--listen", &address]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(child.stdout.take());
    until_listening(&scratch.path("socket"));
    assert_eq!(run(keyed(&["send", &address, "hello"])).good(), "hello");
    child.kill().unwrap();
    child.wait().unwrap();
}
