//! `falco ping`.

use core::time::Duration;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::thread;

use rustix::process::{Signal, kill_process};

use crate::tool::{OTHER_KEY, Served, falco, keyed, pid, run, run_unread};

#[test]
fn pings_have_numbers_times_and_a_summary() {
    let server = Served::start(&["--exec", "false"]);
    let pinged = run(keyed(&["ping", &server.address, "-c", "3", "-i", "10ms"]));
    let text = pinged.good();
    assert!(
        text.starts_with(&format!("PING {} over noise: connected in ", server.address)),
        "{text}"
    );
    for number in 1..=3 {
        let line = format!("{}: seq={number} time=", server.address);
        assert!(
            text.lines()
                .any(|told| told.starts_with(&line) && told.ends_with(" ms")),
            "{text}"
        );
    }
    assert!(text.contains("3 sent, 3 answered, 0.0% lost, time "), "{text}");
    let times = text
        .split("rtt min/avg/max/mdev = ")
        .nth(1)
        .unwrap()
        .strip_suffix(" ms\n")
        .unwrap();
    let times: Vec<f64> = times.split('/').map(|time| time.parse().unwrap()).collect();
    assert!(
        times.len() == 4 && times[0] > 0.0 && times[0] <= times[1] && times[1] <= times[2],
        "{times:?}"
    );
    // No ping has reached a handler.
    assert!(server.stop().err.contains(" 0 requests,"));
}

#[test]
fn the_classic_wire_says_that_it_has_no_answer() {
    let server = Served::start(&["--wire", "classic"]);
    let pinged = run(keyed(&[
        "ping",
        &server.address,
        "-c",
        "2",
        "-i",
        "10ms",
        "--wire",
        "classic",
    ]));
    assert!(
        pinged.good().contains("seq=2 sent; this wire has no answer"),
        "{pinged:?}"
    );
    assert!(!pinged.text().contains("rtt"), "{pinged:?}");
    server.stop();
}

#[test]
fn the_exit_code_says_why_a_ping_failed() {
    let server = Served::start(&[]);
    let mut other = falco(&["ping", &server.address, "-c", "1"]);
    other.env("FALCO_KEY", OTHER_KEY);
    run(other).failed_with(3);
    let address = server.address.clone();
    server.stop();
    run(keyed(&["ping", &address, "-c", "1"])).failed_with(4);
    for words in [["ping", &address, "-c", "0"], ["ping", &address, "-i", "0"]] {
        run(keyed(&words)).failed_with(2);
    }
}

/// `falco ping` without a count, once it has printed some pings.
fn endless(address: &str) -> (std::process::Child, BufReader<std::process::ChildStdout>) {
    let mut command = keyed(&["ping", address, "-i", "20ms", "-t", "500ms"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("seq=2") {
        line.clear();
        assert_ne!(lines.read_line(&mut line).unwrap(), 0);
    }
    (child, lines)
}

#[test]
fn a_signal_ends_it_with_a_summary() {
    let server = Served::start(&[]);
    for signal in [Signal::INT, Signal::TERM] {
        let (mut child, lines) = endless(&server.address);
        kill_process(pid(child.id()), signal).unwrap();
        let last: Vec<String> = lines.lines().map(Result::unwrap).collect();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{last:?}");
        assert!(last.iter().any(|line| line.contains("ping statistics")), "{last:?}");
    }
    server.stop();
}

#[test]
fn pings_are_lost_while_a_server_is_away_and_answered_after_it_returns() {
    let server = Served::start(&[]);
    let address = server.address.clone();
    let (mut child, mut lines) = endless(&address);
    server.stop();
    let mut line = String::new();
    let mut until = |word: &str| {
        while !line.contains(word) {
            line.clear();
            assert_ne!(lines.read_line(&mut line).unwrap(), 0);
        }
    };
    until("lost: ");
    let server = Served::start(&["--listen", &address]);
    until("time=");
    kill_process(pid(child.id()), Signal::INT).unwrap();
    until("% lost");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    server.stop();
}

#[test]
fn a_closed_standard_output_ends_it() {
    let server = Served::start(&[]);
    assert_eq!(run_unread(keyed(&["ping", &server.address])), (Some(0), String::new()));
    let (mut child, lines) = endless(&server.address);
    drop(lines);
    thread::sleep(Duration::from_millis(1));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    server.stop();
}
