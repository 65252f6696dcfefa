//! A client process that is stopped while its server restarts. When it continues, its next request
//! is not sent into the connection that has ended meanwhile.

#![cfg(target_os = "linux")]

mod common;

use core::net::SocketAddr;
use core::time::Duration;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use common::{Running, bounded, echo, key, millis};
use falco_std::{Client, Server};
use rustix::process::{Pid, Signal, kill_process};

const CHILD: &str = "FALCO_STD_TEST_FROZEN";

/// Sends a request for each line of its input, and prints the result.
fn child(address: &str) {
    let client = Client::builder(key())
        .request_timeout(Some(Duration::from_secs(10)))
        .connect(address)
        .expect("the server accepts it");
    for line in io::stdin().lines() {
        let line = line.expect("it is text");
        match client.request(&line) {
            Ok(answer) => println!("child: {}", String::from_utf8_lossy(&answer)),
            Err(error) => println!("child: {error}, {:?}", error.fate()),
        }
    }
}

/// A proxy between clients and a server.
struct Proxy {
    address: SocketAddr,
    streams: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let streams = Arc::<Mutex<Vec<TcpStream>>>::default();
        let own = Arc::clone(&streams);
        thread::spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                let Ok(server) = TcpStream::connect(server) else {
                    continue;
                };
                for (from, to) in [(&client, &server), (&server, &client)] {
                    let (mut from, mut to) = (
                        from.try_clone().expect("it is a socket"),
                        to.try_clone().expect("it is a socket"),
                    );
                    thread::spawn(move || {
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
                own.lock().expect("it does not panic").extend([client, server]);
            }
        });
        Self { address, streams }
    }

    /// Ends all connections without a CLOSE.
    fn cut(&self) {
        for stream in self.streams.lock().expect("it does not panic").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// Waits until all threads of a process are stopped.
fn wait_until_stopped(process: u32) {
    let is_stopped = |task: io::Result<std::fs::DirEntry>| {
        let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
        stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
    };
    loop {
        let mut tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it is there");
        if tasks.all(is_stopped) {
            return;
        }
        thread::sleep(millis(1));
    }
}

#[test]
fn a_stopped_process_does_not_send_into_a_connection_that_has_ended() {
    const NAME: &str = "a_stopped_process_does_not_send_into_a_connection_that_has_ended";
    if let Ok(address) = std::env::var(CHILD) {
        return child(&address);
    }
    bounded(|| {
        let mut server = Running::start(Server::builder(key()), echo);
        let address = server.address;
        let proxy = Proxy::before(address);
        let mut command = Command::new(std::env::current_exe().expect("it runs"));
        command.args(["--exact", "--nocapture", NAME]);
        command.env(CHILD, proxy.address.to_string());
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it is this program");
        let pid = Pid::from_child(&process);
        let signal = |signal| kill_process(pid, signal).expect("it is our child");
        let mut ask = process.stdin.take().expect("it is piped");
        let mut told = BufReader::new(process.stdout.take().expect("it is piped")).lines();
        let mut next = || loop {
            let line = told.next().expect("it goes on").expect("it is text");
            if let Some(line) = line.strip_prefix("child: ") {
                return line.to_owned();
            }
        };
        ask.write_all(b"first\n").expect("it reads");
        assert_eq!(next(), "first");
        let mut failures = Vec::new();
        for round in 0..20 {
            signal(Signal::STOP);
            wait_until_stopped(process.id());
            if round % 2 == 0 {
                // With a CLOSE. Another server takes its place.
                server.handle.shutdown_within(millis(20));
                server.serving.join().expect("serve does not panic");
                server = Running::at(Server::builder(key()), address, echo);
            }
            // The CLOSE needs time to arrive, and the pause must be longer than between requests in
            // quick succession.
            thread::sleep(millis(20));
            // From here on the end of the stream is in its socket.
            proxy.cut();
            let text = format!("round {round}");
            ask.write_all(format!("{text}\n").as_bytes()).expect("there is room");
            signal(Signal::CONT);
            let answer = next();
            if answer != text {
                failures.push(format!("{round}: {answer}"));
            }
        }
        drop(ask);
        assert!(process.wait().expect("it ends").success());
        assert!(failures.is_empty(), "{failures:?}");
        server.stop();
    });
}
