//! The processes that `run` starts: they are told what to do by their command line and by lines on
//! standard input, and answer with lines on standard output.

use core::time::Duration;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use serde::de::DeserializeOwned;

use crate::Failure;

/// A child process. It is ended when this is dropped.
pub(crate) struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Process {
    /// Starts this program again with other arguments.
    pub(crate) fn start(arguments: &[String]) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let output = BufReader::new(output.ok_or("the child has no standard output")?);
        let (sender, lines) = channel();
        thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| sender.send(line))
        });
        Ok(Self { child, input, lines })
    }

    pub(crate) fn say(&mut self, line: &str) -> Result<(), Failure> {
        Ok(writeln!(
            self.input.as_ref().ok_or("the child has no standard input")?,
            "{line}"
        )?)
    }

    /// The next line.
    pub(crate) fn line(&self, within: Duration) -> Result<String, Failure> {
        self.lines
            .recv_timeout(within)
            .map_err(|error| format!("a child process said nothing: {error}").into())
    }

    /// The next line as a value.
    pub(crate) fn value<T: DeserializeOwned>(&self, within: Duration) -> Result<T, Failure> {
        Ok(serde_json::from_str(&self.line(within)?)?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
