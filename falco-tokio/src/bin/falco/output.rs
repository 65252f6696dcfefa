//! Standard output. Nothing here panics if it is closed.

use core::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write, stdin, stdout};

use crate::failure::{Code, Failure};
use crate::log;

/// Writes bytes to standard output, unchanged.
pub(crate) fn put(bytes: &[u8]) -> Result<(), Failure> {
    let mut out = stdout().lock();
    out.write_all(bytes)
        .and_then(|()| out.flush())
        .map_err(|error| failed(&error))
}

/// Writes a line to standard output.
pub(crate) fn line(text: &impl fmt::Display) -> Result<(), Failure> {
    put(format!("{text}\n").as_bytes())
}

/// If standard input is a terminal, tells the user what is read from it.
pub(crate) fn ask(for_what: &str) {
    if stdin().is_terminal() {
        let end = if cfg!(windows) { "Ctrl-Z and Enter" } else { "Ctrl-D" };
        log::tell(&format_args!(
            "reading {for_what} from standard input: end it with {end} at the beginning of a line"
        ));
    }
}

fn failed(error: &io::Error) -> Failure {
    if error.kind() == ErrorKind::BrokenPipe {
        Failure::OutputClosed
    } else {
        Failure::new(Code::Failed, format_args!("cannot write to standard output: {error}"))
    }
}
