//! The reader of a client's connection. It reads, completes requests and pings, and applies the
//! deadlines. One caller at a time runs it, until its request has completed. If the stream splits
//! and the connection is on the noise wire, the connection also has a thread that runs it: see
//! `read_guard`.

use core::time::Duration;
use std::io;
use std::sync::{Arc, MutexGuard};
use std::time;

use falco_core::{CloseReason, ConnectionError, Instant, wipe_stack};

use super::limit::Limit;
use super::outcome::{Ended, Outcome, Reply};
use super::state::{Progress, Slot, State};
use crate::line::{Filled, Line, is_timeout};
use crate::shared::{Locked, Shared};
use crate::stream::BoxedStream;

/// How long the reader waits, at the end of the stream, for a write in progress to fail. On a
/// broken stream it fails at once.
const WRITE_ERROR_WAIT: Duration = Duration::from_millis(100);

pub(super) struct Reader {
    shared: Arc<Shared<State>>,
    line: Line<BoxedStream>,
    /// No other thread uses the connection, so this thread writes everything itself.
    alone: bool,
}

impl Reader {
    pub(super) const fn new(shared: Arc<Shared<State>>, line: Line<BoxedStream>) -> Self {
        let alone = true;
        Self { shared, line, alone }
    }

    /// The reader of a connection that other threads use as well.
    pub(super) const fn with_others(shared: Arc<Shared<State>>, line: Line<BoxedStream>) -> Self {
        let alone = false;
        Self { shared, line, alone }
    }

    pub(super) fn into_line(self) -> (Arc<Shared<State>>, Line<BoxedStream>) {
        (self.shared, self.line)
    }

    pub(super) fn shake_hands(&mut self) -> Result<(), Ended> {
        let until = self.shared.lock().state.mux.poll_timeout();
        let mut now = self.flush(self.line.now(), until)?;
        loop {
            // After the welcome this sends the first PING, which authenticates the client. The
            // handshake deadline of the server applies until the PING has arrived.
            let (total, after) = self.advance(now, until)?;
            if self.shared.lock().state.mux.is_established() {
                break;
            }
            now = self.fill(total, after, None)?;
        }
        self.line.set_authenticated();
        self.alone = !self.shared.splits();
        Ok(())
    }

    /// Reads until no caller waits for input.
    pub(super) fn read_for_callers(&mut self) -> Result<(), Ended> {
        let locked = self.shared.lock();
        if locked.state.ended {
            return Err(Ok(ConnectionError::Closed));
        }
        let (mut called, requests) = (locked.state.needs_reader(), locked.state.requests());
        drop(locked);
        let mut now = self.line.now();
        loop {
            let (total, after) = self.advance(now, None)?;
            let locked = self.shared.lock();
            called |= locked.state.requests() != requests;
            if called && !locked.state.needs_reader() {
                return Ok(());
            }
            drop(locked);
            now = self.fill(total, after, None)?;
        }
    }

    /// Ends the stream of a connection that has ended.
    pub(super) fn end(mut self) {
        self.shared.end_stream(&mut self.line);
        self.shared.notify();
    }

    /// Reads from `now` on until the request of `slot` has completed, for `limit` at most.
    pub(super) fn read_until(&mut self, slot: &Slot, limit: Option<Limit>, mut now: Instant) -> Option<Outcome<Reply>> {
        let until = limit.map(|limit| limit.until(self.line.clock()));
        loop {
            let advanced = self.advance(now, until);
            if let Some(end) = slot.take() {
                return Some(end);
            }
            // A write that has failed may have taken long.
            let time = advanced.as_ref().map_or_else(|_| self.line.now(), |(_, after)| *after);
            let is_past = until.is_some_and(|until| time >= until);
            let step = match advanced {
                // The caller of this function returns a more specific error.
                Err(Err(error)) if is_timeout(&error) && is_past => return None,
                Ok(_) if is_past => return None,
                Ok((total, after)) => self.fill(total, after, until),
                Err(ended) => Err(ended),
            };
            match step {
                Ok(after) => now = after,
                Err(ended) => {
                    self.finish(&ended);
                    return slot.take();
                }
            }
        }
    }

    /// Processes what has arrived since the last call, without waiting.
    pub(super) fn catch_up(&mut self) -> Result<(), Ended> {
        let mut now = self.line.now();
        loop {
            let total = self.receive(now)?;
            let filled = self.line.fill_ready(total).map_err(Err)?;
            let is_all = filled == Filled::Nothing;
            // If nothing more has arrived, this applies the deadlines.
            now = self.take(filled)?;
            if is_all {
                return Ok(());
            }
        }
    }

    /// Ends the connection gracefully. Nothing is in flight.
    pub(super) fn close(&mut self) {
        let now = self.shared.now();
        let mut locked = self.shared.lock();
        locked.state.mux.close(now, CloseReason::Done);
        let until = locked.state.mux.closes_at();
        drop(locked);
        self.shared.flush_until(until);
        self.give_up();
        self.shared.end_stream(&mut self.line);
    }

    /// Ends the connection, without waiting for the server.
    pub(super) fn give_up(&mut self) {
        let end = self.shared.lock().state.mux.abandon();
        self.finish(&Ok(end));
    }

    /// Ends the stream at once.
    pub(super) fn shut_down(&mut self) {
        self.line.abort();
    }

    /// Completes all requests and pings with an error, unless the connection has ended before.
    pub(super) fn finish(&self, ended: &Ended) {
        self.shared.lock().state.finish(self.shared.now(), ended);
        self.shared.notify();
    }

    /// Processes the unread bytes and flushes pending output. Returns how many unread bytes the
    /// next step needs, and the time afterwards.
    fn advance(&mut self, now: Instant, until: Option<Instant>) -> Result<(usize, Instant), Ended> {
        let total = self.receive(now)?;
        let after = self.flush(now, until)?;
        Ok((total, after))
    }

    /// Processes the unread bytes. Returns how many the next step needs.
    fn receive(&mut self, now: Instant) -> Result<usize, Ended> {
        let has_unread = !self.line.unread().is_empty();
        let received = self.take_steps(now);
        if has_unread {
            wipe_stack();
        }
        received
    }

    /// Not inlined, because its caller overwrites its stack frame afterwards.
    #[inline(never)]
    fn take_steps(&mut self, now: Instant) -> Result<usize, Ended> {
        let mut locked = self.shared.lock();
        loop {
            match locked.state.recv(now, self.line.unread()).map_err(Ok)? {
                Progress::NeedMore(total) => return Ok(total),
                Progress::Again => self.line.free_consumed(),
            }
        }
    }

    /// Flushes pending output. Returns the time afterwards.
    fn flush(&self, now: Instant, until: Option<Instant>) -> Result<Instant, Ended> {
        if !self.alone {
            return Ok(self.shared.flush_at(now));
        }
        self.shared.flush_until(until);
        let failed = self.shared.lock().state.take_write_error();
        failed.map_or_else(|| Ok(self.line.now()), Err)
    }

    /// Waits for bytes from `now` until `until` or a deadline of the connection. Returns the time
    /// afterwards.
    fn fill(&mut self, total: usize, now: Instant, until: Option<Instant>) -> Result<Instant, Ended> {
        let due = self.shared.lock().state.mux.poll_timeout();
        let filled = self.line.fill(total, now, until.into_iter().chain(due).min());
        if self.line.is_idle() {
            self.shared.free_buffer();
        }
        self.take(filled.map_err(Err)?)
    }

    /// Reports what was read to the mux. Returns the time.
    fn take(&mut self, filled: Filled) -> Result<Instant, Ended> {
        let now = self.shared.now();
        let mut locked = self.shared.lock();
        match filled {
            Filled::Bytes => {
                if !self.alone {
                    locked.state.received(now, || self.shared.is_readable());
                }
            }
            Filled::Nothing => locked.state.mux.handle_timeout(now).map_err(Ok)?,
            Filled::EndOfStream => {
                // If a write fails, `Shared` shuts the stream down, and a read finds its end. So a
                // write in progress may be the cause.
                locked = await_write(&self.shared, locked);
                let failed = locked.state.take_write_error();
                let (mux, unread) = (&mut locked.state.mux, &self.line.unread());
                return Err(match failed {
                    None => Ok(mux.end_of_stream(now, unread)),
                    Some(Ok(end)) => Ok(end),
                    Some(Err(error)) => {
                        let found_closed = error.kind() == io::ErrorKind::BrokenPipe;
                        mux.end_of_broken_stream(now, unread, found_closed).ok_or(error)
                    }
                });
            }
        }
        Ok(now)
    }
}

/// Waits for the write in progress, if there is one.
fn await_write<'l>(
    shared: &'l Shared<State>,
    mut locked: MutexGuard<'l, Locked<State>>,
) -> MutexGuard<'l, Locked<State>> {
    let until = time::Instant::now() + WRITE_ERROR_WAIT;
    while locked.is_writing() {
        let left = until.saturating_duration_since(time::Instant::now());
        if left.is_zero() {
            break;
        }
        locked = shared.wait(locked, Some(left));
    }
    locked
}
