//! A connection of a client that threads share: how a caller's request gets onto it and how the caller waits.

use core::time::Duration;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use falco_core::{CloseReason, Fate, LINGER};

use super::connection::Outcome;
use super::reader;
use super::state::State;
use crate::clock::Clock;
use crate::error::Error;
use crate::line::Line;
use crate::pipe::Pipe;
use crate::stream::BoxedStream;

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
    /// Goes on after a handshake, with a thread that reads.
    pub(super) fn start(
        state: State,
        pipe: Pipe<BoxedStream>,
        handles: [BoxedStream; 2],
        clock: Clock,
    ) -> io::Result<Self> {
        let line = Line::new(state, clock, handles, true)?;
        let own = Arc::clone(&line);
        thread::Builder::new()
            .name("falco client".to_owned())
            .spawn(move || reader::read(&own, pipe))?;
        Ok(Self { line })
    }

    pub(super) fn call<T>(
        &self,
        request: Request<'_>,
        limit: Option<Duration>,
        done: impl FnOnce(Vec<u8>, Duration) -> T,
    ) -> Outcome<T> {
        let start = Instant::now();
        let added = match request {
            Request::Body(body) => self.line.lock().source.add(body),
            Request::Ping => Ok(self.line.lock().source.ping()),
        };
        let slot = match added {
            Ok(Some(slot)) => slot,
            Ok(None) => return Outcome::NotBegun(None),
            Err(error) => return Outcome::Failed(error),
        };
        self.line.pump();
        let left = limit.map(|limit| limit.saturating_sub(start.elapsed()));
        let end = slot.wait(left).ok_or_else(|| self.line.lock().source.leave(&slot));
        // It may have ended in this very moment.
        match end.or_else(|fate| slot.take().ok_or(fate)) {
            Ok(end) => Outcome::of(end, |body| done(body, start.elapsed())),
            Err(fate) => {
                self.line.pump();
                let doing = if fate == Fate::NotProcessed {
                    "sending the request"
                } else {
                    "waiting for the answer"
                };
                let limit = limit.unwrap_or_default();
                Outcome::Failed(Error::TimedOut { doing, limit, fate })
            }
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.line.lock().source.is_open()
    }

    /// Ends in good order, and waits for the server to do so too.
    pub(super) fn close(&self) {
        let now = self.line.now();
        self.line.lock().source.mux.close(now, CloseReason::Done);
        self.line.pump();
        let until = Instant::now() + LINGER;
        let mut desk = self.line.lock();
        while !desk.source.over {
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
