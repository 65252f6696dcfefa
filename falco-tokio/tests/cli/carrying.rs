//! Both ends of a tunnel, targets, and what a program sees of them.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use crate::tool::{PATIENCE, Served, keyed};

/// What the sockets of a test and the queues of both ends hold besides a window.
pub(crate) const BESIDES: usize = 1200 << 10;

/// A target that answers each connection with its name and then with what it receives.
pub(crate) fn target(name: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let mut reads = stream.try_clone().unwrap();
                if stream.write_all(name.as_bytes()).is_ok() && std::io::copy(&mut reads, &mut stream).is_ok() {
                    let _ = stream.shutdown(Shutdown::Write);
                }
            });
        }
    });
    address
}

pub(crate) fn serve(words: &[&str]) -> Served {
    serve_at("127.0.0.1:0", words)
}

pub(crate) fn serve_at(address: &str, words: &[&str]) -> Served {
    let mut command = keyed(&["serve", "--listen", address]);
    command.args(words);
    Served::of(command)
}

pub(crate) fn forward(server: &str, words: &[&str]) -> Served {
    let mut command = keyed(&["forward", server]);
    if !words.contains(&"--listen") {
        command.args(["--listen", "127.0.0.1:0"]);
    }
    command.args(words);
    Served::of(command)
}

pub(crate) fn connect(to: &Served) -> TcpStream {
    let stream = TcpStream::connect(&to.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

pub(crate) fn expect(stream: &mut impl Read, what: &str) {
    let mut read = vec![0; what.len()];
    stream.read_exact(&mut read).unwrap();
    assert_eq!(str::from_utf8(&read).unwrap(), what);
}

pub(crate) fn echoes(stream: &mut (impl Read + Write), what: &str) {
    stream.write_all(what.as_bytes()).unwrap();
    expect(stream, what);
}

pub(crate) fn is_reset(mut stream: impl Read) -> bool {
    let mut rest = Vec::new();
    matches!(stream.read_to_end(&mut rest), Err(error) if error.kind() == ErrorKind::ConnectionReset)
}
