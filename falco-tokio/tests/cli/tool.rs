//! Runs the tool, within a time limit, and looks at its results.

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// No command takes as long as this, not even on a slow machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
pub(crate) const KEY: &str = "a315c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b554";
pub(crate) const OTHER_KEY: &str = "1b15c8024ab172f90691f92ac072d57d3aac129b4d1024d536f0ac6b9236b555";

/// The tool with these words, in an environment without keys.
pub(crate) fn falco(words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_falco"));
    command
        .args(words)
        .env_remove("FALCO_KEY")
        .env_remove("FALCO_CLASSIC_KEY")
        .stdin(Stdio::null());
    command
}

/// The same with the key in the environment.
pub(crate) fn keyed(words: &[&str]) -> Command {
    let mut command = falco(words);
    command.env("FALCO_KEY", KEY);
    command
}

/// The same with the key on standard input, since with `--exec` it must not be in the environment.
pub(crate) fn piped(words: &[&str]) -> Command {
    let mut command = falco(words);
    with_piped_key(&mut command);
    command.args(["--key-file", "-"]);
    command
}

/// The command's standard input becomes a pipe with the key.
pub(crate) fn with_piped_key(command: &mut Command) {
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(KEY.as_bytes()).unwrap();
    command.stdin(reader);
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn text(&self) -> &str {
        str::from_utf8(&self.out).unwrap()
    }

    /// Checks that it ended with this code and a message without any part of a key.
    pub(crate) fn failed_with(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(!self.err.is_empty(), "no message: {self:?}");
        for key in [KEY, OTHER_KEY] {
            assert!(!self.err.contains(&key[..16]), "a key in a message: {}", self.err);
        }
        &self.err
    }

    /// Checks that it succeeded, and returns its output.
    pub(crate) fn good(&self) -> &str {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        self.text()
    }
}

/// A running command. Dropping it kills it.
pub(crate) struct Run {
    child: Child,
    out: Receiver<Vec<u8>>,
    err: Receiver<Vec<u8>>,
}

impl Run {
    pub(crate) fn start(mut command: Command) -> Self {
        Self::of(command.stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// The same with the streams of the command. Those that are pipes are read.
    pub(crate) fn of(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
        Self { child, out, err }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(self.child.id()), signal).unwrap();
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    pub(crate) fn end(mut self) -> Ended {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(5));
        };
        let err = String::from_utf8_lossy(&self.err.recv_timeout(PATIENCE).unwrap()).into_owned();
        assert!(!err.contains("panicked"), "{err}");
        Ended {
            code: status.code(),
            out: self.out.recv_timeout(PATIENCE).unwrap(),
            err,
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// Reads a pipe to its end. Without a pipe there is nothing.
fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (to, all) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        let _ = to.send(bytes);
    });
    all
}

/// Runs a command to its end.
pub(crate) fn run(command: Command) -> Ended {
    Run::start(command).end()
}

/// The same with something on its standard input.
pub(crate) fn run_with(mut command: Command, input: &[u8]) -> Ended {
    command.stdin(Stdio::piped());
    let mut run = Run::start(command);
    let mut pipe = run.child.stdin.take().unwrap();
    let input = input.to_vec();
    // A command need not read all of it.
    let feeding = thread::spawn(move || drop(pipe.write_all(&input)));
    let ended = run.end();
    feeding.join().unwrap();
    ended
}

/// Runs a command with a closed standard output, and returns its exit code and its standard error.
pub(crate) fn run_unread(mut command: Command) -> (Option<i32>, String) {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let (out, err) = (collect(child.stdout.take()), collect(child.stderr.take()));
    let ended = Run { child, out, err }.end();
    (ended.code, ended.err)
}

/// A running `falco serve`.
pub(crate) struct Served {
    run: Run,
    pub(crate) address: String,
}

impl Served {
    /// On a free port unless the words say otherwise. The key is in its environment if there is no
    /// `--exec`.
    pub(crate) fn start(words: &[&str]) -> Self {
        let all: Vec<&str> = if words.contains(&"--listen") {
            vec!["serve"]
        } else {
            vec!["serve", "--listen", "127.0.0.1:0"]
        };
        let mut command = if words.contains(&"--exec") { piped } else { keyed }(&all);
        command.args(words);
        Self::of(command)
    }

    pub(crate) fn of(command: Command) -> Self {
        Self::try_of(command).unwrap_or_else(|ended| panic!("{ended:?}"))
    }

    /// The same, or the result of one that did not start to listen.
    pub(crate) fn try_of(mut command: Command) -> Result<Self, Ended> {
        Self::with(command.stderr(Stdio::piped()), |_| {})
    }

    /// A server whose standard error is a pipe that only the caller may read.
    pub(crate) fn unheard(mut command: Command) -> (Self, ChildStderr) {
        let mut unread = None;
        let server = Self::with(command.stderr(Stdio::piped()), |child| unread = child.stderr.take());
        (server.unwrap(), unread.unwrap())
    }

    /// A server whose standard error is a file.
    pub(crate) fn heard_by(mut command: Command, log: fs::File) -> Self {
        Self::with(command.stderr(log), |_| {}).unwrap()
    }

    fn with(command: &mut Command, look: impl FnOnce(&mut Child)) -> Result<Self, Ended> {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        look(&mut child);
        let err = collect(child.stderr.take());
        let mut pipe = BufReader::new(child.stdout.take().unwrap());
        let (to, out) = mpsc::channel();
        thread::spawn(move || {
            let (mut first, mut rest) = (String::new(), Vec::new());
            let _ = pipe.read_line(&mut first);
            let _ = to.send(first.into_bytes());
            let _ = pipe.read_to_end(&mut rest);
            let _ = to.send(rest);
        });
        let run = Run { child, out, err };
        let first = String::from_utf8(run.out.recv_timeout(PATIENCE).unwrap()).unwrap();
        let address = first
            .strip_prefix("listening on ")
            .and_then(|rest| rest.strip_suffix('\n'));
        let Some(address) = address else {
            return Err(run.end());
        };
        let address = address.to_owned();
        Ok(Self { run, address })
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.run.signal(signal);
    }

    pub(crate) fn id(&self) -> u32 {
        self.run.child.id()
    }

    /// Waits for its end. The output lacks the first line.
    pub(crate) fn end(self) -> Ended {
        self.run.end()
    }

    pub(crate) fn stop(self) -> Ended {
        self.signal(Signal::TERM);
        let ended = self.end();
        assert_eq!((ended.code, ended.text()), (Some(0), ""), "{ended:?}");
        ended
    }

    /// Sends a message.
    pub(crate) fn send(&self, message: &str) -> Ended {
        run(keyed(&["send", &self.address, message]))
    }
}

/// A directory for a test. Dropping it removes it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let place = std::env::temp_dir().join(format!("falco-cli-{}-{number}", std::process::id()));
        fs::create_dir(&place).unwrap();
        Self(place)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Creates a file that only its owner can read, and returns its name.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.path(name);
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .unwrap();
        file.write_all(content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    pub(crate) fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether a process has ended. A zombie has.
pub(crate) fn is_gone(id: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    test_kill_process(pid(id)).is_err() || state.starts_with('Z')
}

/// How many children a process has, including zombies. Without /proc, none.
pub(crate) fn children(parent: u32) -> usize {
    let parent = parent.to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    let is_child = |stat: &String| {
        let words = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').nth(1));
        words.flatten() == Some(parent.as_str())
    };
    stats.filter(is_child).count()
}

/// Waits for a condition.
pub(crate) fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until a server listens on a Unix socket. Its file exists before that.
pub(crate) fn until_listening(path: &Path) {
    until("it listens", || UnixStream::connect(path).is_ok());
}

/// Waits until a file has a whole line, and returns it.
pub(crate) fn line_of(path: &Path) -> String {
    let whole = || fs::read_to_string(path).is_ok_and(|text| text.ends_with('\n'));
    until("a line in a file", whole);
    fs::read_to_string(path).unwrap().trim().to_owned()
}
