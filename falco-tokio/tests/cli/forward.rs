//! `falco forward` and `falco serve --forward`: arguments, targets by name, limits, and how both
//! ends drain.

use core::time::Duration;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;
use std::time::Instant;

use rustix::process::Signal;

use crate::carrying::{BESIDES, connect, echoes, expect, forward, is_reset, serve, serve_at, target};
use crate::heard::{Heard, id};
use crate::tool::{KEY, OTHER_KEY, PATIENCE, Scratch, Served, falco, keyed, run, until, with_piped_key};

#[test]
fn wrong_arguments_are_errors() {
    let here = "127.0.0.1:0";
    for (words, reason) in [
        (&["forward", "db"][..], "--listen"),
        (&["forward", "--listen", here], "ADDRESS"),
        (&["forward", "--listen", here, "db", "--window", "0"], "at least 1K"),
        (
            &["serve", "--listen", here, "--forward", here, "--window", "100"],
            "at least 1K",
        ),
        (
            &["serve", "--listen", here, "--forward", here, "--wire", "classic"],
            "carries no connections",
        ),
        (
            &["serve", "--listen", here, "--forward", here, "--exec", "cat"],
            "exclude each other",
        ),
        (
            &["forward", "--listen", here, "db", "--wire", "classic"],
            "carries no connections",
        ),
        (
            &["forward", "--listen", here, "db", "--connections", "0"],
            "--connections",
        ),
        (
            &["forward", "--listen", here, "db", "--max-tunnels", "0"],
            "--max-tunnels",
        ),
        (
            &["forward", "--listen", here, "db", "--max-tunnels", "65536"],
            "--max-tunnels",
        ),
        (&["forward", "--listen", here, "db", "--timeout", "0"], "--timeout"),
        (&["forward", "--listen", here, "db", "--threads", "0"], "--threads"),
        (&["forward", "--listen", here, "db", "--to", &"x".repeat(256)], "255"),
        (
            &["forward", "--listen", here, "db", "--socket-mode", "600"],
            "--socket-mode",
        ),
        (&["serve", "--listen", here, "--forward", "a b"], "--forward"),
        (
            &["serve", "--listen", here, "--forward", here, "--max-tunnels", "0"],
            "--max-tunnels",
        ),
        (
            &["serve", "--listen", here, "--forward", here, "--forward", here],
            "needs a name",
        ),
        (
            &[
                "serve",
                "--listen",
                here,
                "--forward",
                "a=127.0.0.1:1",
                "--forward",
                "a=127.0.0.1:2",
            ],
            "have the name a",
        ),
    ] {
        let ended = run(keyed(words));
        assert!(ended.failed_with(2).contains(reason), "{words:?}: {}", ended.err);
    }
    // The address is in use: nothing was carried.
    let taken = TcpListener::bind(here).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    run(keyed(&["forward", "--listen", &address, "localhost"])).failed_with(4);
}

#[test]
fn a_client_chooses_between_the_targets_by_name() {
    let (first, second) = (format!("first={}", target("one")), format!("second={}", target("two")));
    let server = serve(&["--forward", &first, "--forward", &second]);
    for (name, greeting) in [("first", "one"), ("second", "two")] {
        let local = forward(&server.address, &["--to", name]);
        let mut stream = connect(&local);
        expect(&mut stream, greeting);
        echoes(&mut stream, "hello");
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "an orderly end");
        assert_eq!(local.stop().err.lines().count(), 1, "only that it drains");
    }
    for name in ["", "third", "127.0.0.1:22"] {
        let local = forward(&server.address, &["--to", name]);
        assert!(is_reset(connect(&local)), "{name}");
        let ended = local.stop();
        assert!(ended.err.contains("there is no such target"), "{}", ended.err);
    }
    let ended = server.stop();
    assert_eq!(ended.err.matches("there is no such target").count(), 3, "{}", ended.err);
}

#[test]
fn a_server_without_targets_or_with_another_key_carries_nothing() {
    for (words, key) in [(&[][..], None), (&["--forward", "127.0.0.1:1"], Some(OTHER_KEY))] {
        let server = serve(words);
        let mut command = keyed(&["forward", &server.address, "--listen", "127.0.0.1:0", "--timeout", "2s"]);
        if let Some(key) = key {
            command.env("FALCO_KEY", key);
        }
        let local = Served::of(command);
        assert!(is_reset(connect(&local)));
        let ended = local.stop();
        assert!(ended.err.contains("a connection was cut off"), "{}", ended.err);
    }
}

#[test]
fn the_first_signal_waits_for_what_is_carried_and_the_second_does_not() {
    let server = serve(&["--forward", &target("")]);
    for signals in [1, 2] {
        let local = forward(&server.address, &[]);
        let mut stream = connect(&local);
        echoes(&mut stream, "before");
        local.signal(Signal::TERM);
        until("it accepts no more", || TcpStream::connect(&local.address).is_err());
        echoes(&mut stream, "while it drains");
        if signals == 1 {
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "an orderly end");
            let ended = local.end();
            assert_eq!(ended.code, Some(0), "{ended:?}");
            assert!(ended.err.contains("draining "), "{}", ended.err);
        } else {
            local.signal(Signal::TERM);
            assert!(is_reset(stream), "what was cut off is reset");
            let ended = local.end();
            assert!(ended.failed_with(1).contains("cut off "), "{}", ended.err);
        }
    }
    // The drain has a limit of its own.
    let local = forward(&server.address, &["--drain-timeout", "100ms"]);
    let mut stream = connect(&local);
    echoes(&mut stream, "before");
    local.signal(Signal::TERM);
    assert!(is_reset(stream));
    local.end().failed_with(1);
}

#[test]
fn a_server_drains_what_it_carries() {
    for signals in [1, 2] {
        let server = serve(&["--forward", &target("")]);
        let local = forward(&server.address, &[]);
        let mut stream = connect(&local);
        echoes(&mut stream, "before");
        server.signal(Signal::TERM);
        until("it accepts no more", || TcpStream::connect(&server.address).is_err());
        echoes(&mut stream, "while it drains");
        if signals == 1 {
            stream.shutdown(Shutdown::Write).unwrap();
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "an orderly end");
            assert_eq!(server.end().code, Some(0));
        } else {
            server.signal(Signal::TERM);
            assert!(is_reset(stream));
            assert!(server.end().failed_with(1).contains("1 request cut off"));
        }
    }
}

#[test]
fn it_reconnects_to_a_server_that_was_restarted() {
    let to = target("");
    let server = serve(&["--forward", &to]);
    let address = server.address.clone();
    let local = forward(&address, &[]);
    let mut carried = connect(&local);
    echoes(&mut carried, "before");
    server.signal(Signal::KILL);
    let _ = server.end();
    assert!(is_reset(carried));
    let waits = thread::spawn({
        // One that is accepted while there is no server waits for it.
        let mut stream = connect(&local);
        move || echoes(&mut stream, "meanwhile")
    });
    thread::sleep(Duration::from_millis(100));
    let server = serve_at(&address, &["--forward", &to]);
    waits.join().unwrap();
    echoes(&mut connect(&local), "afterwards");
    server.stop();
}

#[test]
fn an_idle_connection_outlives_the_timeout() {
    let server = serve(&["--forward", &target(""), "--lifetime", "1s"]);
    let local = forward(&server.address, &["--timeout", "300ms"]);
    let mut stream = connect(&local);
    echoes(&mut stream, "before");
    thread::sleep(Duration::from_millis(1500));
    echoes(&mut stream, "afterwards");
}

#[test]
fn more_connections_than_the_limit_wait_for_a_place() {
    let to = target("hello");
    // Of this end, and of the server.
    for (at_server, here) in [
        (&[][..], &["--max-tunnels", "2"][..]),
        (&["--max-tunnels", "2"], &["--connections", "1"]),
    ] {
        let server = serve(&[&["--forward", &to], at_server].concat());
        let local = forward(&server.address, here);
        let mut first = connect(&local);
        expect(&mut first, "hello");
        let mut second = connect(&local);
        expect(&mut second, "hello");
        let mut third = connect(&local);
        third.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let early = third.read(&mut [0]).unwrap_err();
        assert_eq!(early.kind(), ErrorKind::WouldBlock);
        drop(first);
        third.set_read_timeout(Some(PATIENCE)).unwrap();
        expect(&mut third, "hello");
    }
}

#[test]
fn as_many_connections_are_carried_as_windows_fit_what_the_server_may_hold() {
    // 47 windows fit 3 GiB.
    let server = serve(&["--forward", &target("hello"), "--window", "64M"]);
    let local = forward(&server.address, &["--connections", "1"]);
    let mut carried: Vec<_> = (0..47).map(|_| connect(&local)).collect();
    for stream in &mut carried {
        expect(stream, "hello");
    }
    let mut next = connect(&local);
    next.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let early = next.read(&mut [0]).unwrap_err();
    assert_eq!(early.kind(), ErrorKind::WouldBlock);
    carried.pop();
    next.set_read_timeout(Some(PATIENCE)).unwrap();
    expect(&mut next, "hello");
}

#[test]
fn a_window_bounds_what_is_on_its_way_to_a_target_that_does_not_read() {
    let scratch = Scratch::new();
    let mut most = Vec::new();
    for window in ["64K", "4M"] {
        let (path, front) = (scratch.path(window), scratch.name(&format!("front{window}")));
        let silent = UnixListener::bind(&path).unwrap();
        let (silent_target, echo) = (
            format!("silent=unix:{}", path.display()),
            format!("echo={}", target("")),
        );
        let server = serve(&["--forward", &silent_target, "--forward", &echo, "--window", window]);
        let listen = format!("unix:{front}");
        let local = forward(
            &server.address,
            &["--to", "silent", "--connections", "1", "--listen", &listen],
        );
        assert_eq!(local.address, listen);
        let mut stream = UnixStream::connect(&front).unwrap();
        let accepted = write_all_it_takes(&mut stream);
        most.push(accepted);
        // The target receives all of it once it reads.
        stream.shutdown(Shutdown::Write).unwrap();
        let mut received = Vec::new();
        silent.accept().unwrap().0.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), accepted);
        drop(stream);
        local.stop();
        assert!(fs::symlink_metadata(&front).is_err(), "the socket's file is removed");
        server.stop();
    }
    assert!(most[0] < (64 << 10) + BESIDES, "{most:?}");
    assert!(most[1] >= 4 << 20 && most[1] < (4 << 20) + BESIDES, "{most:?}");
}

#[test]
fn sighup_changes_the_key_and_what_is_carried_goes_on() {
    let scratch = Scratch::new();
    let keys = scratch.file("keys", KEY.as_bytes());
    let key = scratch.file("key", KEY.as_bytes());
    let serve = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--forward",
        &target("hello"),
        "--key-file",
        &keys,
    ];
    let server = Heard::of(falco(&serve));
    let forward = [
        "forward",
        &server.server.address,
        "--listen",
        "127.0.0.1:0",
        "--key-file",
        &key,
    ];
    let local = Heard::of(falco(&forward));
    let mut before = connect(&local.server);
    expect(&mut before, "hello");

    local.reload("it is still");
    // The server does not have it yet.
    scratch.file("key", OTHER_KEY.as_bytes());
    let line = local.reload("the key is still");
    assert!(line.contains("refused the handshake"), "{line}");
    scratch.file("key", b"no key");
    local.reload("the key is still");
    echoes(&mut before, "under the old key");

    scratch.file("keys", format!("{KEY}\n{OTHER_KEY}\n").as_bytes());
    server.reload("added");
    scratch.file("key", OTHER_KEY.as_bytes());
    let line = local.reload("changed from");
    assert!(line.contains(&id(KEY)) && line.ends_with(&id(OTHER_KEY)), "{line}");
    scratch.file("keys", OTHER_KEY.as_bytes());
    server.reload("retired");
    echoes(&mut before, "until it ends");
    let mut after = connect(&local.server);
    expect(&mut after, "hello");
    echoes(&mut after, "under the new key");
    drop((before, after));
    local.server.stop();
    server.server.stop();

    // A variable does not change.
    let local = Heard::of(keyed(&["forward", "127.0.0.1:1", "--listen", "127.0.0.1:0"]));
    local.reload("the environment of a process does not change");
    local.server.stop();
}

#[test]
fn what_is_carried_under_the_old_key_goes_on_for_one_idle_timeout() {
    let scratch = Scratch::new();
    let keys = scratch.file("keys", format!("{KEY}\n{OTHER_KEY}\n").as_bytes());
    let key = scratch.file("key", KEY.as_bytes());
    let mut serve = falco(&["serve", "--listen", "127.0.0.1:0", "--forward", &target("")]);
    serve.args(["--lifetime", "2s", "--key-file", &keys]);
    let server = Served::of(serve);
    let forward = [
        "forward",
        &server.address,
        "--listen",
        "127.0.0.1:0",
        "--key-file",
        &key,
    ];
    let local = Heard::of(falco(&forward));
    let mut stream = connect(&local.server);
    echoes(&mut stream, "before");
    scratch.file("key", OTHER_KEY.as_bytes());
    local.reload("changed from");
    let began = Instant::now();
    while stream.write_all(b"x").is_ok() && stream.read_exact(&mut [0]).is_ok() {
        assert!(began.elapsed() < PATIENCE, "it goes on");
        thread::sleep(Duration::from_millis(50));
    }
    let took = began.elapsed();
    assert!(
        (Duration::from_millis(1500)..Duration::from_secs(5)).contains(&took),
        "{took:?}"
    );
    local.server.stop();
    server.stop();
}

#[test]
fn the_file_of_a_unix_socket_has_a_mode_and_is_replaced_after_a_crash() {
    let scratch = Scratch::new();
    let server = serve(&["--forward", &target("hello")]);
    let path = scratch.path("front");
    let listen = format!("unix:{}", path.display());
    for signal in [Signal::KILL, Signal::TERM] {
        let local = forward(&server.address, &["--listen", &listen, "--socket-mode", "600"]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        expect(&mut UnixStream::connect(&path).unwrap(), "hello");
        // Not while it listens.
        run(keyed(&["forward", &server.address, "--listen", &listen])).failed_with(4);
        local.signal(signal);
        let _ = local.end();
        assert_eq!(fs::symlink_metadata(&path).is_ok(), signal == Signal::KILL);
    }
}

#[test]
fn a_window_bounds_what_is_on_its_way_to_a_program_that_does_not_read() {
    let scratch = Scratch::new();
    let mut most = Vec::new();
    for window in ["64K", "4M"] {
        let (path, front) = (scratch.path(window), scratch.path(&format!("front{window}")));
        let sending = UnixListener::bind(&path).unwrap();
        let server = serve(&["--forward", &format!("unix:{}", path.display())]);
        let listen = format!("unix:{}", front.display());
        let local = forward(&server.address, &["--window", window, "--listen", &listen]);
        let mut silent = UnixStream::connect(&front).unwrap();
        let mut stream = sending.accept().unwrap().0;
        let accepted = write_all_it_takes(&mut stream);
        most.push(accepted);
        // The program receives all of it once it reads.
        drop(stream);
        let mut received = Vec::new();
        silent.read_to_end(&mut received).unwrap();
        assert_eq!(received.len(), accepted);
        drop(silent);
        local.stop();
        server.stop();
    }
    assert!(most[0] < (64 << 10) + BESIDES, "{most:?}");
    assert!(most[1] >= 4 << 20 && most[1] < (4 << 20) + BESIDES, "{most:?}");
}

/// Writes until nothing more is accepted for a while. Returns how many bytes were.
fn write_all_it_takes(stream: &mut UnixStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let (mut accepted, mut last) = (0, Instant::now());
    while last.elapsed() < Duration::from_millis(500) {
        match stream.write(&[0; 4096]) {
            Ok(count) => (accepted, last) = (accepted + count, Instant::now()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
    stream.set_nonblocking(false).unwrap();
    accepted
}

/// Connections to targets take descriptors as those of clients do. However many clients there are,
/// some are left for other clients.
#[test]
fn a_server_carries_no_more_connections_than_descriptors_allow_and_goes_on_accepting() {
    // 192 are kept for the process, and a quarter of the rest for clients. Behind a proxy, another
    // quarter of the rest is for connections whose header is not read yet.
    for (words, places) in [(&[][..], 81), (&["--trust-proxy", "127.0.0.2"], 61)] {
        let mut command = Command::new("sh");
        let script = "ulimit -n 300; exec \"$0\" serve --listen 127.0.0.1:0 --key-file - --forward \"$@\"";
        command.args(["-c", script, env!("CARGO_BIN_EXE_falco"), &target("hello")]);
        command.args(words);
        with_piped_key(&mut command);
        let server = Served::of(command);
        let locals: Vec<_> = (0..3).map(|_| forward(&server.address, &[])).collect();
        let mut carried: Vec<_> = (0..places).map(|at| connect(&locals[at % 3])).collect();
        for stream in &mut carried {
            expect(stream, "hello");
        }
        for local in &locals {
            assert!(is_reset(connect(local)));
        }
        let other = forward(&server.address, &[]);
        drop(carried.pop());
        until("there is a place", || {
            let mut stream = connect(&other);
            let mut read = [0; 5];
            stream.read_exact(&mut read).is_ok() && read == *b"hello"
        });
        drop((carried, locals, other));
        server.signal(Signal::TERM);
        let ended = server.end();
        assert!(ended.err.contains("there is no place for more"), "{}", ended.err);
    }
}
