//! The thread of a client's connection that reads: it tells what came to those who wait, keeps the
//! connection's times, and ends it. It never waits for a writer.

use core::time::Duration;
use std::io;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use falco_core::ConnectionError;

use super::state::{Look, State};
use crate::line::{Desk, Line};
use crate::pipe::{Filled, Pipe};
use crate::stream::BoxedStream;

/// A write over a stream that has ended is waited for no longer than this.
const SETTLES: Duration = Duration::from_millis(100);

/// What the thread that reads needs.
pub(super) struct Reader {
    line: Arc<Line<State>>,
    pipe: Pipe<BoxedStream>,
}

impl Reader {
    pub(super) const fn new(line: Arc<Line<State>>, pipe: Pipe<BoxedStream>) -> Self {
        Self { line, pipe }
    }

    /// Reads until the connection is over.
    pub(super) fn run(self) {
        let Self { line, mut pipe } = self;
        let end = converse(&line, &mut pipe);
        line.lock().source.finish(line.now(), end);
        line.tell();
        line.leave(&mut pipe);
        line.tell();
    }
}

fn converse(line: &Arc<Line<State>>, pipe: &mut Pipe<BoxedStream>) -> io::Result<ConnectionError> {
    loop {
        let total = match take_all(line, pipe) {
            Ok(total) => total,
            Err(end) => return Ok(end),
        };
        // Answers to pings, and requests for which there is room now.
        line.pump();
        let until = line.lock().source.mux.poll_timeout();
        let filled = pipe.fill(total, until)?;
        let now = line.now();
        let mut desk = line.lock();
        match filled {
            Filled::Bytes => desk.source.heard(now, || line.lies_unread()),
            Filled::Nothing => {
                if let Err(end) = desk.source.mux.handle_timeout(now) {
                    return Ok(end);
                }
                drop(desk);
                // A ping that keeps the connection.
                line.pump();
            }
            Filled::EndOfStream => {
                // A reset is told once. If a write has it, or is about to have it, what is read
                // looks like an end, and so does one that this side has made after a write that
                // failed. Neither says anything of what the server did. A pipe that the write
                // found closed does: the server had ended the stream before.
                desk = settled(line, desk);
                match desk.source.take_trouble() {
                    Some(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
                    Some(trouble) => return trouble,
                    None => {}
                }
                if let Err(end) = desk.source.mux.end_of_stream(now, pipe.unread()) {
                    return Ok(end);
                }
                return Ok(ConnectionError::ClosedByPeer);
            }
        }
    }
}

/// Takes what is unread; says how many unread bytes bring the next step.
fn take_all(line: &Line<State>, pipe: &mut Pipe<BoxedStream>) -> Result<usize, ConnectionError> {
    let mut desk = line.lock();
    let now = line.now();
    loop {
        match desk.source.recv(now, pipe.unread())? {
            Look::NeedMore(total) => return Ok(total),
            Look::Taken(consumed) => pipe.consume(consumed),
            // An established client is never asked for it; to look again would be to look for ever.
            Look::WriteFirst => return Err(ConnectionError::Protocol),
        }
    }
}

/// Waits for the write that is being made, if one is, to fail: over a stream that is broken it does
/// so at once.
fn settled<'l>(line: &'l Line<State>, mut desk: MutexGuard<'l, Desk<State>>) -> MutexGuard<'l, Desk<State>> {
    let until = Instant::now() + SETTLES;
    while desk.is_writing() {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        desk = line.wait(desk, Some(left));
    }
    desk
}
