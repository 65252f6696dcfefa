//! Resets of programs and targets, and targets that accept late, through a tunnel.

use core::time::Duration;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::carrying::{connect, expect, forward, serve};
use crate::tool::{PATIENCE, Scratch};

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// A reset is no end: neither side takes what it has received for all of it.
fn reset_reaches_the_other_end(program_resets: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = serve(&["--forward", &listener.local_addr().unwrap().to_string()]);
    let local = forward(&server.address, &[]);
    for _ in 0..20 {
        let mut program = connect(&local);
        let (mut at_target, _) = listener.accept().unwrap();
        at_target.set_read_timeout(Some(PATIENCE)).unwrap();
        echoed(&mut program, &mut at_target);
        let (resets, mut other) = if program_resets {
            (program, at_target)
        } else {
            (at_target, program)
        };
        reset(resets);
        let error = other.read(&mut [0; 100]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_reset_by_the_program_reaches_the_target() {
    reset_reaches_the_other_end(true);
}

#[test]
fn a_reset_by_the_target_reaches_the_program() {
    reset_reaches_the_other_end(false);
}

/// The log of each end has a line for the end of a connection, with its bytes, also if the
/// connection was cut off.
#[test]
fn both_logs_say_how_many_bytes_a_connection_has_carried_when_it_ends_or_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = serve(&["-v", "--forward", &listener.local_addr().unwrap().to_string()]);
    let local = forward(&server.address, &["-v"]);
    let carry = || {
        let mut program = connect(&local);
        let (mut at_target, _) = listener.accept().unwrap();
        at_target.set_read_timeout(Some(PATIENCE)).unwrap();
        echoed(&mut program, &mut at_target);
        (program, at_target)
    };
    let (mut program, mut at_target) = carry();
    program.shutdown(Shutdown::Write).unwrap();
    assert_eq!(at_target.read(&mut [0]).unwrap(), 0);
    at_target.shutdown(Shutdown::Write).unwrap();
    assert_eq!(program.read(&mut [0]).unwrap(), 0);
    // "there" from the program, and "back" from the target.
    for program_resets in [true, false] {
        let (program, at_target) = carry();
        let (resets, mut other) = if program_resets {
            (program, at_target)
        } else {
            (at_target, program)
        };
        reset(resets);
        assert_eq!(other.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    }
    let (of_program, of_target) = (local.stop().err, server.stop().err);
    let count = |log: &str, words: [&str; 2]| {
        let lines = log.lines();
        lines
            .filter(|line| line.contains("peer=") && words.iter().all(|word| line.contains(word)))
            .count()
    };
    for (end, connections) in [("ended", 1), ("was cut off", 2)] {
        assert_eq!(
            count(&of_program, [end, "sent=5 received=4"]),
            connections,
            "{of_program}"
        );
        assert_eq!(
            count(&of_target, [end, "sent=4 received=5"]),
            connections,
            "{of_target}"
        );
    }
}

/// Bytes pass in both directions.
fn echoed(one: &mut TcpStream, other: &mut TcpStream) {
    one.write_all(b"there").unwrap();
    expect(other, "there");
    other.write_all(b"back").unwrap();
    expect(one, "back");
}

/// A program that connects to a Unix socket whose queue is full waits. So does the tunnel for it.
#[test]
fn many_connections_at_once_wait_for_a_unix_target_that_accepts_late() {
    let scratch = Scratch::new();
    let path = scratch.path("target");
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    socket.listen(1).unwrap();
    let server = serve(&["--forward", &format!("unix:{}", path.display())]);
    let local = forward(&server.address, &[]);
    let mut programs: Vec<_> = (0..10).map(|_| connect(&local)).collect();
    thread::sleep(Duration::from_millis(300));
    let accepting = thread::spawn(move || {
        for _ in 0..10 {
            let (stream, _) = socket.accept().unwrap();
            (&stream).write_all(b"hello").unwrap();
            stream.shutdown(Shutdown::Both).unwrap();
        }
    });
    for program in &mut programs {
        expect(program, "hello");
    }
    accepting.join().unwrap();
}
