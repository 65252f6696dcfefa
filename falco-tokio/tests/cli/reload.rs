//! Several keys of `falco serve`, with labels, and how it reads them again on SIGHUP.

use core::time::Duration;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{ChildStderr, Command};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use falco_tokio::Key;
use rustix::process::Signal;
use serde_json::Value;

use crate::tool::{KEY, OTHER_KEY, PATIENCE, Run, Scratch, Served, falco, keyed, run, run_with};

fn id(key: &str) -> String {
    key.parse::<Key>().unwrap().id().to_string()
}

/// A server, and the lines of its standard error.
struct Heard {
    server: Served,
    lines: Receiver<String>,
}

impl Heard {
    fn start(words: &[&str]) -> Self {
        let mut command = falco(&["serve", "--listen", "127.0.0.1:0"]);
        command.args(words);
        let (server, err) = Served::unheard(command);
        let lines = lines(err);
        Self { server, lines }
    }

    /// Waits for a line with this text.
    fn says(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no line with {text:?} in {seen:#?}"));
            assert!(!line.contains(&KEY[..16]) && !line.contains(&OTHER_KEY[..16]), "{line}");
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
    }

    fn reload(&self, text: &str) -> String {
        self.server.signal(Signal::HUP);
        self.says(text)
    }

    fn send(&self, key_file: &str) -> Command {
        falco(&["send", &self.server.address, "hello", "--key-file", key_file])
    }
}

fn lines(err: ChildStderr) -> Receiver<String> {
    let (to, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(err).lines().map_while(Result::ok) {
            let _ = to.send(line);
        }
    });
    lines
}

#[test]
fn keys_of_a_file_are_added_renamed_and_retired_on_sighup() {
    let scratch = Scratch::new();
    let (one, two) = (
        scratch.file("one", KEY.as_bytes()),
        scratch.file("two", OTHER_KEY.as_bytes()),
    );
    let keys = scratch.file("keys", format!("# clients\n{KEY} gateway 1\n").as_bytes());
    let heard = Heard::start(&["-v", "--key-file", &keys]);
    assert_eq!(run(heard.send(&one)).good(), "hello");
    let line = heard.says("established");
    assert!(line.contains(&id(KEY)) && line.contains("gateway 1"), "{line}");
    run(heard.send(&two)).failed_with(3);

    heard.reload("read the keys again: nothing has changed; 1 key");
    scratch.file("keys", format!("{KEY} gateway one\n\n{OTHER_KEY}\n").as_bytes());
    let line = heard.reload("read the keys again");
    assert!(line.contains(&format!("renamed {} (gateway one)", id(KEY))), "{line}");
    assert!(
        line.contains(&format!("added {}", id(OTHER_KEY))) && line.ends_with("; 2 keys"),
        "{line}"
    );
    assert_eq!(run(heard.send(&two)).good(), "hello");

    scratch.file("keys", format!("{OTHER_KEY} two\n").as_bytes());
    let line = heard.reload("read the keys again");
    assert!(line.contains(&format!("retired {} (gateway one)", id(KEY))), "{line}");
    run(heard.send(&one)).failed_with(3);

    // If there is an error, nothing changes.
    for broken in [
        String::new(),
        format!("{OTHER_KEY}\n{KEY}0\n"),
        format!("{KEY}\n{KEY}\n"),
    ] {
        scratch.file("keys", broken.as_bytes());
        heard.reload("the server keeps its 1 key");
        assert_eq!(run(heard.send(&two)).good(), "hello");
    }
    fs::remove_file(&keys).unwrap();
    heard.reload("the server keeps its 1 key");
    heard.server.stop();
}

#[test]
fn a_directory_has_a_key_in_each_file_and_its_name_is_the_label() {
    let scratch = Scratch::new();
    let directory = scratch.name("keys.d");
    fs::create_dir(&directory).unwrap();
    let empty = falco(&["serve", "--listen", "127.0.0.1:0", "--key-file", &directory]);
    assert!(run(empty).failed_with(6).contains("the directory has no files"));
    let one = scratch.file("keys.d/alice.key", KEY.as_bytes());
    let two = scratch.file("keys.d/bob.key", format!("{OTHER_KEY} Robert").as_bytes());
    for ignored in [".hidden", "alice.key~"] {
        scratch.file(&format!("keys.d/{ignored}"), b"no key");
    }
    let heard = Heard::start(&["-v", "--key-file", &directory]);
    for (file, label) in [(&one, "alice"), (&two, "Robert")] {
        assert_eq!(run(heard.send(file)).good(), "hello");
        let line = heard.says("established");
        assert!(line.contains(label), "{line}");
    }
    fs::rename(&one, scratch.path("gone")).unwrap();
    let line = heard.reload("read the keys again");
    assert!(line.contains(&format!("retired {} (alice)", id(KEY))), "{line}");
    // The same key in two files is an error that names both.
    fs::copy(&two, scratch.path("keys.d/carol.key")).unwrap();
    let line = heard.reload("the server keeps its 1 key");
    assert!(line.contains("bob.key") && line.contains("carol.key"), "{line}");
    heard.server.stop();
}

#[test]
fn a_labeled_key_is_made_and_a_client_reads_it() {
    let scratch = Scratch::new();
    let file = scratch.name("key");
    let made = run(falco(&["keygen", "--label", "gateway 7", "--out", &file]));
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(fs::read_to_string(&file).unwrap().ends_with(" gateway 7\n"));
    for label in ["", "a\nb", KEY, &"l".repeat(65)] {
        run(falco(&["keygen", "--label", label])).failed_with(2);
    }
    let heard = Heard::start(&["-v", "--key-file", &file]);
    assert_eq!(run(heard.send(&file)).good(), "hello");
    heard.server.stop();
    // A client has one key.
    let two = scratch.file("two", format!("{KEY}\n{OTHER_KEY}\n").as_bytes());
    let told = run(falco(&["send", "127.0.0.1:1", "x", "--key-file", &two]));
    assert!(told.failed_with(6).contains("more than one key (2)"), "{}", told.err);
}

#[test]
fn keys_that_cannot_be_read_again_stay() {
    let mut command = keyed(&["serve", "--listen", "127.0.0.1:0"]);
    let (server, err) = Served::unheard(core::mem::replace(&mut command, Command::new("true")));
    let heard = Heard {
        server,
        lines: lines(err),
    };
    heard.reload("the environment of a process does not change; use --key-file with a file or a directory; the server keeps its 1 key");
    assert_eq!(run(keyed(&["send", &heard.server.address, "x"])).good(), "x");
    heard.server.stop();

    let mut classic = keyed(&["serve", "--listen", "127.0.0.1:0", "--wire", "classic"]);
    let (server, err) = Served::unheard(core::mem::replace(&mut classic, Command::new("true")));
    let heard = Heard {
        server,
        lines: lines(err),
    };
    heard.reload("the classic wire has one key, which is not read again");
    heard.server.stop();
    // Standard input can have several keys.
    let told = run_with(
        falco(&["serve", "--listen", "no such host", "--key-file", "-"]),
        format!("{KEY}\n{OTHER_KEY}").as_bytes(),
    );
    told.failed_with(2);
}

#[test]
fn a_key_is_rotated_under_load_and_no_request_fails() {
    let scratch = Scratch::new();
    let keys = scratch.file("keys", format!("{KEY} old\n").as_bytes());
    let (old, new) = (
        scratch.file("old", KEY.as_bytes()),
        scratch.file("new", OTHER_KEY.as_bytes()),
    );
    let heard = Heard::start(&["--key-file", &keys]);
    let load = |key: &str| {
        let words = ["-d", "3s", "-c", "4", "-p", "8", "--json", "--key-file", key];
        Run::start(falco(&[&["bench", heard.server.address.as_str()][..], &words].concat()))
    };
    let errors = |run: Run| {
        let ended = run.end();
        let told: Value = serde_json::from_str(ended.text()).unwrap();
        assert!(told["answered"].as_u64() > Some(100), "{told}");
        told["errors"].to_string()
    };
    let under_old = load(&old);
    thread::sleep(Duration::from_millis(500));
    scratch.file("keys", format!("{KEY} old\n{OTHER_KEY} new\n").as_bytes());
    heard.reload("added");
    let under_new = load(&new);
    assert_eq!(errors(under_old), "{}");
    scratch.file("keys", format!("{OTHER_KEY} new\n").as_bytes());
    heard.reload("retired");
    assert_eq!(errors(under_new), "{}");
    heard.server.stop();
}
