//! Standard output. Nothing here panics when nobody reads it.

use core::fmt;
use std::io::{self, ErrorKind, IsTerminal, Write, stdin, stdout};

use crate::failure::{Code, Failure};
use crate::log;

/// Writes bytes to standard output, and nothing around them.
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

/// Says what standard input is read for, where that is a terminal at which a user may wait for the
/// tool in turn.
pub(crate) fn ask(for_what: &str) {
    if stdin().is_terminal() {
        log::tell(&format_args!(
            "{for_what} is read from standard input, until its end (Ctrl-D at the beginning of a line)"
        ));
    }
}

fn failed(error: &io::Error) -> Failure {
    if error.kind() == ErrorKind::BrokenPipe {
        Failure::OutputClosed
    } else {
        Failure::new(Code::Failed, format_args!("standard output: {error}"))
    }
}
