//! A running peer: on the crate snow as a thread, on the Python package noiseprotocol as a child
//! process. Both print the same lines. Waiting for either is limited, and a child is killed by its
//! process id in the end.

use core::fmt::Write;
use core::net::{Ipv4Addr, SocketAddr};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Instant;

use super::python::{self, Package};
use super::{Options, PATIENCE, client, server};

/// Which implementation of Noise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Snow,
    Python,
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/peer_noise.py");
const NOISEPROTOCOL: Package = Package {
    requirements: &["noiseprotocol==0.3.1"],
    check: "from noise.connection import NoiseConnection; NoiseConnection.from_name(b'Noise_NNpsk0_25519_AESGCM_SHA256')",
    place: "peer-noiseprotocol",
};

impl Kind {
    /// Gets the peer if need be, and says whether this machine can have it.
    fn is_here(self) -> bool {
        self == Self::Snow || interpreter().is_some()
    }
}

fn interpreter() -> Option<&'static Path> {
    static INSTALLED: OnceLock<python::Installed> = OnceLock::new();
    python::interpreter(INSTALLED.get_or_init(|| python::install(&NOISEPROTOCOL)))
}

/// A running peer. What it has started ends when this is dropped, or with the test's process.
pub(crate) struct Peer {
    lines: Receiver<String>,
    seen: Vec<String>,
    child: Option<Child>,
    /// The child ends when this does, so that it does not outlive a test process that was killed.
    _lifeline: Option<ChildStdin>,
}

impl Peer {
    /// A server, listening, and its address. It serves the first that connects.
    pub(crate) fn serve(kind: Kind, options: &Options) -> (Self, SocketAddr) {
        if kind == Kind::Python {
            let mut peer = Self::child("serve", options, &[]);
            let line = peer.line();
            let port = line.strip_prefix("port ").and_then(|port| port.parse::<u16>().ok());
            return (peer, (Ipv4Addr::LOCALHOST, port.expect("a port")).into());
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let options = options.clone();
        let peer = Self::thread(move |say| server::serve(&listener, &options, say));
        (peer, address)
    }

    /// A client, which does `steps` with the server at `address`; what they are is told at
    /// `client::call`.
    pub(crate) fn call(kind: Kind, address: SocketAddr, options: &Options, steps: &[&str]) -> Self {
        if kind == Kind::Python {
            let port = address.port().to_string();
            let words: Vec<&str> = [port.as_str()].into_iter().chain(steps.iter().copied()).collect();
            return Self::child("call", options, &words);
        }
        let steps: Vec<String> = steps.iter().copied().map(str::to_owned).collect();
        let options = options.clone();
        Self::thread(move |say| client::call(address, &options, &steps, say))
    }

    fn thread(work: impl FnOnce(&dyn Fn(String)) + Send + 'static) -> Self {
        let (to, lines) = mpsc::channel();
        thread::spawn(move || {
            let say = |line| {
                // There is no receiver once the test is over.
                let _ = to.send(line);
            };
            work(&say);
            say(DONE.to_owned());
        });
        Self {
            lines,
            seen: Vec::new(),
            child: None,
            _lifeline: None,
        }
    }

    fn child(verb: &str, options: &Options, words: &[&str]) -> Self {
        let mut command = Command::new(interpreter().expect("the test has asked whether it is here"));
        // Unbuffered, and without leaving byte code beside the script.
        command.args(["-u", "-B", SCRIPT, verb, &hex(&options.secret), &hex(&options.named)]);
        command.arg(options.context).arg(options.rekey_period.to_string());
        command
            .arg(options.max_record.to_string())
            .arg(options.max_in_flight.to_string());
        command.arg(options.max_message.to_string()).args(words);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (to, lines) = mpsc::channel();
        forward(child.stdout.take(), to.clone(), "");
        forward(child.stderr.take(), to, "stderr: ");
        Self {
            lines,
            seen: Vec::new(),
            _lifeline: child.stdin.take(),
            child: Some(child),
        }
    }

    fn line(&mut self) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        let line = line.unwrap_or_else(|error| panic!("no line ({error}) after {:?}", self.seen));
        self.seen.push(line.clone());
        line
    }

    /// Waits for its end, and returns all that it has printed.
    pub(crate) fn finish(mut self) -> Vec<String> {
        let deadline = Instant::now() + PATIENCE;
        while self.seen.last().is_none_or(|line| line != DONE) {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(error) => panic!("the peer broke off ({error}) after {:?}", self.seen),
            }
        }
        self.seen.pop();
        core::mem::take(&mut self.seen)
    }
}

/// The last line of each.
const DONE: &str = "done";

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // Both fail only where the process has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn forward(pipe: Option<impl Read + Send + 'static>, to: Sender<String>, mark: &'static str) {
    let pipe = BufReader::new(pipe.expect("both outputs are piped"));
    thread::spawn(move || {
        for line in pipe.lines().map_while(Result::ok) {
            let _ = to.send(format!("{mark}{line}"));
        }
    });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Runs a test if the peer is to be had on this machine, and fails it when it hangs. What it has
/// started then ends with the test process.
pub(crate) fn test_with(kind: Kind, test: impl FnOnce(Kind) + Send + 'static) {
    if !kind.is_here() {
        return;
    }
    let (done, wait) = mpsc::channel::<()>();
    let name = thread::current().name().unwrap_or("a test").to_owned();
    let running = thread::Builder::new().name(name).spawn(move || {
        let _done = done;
        test(kind);
    });
    let running = running.expect("a thread more");
    let hung = wait.recv_timeout(4 * PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout);
    assert!(!hung, "not done after {:?}", 4 * PATIENCE);
    if let Err(panic) = running.join() {
        std::panic::resume_unwind(panic);
    }
}
