//! Resets of programs and targets, and targets that accept late, through a tunnel.

use core::cell::Cell;
use core::net::SocketAddr;
use core::time::Duration;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use rustix::process::Signal;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::carrying::{connect, expect, forward, is_reset, serve};
use crate::metrics::{free_port, read};
use crate::tool::{PATIENCE, Scratch, Served, until};

fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}

/// A reset is not an end: neither side may take what it has received as complete.
fn reset_reaches_the_other_end(program_resets: bool) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free_port();
    let target = listener.local_addr().unwrap().to_string();
    let server = serve(&["--forward", &target, "--metrics", &format!("127.0.0.1:{port}")]);
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
    // It is no fault of either end. A program that resets has cancelled its request.
    if !program_resets {
        assert_counts(port, 0, 20);
    }
    for log in [local.stop().err, server.stop().err] {
        assert!(
            !log.contains("handler failed") && !log.contains("WARN a connection"),
            "{log}"
        );
    }
}

/// Waits until the server at this port of `--metrics` has counted so many requests.
fn assert_counts(port: u16, answered: u64, refused: u64) {
    let lines = [("answered", answered), ("refused", refused)]
        .map(|(outcome, count)| format!("falco_server_requests_ended_total{{outcome=\"{outcome}\"}} {count}"));
    until("they are counted", || {
        let text = read(port);
        lines.iter().all(|line| text.lines().any(|found| found == line))
    });
}

/// Nothing was carried, so nothing was answered.
#[test]
fn connections_that_are_refused_are_counted_as_refused() {
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = format!("gone={}", nobody.local_addr().unwrap());
    drop(nobody);
    let port = free_port();
    let server = serve(&["--forward", &target, "--metrics", &format!("127.0.0.1:{port}")]);
    for name in ["gone", "unknown"] {
        let local = forward(&server.address, &["--to", name]);
        assert!(is_reset(connect(&local)));
        assert!(local.stop().err.contains("WARN a connection was cut off"));
    }
    assert_counts(port, 0, 2);
    server.stop();
}

#[test]
fn a_reset_by_the_program_reaches_the_target() {
    reset_reaches_the_other_end(true);
}

#[test]
fn a_reset_by_the_target_reaches_the_program() {
    reset_reaches_the_other_end(false);
}

/// Writes until nothing more is accepted.
fn write_all_it_takes(stream: &mut TcpStream) {
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let full = (0..4000).find_map(|_| stream.write_all(&[7; 1 << 14]).err());
    assert_eq!(full.expect("nobody reads").kind(), ErrorKind::WouldBlock);
}

/// Waits until a socket has an error, without reading from it.
fn fails(stream: &TcpStream) {
    let error = Cell::new(None);
    until("the socket has an error", || {
        error.set(stream.take_error().unwrap().map(|error| error.kind()));
        error.get().is_some()
    });
    assert!(
        matches!(error.get(), Some(ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)),
        "{error:?}"
    );
}

/// A tunnel, and the two ends of one connection that it carries.
fn carried(words: &[&str]) -> (Served, Served, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = serve(&["-v", "--forward", &listener.local_addr().unwrap().to_string()]);
    let local = forward(&server.address, words);
    let mut program = connect(&local);
    let (mut at_target, _) = listener.accept().unwrap();
    at_target.set_read_timeout(Some(PATIENCE)).unwrap();
    echoed(&mut program, &mut at_target);
    (server, local, program, at_target)
}

#[test]
fn a_reset_by_a_program_is_noticed_while_the_target_does_not_read() {
    let (_server, _local, mut program, at_target) = carried(&[]);
    write_all_it_takes(&mut program);
    reset(program);
    fails(&at_target);
}

/// What comes closest to a reset on a Unix socket: it was closed with unread bytes.
#[test]
fn a_program_that_closes_a_unix_socket_early_is_noticed_while_the_target_does_not_read() {
    let (scratch, listener) = (Scratch::new(), TcpListener::bind("127.0.0.1:0").unwrap());
    let front = scratch.path("front");
    let server = serve(&["--forward", &listener.local_addr().unwrap().to_string()]);
    let _local = forward(&server.address, &["--listen", &format!("unix:{}", front.display())]);
    let mut program = UnixStream::connect(&front).unwrap();
    let (mut at_target, _) = listener.accept().unwrap();
    at_target.write_all(b"nobody reads this").unwrap();
    program.set_read_timeout(Some(PATIENCE)).unwrap();
    expect(&mut program, "nobody");
    program.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while program.write_all(&[7; 1 << 14]).is_ok() {}
    drop(program);
    fails(&at_target);
}

#[test]
fn a_reset_by_a_program_that_has_ended_its_bytes_is_noticed_while_the_target_is_silent() {
    let (_server, _local, program, mut at_target) = carried(&[]);
    program.shutdown(Shutdown::Write).unwrap();
    assert_eq!(at_target.read(&mut [0]).unwrap(), 0);
    reset(program);
    fails(&at_target);
}

/// A program that writes learns of it although it does not read. Its server learns of it in any
/// case.
#[test]
fn a_reset_by_a_target_is_noticed_while_the_program_does_not_read() {
    for writes in [false, true] {
        let (server, local, mut program, mut at_target) = carried(&[]);
        write_all_it_takes(&mut at_target);
        if writes {
            write_all_it_takes(&mut program);
        }
        reset(at_target);
        if writes {
            fails(&program);
        }
        let began = Instant::now();
        server.signal(Signal::TERM);
        let ended = server.end();
        assert!(began.elapsed() < PATIENCE / 2, "it carries nothing more");
        assert!(ended.err.contains("a connection was cut off"), "{}", ended.err);
        drop(program);
        local.stop();
    }
}

/// As a server does that answers early and closes, so that the system resets what it has not read.
#[test]
fn the_last_words_of_a_target_arrive_although_it_resets_its_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = serve(&["--forward", &listener.local_addr().unwrap().to_string()]);
    let local = forward(&server.address, &[]);
    for round in 0..40 {
        let mut program = connect(&local);
        let (mut at_target, _) = listener.accept().unwrap();
        at_target.set_read_timeout(Some(PATIENCE)).unwrap();
        echoed(&mut program, &mut at_target);
        let sending = (round % 2 == 0).then(|| {
            let mut sends = program.try_clone().unwrap();
            thread::spawn(move || (0..4000).find_map(|_| sends.write_all(&[7; 1 << 14]).err()))
        });
        if sending.is_some() {
            at_target.peek(&mut [0]).unwrap();
        }
        at_target.write_all(b"too large").unwrap();
        reset(at_target);
        expect(&mut program, "too large");
        // Whichever call comes first after a reset fails with that error.
        let read = program.read(&mut [0]).err().map(|error| error.kind());
        let sent = sending
            .and_then(|sending| sending.join().unwrap())
            .map(|error| error.kind());
        assert!(
            [read, sent].contains(&Some(ErrorKind::ConnectionReset)),
            "{read:?} {sent:?}"
        );
    }
}

/// What waits in a queue of the system when the stream is cut off is not dropped either.
#[test]
fn the_last_words_of_a_target_reach_a_program_that_reads_late() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = serve(&["--forward", &listener.local_addr().unwrap().to_string()]);
    let local = forward(&server.address, &["--window", "64K"]);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket
        .connect(&local.address.parse::<SocketAddr>().unwrap().into())
        .unwrap();
    let mut program = TcpStream::from(socket);
    program.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut at_target, _) = listener.accept().unwrap();
    at_target.write_all(&vec![7; LATE]).unwrap();
    thread::sleep(Duration::from_millis(500));
    reset(at_target);
    thread::sleep(Duration::from_millis(500));
    let mut received = Vec::new();
    let error = program.read_to_end(&mut received).unwrap_err();
    assert_eq!((received.len(), error.kind()), (LATE, ErrorKind::ConnectionReset));
}

/// Bytes that the buffers of sockets and the window have room for.
const LATE: usize = 300_000;

#[test]
fn an_idle_connection_is_cut_off_after_its_limit_at_either_end() {
    const LIMIT: Duration = Duration::from_millis(600);
    for at_server in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let limit: &[&str] = &["--idle-timeout", "600ms"];
        let (of_server, of_local): (&[&str], &[&str]) = if at_server { (limit, &[]) } else { (&[], limit) };
        let server = serve(&[&["-v", "--forward", &target], of_server].concat());
        let local = forward(&server.address, &[&["-v"], of_local].concat());
        let mut program = connect(&local);
        let (mut at_target, _) = listener.accept().unwrap();
        at_target.set_read_timeout(Some(PATIENCE)).unwrap();
        // Bytes in either direction count.
        let mut last = Instant::now();
        for round in 0..6 {
            thread::sleep(LIMIT / 3);
            last = Instant::now();
            let (from, to) = if round < 3 {
                (&mut program, &mut at_target)
            } else {
                (&mut at_target, &mut program)
            };
            from.write_all(b"x").unwrap();
            expect(to, "x");
        }
        assert!(is_reset(&program) && is_reset(&at_target));
        assert!(last.elapsed() >= LIMIT, "{:?}", last.elapsed());
        let (of_server, of_local) = (server.stop().err, local.stop().err);
        let of_it = if at_server { &of_server } else { &of_local };
        assert!(
            of_it.contains("a connection was cut off") && of_it.contains("idle: nothing was carried for 600ms"),
            "{of_it}"
        );
        assert_eq!(of_local.contains("WARN"), at_server, "{of_local}");
    }
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
