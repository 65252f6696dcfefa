//! What somebody is told on the first bad day: the cause, and what to do.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::process::Stdio;

use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::tool::{KEY, Run, Scratch, Served, falco, keyed, run};

/// Runs these words, and holds its message to an exit code and some words.
fn told(words: &[&str], code: i32, parts: &[&str]) {
    let ended = run(keyed(words));
    let message = ended.failed_with(code);
    for part in parts {
        assert!(message.contains(part), "{words:?}: no {part:?} in {message}");
    }
}

#[test]
fn a_key_is_read_as_other_systems_write_it() {
    let scratch = Scratch::new();
    let server = Served::start(&[]);
    let marked = format!("\u{feff}{KEY}\r\n");
    let wide: Vec<u8> = marked.encode_utf16().flat_map(u16::to_le_bytes).collect();
    for text in [format!("{KEY} \r\n").as_bytes(), marked.as_bytes(), &wide] {
        let file = scratch.file("key", text);
        let sent = run(falco(&["send", &server.address, "x", "--key-file", &file]));
        assert_eq!(sent.good(), "x");
    }
    server.stop();
}

#[test]
fn a_key_that_is_none_is_told_by_what_it_is_instead() {
    let scratch = Scratch::new();
    let parent = scratch.name("");
    let missing = scratch.name("missing");
    let file = |text: &str| scratch.file(&format!("key{}", text.len()), text.as_bytes());
    let almost = &KEY[..63];
    for (name, part) in [
        (parent.as_str(), "Is a directory"),
        (&missing, "falco keygen --out"),
        (&file(""), "nothing in it"),
        (&file(almost), "63 hexadecimal digits"),
        (&file(&format!("{almost}g")), "not all of them hexadecimal"),
        (&file(&format!("FALCO_KEY={KEY}")), "a name before the key"),
        (&file(&format!("{KEY}\n{KEY}\n")), "more than one word or line"),
    ] {
        told(&["send", "127.0.0.1:1", "x", "--key-file", name], 6, &[part, name]);
    }
}

#[test]
fn who_is_waited_for_at_a_terminal_is_told_so() {
    let server = Served::start(&[]);
    let near = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&near).unwrap();
    unlockpt(&near).unwrap();
    let name = ptsname(&near, Vec::new()).unwrap();
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::custom_flags(&mut options, OFlags::NOCTTY.bits().cast_signed());
    let far = options.read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut command = keyed(&["send", &server.address]);
    command.stdin(Stdio::from(far));
    let sending = Run::start(command);
    let mut near = File::from(near);
    near.write_all(b"typed\n\x04").unwrap();
    let sent = sending.end();
    assert_eq!((sent.code, sent.text()), (Some(0), "typed\n"), "{sent:?}");
    assert!(
        sent.err.contains("the message is read from standard input"),
        "{}",
        sent.err
    );
    drop(near);
    server.stop();
}
