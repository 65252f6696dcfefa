//! Runs the example of an own event loop as a process, and calls it with a small client over the
//! core.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use falco_core::keys::Secrets;
use falco_core::mux::{Call, ClientMux, ClientStep};
use falco_core::{ClientConnection, Instant, Key, RecvBuf, Settings};
use getrandom::SysRng;

struct Server(Child, String);

impl Server {
    fn start(key: &str) -> Self {
        // It is built already if all tests are built together.
        let build = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "--example", "mio"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(build.unwrap().success());
        // The directory of the examples is next to that of this test.
        let own = std::env::current_exe().unwrap();
        let example = own.parent().unwrap().parent().unwrap().join("examples/mio");
        let mut child = Command::new(example)
            .arg("127.0.0.1:0")
            .env("FALCO_KEY", key)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Self(child, address)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The answers to `bodies`, in the order in which they arrived.
fn call(address: &str, key: Key, bodies: &[Vec<u8>]) -> Option<Vec<(usize, Vec<u8>)>> {
    let secrets = Secrets {
        noise: vec![key],
        ..Secrets::default()
    };
    let keys = secrets.into_client(&mut SysRng).unwrap();
    let machine = ClientConnection::new(&keys, &Settings::new(), Instant::ZERO, &mut SysRng).unwrap();
    let mut mux = ClientMux::<_, _, _, ()>::new(machine, &Settings::new());
    for (number, body) in bodies.iter().enumerate() {
        mux.request(Call::new(u64::try_from(number).unwrap(), body, number))
            .unwrap();
    }
    let mut socket = TcpStream::connect(address).unwrap();
    let (mut inbox, mut out) = (RecvBuf::new(Vec::new()), vec![0; 100_000]);
    let mut answers = Vec::new();
    while answers.len() < bodies.len() {
        let sealed = mux.seal(Instant::ZERO, &mut out, |_, error| panic!("{error}")).unwrap();
        socket.write_all(&out[..sealed]).unwrap();
        match mux.recv(Instant::ZERO, inbox.unread()).ok()? {
            ClientStep::NeedMore { total } if sealed == 0 => {
                let count = socket.read(inbox.space(total).unwrap()).unwrap();
                if count == 0 {
                    mux.end_of_stream(Instant::ZERO, &inbox.unread());
                    return None;
                }
                inbox.filled(count);
            }
            ClientStep::Answer { waiter, body } => {
                answers.push((waiter, body.into_vec()));
            }
            ClientStep::Skip | ClientStep::Established | ClientStep::Pong { .. } | ClientStep::NeedMore { .. } => {}
            _ => panic!("nothing else is expected"),
        }
    }
    Some(answers)
}

#[test]
fn the_event_loop_answers_many_at_once_and_turns_a_wrong_key_away() {
    let server = Server::start(&"2a".repeat(32));
    let bodies: Vec<_> = [0, 1, 1000, 70_000, 3_000_000].map(|length| vec![b'x'; length]).into();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (address, bodies) = (server.1.clone(), bodies.clone());
            std::thread::spawn(move || call(&address, Key::from_bytes([0x2a; 32]).unwrap(), &bodies).unwrap())
        })
        .collect();
    assert_eq!(call(&server.1, Key::from_bytes([1; 32]).unwrap(), &bodies), None);
    for thread in threads {
        let mut answers = thread.join().unwrap();
        answers.sort();
        for ((number, answer), body) in answers.iter().zip(&bodies) {
            assert!(*answer == body.to_ascii_uppercase(), "request {number}");
        }
    }
}
