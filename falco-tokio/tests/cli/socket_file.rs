//! The file of a Unix socket, while servers start and end and other files replace it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use rustix::fs::{FlockOperation, flock};
use rustix::process::Signal;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::tool::{Run, Scratch, Served, keyed, line_of, run, until};

fn address(scratch: &Scratch) -> String {
    format!("unix:{}", scratch.name("socket"))
}

#[test]
fn a_server_that_drains_frees_its_path_at_once_and_leaves_its_successors_socket() {
    let scratch = Scratch::new();
    let (address, path) = (address(&scratch), scratch.path("socket"));
    let script = format!(
        "echo runs >{}; until test -e {}; do sleep 0.05; done; cat",
        scratch.name("runs"),
        scratch.name("go")
    );
    let old = Served::start(&["--listen", &address, "--exec", "sh", "-c", &script]);
    let request = Run::start(keyed(&["send", &address, "patient"]));
    line_of(&scratch.path("runs"));
    old.signal(Signal::TERM);
    until("the path is free", || !path.exists());
    let new = Served::start(&["--listen", &address]);
    assert_eq!(new.send("new").good(), "new");
    fs::write(scratch.path("go"), "").unwrap();
    assert_eq!(request.end().good(), "patient");
    assert_eq!(old.end().code, Some(0));
    assert_eq!(new.send("still there").good(), "still there");
    new.stop();
    assert!(!path.exists());
}

#[test]
fn a_file_that_has_replaced_the_socket_stays() {
    let scratch = Scratch::new();
    let (address, path) = (address(&scratch), scratch.path("socket"));
    let server = Served::start(&["--listen", &address]);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "precious").unwrap();
    server.stop();
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    fs::remove_file(&path).unwrap();

    let server = Served::start(&["--listen", &address]);
    fs::remove_file(&path).unwrap();
    let other = UnixListener::bind(&path).unwrap();
    server.stop();
    UnixStream::connect(&path).unwrap();
    drop(other);

    // A directory, and nothing.
    fs::remove_file(&path).unwrap();
    let server = Served::start(&["--listen", &address]);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    server.stop();
    fs::remove_dir(&path).unwrap();
    let server = Served::start(&["--listen", &address]);
    fs::remove_file(&path).unwrap();
    server.stop();
}

#[test]
fn of_many_that_start_at_once_in_place_of_a_dead_server_one_listens() {
    let scratch = Scratch::new();
    let (address, path) = (address(&scratch), scratch.path("socket"));
    for _ in 0..10 {
        drop(UnixListener::bind(&path).unwrap());
        let starting: Vec<_> = (0..6)
            .map(|_| {
                let address = address.clone();
                thread::spawn(move || Served::try_of(keyed(&["serve", "--listen", &address])))
            })
            .collect();
        let (mut listening, mut failed) = (Vec::new(), 0);
        for started in starting {
            match started.join().unwrap() {
                Ok(server) => listening.push(server),
                Err(ended) => {
                    ended.failed_with(4);
                    failed += 1;
                }
            }
        }
        assert_eq!((listening.len(), failed), (1, 5));
        assert_eq!(run(keyed(&["send", &address, "hello"])).good(), "hello");
        for server in listening {
            server.stop();
        }
        assert!(!path.exists());
    }
}

#[test]
fn a_dead_socket_is_not_replaced_while_another_server_has_the_lock() {
    let scratch = Scratch::new();
    let (address, path) = (address(&scratch), scratch.path("socket"));
    drop(UnixListener::bind(&path).unwrap());
    let directory = fs::File::open(path.parent().unwrap()).unwrap();
    flock(&directory, FlockOperation::LockExclusive).unwrap();
    run(keyed(&["serve", "--listen", &address])).failed_with(4);
    assert!(path.exists());
    drop(directory);
    Served::start(&["--listen", &address]).stop();
}

#[test]
fn a_server_that_listens_and_does_not_accept_is_not_dead() {
    let scratch = Scratch::new();
    let (address, path) = (address(&scratch), scratch.path("socket"));
    let at = SockAddr::unix(&path).unwrap();
    let stream = || Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    let busy = stream();
    busy.bind(&at).unwrap();
    busy.listen(0).unwrap();
    let mut waiting = Vec::new();
    loop {
        let socket = stream();
        socket.set_nonblocking(true).unwrap();
        match socket.connect(&at) {
            Ok(()) => waiting.push(socket),
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    run(keyed(&["serve", "--listen", &address])).failed_with(4);
    assert!(path.exists());
}

#[test]
fn the_file_has_the_permissions_that_are_asked_for() {
    let scratch = Scratch::new();
    let (address, path) = (address(&scratch), scratch.path("socket"));
    let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    for (text, expected) in [("600", 0o600), ("0666", 0o666), ("660", 0o660)] {
        let server = Served::start(&["--listen", &address, "--socket-mode", text]);
        assert_eq!(mode(), expected);
        assert_eq!(server.send("hello").good(), "hello");
        server.stop();
    }
    for wrong in ["", "9", "1777", "rw", "-1"] {
        run(keyed(&["serve", "--listen", &address, "--socket-mode", wrong])).failed_with(2);
    }
    run(keyed(&["serve", "--listen", "127.0.0.1:0", "--socket-mode", "600"])).failed_with(2);
}

#[test]
fn a_symbolic_link_is_neither_followed_nor_replaced() {
    let scratch = Scratch::new();
    let (address, path) = (address(&scratch), scratch.path("socket"));
    let target = scratch.path("target");
    symlink(&target, &path).unwrap();
    // To nothing, to a socket on which somebody listens, and to a dead one.
    run(keyed(&["serve", "--listen", &address])).failed_with(4);
    assert!(!target.exists());
    let listener = UnixListener::bind(&target).unwrap();
    run(keyed(&["serve", "--listen", &address])).failed_with(4);
    drop(listener);
    run(keyed(&["serve", "--listen", &address])).failed_with(4);
    assert!(target.exists() && path.is_symlink());
}

#[test]
fn a_successor_that_is_moved_into_place_keeps_the_path() {
    let scratch = Scratch::new();
    let (address, path) = (address(&scratch), scratch.path("socket"));
    let old = Served::start(&["--listen", &address]);
    let new = Served::start(&["--listen", &format!("unix:{}", scratch.name("new"))]);
    fs::rename(scratch.path("new"), &path).unwrap();
    old.stop();
    assert_eq!(run(keyed(&["send", &address, "hello"])).good(), "hello");
    // The new server has bound another path, and removes nothing at this one.
    let inode = fs::symlink_metadata(&path).unwrap().ino();
    new.stop();
    assert_eq!(fs::symlink_metadata(&path).unwrap().ino(), inode);
    // A third server finds it dead.
    Served::start(&["--listen", &address]).stop();
    assert!(!path.exists());
}
