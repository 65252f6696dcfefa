//! The lines that `run` and its children exchange on standard input and output.

use core::net::SocketAddr;
use std::io::{BufRead as _, Write as _, stdin, stdout};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::usage::Usage;

/// What a client says once it is connected and the server's usage may be taken.
pub(crate) const READY: &str = "ready";

/// What a server says when it can be reached.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Announcement {
    pub(crate) address: SocketAddr,
    /// As PEM, where the contender speaks TLS.
    pub(crate) certificate: Option<String>,
}

/// What a client says when it has finished.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(crate) struct Outcome {
    /// Completed requests; of idle connections, how many there are.
    pub(crate) count: u64,
    pub(crate) wall_us: u64,
    pub(crate) before: Usage,
    pub(crate) after: Usage,
}

/// The client's side of a measurement that has started.
#[derive(Debug)]
pub(crate) struct Started {
    before: Usage,
    at: Instant,
}

/// Waits until the server's usage is taken. This blocks the thread.
pub(crate) fn start() -> Result<Started, Failure> {
    say(READY)?;
    if stdin().lock().read_line(&mut String::new())? == 0 {
        return Err("the benchmark has ended".into());
    }
    Ok(Started {
        before: Usage::now()?,
        at: Instant::now(),
    })
}

impl Started {
    /// Reports what was done since.
    pub(crate) fn finish(self, count: u64) -> Result<(), Failure> {
        let wall_us = self.at.elapsed().as_micros().try_into()?;
        let outcome = Outcome {
            count,
            wall_us,
            before: self.before,
            after: Usage::now()?,
        };
        say(&serde_json::to_string(&outcome)?)
    }
}

/// The server's side: announces it, and from a thread of its own says its usage whenever it is
/// asked. When `run` ends or closes the pipe, the process ends.
pub(crate) fn announce(announcement: &Announcement) -> Result<(), Failure> {
    say(&serde_json::to_string(announcement)?)?;
    std::thread::spawn(|| {
        let answered = stdin()
            .lock()
            .lines()
            .try_for_each(|_| say(&serde_json::to_string(&Usage::now()?)?));
        std::process::exit(i32::from(answered.is_err()));
    });
    Ok(())
}

fn say(line: &str) -> Result<(), Failure> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
