//! Both ends of the connection between the process whose memory is searched and the one that
//! searches.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
use std::thread;

use super::needles::Handshake;
use super::relay::Relay;

/// Tells the process that is looked into where to connect, and what to do.
const VARIABLE: &str = "FALCO_SECRETS";

/// The end of the process that is looked into.
pub(crate) struct Control {
    stream: BufReader<TcpStream>,
}

impl Control {
    /// The line and the scenario, in a process that is looked into.
    pub(crate) fn open() -> Option<(Self, String)> {
        let given = std::env::var(VARIABLE).ok()?;
        let (address, scenario) = given.split_once(' ').expect("an address and a scenario");
        let stream = TcpStream::connect(address).expect("the test listens");
        let control = Self {
            stream: BufReader::new(stream),
        };
        Some((control, scenario.to_owned()))
    }

    fn call(&mut self, line: &str) -> String {
        writeln!(self.stream.get_mut(), "{line}").expect("the test listens");
        let mut answer = String::new();
        self.stream.read_line(&mut answer).expect("the test answers");
        answer.trim_end().to_owned()
    }

    /// Has the memory of this process looked through.
    pub(crate) fn look(&mut self, stage: &str) {
        assert_eq!(self.call(&format!("look {stage}")), "go on");
    }

    /// An address behind which the server is, through a relay that keeps the handshakes.
    pub(crate) fn relay(&mut self, server: SocketAddr) -> SocketAddr {
        let address = self.call(&format!("relay {server}"));
        address.parse().expect("an address")
    }

    /// Says what a connection's handshake was, where no relay sees it.
    pub(crate) fn handshake(&mut self, hello: &[u8], welcome: &[u8]) {
        assert_eq!(self.call(&format!("handshake {hello:?}{welcome:?}")), "go on");
    }
}

/// What the process that is looked into has to say.
pub(crate) enum Said {
    Look(String),
    Done,
}

/// A process that is looked into. It is killed when this is dropped.
pub(crate) struct Scanned {
    child: Child,
    stream: BufReader<TcpStream>,
    relay: Option<Relay>,
    told: Vec<Handshake>,
}

impl Scanned {
    pub(crate) fn start(scenario: &str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "scanned", "--ignored", "--nocapture"])
            .env(VARIABLE, format!("{address} {scenario}"))
            // Every thread takes from one heap, and gives back to it.
            .env("RUST_BACKTRACE", "1")
            .spawn()
            .expect("this program can be run");
        listener.set_nonblocking(true).expect("a listener");
        let stream = loop {
            if let Ok((stream, _)) = listener.accept() {
                break stream;
            }
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none(), "it ended before it began: {ended:?}");
            thread::sleep(Duration::from_millis(5));
        };
        stream.set_nonblocking(false).expect("a stream");
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .expect("a stream");
        Self {
            child,
            stream: BufReader::new(stream),
            relay: None,
            told: Vec::new(),
        }
    }

    pub(crate) fn process(&self) -> u32 {
        self.child.id()
    }

    fn answer(&mut self, line: &str) {
        writeln!(self.stream.get_mut(), "{line}").expect("it listens");
    }

    pub(crate) fn go_on(&mut self) {
        self.answer("go on");
    }

    /// What it says next, other than what the relay and its handshakes are about.
    pub(crate) fn next(&mut self) -> Said {
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line).expect("it says something in time");
            let line = line.trim_end();
            if let Some(stage) = line.strip_prefix("look ") {
                return Said::Look(stage.to_owned());
            } else if let Some(server) = line.strip_prefix("relay ") {
                let relay = Relay::before(server.parse().expect("an address"));
                let address = relay.address;
                self.relay = Some(relay);
                self.answer(&address.to_string());
            } else if let Some(bytes) = line.strip_prefix("handshake ") {
                let (hello, welcome) = bytes.split_once("][").expect("two lists");
                let (hello, welcome) = (list(hello), list(welcome));
                self.told.push(Handshake { hello, welcome });
                self.go_on();
            } else {
                let status = self.child.wait().expect("a child");
                assert!(line.is_empty() && status.success(), "{line} {status:?}");
                return Said::Done;
            }
        }
    }

    /// The handshakes up to now, in their order.
    pub(crate) fn handshakes(&self) -> Vec<Handshake> {
        let relayed = self.relay.as_ref().map(Relay::handshakes).unwrap_or_default();
        [self.told.clone(), relayed].concat()
    }

    /// The hellos up to now that have got no answer.
    pub(crate) fn refused_hellos(&self) -> Vec<Vec<u8>> {
        self.relay.as_ref().map(Relay::refused_hellos).unwrap_or_default()
    }
}

fn list(text: &str) -> Vec<u8> {
    let numbers = text.trim_matches(['[', ']']).split(", ");
    numbers.map(|number| number.parse().expect("a byte")).collect()
}

impl Drop for Scanned {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
