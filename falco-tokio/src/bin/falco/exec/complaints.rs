//! What commands write to standard error goes into the log as it comes. They write into one pipe
//! that a thread always empties: they never wait for whoever reads the log. A command that is over
//! and has left something running leaves that a place in the pipe, for which nobody waits.

use core::time::Duration;
use std::io::{self, PipeReader, PipeWriter, Read, pipe};
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::log;

/// The longest line that stays in one piece.
const LONGEST: usize = 8 << 10;
/// How long reading may go on in the end.
const END: Duration = Duration::from_millis(250);

/// The pipe, until it is to end.
pub(super) struct Complaints(Mutex<Option<Pipe>>);

struct Pipe {
    writer: PipeWriter,
    /// Told at the end of what can be read.
    read: oneshot::Receiver<()>,
}

impl Complaints {
    pub(super) fn new() -> io::Result<Self> {
        let (reader, writer) = pipe()?;
        let (done, read) = oneshot::channel();
        thread::Builder::new().name("complaints".to_owned()).spawn(|| {
            pass_on(reader);
            let _ = done.send(());
        })?;
        Ok(Self(Mutex::new(Some(Pipe { writer, read }))))
    }

    /// The end of the pipe that is for a command.
    pub(super) fn writer(&self) -> io::Result<PipeWriter> {
        let pipe = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = pipe.as_ref().ok_or(io::ErrorKind::BrokenPipe)?;
        pipe.writer.try_clone()
    }

    /// Waits for what was written, if no command is left that holds the pipe; for a moment if one
    /// is.
    pub(super) async fn end(&self) {
        let pipe = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Pipe { writer, read }) = pipe {
            drop(writer);
            let _ = timeout(END, read).await;
        }
    }
}

/// Passes whole lines on until nobody holds the other end.
fn pass_on(mut from: PipeReader) {
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
        log::write(text.get(..lines).unwrap_or_default());
        text.copy_within(lines..filled, 0);
        filled -= lines;
    }
    log::write(text.get(..filled).unwrap_or_default());
}
