//! Priorities for the journal of systemd: a number between angle brackets at the beginning of each
//! line, which the journal takes off. Only if standard error is the journal, which systemd says in
//! the variable `JOURNAL_STREAM`.

use std::sync::OnceLock;

use tracing::Level;

/// Whether standard error is the journal.
pub(super) fn reads() -> bool {
    static READS: OnceLock<bool> = OnceLock::new();
    *READS.get_or_init(|| {
        let named = std::env::var("JOURNAL_STREAM").ok();
        named.is_some() && named == standard_error()
    })
}

/// The device and the inode of standard error, as the variable names them.
#[cfg(unix)]
fn standard_error() -> Option<String> {
    let found = rustix::fs::fstat(std::io::stderr()).ok()?;
    Some(format!("{}:{}", found.st_dev, found.st_ino))
}

#[cfg(not(unix))]
const fn standard_error() -> Option<String> {
    None
}

/// Text with the priority of a level, as syslog has it, in front of each line.
pub(super) fn with_priority(level: Level, text: &[u8]) -> Vec<u8> {
    let priority: &[u8] = match level {
        Level::ERROR => b"<3>",
        Level::WARN => b"<4>",
        Level::INFO => b"<6>",
        Level::DEBUG | Level::TRACE => b"<7>",
    };
    let lines = text.split_inclusive(|byte| *byte == b'\n');
    lines.flat_map(|line| [priority, line].concat()).collect()
}
