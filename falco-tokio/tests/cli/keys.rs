//! `falco keygen`, and where keys come from.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Command;

use rustix::process::geteuid;

use crate::tool::{KEY, OTHER_KEY, Scratch, Served, falco, keyed, run, run_unread, run_with};

#[test]
fn each_key_that_is_printed_is_new() {
    let keys = [(); 2].map(|()| run(falco(&["keygen"])).good().to_owned());
    for key in &keys {
        let digits = key.strip_suffix('\n').unwrap();
        assert!(digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
    }
    assert_ne!(keys[0], keys[1]);
    assert_eq!(run_unread(falco(&["keygen"])), (Some(0), String::new()));
}

#[test]
fn a_new_key_file_is_private_and_never_replaces_one() {
    let scratch = Scratch::new();
    let name = scratch.name("key");
    let made = run(falco(&["keygen", "--out", &name]));
    assert_eq!((made.code, made.text()), (Some(0), ""), "{made:?}");
    let text = fs::read_to_string(&name).unwrap();
    assert_eq!((text.len(), text.ends_with('\n')), (65, true));
    assert!(
        made.err.contains("key id") && !made.err.contains(text.trim()),
        "{}",
        made.err
    );
    assert_eq!(fs::metadata(&name).unwrap().permissions().mode() & 0o777, 0o600);

    let again = run(falco(&["keygen", "--out", &name]));
    assert!(again.failed_with(1).contains("exists already"), "{}", again.err);
    assert_eq!(fs::read_to_string(&name).unwrap(), text);
    run(falco(&["keygen", "--out", "/nonexistent/key"])).failed_with(1);
}

#[test]
fn a_key_comes_from_a_file_or_standard_input_or_the_environment() {
    let scratch = Scratch::new();
    let file = scratch.file("key", format!("{KEY}\n").as_bytes());
    let server = Served::of(falco(&["serve", "--listen", "127.0.0.1:0", "--key-file", &file]));
    let to = server.address.as_str();
    assert_eq!(run(falco(&["send", to, "file", "--key-file", &file])).good(), "file");
    let piped = run_with(falco(&["send", to, "piped", "--key-file", "-"]), KEY.as_bytes());
    assert_eq!(piped.good(), "piped");
    assert_eq!(run(keyed(&["send", to, "variable"])).good(), "variable");
    let with = |mut command: Command, name, key| {
        command.env(name, key);
        command
    };
    // The option has precedence over the variable.
    let both = with(falco(&["send", to, "x", "--key-file", &file]), "FALCO_KEY", OTHER_KEY);
    assert_eq!(run(both).good(), "x");
    // The variable of the classic wire is not used on the noise wire.
    let other = with(falco(&["send", to, "x"]), "FALCO_CLASSIC_KEY", KEY);
    run(other).failed_with(6);
    server.stop();

    let classic = Served::start(&["--wire", "classic"]);
    let command = falco(&["send", &classic.address, "x", "--wire", "classic"]);
    let mut command = with(command, "FALCO_CLASSIC_KEY", KEY);
    command.env("FALCO_KEY", OTHER_KEY);
    assert_eq!(run(command).good(), "x");
    classic.stop();
}

#[test]
fn an_invalid_key_is_reported_without_its_text() {
    let scratch = Scratch::new();
    let almost = &KEY[..63];
    for text in [
        "",
        almost,
        &format!("{almost}g"),
        &"0".repeat(64),
        &format!("{KEY}{KEY}"),
    ] {
        let file = scratch.file("key", text.as_bytes());
        run(falco(&["send", "127.0.0.1:1", "x", "--key-file", &file])).failed_with(6);
        let mut command = falco(&["serve", "--listen", "127.0.0.1:0"]);
        command.env("FALCO_KEY", text);
        run(command).failed_with(6);
        run_with(falco(&["ping", "127.0.0.1:1", "--key-file", "-"]), text.as_bytes()).failed_with(6);
    }
    for file in [&scratch.name("missing"), &scratch.name(""), "/dev/zero"] {
        run(falco(&["bench", "127.0.0.1:1", "--key-file", file])).failed_with(6);
    }
    let none = run(falco(&["send", "127.0.0.1:1", "x"]));
    assert!(none.failed_with(6).contains("--key-file"), "{}", none.err);
}

#[test]
fn a_key_on_the_command_line_is_refused_and_not_repeated() {
    for words in [
        ["send", "127.0.0.1:1", "--key-file", KEY, "x"],
        ["serve", "--listen", "127.0.0.1:0", "--key-file", KEY],
        ["ping", "127.0.0.1:1", "-c", "1", KEY],
        ["serve", "--listen", "127.0.0.1:0", "--key", KEY],
        ["bench", "127.0.0.1:1", "--svg", KEY, "-v"],
    ] {
        let refused = run(falco(&words));
        assert!(refused.failed_with(2).contains("looks like a key"), "{}", refused.err);
    }
    run(falco(&["keygen", "--out", KEY])).failed_with(2);
    // A message may look like a key.
    let server = Served::start(&[]);
    assert_eq!(server.send(KEY).good(), KEY);
    server.stop();
}

#[test]
fn a_key_file_that_others_can_read_is_refused_unless_that_is_allowed() {
    let scratch = Scratch::new();
    let file = scratch.file("key", KEY.as_bytes());
    let server = Served::start(&[]);
    let send = |mode: u32, more: &[&str]| {
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let words = ["send", &server.address, "x", "--key-file", &file];
        run(falco(&[&words[..], more].concat()))
    };
    for mode in [0o600, 0o400] {
        assert_eq!(send(mode, &[]).good(), "x");
    }
    for mode in [0o640, 0o604, 0o620, 0o602, 0o644, 0o777] {
        let refused = send(mode, &[]);
        assert!(
            refused.failed_with(6).contains("chmod 600"),
            "{mode:o}: {}",
            refused.err
        );
        assert_eq!(send(mode, &["--allow-readable-key-file"]).good(), "x");
    }
    // Another command, and the option of the classic key.
    run(falco(&["serve", "--listen", "127.0.0.1:0", "--key-file", &file])).failed_with(6);
    let classic = ["serve", "--listen", "127.0.0.1:0", "--wire", "classic"];
    run(falco(&[&classic[..], &["--classic-key-file", &file]].concat())).failed_with(6);
    // Nothing is wrong with another user's file that the group may read.
    if geteuid().is_root() {
        chown(&file, Some(65_534), None).unwrap();
        assert_eq!(send(0o640, &[]).good(), "x");
        let warned = send(0o604, &[]);
        assert_eq!((warned.code, warned.text()), (Some(0), "x"));
        assert!(warned.err.contains("warning: all users"), "{}", warned.err);
    }
    server.stop();
}

#[test]
fn only_one_thing_can_come_from_standard_input() {
    run_with(keyed(&["send", "127.0.0.1:1", "--key-file", "-"]), KEY.as_bytes()).failed_with(2);
    let both = ["serve", "--wire", "both", "--key-file", "-", "--classic-key-file", "-"];
    run_with(falco(&both), KEY.as_bytes()).failed_with(2);
}
