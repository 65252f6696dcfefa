//! The task of one slot of a client, which has one current connection at a time. It takes the
//! orders of callers, and connects when there is something to do. Requests that were not processed
//! on one connection are sent again on the next.

mod attempts;
mod expiry;
mod orders;
mod streams;

use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use falco_core::mux::{ConnectAttempts, Round};
use falco_core::{ConnectionError, Fate};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::attempt::Running;
use super::call::{Call, OpenCall, Ping, Returned, error_of};
use super::callers::Answers;
use super::connection::{Connection, Event};
use super::env::Env;
use super::shared::{Orders, Shared};
use crate::coalescing::Coalescing;
use crate::error::Error;
use crate::metrics::Up;
use crate::timer::{Timer, reschedule};

/// Room for this many requests is kept while nothing is outstanding.
const FEW: usize = 4;

pub(super) struct Slot {
    shared: Arc<Shared>,
    env: Arc<Env>,
    /// The attempts of `current`, or those that have failed since the last pause. Its home is the
    /// server that this slot prefers, so that the connections of a client are spread.
    round: Round,
    /// Orders being processed. Empty otherwise, and kept for its memory.
    orders: Orders,
    /// Whether the last poll left orders in the queue for the next poll.
    deferred: bool,
    coalescing: Coalescing,
    current: Current,
    /// Connections that accept no new requests: with requests in flight, or ended and not closed
    /// yet.
    old: Vec<Connection>,
    /// Requests that wait for a connection, by ticket.
    waiting: BTreeMap<u64, Call>,
    /// Open requests that wait for a connection, by ticket.
    waiting_open: BTreeMap<u64, OpenCall>,
    pings: Vec<Ping>,
    /// Answers that were not delivered yet. Empty between polls.
    answers: Answers,
    openers: Vec<oneshot::Sender<Result<(), Error>>>,
    closers: Vec<oneshot::Sender<()>>,
    closing: bool,
    /// Whether it connects although nothing waits for that.
    connects: bool,
    attempts: ConnectAttempts<Error>,
    /// For the next attempt to connect, and for time limits while there is no connection.
    timer: Timer,
    /// When this turn began.
    now: Instant,
    /// No time limit of a request passes before this.
    expires_at: Option<Instant>,
    /// Counts this slot while its last attempt has failed.
    in_backoff: Option<Up>,
}

enum Current {
    None,
    /// At least one attempt. The first that succeeds ends the others.
    Connecting(Running),
    /// An established connection.
    Connection(Box<Connection>),
}

impl Slot {
    pub(super) fn new(shared: Arc<Shared>, env: Arc<Env>, home: usize) -> Self {
        Self {
            attempts: ConnectAttempts::new(env.backoff, env.fail_fast).one_of_several(env.spread),
            now: Instant::now(),
            expires_at: None,
            in_backoff: None,
            shared,
            env,
            round: Round::new(home),
            orders: Orders::default(),
            deferred: false,
            coalescing: Coalescing::default(),
            current: Current::None,
            old: Vec::new(),
            waiting: BTreeMap::new(),
            waiting_open: BTreeMap::new(),
            pings: Vec::new(),
            answers: Answers::default(),
            openers: Vec::new(),
            closers: Vec::new(),
            closing: false,
            connects: false,
            timer: Timer::default(),
        }
    }

    /// Stops connecting if the client closes. Requests and pings that wait for a connection then
    /// fail.
    fn stop_connecting(&mut self) {
        if self.closing && !self.is_connected() {
            self.current = Current::None;
            self.round.abandon();
        }
    }

    /// Reads the socket of a quiet connection before something is sent on it: the end of the stream
    /// may have arrived. Returns whether something has changed.
    fn check_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        let asked = !self.waiting.is_empty() || !self.waiting_open.is_empty() || !self.pings.is_empty();
        asked && self.read_quiet(cx)
    }

    /// Reads the socket of the connection if it is quiet. Returns whether something has changed.
    fn read_quiet(&mut self, cx: &mut Context<'_>) -> bool {
        match &self.current {
            Current::Connection(connection) if connection.is_quiet() => {
                self.poll_current(cx, Connection::poll_socket).is_ready()
            }
            Current::Connection(_) | Current::Connecting(_) | Current::None => false,
        }
    }

    /// Hands the waiting requests and pings to the connection, if it is established. Returns
    /// whether to send the first PING one poll later. That is so if a caller of `connect` has been
    /// notified and there is nothing else to send: the caller's request then goes out in one write
    /// with the PING.
    fn hand_over(&mut self) -> bool {
        let Current::Connection(connection) = &mut self.current else {
            return false;
        };
        if !connection.is_established() {
            return false;
        }
        let only_openers = !self.openers.is_empty() && self.waiting.is_empty() && self.waiting_open.is_empty();
        while let Some((ticket, call)) = self.waiting.pop_first() {
            if let Some(back) = connection.request(call) {
                self.waiting.insert(ticket, back);
                break;
            }
        }
        while let Some((ticket, call)) = self.waiting_open.pop_first() {
            if let Some(back) = connection.open(call) {
                self.waiting_open.insert(ticket, back);
                break;
            }
        }
        if connection.is_open() {
            if !self.pings.is_empty() {
                self.pings = core::mem::take(&mut self.pings)
                    .into_iter()
                    .filter(|ping| !ping.waiter.1.is_closed())
                    .filter_map(|ping| connection.ping(ping))
                    .collect();
            }
            // `is_connected` says so before a caller of `connect` goes on.
            self.shared.set_connected(Some(connection.server()));
            self.openers.drain(..).for_each(|to| drop(to.send(Ok(()))));
        }
        if self.closing && self.waiting.is_empty() && self.waiting_open.is_empty() {
            connection.close();
        }
        only_openers && self.openers.is_empty()
    }

    /// Queues requests and pings that a connection has returned. Requests are ordered by ticket, so
    /// these go before later ones.
    fn take_back(&mut self, returned: Returned) {
        let calls = returned.calls.into_iter();
        self.waiting.extend(calls.map(|call| (call.ticket, call)));
        self.waiting_open
            .extend(returned.opens.into_iter().map(|call| (call.ticket, call)));
        self.pings.extend(returned.pings);
    }

    fn is_connected(&self) -> bool {
        matches!(&self.current, Current::Connection(connection) if connection.is_established())
    }

    /// There is a connection, or an error.
    fn has_tried(&mut self) {
        self.connects = false;
        self.shared.has_tried();
    }

    /// Whether something waits for a connection.
    fn is_waited_for(&mut self) -> bool {
        // Drop those whose callers no longer wait.
        self.pings.retain(|ping| !ping.waiter.1.is_closed());
        self.openers.retain(|to| !to.is_closed());
        !(self.waiting.is_empty() && self.waiting_open.is_empty() && self.pings.is_empty() && self.openers.is_empty())
    }

    fn fail_all(&mut self, error: &Error) {
        for (_, call) in core::mem::take(&mut self.waiting) {
            self.answers.answer(call.waiter, Err(error.again(Fate::NotProcessed)));
        }
        for (_, call) in core::mem::take(&mut self.waiting_open) {
            self.answers.answer(call.waiter, Err(error.again(Fate::NotProcessed)));
        }
        for ping in self.pings.drain(..) {
            let _ = ping.waiter.1.send(Err(error.again(Fate::NotProcessed)));
        }
        for to in self.openers.drain(..) {
            let _ = to.send(Err(error.again(Fate::NotProcessed)));
        }
    }

    /// The current connection no longer accepts requests.
    fn lose(&mut self, connection: &Connection, why: Option<Error>) {
        let (now, entropy) = (self.env.clock.now(), &self.env.entropy);
        let random = |bound| entropy.below(bound);
        let history = connection.history();
        self.env.servers.lost(connection.server(), history, now, random);
        self.attempts.lost(history, why, connection.admitted(), now, random);
    }

    /// The current connection has ended.
    fn end(&mut self, connection: Connection, end: &io::Result<ConnectionError>) {
        let why = error_of(end, "waiting for a connection", Fate::NotProcessed);
        self.lose(&connection, Some(why));
        if !connection.is_closed() {
            self.old.push(connection);
        }
    }

    /// Polls the current connection, or the attempts at one. Ready if something has changed.
    fn poll_current(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Connection, &mut Context<'_>) -> Poll<Event>,
    ) -> Poll<()> {
        match core::mem::replace(&mut self.current, Current::None) {
            Current::None => self.begin(cx),
            Current::Connecting(running) => self.connect(cx, running),
            Current::Connection(mut connection) => {
                connection.wakes_at = self.expires_at;
                let polled = poll(&mut connection, cx);
                self.shared.deliver(&mut connection.answers);
                let returned = core::mem::take(&mut connection.returned);
                let gave_back = !(returned.calls.is_empty() && returned.opens.is_empty() && returned.pings.is_empty());
                self.take_back(returned);
                match polled {
                    Poll::Pending => {
                        self.current = Current::Connection(connection);
                        // Requests that came back are handed over again. Nothing else would wake
                        // the task for them.
                        return if gave_back { Poll::Ready(()) } else { Poll::Pending };
                    }
                    // It was established when it became the current one.
                    Poll::Ready(Event::Established) => self.current = Current::Connection(connection),
                    Poll::Ready(Event::Due) => {
                        self.current = Current::Connection(connection);
                        self.begin_turn();
                    }
                    Poll::Ready(Event::Closing) => {
                        self.lose(&connection, None);
                        self.old.push(*connection);
                    }
                    Poll::Ready(Event::Ended(end)) => self.end(*connection, &end),
                }
                Poll::Ready(())
            }
        }
    }

    /// The task ends. Answers that are known are delivered first.
    fn abandon(&mut self) {
        self.shared.deliver(&mut self.answers);
        self.shared.abandon();
    }

    /// Releases memory that was needed for many requests at once. Open requests may last, so they
    /// do not prevent that.
    fn shrink(&mut self) {
        if self.shared.callers() > 0 {
            return;
        }
        self.orders.shrink(FEW);
        self.shared.shrink(FEW);
        if let Current::Connection(connection) = &mut self.current {
            connection.shrink(FEW);
        }
    }

    fn update_load(&mut self) {
        let (server, in_flight) = match &self.current {
            Current::Connection(connection) => (Some(connection.server()), connection.in_flight()),
            Current::None | Current::Connecting(_) => (None, 0),
        };
        let (was_troubled, _) = self.shared.load();
        let is_troubled = server.is_none() && self.attempts.failed() > 0;
        self.shared.set_load(is_troubled, in_flight);
        if is_troubled != self.in_backoff.is_some() {
            self.in_backoff = is_troubled.then(|| self.env.counters.in_backoff.counted());
        }
        if was_troubled && !is_troubled {
            self.env.recovered.notify_waiters();
        }
        self.shared.set_connected(server);
    }

    fn poll_old(&mut self, cx: &mut Context<'_>) {
        let mut at = 0;
        while let Some(connection) = self.old.get_mut(at) {
            if self.closing {
                connection.close();
            }
            // The current connection, or the timer of the slot, has the time limits.
            connection.wakes_at = None;
            let polled = connection.poll(cx, None);
            self.shared.deliver(&mut connection.answers);
            let returned = core::mem::take(&mut connection.returned);
            let closed = connection.is_closed();
            self.take_back(returned);
            if closed {
                self.old.swap_remove(at);
            } else if polled.is_pending() {
                at += 1;
            }
        }
    }

    fn begin_turn(&mut self) {
        self.now = Instant::now();
        let now = self.env.clock.time(self.now);
        self.old.iter_mut().for_each(|connection| connection.begin_turn(now));
        if let Current::Connection(connection) = &mut self.current {
            connection.begin_turn(now);
        }
    }
}

impl Future for Slot {
    type Output = ();

    /// Takes orders and drives the connections until there is nothing left to do at present.
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let slot = self.get_mut();
        slot.begin_turn();
        let polled = loop {
            if !slot.take_orders(cx) {
                reschedule(cx);
                break Poll::Pending;
            }
            slot.expire();
            slot.stop_connecting();
            if !slot.is_connected() {
                let asked = slot.is_waited_for();
                slot.attempts.set_waiting(slot.env.clock.now(), asked);
            }
            slot.poll_old(cx);
            if slot.check_quiet(cx) {
                continue;
            }
            if slot.hand_over() {
                reschedule(cx);
                break Poll::Pending;
            }
            let changed = slot
                .poll_current(cx, |connection, cx| connection.poll(cx, None))
                .is_ready();
            if slot.closing
                && slot.old.is_empty()
                && matches!(slot.current, Current::None)
                && slot.waiting.is_empty()
                && slot.waiting_open.is_empty()
            {
                slot.abandon();
                for to in slot.closers.drain(..) {
                    let _ = to.send(());
                }
                break Poll::Ready(());
            }
            // The timer of a connection also has the time limits.
            let connected = matches!(slot.current, Current::Connection(_));
            if !changed && !connected && slot.timer.poll(cx, slot.expires_at).is_ready() {
                slot.begin_turn();
                continue;
            }
            if !changed {
                slot.update_load();
                slot.shrink();
                break Poll::Pending;
            }
        };
        slot.shared.deliver(&mut slot.answers);
        polled
    }
}

impl Drop for Slot {
    /// Runs when the task has finished, or when the runtime is dropped. Callers that still wait
    /// then receive an error.
    fn drop(&mut self) {
        self.abandon();
        self.env.recovered.notify_waiters();
    }
}
