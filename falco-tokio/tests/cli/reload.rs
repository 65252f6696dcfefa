//! Several keys of `falco serve`, with labels, and how it reads them again on SIGHUP.

use core::time::Duration;
use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::heard::{Heard, id};
use crate::tool::{KEY, OTHER_KEY, Run, Scratch, falco, keyed, run, run_with, until};

/// A server on a free port.
fn serve(words: &[&str]) -> Heard {
    let mut command = falco(&["serve", "--listen", "127.0.0.1:0"]);
    command.args(words);
    Heard::of(command)
}

/// Sends a message to it.
fn send(heard: &Heard, key_file: &str) -> Command {
    falco(&["send", &heard.server.address, "hello", "--key-file", key_file])
}

#[test]
fn keys_of_a_file_are_added_renamed_and_retired_on_sighup() {
    let scratch = Scratch::new();
    let (one, two) = (
        scratch.file("one", KEY.as_bytes()),
        scratch.file("two", OTHER_KEY.as_bytes()),
    );
    let keys = scratch.file("keys", format!("# clients\n{KEY} gateway 1\n").as_bytes());
    let heard = serve(&["-v", "--key-file", &keys]);
    assert_eq!(run(send(&heard, &one)).good(), "hello");
    let line = heard.says("established");
    assert!(line.contains(&id(KEY)) && line.contains("gateway 1"), "{line}");
    run(send(&heard, &two)).failed_with(3);

    heard.reload("read the keys again: nothing has changed; 1 key");
    scratch.file("keys", format!("{KEY} gateway one\n\n{OTHER_KEY}\n").as_bytes());
    let line = heard.reload("read the keys again");
    assert!(line.contains(&format!("renamed {} (gateway one)", id(KEY))), "{line}");
    assert!(
        line.contains(&format!("added {}", id(OTHER_KEY))) && line.ends_with("; 2 keys"),
        "{line}"
    );
    assert_eq!(run(send(&heard, &two)).good(), "hello");

    scratch.file("keys", format!("{OTHER_KEY} two\n").as_bytes());
    let line = heard.reload("read the keys again");
    assert!(line.contains(&format!("retired {} (gateway one)", id(KEY))), "{line}");
    run(send(&heard, &one)).failed_with(3);

    // If there is an error, nothing changes.
    for broken in [
        String::new(),
        format!("{OTHER_KEY}\n{KEY}0\n"),
        format!("{KEY}\n{KEY}\n"),
    ] {
        scratch.file("keys", broken.as_bytes());
        heard.reload("the server keeps its 1 key");
        assert_eq!(run(send(&heard, &two)).good(), "hello");
    }
    fs::remove_file(&keys).unwrap();
    heard.reload("the server keeps its 1 key");
    heard.server.stop();
}

#[test]
fn a_revoked_key_is_cut_off_at_once_and_one_that_is_gone_drains() {
    let scratch = Scratch::new();
    let (one, two) = (
        scratch.file("one", KEY.as_bytes()),
        scratch.file("two", OTHER_KEY.as_bytes()),
    );
    let keys = scratch.file("keys", format!("{KEY} one\n{OTHER_KEY} two\n").as_bytes());
    let script = format!("echo runs >>{}; sleep 100", scratch.name("runs"));
    let heard = serve(&["--key-file", &keys, "--exec", "sh", "-c", &script]);
    let requests = [&one, &two].map(|key| {
        let mut command = send(&heard, key);
        command.args(["--timeout", "90s"]);
        Run::start(command)
    });
    let runs = || {
        fs::read_to_string(scratch.path("runs"))
            .unwrap_or_default()
            .lines()
            .count()
    };
    until("both run", || runs() == 2);
    let [mut first, mut second] = requests;

    // It drains, and is then cut off by its id.
    scratch.file("keys", format!("{OTHER_KEY} two\n").as_bytes());
    heard.reload(&format!("retired {} (one); 1 key", id(KEY)));
    std::thread::sleep(Duration::from_millis(300));
    assert!(first.is_running());
    scratch.file("keys", format!("{OTHER_KEY} two\nrevoked {}\n", id(KEY)).as_bytes());
    heard.reload(&format!("revoked {} (one); 1 key", id(KEY)));
    first.end().failed_with(1);
    assert!(second.is_running());
    heard.reload("nothing has changed; 1 key");

    // It is cut off by the line that it had, although no key is left.
    scratch.file("keys", format!("revoked {OTHER_KEY} two\n").as_bytes());
    heard.reload(&format!("revoked {} (two); 0 keys", id(OTHER_KEY)));
    second.end().failed_with(1);
    run(send(&heard, &two)).failed_with(3);
    let again = falco(&["serve", "--listen", "127.0.0.1:0", "--key-file", &keys]);
    assert!(run(again).failed_with(6).contains("all keys are revoked"));
    scratch.file(
        "keys",
        format!("{KEY}\nrevoked {OTHER_KEY} two\n{OTHER_KEY} two\n").as_bytes(),
    );
    heard.reload(&format!("added {}; 1 key", id(KEY)));
    run(send(&heard, &two)).failed_with(3);
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
    let heard = serve(&["-v", "--key-file", &directory]);
    for (file, label) in [(&one, "alice"), (&two, "Robert")] {
        assert_eq!(run(send(&heard, file)).good(), "hello");
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
    let heard = serve(&["-v", "--key-file", &file]);
    assert_eq!(run(send(&heard, &file)).good(), "hello");
    heard.server.stop();
    // A client has one key.
    let two = scratch.file("two", format!("{KEY}\n{OTHER_KEY}\n").as_bytes());
    let told = run(falco(&["send", "127.0.0.1:1", "x", "--key-file", &two]));
    assert!(told.failed_with(6).contains("more than one key (2)"), "{}", told.err);
}

#[test]
fn keys_that_cannot_be_read_again_stay() {
    let command = keyed(&["serve", "--listen", "127.0.0.1:0"]);
    let heard = Heard::of(command);
    heard.reload("the environment of a process does not change; use --key-file; the server keeps its 1 key");
    assert_eq!(run(keyed(&["send", &heard.server.address, "x"])).good(), "x");
    heard.server.stop();

    let heard = Heard::of(keyed(&["serve", "--listen", "127.0.0.1:0", "--log-format", "json"]));
    let line: Value = serde_json::from_str(&heard.reload("the server keeps its 1 key")).unwrap();
    assert_eq!(line["level"], "WARN");
    heard.server.stop();

    let classic = keyed(&["serve", "--listen", "127.0.0.1:0", "--wire", "classic"]);
    let heard = Heard::of(classic);
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
    let heard = serve(&["--key-file", &keys]);
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
    std::thread::sleep(Duration::from_millis(500));
    scratch.file("keys", format!("{KEY} old\n{OTHER_KEY} new\n").as_bytes());
    heard.reload("added");
    let under_new = load(&new);
    assert_eq!(errors(under_old), "{}");
    scratch.file("keys", format!("{OTHER_KEY} new\n").as_bytes());
    heard.reload("retired");
    assert_eq!(errors(under_new), "{}");
    heard.server.stop();
}
