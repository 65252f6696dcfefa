//! `falco send`: messages, answers, and the exit codes of errors.

use core::time::Duration;
use std::io::Read;
use std::net::TcpListener;
use std::thread;
use std::time::Instant;

use crate::tool::{OTHER_KEY, Scratch, Served, falco, keyed, run, run_unread, run_with};

fn body(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at * 31 % 256).unwrap()).collect()
}

#[test]
fn a_message_from_any_source_comes_back_byte_for_byte() {
    let scratch = Scratch::new();
    let server = Served::start(&[]);
    let to = server.address.as_str();
    assert_eq!(server.send("no line break").good(), "no line break");
    assert_eq!(server.send("").good(), "");
    for length in [0, 1, 70_000, 3 << 20] {
        let bytes = body(length);
        let file = scratch.file("message", &bytes);
        for wire in [["send", to, "--file", &file], ["send", to, "-f", &file]] {
            assert!(run(keyed(&wire)).out == bytes, "{length} bytes of a file");
        }
        assert!(
            run_with(keyed(&["send", to]), &bytes).out == bytes,
            "{length} bytes piped"
        );
        assert!(run_with(keyed(&["send", to, "--file", "-"]), &bytes).out == bytes);
    }
    let ended = server.stop();
    assert!(ended.err.contains("18 requests, 18 answered"), "{}", ended.err);
}

/// Within a fraction of its time limit of 30 s.
#[test]
fn of_two_servers_the_second_gets_the_message_if_the_first_hangs() {
    let server = Served::start(&[]);
    // It accepts connections and says nothing.
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let both = format!("{},{}", hangs.local_addr().unwrap(), server.address);
    let begun = Instant::now();
    assert_eq!(run(keyed(&["send", &both, "hello"])).good(), "hello");
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    // It says what it waited for, if someone looks.
    let told = run(keyed(&["ping", &both, "-c", "1", "-v"]));
    let hanging = hangs.local_addr().unwrap().to_string();
    assert!(
        told.err.contains("slow to connect") && told.err.contains(&hanging),
        "{}",
        told.err
    );
}

#[test]
fn exit_codes_say_what_went_wrong() {
    let server = Served::start(&["--max-message", "1K", "--context", "orders"]);
    let address = server.address.clone();
    let to = address.as_str();
    let context = ["send", to, "x", "--context", "orders"];
    assert_eq!(run(keyed(&context)).good(), "x");
    // 1: the request was refused.
    let large = run(keyed(&["send", to, &"x".repeat(1025), "--context", "orders"]));
    assert!(large.failed_with(1).contains("1024"), "{}", large.err);
    // 1: the message could not be read, or is too large for this side.
    run(keyed(&["send", to, "--file", "/nonexistent", "--context", "orders"])).failed_with(1);
    let limit = ["--max-message", "10", "--context", "orders"];
    let large = run(keyed(&[&["send", to, "eleven bytes"][..], &limit].concat()));
    assert!(large.failed_with(1).contains("--max-message"), "{}", large.err);
    let streamed = run_with(keyed(&[&["send", to][..], &limit].concat()), b"eleven bytes");
    assert_eq!(streamed.good(), "eleven bytes");
    // 2: the command line.
    for words in [
        &["send"][..],
        &["send", to, "x", "--file", "y"],
        &["send", "a b", "x"],
        &["send", to, "x", "--timeout", "0"],
        &["send", to, "x", "--wire", "both"],
        &["send", to, "x", "--wire", "classic", "--context", "orders"],
        &["send", to, "x", "--context", &"c".repeat(65_536)],
        &["nonsense"],
        &[],
    ] {
        run(keyed(words)).failed_with(2);
    }
    // 3: another key, another context, another wire.
    let mut other = falco(&context);
    other.env("FALCO_KEY", OTHER_KEY);
    assert!(run(other).failed_with(3).contains("another key"));
    run(keyed(&["send", to, "x"])).failed_with(3);
    run(keyed(&["send", to, "x", "--wire", "classic"])).failed_with(3);
    server.stop();
    // 4: nothing listens there.
    run(keyed(&context)).failed_with(4);
    run(keyed(&["send", "unix:/nonexistent", "x"])).failed_with(4);
    run(keyed(&["send", "name.invalid", "x"])).failed_with(4);
}

#[test]
fn an_answer_that_is_late_is_a_timeout() {
    let slow = Served::start(&["--exec", "sleep", "60"]);
    let late = run(keyed(&["send", &slow.address, "x", "--timeout", "300ms"]));
    assert!(
        late.failed_with(5)
            .contains("300ms (the request may have been processed)"),
        "{}",
        late.err
    );
    slow.stop();

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let accepting = thread::spawn(move || {
        let (mut stream, _) = silent.accept().unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    run(keyed(&["send", &address, "x", "--timeout", "300ms"])).failed_with(5);
    accepting.join().unwrap();
}

#[test]
fn a_closed_standard_output_is_no_error() {
    let scratch = Scratch::new();
    let file = scratch.file("message", &body(1 << 20));
    let server = Served::start(&[]);
    let unread = run_unread(keyed(&["send", &server.address, "--file", &file]));
    assert_eq!(unread, (Some(0), String::new()));
    server.stop();
    for words in [
        &["--help"][..],
        &["help", "serve"],
        &["exit-codes"],
        &["help", "exit-codes"],
        &["--version"],
    ] {
        assert_eq!(run_unread(falco(words)), (Some(0), String::new()));
    }
}

#[test]
fn the_help_of_each_command_has_examples_and_exit_codes() {
    for command in ["serve", "send", "ping", "bench"] {
        let help = run(falco(&["help", command]));
        for part in ["Examples:\n", "Exit codes:\n", "FALCO_KEY"] {
            assert!(help.good().contains(part), "{command}: {part}");
        }
    }
    assert!(run(falco(&["keygen", "--help"])).good().contains("Examples:\n"));
    assert!(
        run(falco(&["help", "exit-codes"]))
            .good()
            .contains("3  the server refused")
    );
    assert_eq!(run(falco(&["exit-codes"])).good().lines().count(), 8);
}

/// The first cannot be reached, and the second is stopped later: one reachable server of several is
/// enough.
#[test]
fn one_reachable_server_of_several_is_enough() {
    let (first, second) = (Served::start(&[]), Served::start(&[]));
    let list = format!("127.0.0.1:1,{},{}", first.address, second.address);
    for command in ["send", "ping"] {
        let words: &[&str] = if command == "send" { &["x"] } else { &["-c", "1"] };
        run(keyed(&[&[command, &list][..], words].concat())).good();
    }
    first.stop();
    assert_eq!(run(keyed(&["send", &list, "y"])).good(), "y");
    second.stop();
    let told = run(keyed(&["send", "-t", "500ms", &list, "z"]));
    assert!(told.failed_with(4).contains("127.0.0.1:1,"), "{told:?}");
    let told = run(keyed(&["send", "one,unix:/two", "z"]));
    assert!(told.failed_with(2).contains("cannot contain a Unix socket"), "{told:?}");
}
