//! A part of a test in a separate process: the program of the suite, run again for one role. Both
//! processes exchange lines.

use core::time::Duration;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

/// The prefix of lines of a role, which distinguishes them from those of the test harness.
const MARK: &str = "@ ";
/// Which role to play.
const ROLE: &str = "FALCO_TEST_ROLE";
/// Its arguments, in one line.
const ARGUMENTS: &str = "FALCO_TEST_ARGUMENTS";
/// How long a role may take to answer.
const PATIENCE: Duration = Duration::from_secs(120);

/// A process that plays a role. Dropping it kills it.
pub(crate) struct Child {
    process: std::process::Child,
    orders: ChildStdin,
    lines: Receiver<String>,
}

impl Child {
    /// Runs the ignored test `role` of this suite, which is to call [`role`].
    pub(crate) fn spawn(role: &str, arguments: &str) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["role", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(ARGUMENTS, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (to, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines() {
                let Ok(line) = line else { return };
                if let Some(said) = line.strip_prefix(MARK) {
                    let _ = to.send(said.to_owned());
                }
            }
        });
        Self {
            orders: process.stdin.take().unwrap(),
            process,
            lines,
        }
    }

    /// The next line that it prints.
    pub(crate) fn line(&self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .expect("the other process is to answer")
    }

    pub(crate) fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    /// Gives an order and waits for the answer.
    pub(crate) fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.line()
    }

    #[cfg(unix)]
    #[allow(dead_code, reason = "one suite uses it")]
    pub(crate) fn id(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.process)
    }

    /// Ends it at once, as the system would.
    pub(crate) fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// In a process that plays a role: which, and its arguments. In another there is none.
pub(crate) fn role() -> Option<(String, String)> {
    Some((std::env::var(ROLE).ok()?, std::env::var(ARGUMENTS).ok()?))
}

/// Prints a line for the process that has spawned this one.
pub(crate) fn say(line: impl core::fmt::Display) {
    // The harness may have begun a line of its own.
    println!("\n{MARK}{line}");
}

/// The next order, or `None` when there are no more.
pub(crate) fn next_order() -> Option<String> {
    let mut line = String::new();
    let count = std::io::stdin().read_line(&mut line).unwrap();
    (count > 0).then(|| line.trim_end().to_owned())
}
