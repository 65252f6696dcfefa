//! What a connection does in a turn before it waits: it processes the unread bytes, writes, and
//! reads.

use core::task::{Context, Poll};
use std::io;

use bytes::Bytes;
use falco_core::RequestError;
use falco_core::mux::{Body, ClientStep};
use tracing::debug;

use super::super::call::end;
use super::{Connection, Event, TURN, streams};
use crate::line::{Wrote, sealed};
use crate::metrics;

/// Why no more steps can be taken from the unread bytes.
pub(super) enum Pause {
    /// More bytes are needed: this many in all.
    Read(usize),
    Report(Event),
}

impl Connection {
    /// Processes the unread bytes.
    pub(super) fn receive(&mut self) -> Pause {
        let now = self.now;
        loop {
            let step = match self.mux.recv(now, self.line.unread()) {
                Ok(step) => step,
                Err(end) => return Pause::Report(Event::Ended(Ok(end))),
            };
            match step {
                ClientStep::NeedMore { total } => return Pause::Read(total),
                ClientStep::Established => {
                    let counters = self.env.counters.of(self.server());
                    self.counted = counters.map(|counters| counters.connections.counted());
                    return Pause::Report(Event::Established);
                }
                ClientStep::Answer { waiter, body } => {
                    let body = match body {
                        Body::Lent(body) => Bytes::copy_from_slice(body),
                        Body::Whole(bytes) => Bytes::from(bytes),
                    };
                    self.answers.answer(waiter, Ok(body));
                }
                ClientStep::Refused { call, refusal, retry } => {
                    if retry {
                        self.returned.calls.push(call);
                    } else {
                        self.answers.fail(call.waiter, RequestError::Refused(refusal));
                    }
                }
                ClientStep::Pong { waiters } => {
                    for (since, to) in waiters {
                        let _ = to.send(Ok(Some(since.elapsed())));
                    }
                }
                ClientStep::Closing { reason } => {
                    debug!(server = %self.env.servers.dial(self.server), ?reason, "the server closes");
                    if let Some(event) = self.poll_closing() {
                        return Pause::Report(event);
                    }
                }
                ClientStep::Opened { ticket, body } => {
                    streams::begin(&mut self.mux, ticket);
                    streams::arrive(&mut self.mux, ticket, body);
                }
                ClientStep::Part { ticket, body } => {
                    streams::arrive(&mut self.mux, ticket, body);
                }
                ClientStep::Ended { waiter, .. } => {
                    end(&waiter);
                }
                ClientStep::OpenRefused { waiter, refusal, .. } => {
                    self.answers.fail(waiter, RequestError::Refused(refusal));
                }
                ClientStep::Skip | _ => {}
            }
            self.line.free_consumed();
        }
    }

    /// Seals and writes until the stream accepts no more, or this turn's limit is reached.
    pub(super) fn write(&mut self, cx: &mut Context<'_>) -> io::Result<Wrote> {
        if self.line.is_clear() && self.mux.all_sealed() {
            return Ok(Wrote::NOTHING);
        }
        let (mux, now, written, answers) = (&mut self.mux, self.now, &mut self.written, &mut self.answers);
        let counters = self.env.counters.of(self.server);
        let mut all_sealed = false;
        let wrote = self.line.write(cx, |out| {
            if *written >= TURN || all_sealed {
                return Ok(0);
            }
            let count = sealed(mux.seal(now, out, |waiter, error| answers.fail(waiter, error)))?;
            all_sealed = count > 0 && mux.all_sealed();
            *written += count;
            if let Some(counters) = counters {
                counters.sent.add(metrics::bytes(count));
            }
            Ok(count)
        })?;
        if wrote.is_blocked() {
            self.mux.blocked(self.now);
        } else if wrote.all && self.written < TURN {
            for (_, to) in self.mux.flushed() {
                let _ = to.send(Ok(None));
            }
        } else {
            self.mux.wrote();
        }
        self.note_begun();
        Ok(wrote)
    }

    /// A write has failed with `error`. Processes what the server had sent before.
    pub(super) fn read_remaining(&mut self, cx: &mut Context<'_>, error: io::Error) -> Event {
        self.reads_directly = true;
        loop {
            let total = match self.receive() {
                Pause::Report(event) => return event,
                Pause::Read(total) => total,
            };
            match self.read(cx, total) {
                Poll::Ready(Ok(0)) => {
                    let (now, found_closed) = (self.now, error.kind() == io::ErrorKind::BrokenPipe);
                    let end = self.mux.end_of_broken_stream(now, &self.line.unread(), found_closed);
                    return Event::Ended(end.ok_or(error));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) | Poll::Pending => return Event::Ended(Err(error)),
            }
        }
    }

    pub(super) fn read(&mut self, cx: &mut Context<'_>, total: usize) -> Poll<io::Result<usize>> {
        let read = self.read_some(cx, total);
        if let Poll::Ready(Ok(count)) = read
            && let Some(counters) = self.env.counters.of(self.server)
        {
            counters.received.add(metrics::bytes(count));
        }
        read
    }

    fn read_some(&mut self, cx: &mut Context<'_>, total: usize) -> Poll<io::Result<usize>> {
        if self.reads_directly {
            if let Poll::Ready(read) = self.line.read_now(total) {
                return Poll::Ready(read);
            }
            self.reads_directly = false;
        }
        self.line.poll_read(cx, total)
    }
}
