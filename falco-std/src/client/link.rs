//! A connection of a client that threads share: how a caller's request gets onto it and how the caller waits.

use core::time::Duration;
use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use falco_core::{CloseReason, Fate, Settings};

use super::connection::Outcome;
use super::reader;
use super::serial::Machine;
use super::state::{End, State};
use crate::clock::Clock;
use crate::error::Error;
use crate::line::Line;
use crate::pipe::{LINGER, Pipe};
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
        machine: Machine,
        pipe: Pipe<BoxedStream>,
        handles: [BoxedStream; 2],
        clock: Clock,
        settings: &Settings,
    ) -> io::Result<Self> {
        let line = Line::new(State::new(machine), clock, handles, true, settings.lifetime())?;
        // What the handshake left owed: the proof that the welcome could be read.
        line.pump();
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
        let mut end = slot.wait(left);
        if end.is_none() {
            let fate = self.line.lock().source.leave(&slot);
            // It may have ended in this very moment.
            end = slot.wait(Some(Duration::ZERO));
            if end.is_none() {
                self.line.pump();
                let doing = if fate == Fate::NotProcessed {
                    "sending the request"
                } else {
                    "waiting for the answer"
                };
                return Outcome::Failed(Error::TimedOut {
                    doing,
                    limit: limit.unwrap_or_default(),
                    fate,
                });
            }
        }
        match end {
            Some(End::Answer(body)) => Outcome::Done(done(body, start.elapsed())),
            Some(End::Failed(error)) => Outcome::Failed(error),
            Some(End::NotBegun) | None => Outcome::NotBegun(None),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.line.lock().source.is_open()
    }

    /// Ends in good order, and waits for the server to do so too.
    pub(super) fn close(&self) {
        let now = self.line.now();
        self.line.lock().source.machine.close(now, CloseReason::Done);
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
