//! Messages and answers that are sent as they come.

use core::time::Duration;
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use crate::tool::{Scratch, Served, children, keyed, pid, run, run_with, until};

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251).to_le_bytes()[0]).collect()
}

#[test]
fn a_message_that_is_longer_than_the_limit_is_streamed() {
    let scratch = Scratch::new();
    let long = bytes(3_000_000);
    for serve in [&[][..], &["--exec", "cat"]] {
        let server = Served::start(serve);
        let send = |words: &[&str]| keyed(&[&["send", server.address.as_str(), "--max-message", "1M"], words].concat());
        let ended = run_with(send(&[]), &long);
        assert_eq!((ended.code, ended.out == long), (Some(0), true), "{}", ended.err);
        let file = scratch.file("long", &long);
        let ended = run(send(&["--file", &file]));
        assert_eq!((ended.code, ended.out == long), (Some(0), true), "{}", ended.err);
        // An argument and a short message too, if that is wanted.
        assert_eq!(run(send(&["--stream", "hello"])).good(), "hello");
        assert_eq!(run_with(send(&["--stream"]), b"hello").good(), "hello");
        server.stop();
    }
    // The classic wire has no streams.
    let classic = Served::start(&["--wire", "classic"]);
    let words = ["send", &classic.address, "--wire", "classic", "--max-message", "1M"];
    assert!(run_with(keyed(&words), &long).failed_with(2).contains("no streams"));
    classic.stop();
}

#[test]
fn a_command_that_goes_on_is_read_as_it_writes_and_ends_with_its_client() {
    let scratch = Scratch::new();
    let file = scratch.file("log", b"one\n");
    let server = Served::start(&["--exec", "tail", "-f", "-n", "+1", &file]);
    let mut command = keyed(&["send", &server.address, "--stream", "x"]);
    let mut client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap());
    let mut next = || {
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        line
    };
    assert_eq!(next(), "one\n");
    let mut log = OpenOptions::new().append(true).open(&file).unwrap();
    for line in ["two\n", "three\n"] {
        log.write_all(line.as_bytes()).unwrap();
        assert_eq!(next(), line);
    }
    assert_eq!(children(server.id()), 1);
    rustix::process::kill_process(pid(client.id()), Signal::INT).unwrap();
    client.wait().unwrap();
    until("the command is killed", || children(server.id()) == 0);
    server.stop();
}

#[test]
fn a_command_that_fails_or_is_silent_never_looks_complete() {
    let server = Served::start(&[
        "--idle-timeout",
        "500ms",
        "--exec",
        "sh",
        "-c",
        "echo begun; exec sh -c \"$(cat)\"",
    ]);
    let send = |script: &str| run(keyed(&["send", &server.address, "--stream", script]));
    let ended = send("sleep 0.2; exit 3");
    assert!(ended.failed_with(1).contains("the handler failed"), "{ended:?}");
    assert_eq!(ended.text(), "begun\n");
    let ended = send("sleep 0.3; echo a; sleep 0.3; echo b; sleep 0.3; echo c");
    assert_eq!(ended.good(), "begun\na\nb\nc\n");
    let ended = send("sleep 30");
    assert!(ended.failed_with(1).contains("the handler failed"), "{ended:?}");
    until("the command is killed", || children(server.id()) == 0);
    assert!(server.stop().err.contains("--idle-timeout"));
}

/// The request is whole: neither the client nor the operator has asked for a stream.
#[test]
fn an_answer_that_is_longer_than_the_limit_is_streamed() {
    let scratch = Scratch::new();
    let long = bytes(3_000_000);
    let file = scratch.file("long", &long);
    let server = Served::start(&["--max-message", "64K", "--exec", "cat", &file]);
    let words = ["send", &server.address, "--max-message", "64K", "x"];
    let ended = run(keyed(&words));
    assert_eq!((ended.code, ended.out == long), (Some(0), true), "{}", ended.err);
    server.stop();
    // Both sides have limits of their own. What one may not send as a whole is streamed, too.
    for length in [40_000, 65_536, 65_537, 200_000] {
        let count = length.to_string();
        let server = Served::start(&["--max-message", "64K", "--exec", "head", "-c", &count, &file]);
        let ended = run(keyed(&["send", &server.address, "--max-message", "32K", "x"]));
        assert_eq!(
            (ended.code, ended.out == long[..length]),
            (Some(0), true),
            "{}",
            ended.err
        );
        server.stop();
    }
    // A command that fails leaves nothing of a short answer, and a long one does not look whole.
    for (length, left) in [(60_000, false), (3_000_000, true)] {
        let script = format!("head -c {length} {file}; exit 3");
        let server = Served::start(&["--max-message", "64K", "--exec", "sh", "-c", &script]);
        let ended = run(keyed(&["send", &server.address, "x"]));
        assert!(ended.failed_with(1).contains("the handler failed"), "{ended:?}");
        assert_eq!(!ended.out.is_empty(), left);
        assert!(long.starts_with(&ended.out));
        server.stop();
    }
}

/// It may close its output first, and leave its input unread.
#[test]
fn a_command_may_end_its_output_and_its_input_in_any_order() {
    let scratch = Scratch::new();
    for (stream, script) in [("", "exec >&-; cat >"), ("--stream", "exec >&-; cat >")] {
        let script = format!("{script}{}", scratch.name("input"));
        let server = Served::start(&["--exec", "sh", "-c", &script]);
        let mut words = vec!["send", &server.address];
        words.extend(Some(stream).filter(|stream| !stream.is_empty()));
        let ended = run_with(keyed(&words), &bytes(500_000));
        assert_eq!(ended.good(), "");
        assert_eq!(fs::read(scratch.path("input")).unwrap(), bytes(500_000));
        server.stop();
    }
    let server = Served::start(&["--exec", "head", "-c", "2"]);
    let began = Instant::now();
    for stream in [&[][..], &["--stream"]] {
        let ended = run_with(
            keyed(&[&["send", server.address.as_str()], stream].concat()),
            &bytes(500_000),
        );
        assert_eq!(ended.out, [0, 1], "{}", ended.err);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    server.stop();
}

/// As does `tail -f` of a file to which nothing is written.
#[test]
fn a_command_of_a_stream_may_be_silent_for_longer_than_another_may_run() {
    let server = Served::start(&[
        "--exec-timeout",
        "300ms",
        "--exec",
        "sh",
        "-c",
        "echo begun; sleep 1.5; echo end",
    ]);
    let streamed = run(keyed(&["send", &server.address, "--stream", "x"]));
    assert_eq!(streamed.good(), "begun\nend\n");
    assert!(server.send("x").failed_with(1).contains("the handler failed"));
    server.stop();
}

#[test]
fn the_end_of_a_command_ends_its_stream_although_a_process_holds_its_output() {
    let server = Served::start(&["--exec", "sh", "-c", "sleep 60 & echo begun"]);
    let began = Instant::now();
    assert_eq!(
        run(keyed(&["send", &server.address, "--stream", "x"])).good(),
        "begun\n"
    );
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    until("the process is killed", || children(server.id()) == 0);
    server.stop();
}

/// The command acts only on a whole body: it is killed before it could see an end.
#[test]
fn a_body_that_was_cut_off_is_never_the_whole_input_of_a_command() {
    let scratch = Scratch::new();
    let script = format!("cat >/dev/null; echo whole >>{}", scratch.name("whole"));
    let server = Served::start(&["--max-commands", "64", "--exec", "sh", "-c", &script]);
    for _ in 0..40 {
        let mut command = keyed(&["send", &server.address, "--stream"]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut client = command.spawn().unwrap();
        client.stdin.as_mut().unwrap().write_all(&bytes(100_000)).unwrap();
        until("the command runs", || children(server.id()) == 1);
        client.kill().unwrap();
        client.wait().unwrap();
        until("the command is killed", || children(server.id()) == 0);
    }
    assert!(!scratch.path("whole").exists());
    server.stop();
}

/// A command may write its last bytes and end long before its client has read them.
#[test]
fn a_client_that_reads_late_gets_all_that_a_command_has_written() {
    let server = Served::start(&["--exec", "head", "-c", "3000000", "/dev/zero"]);
    let mut command = keyed(&["send", &server.address, "--stream", "x"]);
    let mut slow = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    thread::sleep(Duration::from_secs(1));
    let mut all = Vec::new();
    slow.stdout.take().unwrap().read_to_end(&mut all).unwrap();
    assert_eq!((all.len(), slow.wait().unwrap().code()), (3_000_000, Some(0)));
    server.stop();
}

/// Clients keep the commands of streams as long as they like.
#[test]
fn commands_of_streams_leave_places_to_other_requests() {
    let server = Served::start(&["--max-commands", "2", "--exec", "cat"]);
    let mut silent: Vec<_> = (0..4)
        .map(|_| {
            let mut command = keyed(&["send", &server.address, "--stream"]);
            command
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.spawn().unwrap()
        })
        .collect();
    until("a command runs", || children(server.id()) == 1);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(children(server.id()), 1);
    assert_eq!(server.send("whole").good(), "whole");
    for client in &mut silent {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    // A connection that ends while the server drains counts as cut off.
    until("no command is left", || children(server.id()) == 0);
    server.stop();
}

#[test]
fn a_slow_reader_holds_back_the_command_and_not_the_server() {
    let server = Served::start(&[
        "--exec",
        "sh",
        "-c",
        "read how; test $how = quick || exec yes; echo quick",
    ]);
    let mut command = keyed(&["send", &server.address, "--stream", "slow\n"]);
    let mut slow = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut first = [0; 100];
    slow.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    thread::sleep(Duration::from_millis(500));
    let peak = peak(server.id());
    assert!(peak < 64 << 10, "{peak} KiB");
    assert_eq!(server.send("quick\n").good(), "quick\n");
    slow.kill().unwrap();
    slow.wait().unwrap();
    until("the command is killed", || children(server.id()) == 0);
    server.stop();
}

/// The most memory that a process has had, in KiB.
fn peak(id: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// How much goes through a process whose memory is measured.
const MUCH: usize = 256 << 20;
/// The most memory that it may take, in KiB.
const FLAT: u64 = 32 << 10;

#[test]
fn the_memory_of_send_and_of_its_server_does_not_grow_with_a_long_answer() {
    let length = MUCH.to_string();
    let server = Served::start(&["--exec", "head", "-c", &length, "/dev/zero"]);
    let mut command = keyed(&["send", &server.address, "x"]);
    let mut client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut answer = client.stdout.take().unwrap();
    let (mut buffer, mut received) = (vec![0; 1 << 20], 0);
    // More than a pipe holds is left, so that the process still runs.
    while received < MUCH - (4 << 20) {
        received += answer.read(&mut buffer).unwrap();
    }
    let peaks = [client.id(), server.id()].map(peak);
    // The server holds back an answer that a message could be, until its command has succeeded.
    assert!(peaks[0] < FLAT && peaks[1] < 2 * FLAT, "{peaks:?} KiB");
    received += answer.read_to_end(&mut Vec::new()).unwrap();
    assert_eq!((received, client.wait().unwrap().code()), (MUCH, Some(0)));
    server.stop();
}

#[test]
fn the_memory_of_send_and_of_its_server_does_not_grow_with_a_long_message() {
    let server = Served::start(&["--exec", "wc", "-c"]);
    let mut command = keyed(&["send", &server.address]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut client = command.spawn().unwrap();
    let mut input = client.stdin.take().unwrap();
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..MUCH / piece.len() {
        input.write_all(&piece).unwrap();
    }
    let peaks = [client.id(), server.id()].map(peak);
    assert!(peaks.iter().all(|peak| *peak < FLAT), "{peaks:?} KiB");
    drop(input);
    let ended = client.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(0));
    assert_eq!(String::from_utf8(ended.stdout).unwrap().trim(), MUCH.to_string());
    server.stop();
}
