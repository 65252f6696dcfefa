//! Standard error that is unread, closed or full; and how much is written to it.

use core::time::Duration;
use std::fs;
use std::io::{ErrorKind, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::unix::fs::MetadataExt;
use std::process::{ChildStderr, Command, Stdio};
use std::thread;
use std::time::Instant;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::process::Signal;
use serde_json::Value;

use crate::tool::{
    KEY, OTHER_KEY, Run, Scratch, Served, children, falco, keyed, line_of, piped, run, until, until_listening,
    with_piped_key,
};

/// A server whose standard error is a pipe that is not read.
fn unheard(words: &[&str]) -> (Served, ChildStderr) {
    let mut command = piped(&["serve", "--listen", "127.0.0.1:0"]);
    command.args(words);
    Served::unheard(command)
}

/// Sends requests, and checks that all of them fail in the handler within a time limit.
fn fail(server: &Served, requests: &str) {
    let words = ["-n", requests, "-c", "4", "-p", "4", "-t", "10s", "--json"];
    let told = run(keyed(&[&["bench", server.address.as_str()][..], &words].concat()));
    let told: Value = serde_json::from_str(told.text()).unwrap();
    assert_eq!(
        told["errors"]["the request was refused: the handler failed"].to_string(),
        requests,
        "{told}"
    );
}

/// Checks that it drains after one signal, whatever its standard error is.
fn ends(server: Served) {
    let began = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.end().code, Some(0));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn a_server_serves_and_ends_although_nobody_reads_its_log() {
    for more in [&[][..], &["-v"]] {
        let (server, pipe) = unheard(&[more, &["--exec", "false"]].concat());
        fail(&server, "2500");
        ends(server);
        drop(pipe);
    }
}

#[test]
fn standard_error_of_commands_blocks_nothing_and_dropped_lines_are_counted() {
    let script = "yes complaint | head -c 200000 >&2; false";
    // With -v, the log gets all of it.
    let (server, mut pipe) = unheard(&["-v", "--exec", "sh", "-c", script]);
    fail(&server, "40");
    // Now somebody reads: first what was kept, then the count of what is missing, then what
    // follows.
    let reading = thread::spawn(move || {
        let mut text = String::new();
        pipe.read_to_string(&mut text).unwrap();
        text
    });
    ends(server);
    let text = reading.join().unwrap();
    assert!(text.contains("\ncomplaint\n"), "{:?}", text.get(..100));
    assert!(text.contains(" log lines dropped here: "), "nothing dropped");
    assert!(text.contains("served "), "no last words");
}

#[test]
fn standard_error_of_commands_does_not_fill_the_log() {
    let began = Instant::now();
    let server = Served::start(&["--exec", "sh", "-c", "yes complaint | head -c 2000000 >&2; cat"]);
    for message in ["one", "two", "three"] {
        assert_eq!(server.send(message).good(), message);
    }
    let ended = server.stop();
    let seconds = began.elapsed().as_secs() + 2;
    let mut left_out = 0;
    for line in ended.err.lines().filter(|line| line.contains("suppressed; -v")) {
        let (_, count) = line.split_once("standard error of commands: ").unwrap();
        left_out += count.split(' ').next().unwrap().parse::<u64>().unwrap();
    }
    let written = ended.err.lines().filter(|line| *line == "complaint").count();
    // The output of each command ends within a line.
    let all = u64::try_from(written).unwrap() + left_out;
    assert!(
        (599_990..=600_030).contains(&all),
        "{written} written, {left_out} left out"
    );
    let most = usize::try_from(seconds).unwrap() * (72 << 10);
    assert!(written > 6000 && written * 10 < most, "{written} in {seconds} s");
}

#[test]
fn a_second_signal_ends_a_server_at_once_although_its_standard_error_is_full() {
    let scratch = Scratch::new();
    let script = format!(
        "yes complaint | head -c 4000000 >&2; echo runs >{}; sleep 600",
        scratch.name("runs")
    );
    let (server, _pipe) = unheard(&["--drain-timeout", "10m", "--exec", "sh", "-c", &script]);
    let request = Run::start(keyed(&["send", &server.address, "x"]));
    line_of(&scratch.path("runs"));
    let began = Instant::now();
    server.signal(Signal::TERM);
    server.signal(Signal::INT);
    assert_eq!(server.end().code, Some(1));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    request.end().failed_with(1);
}

#[test]
fn the_rate_of_warnings_is_limited_and_the_others_are_counted() {
    let began = Instant::now();
    let server = Served::start(&["--exec", "false"]);
    fail(&server, "600");
    let ended = server.stop();
    let seconds = began.elapsed().as_secs() + 2;
    let (mut written, mut left_out) = (0, 0);
    for line in ended.err.lines().filter(|line| line.contains("the handler failed")) {
        // What the library has left out, and what the tool has.
        if let Some((_, count)) = line.split_once("left_out=") {
            left_out += count.split_whitespace().next().unwrap().parse::<u64>().unwrap();
        }
        match line.split_once("the handler failed: ") {
            Some((_, count)) if count.contains("suppressed; -v") => {
                left_out += count.split(' ').next().unwrap().parse::<u64>().unwrap();
            }
            Some((_, count)) if count.contains("further warnings were left out") => {}
            _ => written += 1,
        }
    }
    assert_eq!(written + left_out, 600, "{}", ended.err);
    assert!(written >= 10 && written <= 10 * seconds, "{written} in {seconds} s");

    // With -v, all of them are logged, and at the end how many are no warnings.
    let server = Served::start(&["-v", "--exec", "false"]);
    fail(&server, "100");
    let ended = server.stop();
    let each = |line: &&str| line.contains("the handler failed") && line.contains("request=");
    assert_eq!(ended.err.lines().filter(each).count(), 100, "{}", ended.err);
}

#[test]
fn a_peer_in_the_log_is_an_address() {
    let scratch = Scratch::new();
    let script = format!("echo runs >{}; sleep 600", scratch.name("runs"));
    let server = Served::start(&["-v", "--max-connections", "1", "--exec", "sh", "-c", &script]);
    let first = Run::start(keyed(&["send", &server.address, "x"]));
    line_of(&scratch.path("runs"));
    server.send("refused").failed_with(3);
    first.signal(Signal::TERM);
    assert_eq!(first.end().code, None);
    // The server must know before it drains that the client is gone: a drain waits for the answers
    // of clients.
    until("the command is gone", || children(server.id()) == 0);
    let ended = server.stop();
    assert!(ended.err.contains("closed a connection at once"), "{}", ended.err);
    assert!(ended.err.contains("peer=127.0.0.1:"), "{}", ended.err);
    assert!(!ended.err.contains("Some("), "{}", ended.err);
}

/// A full pipe.
fn full() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = pipe().unwrap();
    let flags = fcntl_getfl(&writer).unwrap();
    fcntl_setfl(&writer, flags | OFlags::NONBLOCK).unwrap();
    for length in [4096, 1] {
        loop {
            match writer.write(&[b'\n'; 4096][..length]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("{error}"),
            }
        }
    }
    fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

#[test]
fn a_signal_ends_a_command_that_is_blocked_by_standard_output() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let address = format!("unix:{}", path.display());
    let (_reader, writer) = full();
    let log = fs::File::create(scratch.path("log")).unwrap();
    let mut command = keyed(&["serve", "--listen", &address, "-v"]);
    let server = Run::of(command.stdout(writer.try_clone().unwrap()).stderr(log));
    until_listening(&path);
    assert_eq!(run(keyed(&["send", &address, "hello"])).good(), "hello");

    let mut command = keyed(&["ping", &address, "-t", "500ms"]);
    let ping = Run::of(command.stdout(writer).stderr(Stdio::piped()));
    // Now it is blocked while it writes its first line.
    let established = || {
        fs::read_to_string(scratch.path("log"))
            .unwrap()
            .matches("established")
            .count()
    };
    until("it is connected", || established() == 2);
    let began = Instant::now();
    ping.signal(Signal::TERM);
    assert!(ping.end().failed_with(1).contains("ended by force"));
    server.signal(Signal::TERM);
    assert_eq!(server.end().code, Some(0));
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[test]
fn a_closed_standard_error_is_no_error() {
    let mut command = Command::new("sh");
    let script = "exec \"$0\" serve --listen 127.0.0.1:0 --key-file - -v --exec false 2>&-";
    command.args(["-c", script, env!("CARGO_BIN_EXE_falco")]);
    with_piped_key(&mut command);
    let server = Served::of(command);
    fail(&server, "20");
    ends(server);
}

/// The log of a server that has refused a client with another key, and whose handler has failed.
fn logged(words: &[&str], levels: Option<&str>) -> String {
    let scratch = Scratch::new();
    let other = scratch.file("other", OTHER_KEY.as_bytes());
    let mut command = piped(&["serve", "--listen", "127.0.0.1:0"]);
    command
        .args(words)
        .args(["--exec", "sh", "-c", "echo complaint >&2; false"]);
    command.envs(levels.map(|levels| ("RUST_LOG", levels)));
    let server = Served::of(command);
    run(keyed(&["send", &server.address, "x"])).failed_with(1);
    for _ in 0..3 {
        run(falco(&["send", &server.address, "x", "--key-file", &other])).failed_with(3);
    }
    server.stop().err
}

#[test]
fn warnings_name_the_peer_and_the_key_and_refused_handshakes_are_counted() {
    let id = KEY.parse::<falco_tokio::Key>().unwrap().id().to_string();
    let log = logged(&[], None);
    let failed = log.lines().find(|line| line.contains("the handler failed"));
    let failed = failed.unwrap_or_else(|| panic!("{log}"));
    assert!(failed.contains("peer=127.0.0.1:") && failed.contains(&id), "{failed}");
    // The first of three, because they come within ten seconds, and the count of the others.
    let refused: Vec<_> = log
        .lines()
        .filter(|line| line.contains("refused a handshake"))
        .collect();
    assert_eq!(refused.len(), 2, "{log}");
    assert!(
        refused[0].contains("peer=127.0.0.1:") && refused[0].contains("left_out=0"),
        "{log}"
    );
    assert!(
        refused[1].contains(": further warnings were left out") && refused[1].contains("left_out=2"),
        "{log}"
    );
}

#[test]
fn rust_log_chooses_what_is_logged() {
    let quiet = logged(&[], Some("off"));
    assert!(
        !quiet.contains("WARN") && quiet.contains("complaint") && quiet.contains("falco: served"),
        "{quiet}"
    );
    let chosen = logged(&[], Some("warn,falco_tokio::server=debug"));
    assert!(chosen.contains("DEBUG") && chosen.contains("established"), "{chosen}");
    let mut command = falco(&["exit-codes"]);
    command.env("RUST_LOG", "=no=levels=");
    assert!(run(command).failed_with(2).contains("RUST_LOG"));
}

#[test]
fn each_line_of_a_json_log_is_an_object() {
    let log = logged(&["-v", "--log-format", "json"], None);
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let with = |text: &str| {
        lines
            .iter()
            .find(|line| line["message"].as_str().is_some_and(|told| told.contains(text)))
    };
    for text in ["accepted", "refused a handshake", "draining", "served"] {
        assert!(
            with(text).is_some_and(|line| line["timestamp"].is_string() && line["level"].is_string()),
            "{text}: {log}"
        );
    }
    assert_eq!(with("complaint").unwrap()["source"], "command");
    assert!(with("the handler failed").unwrap()["span"]["key"].is_string(), "{log}");
}

#[test]
fn the_reason_of_a_failure_is_an_error_in_a_json_log() {
    let failed = run(falco(&["serve", "--log-format", "json", "--key-file", "no/such/key"]));
    let told: Value = serde_json::from_str(failed.failed_with(6)).unwrap();
    assert_eq!(told["level"], "ERROR", "{told}");
    assert!(told["message"].as_str().unwrap().contains("no/such/key"), "{told}");
}

/// The log of a server whose handler has failed. Standard error is a file, and the journal if
/// `JOURNAL_STREAM` says so.
fn logged_to_a_file(words: &[&str], is_journal: bool) -> String {
    let scratch = Scratch::new();
    let path = scratch.path("log");
    let log = fs::File::create(&path).unwrap();
    let found = log.metadata().unwrap();
    let other = u64::from(!is_journal);
    let mut command = piped(&["serve", "--listen", "127.0.0.1:0"]);
    command.args(words);
    command.args(["--exec", "sh", "-c", "printf 'complaint\n' >&2; false"]);
    command.env("JOURNAL_STREAM", format!("{}:{}", found.dev(), found.ino() + other));
    let server = Served::heard_by(command, log);
    run(keyed(&["send", &server.address, "x"])).failed_with(1);
    server.signal(Signal::TERM);
    assert_eq!(server.end().code, Some(0));
    fs::read_to_string(path).unwrap()
}

#[test]
fn the_journal_gets_a_priority_before_each_line() {
    let log = logged_to_a_file(&["-v"], true);
    let with = |text: &str| {
        log.lines()
            .find(|line| line.contains(text))
            .unwrap_or_else(|| panic!("{text}: {log}"))
    };
    assert!(with("the handler failed").starts_with("<4>"), "{log}");
    assert!(with("established").starts_with("<7>"), "{log}");
    assert!(with("draining").starts_with("<6>falco: draining"), "{log}");
    // A command may write priorities itself.
    assert_eq!(with("complaint"), "complaint");
    let json = logged_to_a_file(&["--log-format", "json"], true);
    assert!(json.contains("<4>{") && json.contains("<6>{"), "{json}");
    for words in [&["-v"][..], &["-v", "--log-format", "json"]] {
        let log = logged_to_a_file(words, false);
        assert!(
            log.lines().count() > 3 && !log.contains("<4>") && !log.contains("<6>"),
            "{log}"
        );
    }
}
