//! A connection of a client that threads share: how a caller's request gets onto it and how the
//! caller waits.

use core::time::Duration;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use falco_core::mux::Attempts;
use falco_core::{CloseReason, Fate, LINGER};

use super::limit::Limit;
use super::outcome::Outcome;
use super::reader::Reader;
use super::state::{Past, State};
use crate::clock::Clock;
use crate::line::{Desk, Line};
use crate::pipe::Pipe;
use crate::stream::BoxedStream;

/// How often to look whether the reader has taken what lay there, if nobody tells.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The reader is waited for no longer than this.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Link {
    line: Arc<Line<State>>,
}

/// What a caller wants of the server.
#[derive(Clone, Copy)]
pub(super) enum Request<'b> {
    Body(&'b [u8]),
    Ping,
}

impl Link {
    /// Goes on after a handshake, once the reader runs on a thread of its own.
    pub(super) fn new(
        state: State,
        pipe: Pipe<BoxedStream>,
        handles: [BoxedStream; 2],
        clock: Clock,
    ) -> io::Result<(Self, Reader)> {
        let line = Line::new(state, clock, handles, true)?;
        let reader = Reader::new(Arc::clone(&line), pipe);
        Ok((Self { line }, reader))
    }

    pub(super) fn call<T>(
        &self,
        request: Request<'_>,
        attempts: Attempts,
        limit: Option<Limit>,
        done: impl FnOnce(Vec<u8>, Duration) -> T,
    ) -> Outcome<T> {
        let start = Instant::now();
        let mut desk = self.look(limit);
        let added = match request {
            Request::Body(body) => desk.source.add(body, attempts),
            Request::Ping => Ok(desk.source.ping(attempts)),
        };
        drop(desk);
        let slot = match added {
            Ok(Some(slot)) => slot,
            Ok(None) => return Outcome::Retry(attempts, None),
            Err(error) => return Outcome::Failed(error),
        };
        self.line.pump();
        let Some(end) = slot.wait(limit) else {
            let fate = self.line.lock().source.leave(&slot);
            // It may have ended in this very moment.
            return match (slot.take(), limit) {
                (Some(end), _) => Outcome::of(end, |body| done(body, start.elapsed())),
                (None, Some(limit)) => {
                    self.line.pump();
                    let doing = if fate == Fate::NotProcessed {
                        "sending the request"
                    } else {
                        "waiting for the answer"
                    };
                    Outcome::Failed(limit.error(doing, fate))
                }
                // Without a limit the wait has no other end.
                (None, None) => Outcome::Retry(attempts, None),
            };
        };
        Outcome::of(end, |body| done(body, start.elapsed()))
    }

    /// The state, once what has come is known to it. A connection that has heard nothing for a
    /// while may have ended without its reader having had time to see it, as where the process was
    /// stopped: then the reader goes first.
    fn look(&self, limit: Option<Limit>) -> MutexGuard<'_, Desk<State>> {
        let mut desk = self.line.lock();
        let start = Instant::now();
        while desk.source.is_open() && desk.source.is_unheard(self.line.now()) && self.line.lies_unread() {
            let patience = PATIENCE.saturating_sub(start.elapsed());
            let left = limit.map_or(patience, |limit| patience.min(limit.left()));
            if left.is_zero() {
                break;
            }
            desk = self.line.wait(desk, Some(left.min(LOOK_AGAIN)));
        }
        desk
    }

    pub(super) fn is_open(&self) -> bool {
        self.line.lock().source.is_open()
    }

    pub(super) fn past(&self) -> Past {
        self.line.lock().source.past()
    }

    /// Takes nothing new: what has begun gets its end, and then the connection ends.
    pub(super) fn retire(&self) {
        let now = self.line.now();
        self.line.lock().source.mux.close(now, CloseReason::Done);
        self.line.pump();
    }

    /// Ends in good order once all that was submitted has completed, and waits for the server to
    /// do so too.
    pub(super) fn close(&self) {
        let mut desk = self.line.lock();
        while desk.source.is_open() && desk.source.mux.has_unbegun() {
            desk = self.line.wait(desk, Some(LOOK_AGAIN));
        }
        drop(desk);
        self.retire();
        let mut until = Instant::now() + LINGER;
        let mut desk = self.line.lock();
        while !desk.source.over {
            if desk.source.mux.outstanding() > 0 {
                until = Instant::now() + LINGER;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            desk = self.line.wait(desk, Some(left));
        }
        let over = desk.source.over;
        drop(desk);
        if !over {
            self.abort();
        }
    }

    /// Ends at once: the thread that reads sees the end of the stream.
    pub(super) fn abort(&self) {
        self.line.shutdown(Shutdown::Both);
    }
}
