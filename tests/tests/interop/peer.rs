//! A peer as a child process. It is started, read line by line within a time limit, and killed by
//! its process id in the end. What the peers are and where they come from is in `setup.rs`.

use core::net::{Ipv4Addr, SocketAddr};
use core::time::Duration;
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use super::setup;

/// No step of a test takes as long as this, on a slow machine either.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Which published implementation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The crate on threads.
    Thread,
    /// The crate on Tokio.
    Tokio,
    /// The Python package.
    Python,
}

impl Kind {
    /// Gets the peer if need be, and says whether this machine can have it.
    pub(crate) fn is_here(self) -> bool {
        match self {
            Self::Thread => setup::thread_peer().is_file(),
            Self::Tokio => setup::tokio_peer().is_file(),
            Self::Python => setup::python().is_some(),
        }
    }

    fn command(self) -> Command {
        match self {
            Self::Thread => Command::new(setup::thread_peer()),
            Self::Tokio => Command::new(setup::tokio_peer()),
            Self::Python => {
                let mut python = Command::new(setup::python().expect("the test has asked whether it is here"));
                // Unbuffered, so that what its server prints is seen when it is printed.
                python.arg("-u").arg(setup::python_script());
                python
            }
        }
    }
}

/// A running peer. Dropping it ends it.
pub(crate) struct Peer {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    /// The child ends when this does, so that it does not outlive a test process that was killed.
    _lifeline: Option<ChildStdin>,
}

impl Peer {
    /// Their server, ready to be connected to, and its address. `python_timeout` is how many
    /// seconds the Python server waits in a read before it sends a zero unasked.
    pub(crate) fn serve(kind: Kind, key: &str, python_timeout: &str) -> (Self, SocketAddr) {
        for _ in 0..5 {
            let address = free_address();
            let mut command = kind.command();
            command.args(["serve", &address.to_string(), key]);
            if kind == Kind::Python {
                command.arg(python_timeout);
            }
            let mut peer = Self::start(&mut command);
            if peer.is_ready(address) {
                return (peer, address);
            }
        }
        panic!("the {kind:?} server did not come up");
    }

    /// Their client, which does `steps` with the server at `address`.
    pub(crate) fn call(kind: Kind, address: SocketAddr, key: &str, steps: &[&str]) -> Self {
        let mut command = kind.command();
        Self::start(command.args(["call", &address.to_string(), key]).args(steps))
    }

    fn start(command: &mut Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (to, lines) = mpsc::channel();
        forward(child.stdout.take(), to.clone(), "");
        forward(child.stderr.take(), to, "stderr: ");
        Self {
            _lifeline: child.stdin.take(),
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Connects until the server accepts. All of the servers let a stranger go who leaves without a
    /// word.
    fn is_ready(&mut self, address: SocketAddr) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            match TcpStream::connect_timeout(&address, Duration::from_secs(1)) {
                // On the loopback a connection to a free port can be given that very port, and so
                // reach itself.
                Ok(stream) if stream.local_addr().ok() != Some(address) => return true,
                Ok(_) | Err(_) => thread::sleep(Duration::from_millis(20)),
            }
        }
        false
    }

    /// The next line that has `word` in it; others, which the peers print of their own accord, are
    /// passed over.
    pub(crate) fn line(&mut self, word: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(word) {
                        return line;
                    }
                }
                Err(error) => panic!(
                    "no line {word:?} from the peer ({error}), which has said {:?}",
                    self.seen
                ),
            }
        }
    }

    /// How many lines with `word` in them have come so far.
    pub(crate) fn count(&mut self, word: &str) -> usize {
        self.seen.extend(self.lines.try_iter());
        self.seen.iter().filter(|line| line.contains(word)).count()
    }

    /// Waits until the process has ended. Returns its exit status and all that it has printed.
    pub(crate) fn finish(mut self) -> (ExitStatus, Vec<String>) {
        let deadline = Instant::now() + PATIENCE;
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            // The lines end when the process does.
            match self.lines.recv_timeout(left) {
                Ok(line) => self.seen.push(line),
                Err(mpsc::RecvTimeoutError::Timeout) => break,
                Err(mpsc::RecvTimeoutError::Disconnected) => match self.child.try_wait() {
                    Ok(Some(status)) => return (status, core::mem::take(&mut self.seen)),
                    Ok(None) => thread::sleep(Duration::from_millis(5)),
                    Err(error) => panic!("{error}"),
                },
            }
        }
        panic!("the peer has not ended; it has said {:?}", self.seen);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Both fail only where the process has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward(pipe: Option<impl Read + Send + 'static>, to: mpsc::Sender<String>, mark: &'static str) {
    let pipe = BufReader::new(pipe.expect("both outputs are piped"));
    thread::spawn(move || {
        for line in pipe.split(b'\n').map_while(Result::ok) {
            let _ = to.send(format!("{mark}{}", String::from_utf8_lossy(&line)));
        }
    });
}

/// An address of this machine that nothing listens on. Until the peer does, another process may
/// take it: then the next one is tried.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("a bound socket has an address")
}
