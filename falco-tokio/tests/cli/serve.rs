//! `falco serve`: listening, both wires, and its end.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::Instant;

use rustix::process::Signal;

use crate::tool::{KEY, OTHER_KEY, Run, Scratch, Served, falco, keyed, line_of, run, until_listening};

#[test]
fn wrong_arguments_and_an_address_in_use_are_reported() {
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
fn a_dead_unix_socket_is_replaced_and_an_own_one_removed() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    // A dead server has left its socket.
    drop(UnixListener::bind(&path).unwrap());
    let address = format!("unix:{}", path.display());
    let server = Served::start(&["--listen", &address]);
    assert_eq!(server.address, address);
    assert_eq!(server.send("hello").good(), "hello");
    run(keyed(&["serve", "--listen", &address])).failed_with(4);
    assert_eq!(server.send("still there").good(), "still there");
    server.stop();
    assert!(!path.exists());
    // A file that is not a socket stays.
    fs::write(&path, "precious").unwrap();
    run(keyed(&["serve", "--listen", &address])).failed_with(4);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn both_wires_are_served_each_with_its_own_key() {
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
    assert!(run(same).failed_with(2).contains("each needs a key of its own"));
    run(keyed(&["serve", "--listen", "127.0.0.1:0", "--wire", "both"])).failed_with(6);
}

#[test]
fn a_key_has_at_most_as_many_connections_as_it_may() {
    let scratch = Scratch::new();
    let other = scratch.file("other", OTHER_KEY.as_bytes());
    let keys = scratch.file("keys", format!("{KEY} one\n{OTHER_KEY} two\n").as_bytes());
    let script = format!("echo runs >{}; sleep 3", scratch.name("runs"));
    let words = ["--max-connections-per-key", "1", "--key-file", &keys];
    let words = [
        &["serve", "--listen", "127.0.0.1:0"][..],
        &words,
        &["--exec", "sh", "-c", &script],
    ]
    .concat();
    let server = Served::of(falco(&words));
    let first = Run::start(keyed(&["send", &server.address, "x"]));
    line_of(&scratch.path("runs"));
    let second = run(keyed(&["ping", &server.address, "-c", "1", "--timeout", "1s"]));
    assert_ne!(second.code, Some(0), "{second:?}");
    let under_other = ["ping", &server.address, "-c", "1", "--key-file", &other];
    assert_eq!(run(falco(&under_other)).code, Some(0));
    first.end().good();
    let ended = server.stop();
    assert!(
        ended.err.contains("its key has reached its limit of connections"),
        "{}",
        ended.err
    );
}

/// A server whose command takes some seconds, and a request in flight.
fn in_flight(scratch: &Scratch, seconds: &str, more: &[&str]) -> (Served, Run) {
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
        let (server, request) = in_flight(&scratch, "0.7", &[]);
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
    let (server, request) = in_flight(&scratch, "60", &[]);
    let began = Instant::now();
    server.signal(Signal::INT);
    // Another signal, because two pending signals of one kind are delivered once.
    server.signal(Signal::TERM);
    let ended = server.end();
    assert!(began.elapsed() < core::time::Duration::from_secs(20));
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.err.contains("1 request cut off"), "{}", ended.err);
    request.end().failed_with(1);
}

#[test]
fn a_drain_has_a_time_limit() {
    let scratch = Scratch::new();
    let (server, request) = in_flight(&scratch, "60", &["--drain-timeout", "200ms"]);
    server.signal(Signal::INT);
    let ended = server.end();
    assert!(ended.failed_with(1).contains("1 request cut off"), "{}", ended.err);
    request.end().failed_with(1);
}

#[test]
fn a_verbose_server_logs_connections_and_no_message() {
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
fn a_server_whose_first_line_nobody_reads_serves() {
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
