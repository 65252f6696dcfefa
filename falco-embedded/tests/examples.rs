//! The examples as child processes: each ends by itself, succeeds, and prints what it should.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::process::Command;

/// The lines of an example.
fn run(example: &str) -> Vec<String> {
    // It exists already if all tests were built at once.
    let build = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--example", example])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(build.unwrap().success());
    // The directory of the examples is next to that of this test.
    let own = std::env::current_exe().unwrap();
    let directory = own.parent().unwrap().parent().unwrap().join("examples");
    let output = Command::new(directory.join(example)).output().unwrap();
    assert!(output.status.success(), "{example}: {output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

/// The lines of one of several tasks.
fn said<'l>(lines: &'l [String], who: &str) -> Vec<&'l str> {
    lines
        .iter()
        .filter_map(|line| line.strip_prefix(who)?.strip_prefix(": "))
        .collect()
}

#[test]
fn host() {
    let lines = run("host");
    let pong = "the ping was answered";
    assert_eq!(
        said(&lines, "async client"),
        ["HELLO FROM A TASK", "2048 bytes, in parts", pong]
    );
    assert_eq!(said(&lines, "blocking client"), ["HELLO FROM A LOOP"]);
    assert_eq!(said(&lines, "async server"), ["the client has closed"]);
    assert_eq!(said(&lines, "blocking server"), ["the client has closed"]);
    assert_eq!(lines.len(), 6);
}

#[test]
fn engine() {
    let lines = run("engine");
    let (sizes, lines) = lines.split_last().unwrap();
    assert_eq!(
        lines,
        [
            "the engine seals and opens as the software does",
            "keys: 8 loaded, 8 wiped, 4 at once at most",
            "jobs: 28 sealed, 28 opened",
            "without a free slot: the key has reached its limit of messages: replace the key",
        ]
    );
    assert!(sizes.starts_with("a connection is "), "{sizes}");
}

#[test]
fn embassy() {
    let lines = run("embassy");
    let (first, second) = ("21.5 degrees noted", "21.9 degrees noted");
    assert_eq!(
        said(&lines, "client"),
        [first, second, "closed", "22.0 degrees noted", "closed"]
    );
    assert_eq!(said(&lines, "server"), ["the client has closed"; 2]);
    assert_eq!(lines.len(), 7);
}
