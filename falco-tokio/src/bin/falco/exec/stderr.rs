//! Copies what commands write to standard error to the log. All commands write to one pipe. A
//! thread always empties it, so that no command waits for the reader of the log. Processes that a
//! command has started may hold the pipe after it has ended. The tool waits at most [`END_WAIT`]
//! for them.
//!
//! A client may be able to make a command write without end. So the log gets at most [`PER_SECOND`]
//! bytes of that in a second, and the number of lines that were left out.

use core::time::Duration;
use std::io::{self, PipeReader, PipeWriter, Read, pipe};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::log;

/// The longest line that stays in one piece.
const LONGEST: usize = 8 << 10;
/// How many bytes of all commands are written to the log in a second. The piece that reaches this
/// limit is still written as a whole.
const PER_SECOND: usize = 64 << 10;
/// How long [`Stderr::end`] waits for processes that still hold the pipe.
const END_WAIT: Duration = Duration::from_millis(250);

/// The pipe, until [`end`](Self::end).
pub(super) struct Stderr(Mutex<Option<Pipe>>);

struct Pipe {
    writer: PipeWriter,
    /// Notified at the end of the pipe.
    read: oneshot::Receiver<()>,
}

impl Stderr {
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = pipe()?;
        let (done, read) = oneshot::channel();
        thread::Builder::new().name("stderr".to_owned()).spawn(|| {
            copy(reader);
            let _ = done.send(());
        })?;
        Ok(Self(Mutex::new(Some(Pipe { writer, read }))))
    }

    /// The writing end of the pipe, for a command.
    pub(super) fn writer(&self) -> io::Result<PipeWriter> {
        let pipe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = pipe.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.writer.try_clone()
    }

    /// Waits until all that was written has been read, but at most [`END_WAIT`] if processes still
    /// hold the pipe.
    pub(super) async fn end(&self) {
        let pipe = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Pipe { writer, read }) = pipe {
            drop(writer);
            let _ = timeout(END_WAIT, read).await;
        }
    }
}

/// Copies whole lines until the other end is closed.
fn copy(mut from: PipeReader) {
    let mut allowance = Allowance::new(Instant::now());
    let mut text = vec![0; LONGEST];
    let mut filled = 0;
    loop {
        let count = match text.get_mut(filled..).map(|room| from.read(room)) {
            Some(Ok(count)) if count > 0 => count,
            Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            _ => break,
        };
        filled += count;
        let read = text.get(..filled).unwrap_or_default();
        let lines = match read.iter().rposition(|byte| *byte == b'\n') {
            Some(at) => at + 1,
            None if filled == LONGEST => filled,
            None => continue,
        };
        write(&mut allowance, text.get(..lines).unwrap_or_default());
        text.copy_within(lines..filled, 0);
        filled -= lines;
    }
    write(&mut allowance, text.get(..filled).unwrap_or_default());
}

fn write(allowance: &mut Allowance, text: &[u8]) {
    if log::is_verbose() || allowance.take(text.len(), Instant::now()) {
        log::copy(text);
    } else {
        log::leave_out(text);
    }
}

/// What may still be written in the current second.
struct Allowance {
    since: Instant,
    written: usize,
}

impl Allowance {
    const fn new(now: Instant) -> Self {
        Self { since: now, written: 0 }
    }

    /// Whether bytes may be written.
    fn take(&mut self, count: usize, now: Instant) -> bool {
        if now.duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        let may = self.written < PER_SECOND;
        if may {
            self.written += count;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_second_has_an_allowance() {
        let began = Instant::now();
        let mut allowance = Allowance::new(began);
        for second in [0, 1, 7] {
            let now = began + Duration::from_secs(second);
            let written = (0..1000).filter(|_| allowance.take(1 << 10, now)).count();
            assert_eq!(written, 64);
        }
    }
}
