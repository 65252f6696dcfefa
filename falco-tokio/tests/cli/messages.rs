//! Messages name the cause, and what to do.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::TcpListener;
use std::process::Stdio;
use std::thread;

use rustix::fs::OFlags;
use rustix::io::ioctl_fionread;
use rustix::process::Signal;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::tool::{KEY, OTHER_KEY, Run, Scratch, Served, falco, keyed, line_of, piped, run, until};

/// Runs the tool with these words, and checks its exit code and the words of its message.
fn told(words: &[&str], code: i32, parts: &[&str]) {
    let ended = run(keyed(words));
    let message = ended.failed_with(code);
    for part in parts {
        assert!(message.contains(part), "{words:?}: no {part:?} in {message}");
    }
}

#[test]
fn an_error_of_listening_names_its_cause() {
    let scratch = Scratch::new();
    let (file, socket) = (scratch.file("file", b""), scratch.name("socket"));
    let in_file = |name: &str| format!("unix:{name}");
    let server = Served::start(&[]);
    let local = Served::start(&["--listen", &in_file(&socket)]);
    let long = "a".repeat(200);
    for (address, code, part) in [
        (server.address.as_str(), 4, "another program listens there"),
        (&in_file(&socket), 4, "another server listens there"),
        (&in_file(&file), 4, "is not a socket and was not touched"),
        (&in_file(&scratch.name("none/socket")), 4, "no such directory"),
        (&in_file(&long), 2, "too long for a Unix socket"),
        ("192.0.2.1:4287", 4, "this machine has no such address"),
        ("localhost:99999", 2, "a port number up to 65535"),
        ("http://localhost:80", 2, "not a URL"),
    ] {
        told(&["serve", "--listen", address], code, &[part]);
    }
    server.stop();
    local.stop();
}

#[test]
fn an_error_of_connecting_names_its_cause() {
    let scratch = Scratch::new();
    let file = format!("unix:{}", scratch.file("file", b""));
    let missing = format!("unix:{}", scratch.name("socket"));
    // It accepts connections and writes nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let silent_address = silent.local_addr().unwrap().to_string();
    for (address, code, part) in [
        ("127.0.0.1:1", 4, "nothing listens there"),
        (&missing, 4, "is the server running"),
        (&file, 4, "the file there is not a socket"),
        ("http://localhost:80", 2, "not a URL"),
        (&silent_address, 5, "something listens there"),
    ] {
        for command in [
            &["send", address, "x", "-t", "500ms"][..],
            &["ping", address, "-c", "1", "-t", "500ms"],
            &["bench", address, "-n", "1", "-t", "500ms"],
        ] {
            told(command, code, &[part]);
        }
    }
    // It closes every connection at once. If it has not read the hello, the system reports an
    // error.
    let closing = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = closing.local_addr().unwrap().to_string();
    thread::spawn(move || while closing.accept().is_ok() {});
    for _ in 0..50 {
        told(
            &["send", &address, "x"],
            3,
            &["another key", "full", "no FalcoTCP server"],
        );
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
fn an_error_of_a_key_describes_its_text() {
    let scratch = Scratch::new();
    let parent = scratch.name("");
    let missing = scratch.name("missing");
    let file = |text: &str| scratch.file(&format!("key{}", text.len()), text.as_bytes());
    let almost = &KEY[..63];
    for (name, part) in [
        (parent.as_str(), "Is a directory"),
        (&missing, "falco keygen --out"),
        (&file(""), "it is empty"),
        (&file(almost), "63 hexadecimal digits"),
        (&file(&format!("{almost}g")), "not all of them hexadecimal"),
        (&file(&format!("FALCO_KEY={KEY}")), "a name before the key"),
        (&file(&format!("{KEY}\n{OTHER_KEY}\n")), "more than one key (2)"),
    ] {
        told(&["send", "127.0.0.1:1", "x", "--key-file", name], 6, &[part, name]);
    }
}

#[test]
fn a_command_that_cannot_be_run_is_reported_at_the_start() {
    let scratch = Scratch::new();
    let file = scratch.file("file", b"");
    for (command, hint) in [
        ("/nonexistent/command", "install it"),
        ("nonexistent-command", "No such file or directory"),
        (file.as_str(), "that this user may run"),
        ("/", "that this user may run"),
    ] {
        let mut serve = piped(&["serve", "--listen", "127.0.0.1:0"]);
        serve.args(["--exec", command, "-x"]);
        let ended = run(serve);
        let message = ended.failed_with(2);
        assert!(message.contains(&format!("--exec: {command}: ")), "{message}");
        assert!(message.contains(hint) && ended.out.is_empty(), "{ended:?}");
    }
    for command in ["cat", "/bin/cat"] {
        let server = Served::start(&["--exec", command]);
        let ended = server.stop();
        assert!(!ended.err.contains("warning"), "{}", ended.err);
    }
}

#[test]
fn a_picture_is_kept_until_there_is_a_new_one() {
    let scratch = Scratch::new();
    let picture = scratch.file("picture.svg", "yesterday's, and long ".repeat(10_000).as_bytes());
    let bench = |address: &str| run(keyed(&["bench", address, "-n", "1", "--svg", &picture]));
    bench("127.0.0.1:1").failed_with(4);
    assert!(fs::read_to_string(&picture).unwrap().starts_with("yesterday's"));
    let server = Served::start(&[]);
    bench(&server.address).good();
    let drawn = fs::read_to_string(&picture).unwrap();
    assert!(drawn.starts_with("<svg ") && drawn.ends_with("</svg>\n"));
    server.stop();
}

#[test]
fn a_signal_ends_a_command_that_waits_for_a_key() {
    for words in [
        &["bench", "127.0.0.1:1", "--key-file", "-"][..],
        &["ping", "127.0.0.1:1", "--key-file", "-"],
        &["send", "127.0.0.1:1", "x", "--key-file", "-"],
        &["serve", "--listen", "127.0.0.1:0", "--key-file", "-"],
    ] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        let mut command = falco(words);
        command.stdin(reader.try_clone().unwrap());
        let run = Run::start(command);
        writer.write_all(&KEY.as_bytes()[..10]).unwrap();
        until("it reads", || ioctl_fionread(&reader).unwrap() == 0);
        run.signal(Signal::TERM);
        assert_eq!(run.end().code, None, "{words:?}");
    }
}

#[test]
fn on_a_terminal_the_tool_says_what_it_reads() {
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
        sent.err.contains("reading the message from standard input"),
        "{}",
        sent.err
    );
    drop(near);
    server.stop();
}

#[test]
fn an_error_of_a_request_names_what_to_do() {
    let server = Served::start(&["--max-message", "1K", "--exec", "sh", "-c", "cat >/dev/null; exit 3"]);
    let to = server.address.as_str();
    for (message, code, parts) in [
        (
            "x",
            1,
            ["the handler failed", "may have been processed", "the log of the server"],
        ),
        (
            &"x".repeat(1025),
            1,
            ["1025 bytes", "was not processed", "--max-message"],
        ),
    ] {
        told(&["send", to, message], code, &parts);
    }
    server.stop();

    let scratch = Scratch::new();
    let script = format!("echo runs >{}; exec sleep 20", scratch.name("runs"));
    let server = Served::start(&["--exec", "sh", "-c", &script]);
    let to = server.address.as_str();
    told(&["send", to, "x", "-t", "1s"], 5, &["no answer within 1s", "--timeout"]);
    fs::remove_file(scratch.path("runs")).unwrap();
    let sending = Run::start(keyed(&["send", to, "x"]));
    line_of(&scratch.path("runs"));
    server.signal(Signal::KILL);
    server.end();
    let ended = sending.end();
    let message = ended.failed_with(1);
    for part in ["cut off", "may have been processed", "killed or crashed"] {
        assert!(message.contains(part), "no {part:?} in {message}");
    }
}

#[test]
fn a_server_says_how_to_end_it_at_once() {
    let server = Served::start(&[]);
    let ended = server.stop();
    assert!(
        ended.err.contains("another Ctrl-C or SIGTERM ends at once"),
        "{}",
        ended.err
    );
    assert!(
        ended.err.contains("draining 0 connections and 0 requests"),
        "{}",
        ended.err
    );
}
