//! What a connection does in a turn before it reads: it processes the unread bytes, and writes.

use core::task::Context;
use std::io;

use bytes::Bytes;
use falco_core::ConnectionError;
use falco_core::mux::{Body, Halves, ServerStep};
use tracing::debug;

use super::super::OnCancel;
use super::super::handler::Handler;
use super::{Connection, TURN, Turn};
use crate::line::{Wrote, sealed};
use crate::metrics;

/// What each processed step adds to a turn, in addition to its bytes.
const FRAME: u32 = 256;

/// Bytes that count towards a turn.
fn of_turn(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(TURN)
}

/// Why no more steps can be taken from the unread bytes.
pub(super) enum Pause {
    /// More bytes are needed: this many in all.
    Read(usize),
    /// Something has to be written or answered first.
    Wait,
    /// Other tasks have their turn.
    Yield,
    End(ConnectionError),
}

impl<H: Handler> Connection<H> {
    /// Processes the unread bytes.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Pause {
        loop {
            // This check comes first, because output that remains only because the turn is over is
            // no reason to wait.
            if turn.received >= TURN {
                return Pause::Yield;
            }
            let (now, unread) = (self.now, self.line.unread_len());
            let step = match self.mux.recv(now, self.line.unread()) {
                Ok(step) => step,
                Err(end) => return Pause::End(end),
            };
            match step {
                ServerStep::NeedMore { total } => return Pause::Read(total),
                ServerStep::Hello { fingerprint } => {
                    self.handlers.service.registry.hello(self.place.number(), fingerprint);
                }
                ServerStep::Skip => {
                    self.count_busy();
                }
                ServerStep::Established => {
                    self.establish();
                }
                ServerStep::Request { id, body } => {
                    let body = match body {
                        Body::Lent(body) => Bytes::copy_from_slice(body),
                        Body::Whole(bytes) => Bytes::from(bytes),
                    };
                    self.line.free_consumed();
                    if self.handlers.all_stream() {
                        self.handle_whole(id, body);
                    } else {
                        self.handle(cx, id, body);
                    }
                }
                ServerStep::Opened { id, body } => {
                    let body = Bytes::from(body.into_vec().into_boxed_slice());
                    self.handle_open(id, body);
                }
                ServerStep::Part { id, body } => {
                    if let Some(pipe) = self.running.open(id) {
                        pipe.arrive(body);
                    }
                }
                ServerStep::Ended { id } => {
                    if let Some(pipe) = self.running.open(id) {
                        pipe.update(Halves::end_input);
                    }
                }
                ServerStep::Cancelled { id } => {
                    if let Some(pipe) = self.running.open(id) {
                        pipe.update(Halves::cancel);
                    }
                    if self.running.contains(id) {
                        self.control.cancel(id);
                        if self.handlers.service.on_cancel == OnCancel::Drop {
                            self.running.abort(id);
                        }
                    }
                }
                ServerStep::Closing { reason } => {
                    debug!(?reason, "the client closes");
                }
                ServerStep::TransmitFirst | ServerStep::AnswerFirst | _ => {
                    self.count_busy();
                    return Pause::Wait;
                }
            }
            let consumed = unread - self.line.unread_len();
            turn.received = turn.received.saturating_add(of_turn(consumed) + FRAME);
            self.line.free_consumed();
        }
    }

    /// Counts the requests for which there was no room.
    fn count_busy(&mut self) {
        let busy = self.mux.take_busy();
        if busy > 0 {
            self.handlers.service.counters.busy.add(busy);
            debug!(requests = busy, "refused as busy: there is no room for their bytes");
        }
    }

    /// Seals and writes until the stream accepts no more, or this turn's limit is reached. If that
    /// lets a request reach its handler, it counts as if something was written.
    pub(super) fn write(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> io::Result<Wrote> {
        let waited = !self.mux.may_read();
        let (mux, now) = (&mut self.mux, self.now);
        let sent = &self.handlers.service.counters.metrics.sent;
        let mut all_sealed = false;
        let mut wrote = self.line.write(cx, |out| {
            if turn.written >= TURN || all_sealed {
                return Ok(0);
            }
            let count = sealed(mux.seal(now, out))?;
            all_sealed = count > 0 && mux.all_sealed();
            sent.add(metrics::bytes(count));
            turn.written = turn.written.saturating_add(of_turn(count));
            Ok(count)
        })?;
        if wrote.is_blocked() {
            self.mux.blocked(self.now);
        } else if wrote.all && turn.written < TURN {
            self.mux.flushed();
        } else {
            self.mux.wrote();
        }
        wrote.some |= waited && self.mux.may_read();
        Ok(wrote)
    }
}
