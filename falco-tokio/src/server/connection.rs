//! One connection of a server: a future that owns the socket, the mux and the handlers that run.

mod exchange;
mod handlers;
mod streams;

use core::future::Future;
use core::ops::RangeInclusive;
use core::pin::Pin;
use core::task::{Context, Poll, ready};
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use falco_core::keys::ServerKeys;
use falco_core::mux::{MustClose, ServerMux, SharedBudget};
use falco_core::{ConnectionError, Ending, Instant, LastStep, LostRequest, ServerConnection, wipe_stack};
use tracing::{Span, Value, debug, warn};

use self::exchange::Pause;
use super::Service;
use super::control::{Control, Cut, Signals};
use super::handler::Handler;
use super::holder::Holder;
use super::place::Place;
use super::running::{Frame, Running};
use super::streams::Handlers;
use crate::coalescing::Coalescing;
use crate::error::{Error, copy};
use crate::line::{Line, sealed};
use crate::metrics;
use crate::socket::Socket;
use crate::timer::{Timer, reschedule};

/// After this many bytes in one direction, other tasks of the thread have their turn.
const TURN: u32 = 64 << 10;
/// After this many answers, a connection without requests keeps the tables of requests until a turn
/// with fewer, because as many may follow soon. After fewer it releases them at once. After more it
/// does so too, because their memory does not count towards the bound of all connections.
const SOME: RangeInclusive<u32> = 5..=128;
/// With more requests in flight, signals are not deferred: so many tasks may be ready that it would
/// take long until this one is polled again.
const MAX_DEFERRING: usize = 1024;

pub(super) struct Connection<H: Handler> {
    line: Line<Socket>,
    mux: ServerMux<Arc<ServerKeys>, Bytes, SharedBudget>,
    control: Arc<Control>,
    running: Running,
    /// Memory for the future of the next handler. `None` if no handler has run since the connection
    /// was idle.
    frame: Option<Frame<H::Future>>,
    timer: Timer,
    stage: Stage,
    /// When this turn began. It is not read again during the turn, which is short.
    now: Instant,
    handlers: Arc<Handlers<H>>,
    place: Place,
    /// The holder of the client's key. Set when the connection is established.
    holder: Option<Arc<Holder>>,
    /// The end of the stream was read.
    eof: bool,
    /// Handlers can see that the connection drains.
    closing: bool,
    /// The connection has ended, and was not cut off.
    ended: bool,
    coalescing: Coalescing,
    /// Requests that have completed since the tables of requests were last released, or could have
    /// been.
    completed: u32,
    /// How many unread bytes are needed in all, if nothing is left to process or to write. 0 means
    /// that something may be. A turn then begins with a read.
    settled: u32,
    /// `None` if no subscriber wants it.
    span: Option<Box<Span>>,
}

/// What a connection has done in a turn. Each direction has its own limit, so that neither keeps
/// the other from its turn.
#[derive(Debug, Default)]
struct Turn {
    /// Bytes processed.
    received: u32,
    /// Bytes written.
    written: u32,
}

#[derive(Debug)]
enum Stage {
    Open,
    /// The connection has ended with this error, and its stream is being closed.
    Ending(Box<(ConnectionError, Ending)>),
}

fn mux(
    machine: ServerConnection<Arc<ServerKeys>>,
    service: &Service,
    streams: bool,
) -> ServerMux<Arc<ServerKeys>, Bytes, SharedBudget> {
    let mux = ServerMux::new(machine, service.budget.clone(), &service.settings);
    if streams { mux.with_streams() } else { mux }
}

impl<H: Handler> Connection<H> {
    pub(super) fn new(
        socket: Socket,
        machine: ServerConnection<Arc<ServerKeys>>,
        control: Arc<Control>,
        place: Place,
        handlers: Arc<Handlers<H>>,
        span: Span,
    ) -> Self {
        Self {
            line: Line::new(socket),
            mux: mux(machine, &handlers.service, handlers.takes_streams()),
            control,
            running: Running::default(),
            frame: None,
            timer: Timer::default(),
            stage: Stage::Open,
            now: handlers.service.clock.now(),
            handlers,
            place,
            holder: None,
            eof: false,
            closing: false,
            ended: false,
            coalescing: Coalescing::default(),
            completed: 0,
            settled: 0,
            span: (!span.is_none()).then(|| Box::new(span)),
        }
    }

    /// Records a field of the span.
    fn record(&self, field: &str, value: impl Value) {
        if let Some(span) = &self.span {
            span.record(field, value);
        }
    }

    /// The signals of handlers and the server. `None` if they are taken with the next poll instead:
    /// while the handlers of several streams have work, others may be about to have some.
    fn signals(&mut self, cx: &Context<'_>) -> Option<Signals> {
        let defer = self.coalescing.defers() && self.mux.unanswered() <= MAX_DEFERRING;
        let signals = self.control.take(cx, defer);
        match &signals {
            Some(signals) => self.coalescing.note_taken(signals.streams.len()),
            None => self.coalescing.note_deferred(),
        }
        signals
    }

    /// Follows the signals of handlers and the server. Returns why to end at once, if so.
    fn take_signals(&mut self, cx: &mut Context<'_>, signals: Signals) -> Option<Cut> {
        for id in signals.streams {
            self.pump(id);
        }
        for (id, outcome, held) in signals.finished {
            drop(held);
            if self.running.remove(id) {
                let cancelled = self.control.take_cancelled(id);
                self.finish(id, outcome, cancelled);
            }
        }
        if signals.cut == Some(Cut::Revoked) {
            // The signal remains set, so this runs only once. A revoked key is no shutdown that has
            // run out of time.
            if !core::mem::replace(&mut self.ended, true) {
                let ending = self.mux.revoke(self.now);
                self.cancel_all();
                let end = self.mux.connection().end().unwrap_or(ConnectionError::Closed);
                self.stage = Stage::Ending(Box::new((end, ending)));
            }
            return None;
        }
        if let Some(reason) = signals.close {
            self.mux.close(self.now, reason);
        }
        // The hello may have arrived since the connection was selected.
        if signals.make_room && self.handlers.service.registry.is_selected(self.place.number()) {
            // If there are bytes that this side has not read yet, the client is not late.
            if !self.line.has_arrived(cx) {
                self.handlers.service.counters.half_open_dropped.add(1);
                self.ended = true;
                return Some(Cut::ForAnother);
            }
            self.handlers.service.registry.keep(self.place.number());
            self.settled = 0;
        }
        signals.cut
    }

    /// The client has proved that it has its key. The key may have been retired since the hello.
    fn establish(&mut self) {
        let key = self.mux.connection().key_id();
        if let Some(key) = key {
            // Set before the check below, because `Handle::retire_key` finds the connections of a
            // key by this.
            let _ = self.control.key.set(key);
            self.record("key", tracing::field::display(key));
        }
        let holder = self
            .handlers
            .service
            .holders
            .find(key, self.handlers.service.keys.label(key));
        if let Some(label) = &holder.label {
            self.record("label", &**label);
        }
        holder.connections.up();
        self.handlers.service.counters.metrics.half_open.down();
        self.holder = Some(holder);
        let retired = self.handlers.service.keys.is_retired(key);
        let leaves = self
            .handlers
            .service
            .registry
            .establish(self.place.number(), key, retired);
        self.line.stream().set_up(self.handlers.service.settings.lifetime());
        self.timer.forget();
        self.handlers.service.counters.established.add(1);
        debug!("established");
        if let Some(age) = self.handlers.service.max_connection_age {
            let entropy = &self.handlers.service.entropy;
            self.mux.drain_after(self.now, age, |bound| entropy.below(bound));
        }
        let Some(why) = leaves else { return };
        self.mux.close_for(self.now, why);
        if why == MustClose::OverLimit {
            self.handlers.service.counters.over_key_limit.add(1);
            if let Some(left_out) = self.handlers.service.warnings.key_limit.due() {
                warn!(
                    left_out,
                    "closed a connection: its key has reached its limit of connections"
                );
            }
        }
    }

    /// Reads, writes and applies deadlines until the connection ends. It is not inlined, because
    /// its caller overwrites its stack frame afterwards.
    #[inline(never)]
    fn run(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<ConnectionError>> {
        let mut turn = Turn::default();
        let mut settled = usize::try_from(core::mem::take(&mut self.settled)).unwrap_or(0);
        loop {
            let (pause, all, mut moved) = match core::mem::take(&mut settled) {
                0 => {
                    let pause = self.receive(cx, &mut turn);
                    if let Pause::End(end) = pause {
                        return Poll::Ready(Ok(end));
                    }
                    self.note_closing();
                    self.pump_writable();
                    let wrote = self.write(cx, &mut turn)?;
                    // If all is written and more bytes are needed, another round does nothing. The
                    // exception: sealing may have made room, so that a deferred request can reach
                    // its handler.
                    let waits = wrote.all && matches!(pause, Pause::Read(_));
                    let moved = (wrote.some && !waits) || self.mux.has_request() || self.pump_writable();
                    if let Some(end) = self.mux.connection().end() {
                        return Poll::Ready(Ok(end));
                    }
                    (pause, wrote.all, moved)
                }
                total => (Pause::Read(total), true, true),
            };
            let mut read = false;
            if let Pause::Read(total) = pause
                && !self.eof
            {
                match self.line.poll_read(cx, total)? {
                    Poll::Ready(0) => {
                        self.eof = true;
                        let now = self.now;
                        if let Err(end) = self.mux.end_of_stream(now, &self.line.unread()) {
                            return Poll::Ready(Ok(end));
                        }
                        moved = true;
                    }
                    Poll::Ready(count) => {
                        self.handlers
                            .service
                            .counters
                            .metrics
                            .received
                            .add(metrics::bytes(count));
                        moved = true;
                        read = true;
                    }
                    Poll::Pending => {}
                }
            }
            // If something has moved, the reason to wait may no longer exist.
            let yields = matches!(pause, Pause::Yield) || turn.written >= TURN;
            if moved && !yields {
                continue;
            }
            let now = self.now;
            if yields {
                // Bytes that were read are processed in the next turn, before a deadline applies.
                if !read
                    && self.mux.poll_timeout().is_some_and(|deadline| deadline <= now)
                    && let Err(end) = self.mux.handle_timeout(now)
                {
                    return Poll::Ready(Ok(end));
                }
                reschedule(cx);
                return Poll::Pending;
            }
            self.mux.set_reading(now, matches!(pause, Pause::Read(_)));
            let deadline = self.mux.poll_timeout();
            if deadline.is_some_and(|deadline| deadline <= now) {
                if let Err(end) = self.mux.handle_timeout(now) {
                    return Poll::Ready(Ok(end));
                }
                // There may be something to write now.
                continue;
            }
            if !self.mux.is_established() {
                self.handlers.service.registry.all_read(self.place.number());
            }
            self.shrink();
            let deadline = deadline.map(|deadline| self.handlers.service.clock.at(deadline));
            match self.timer.poll(cx, deadline) {
                Poll::Ready(()) => self.now = self.handlers.service.clock.now(),
                Poll::Pending => {
                    if let (Pause::Read(total), true, false) = (pause, all, self.eof) {
                        self.settled = u32::try_from(total).unwrap_or(0);
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    /// Releases memory that is not needed while nothing happens.
    fn shrink(&mut self) {
        self.line.shrink();
        if self.mux.unanswered() == 0 && !SOME.contains(&core::mem::take(&mut self.completed)) {
            self.mux.shrink();
            self.frame = None;
            if self.running.shrink() {
                self.control.shrink();
            }
        }
    }

    /// Warns of what somebody may have to change: keys, or what connects to this server.
    fn warn_of_refusal(&self, end: ConnectionError) {
        let warnings = &self.handlers.service.warnings;
        if matches!(end, ConnectionError::Unauthenticated | ConnectionError::Replayed)
            && let Some(left_out) = warnings.refused.due()
        {
            warn!(%end, left_out, "refused a handshake");
        }
        let is_foreign = matches!(
            end,
            ConnectionError::UnknownWire { .. } | ConnectionError::UnknownVersion { .. }
        );
        if is_foreign && let Some(left_out) = warnings.foreign.due() {
            warn!(%end, left_out, "closed a connection of another protocol");
        }
    }

    /// The connection has ended with `end`: its stream is closed next.
    fn end(&mut self, end: ConnectionError) {
        self.running.fail_opens(Error::lost(LostRequest::after(end)));
        self.cancel_all();
        let established = self.mux.is_established();
        self.handlers.service.counters.metrics.ended(end, established);
        if !established {
            self.handlers.service.counters.unauthenticated.add(1);
            self.warn_of_refusal(end);
        }
        debug!(%end, "ended");
        self.stage = Stage::Ending(Box::new((end, self.mux.ending(end, self.now))));
    }
}

impl<H: Handler> Future for Connection<H> {
    type Output = io::Result<ConnectionError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let _entered = this.span.as_ref().map(|span| span.as_ref().clone().entered());
        let Some(signals) = this.signals(cx) else {
            reschedule(cx);
            return Poll::Pending;
        };
        this.now = this.handlers.service.clock.now();
        if let Some(cut) = this.take_signals(cx, signals) {
            debug!(?cut, "cut off");
            let end = this.mux.connection().end().unwrap_or(ConnectionError::Closed);
            // A connection that was dropped for another has no unread bytes.
            if this.mux.cut(this.now).step(this.now) == LastStep::DropArrived {
                this.line.drop_arrived(cx);
            }
            return Poll::Ready(Ok(end));
        }
        let result = loop {
            match &mut this.stage {
                Stage::Open => {
                    let ran = this.run(cx);
                    wipe_stack();
                    match ready!(ran) {
                        Ok(end) => this.end(end),
                        Err(error) => {
                            let (doing, fate) = ("reading or writing a stream", LostRequest::DROPPED.fate);
                            this.running.fail_opens(Error::io(doing, copy(&error), fate));
                            this.cancel_all();
                            debug!(%error, "broken");
                            break Err(error);
                        }
                    }
                }
                Stage::Ending(ending) => {
                    let (end, ending) = &mut **ending;
                    let (mux, now) = (&mut this.mux, this.now);
                    let seal = |out: &mut [u8]| sealed(mux.seal(now, out));
                    let times = (this.handlers.service.clock, &mut this.timer);
                    let polled = this.line.poll_end(cx, ending, times, this.eof, seal);
                    wipe_stack();
                    let end = *end;
                    break ready!(polled).map(|()| end);
                }
            }
        };
        this.ended = true;
        Poll::Ready(result)
    }
}

impl<H: Handler> Drop for Connection<H> {
    /// Releases its place, and cancels the handlers that run.
    fn drop(&mut self) {
        self.running.fail_opens(Error::lost(LostRequest::DROPPED));
        self.cancel_all();
        let unanswered = self.mux.unanswered();
        // Requests that have not completed were cut off if the server is stopping. While the server
        // runs, a connection may be dropped: one that was passed to `serve_connection` is dropped
        // with that future.
        let was_cut = !self.ended || unanswered > 0;
        let cut = (was_cut && self.handlers.service.registry.is_stopping()).then_some(unanswered);
        self.handlers.service.registry.leave(self.place.number(), cut);
        if !self.running.end() {
            self.handlers.service.registry.free(self.place);
        }
        let metrics = &self.handlers.service.counters.metrics;
        metrics.connections.down();
        match &self.holder {
            Some(holder) => holder.connections.down(),
            None => metrics.half_open.down(),
        }
        let count = |handlers| u64::try_from(handlers).unwrap_or(u64::MAX);
        let (running, answered) = (self.running.len(), self.running.answered());
        let counters = &self.handlers.service.counters;
        counters.answers.add(count(answered));
        counters.cancelled.add(count(running.saturating_sub(answered)));
    }
}
