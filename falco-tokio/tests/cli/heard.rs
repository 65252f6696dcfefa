//! A server, or a client that listens, whose log is read while it runs.

use std::io::{BufRead, BufReader};
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::thread;

use falco_tokio::Key;
use rustix::process::Signal;

use crate::tool::{KEY, OTHER_KEY, PATIENCE, Served};

/// The id of a key, as messages have it.
pub(crate) fn id(key: &str) -> String {
    key.parse::<Key>().unwrap().id().to_string()
}

/// It, and the lines of its standard error.
pub(crate) struct Heard {
    pub(crate) server: Served,
    lines: Receiver<String>,
}

impl Heard {
    pub(crate) fn of(command: Command) -> Self {
        let (server, err) = Served::unheard(command);
        let (to, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(err).lines().map_while(Result::ok) {
                let _ = to.send(line);
            }
        });
        Self { server, lines }
    }

    /// Waits for a line with this text.
    pub(crate) fn says(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|_| panic!("no line with {text:?} in {seen:#?}"));
            assert!(!line.contains(&KEY[..16]) && !line.contains(&OTHER_KEY[..16]), "{line}");
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
    }

    /// Has it read its keys again, and waits for a line with this text.
    pub(crate) fn reload(&self, text: &str) -> String {
        self.server.signal(Signal::HUP);
        self.says(text)
    }
}
