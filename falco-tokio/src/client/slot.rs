//! A place for one connection at a time: a task that takes callers' orders, connects when there is
//! something to do, and moves to another connection what the last has not processed.

use core::future::Future;
use core::pin::Pin;
use core::sync::atomic::Ordering;
use core::task::{Context, Poll};
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use falco_core::mux::{Retry, after_attempt};
use falco_core::{ConnectionError, Fate};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::connection::{Connection, News, PingTo, answer, error_of};
use super::dial::Dialing;
use super::pending::Pending;
use super::shared::{Order, Orders, Shared};
use super::{Env, SHAKING_HANDS};
use crate::error::Error;
use crate::timer::Timer;

/// A connection that ended sooner than this after it stood counts as an attempt that failed.
const SOON: Duration = Duration::from_secs(1);

pub(super) struct Slot {
    shared: Arc<Shared>,
    env: Arc<Env>,
    current: Current,
    /// Connections that take nothing new and have something to finish.
    old: Vec<Connection>,
    /// Requests that no connection has, by ticket.
    waiting: BTreeMap<u64, Pending>,
    pings: Vec<PingTo>,
    openers: Vec<oneshot::Sender<Result<(), Error>>>,
    closers: Vec<oneshot::Sender<()>>,
    closing: bool,
    /// Attempts that failed since a connection last stood.
    failed: u32,
    /// No attempt is made before.
    retry_at: Option<Instant>,
    /// Why there is no connection.
    trouble: Option<Error>,
    timer: Timer,
}

enum Current {
    None,
    Dialing(Dialing),
    Connection(Box<Connection>, Instant),
}

impl Slot {
    pub(super) fn new(shared: Arc<Shared>, env: Arc<Env>) -> Self {
        Self {
            shared,
            env,
            current: Current::None,
            old: Vec::new(),
            waiting: BTreeMap::new(),
            pings: Vec::new(),
            openers: Vec::new(),
            closers: Vec::new(),
            closing: false,
            failed: 0,
            retry_at: None,
            trouble: None,
            timer: Timer::default(),
        }
    }

    fn take_orders(&mut self, cx: &Context<'_>) {
        let Orders { requests, others } = self.shared.take(cx);
        self.waiting
            .extend(requests.into_iter().flatten().map(|pending| (pending.ticket, pending)));
        for order in others {
            match order {
                Order::Cancel(ticket) => drop(self.remove(ticket)),
                Order::Expire(ticket, limit) => self.expire(ticket, limit),
                Order::Ping(to) => self.pings.push(to),
                Order::Open(to) => self.openers.push(to),
                Order::Renew => self.renew(None),
                Order::Adopt(connection) => self.renew(Some(connection)),
                Order::Close(to) => {
                    self.closing = true;
                    self.closers.extend(to);
                }
            }
        }
    }

    /// Takes a request out, wherever it is.
    fn remove(&mut self, ticket: u64) -> Option<(Pending, Fate)> {
        if let Some(pending) = self.waiting.remove(&ticket) {
            return Some((pending, Fate::NotProcessed));
        }
        let current = match &mut self.current {
            Current::Connection(connection, _) => Some(&mut **connection),
            Current::None | Current::Dialing(_) => None,
        };
        let mut connections = current.into_iter().chain(&mut self.old);
        connections.find_map(|connection| connection.cancel(ticket))
    }

    fn expire(&mut self, ticket: u64, limit: Duration) {
        if let Some((pending, fate)) = self.remove(ticket) {
            // Why there was no connection says more than that there was none in time.
            let never_sent = pending.tries == 0;
            let why = self
                .trouble
                .as_ref()
                .filter(|_| never_sent)
                .map(|trouble| trouble.again(fate));
            let doing = if fate == Fate::NotProcessed {
                "sending the request"
            } else {
                "waiting for the answer"
            };
            answer(pending, Err(why.unwrap_or(Error::TimedOut { doing, limit, fate })));
        }
    }

    /// The key has changed: what is under the old one finishes, and nothing more begins on it.
    fn renew(&mut self, adopted: Option<Box<Connection>>) {
        let next = adopted.map_or(Current::None, |connection| {
            Current::Connection(connection, Instant::now())
        });
        if let Current::Connection(mut connection, _) = core::mem::replace(&mut self.current, next) {
            connection.retire();
            // At once: an order about one of them may be the next that is taken.
            let returned = core::mem::take(&mut connection.returned);
            self.old.push(*connection);
            self.take_back(returned);
        }
        self.trouble = None;
        self.retry_at = None;
        self.failed = 0;
    }

    /// Who closes and has nothing to send waits for no connection.
    fn stop_connecting(&mut self) {
        let connected = matches!(&self.current, Current::Connection(connection, _) if connection.is_established());
        if self.closing && self.waiting.is_empty() && !connected {
            self.current = Current::None;
        }
    }

    /// Before something is sent on a connection that has heard nothing for a while, takes what has
    /// come there: its end may lie in the socket. Says whether something has changed.
    fn look(&mut self, cx: &mut Context<'_>) -> bool {
        let Current::Connection(connection, _) = &self.current else {
            return false;
        };
        if (self.waiting.is_empty() && self.pings.is_empty()) || !connection.is_unheard() {
            return false;
        }
        self.poll_current(cx, Connection::look).is_ready()
    }

    /// Hands what waits to the connection, if it stands.
    fn hand_over(&mut self) {
        let Current::Connection(connection, _) = &mut self.current else {
            return;
        };
        if !connection.is_established() {
            return;
        }
        while let Some((ticket, pending)) = self.waiting.pop_first() {
            if let Some(back) = connection.request(pending) {
                self.waiting.insert(ticket, back);
                break;
            }
        }
        if connection.is_open() {
            self.pings = core::mem::take(&mut self.pings)
                .into_iter()
                .filter_map(|to| connection.ping(to))
                .collect();
            self.openers.drain(..).for_each(|to| drop(to.send(Ok(()))));
        }
        if self.closing && self.waiting.is_empty() {
            connection.close();
        }
    }

    /// Requests that a connection has not processed go before those that came later.
    fn take_back(&mut self, returned: Vec<Pending>) {
        self.waiting
            .extend(returned.into_iter().map(|pending| (pending.ticket, pending)));
    }

    /// There is no connection, and no attempt at one: what is to be done about that?
    fn begin(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Whoever has given up wants nothing.
        self.pings.retain(|to| !to.is_closed());
        self.openers.retain(|to| !to.is_closed());
        let asked = !self.waiting.is_empty() || !self.pings.is_empty() || !self.openers.is_empty();
        // While other connections stand no request goes to one that failed: it has to come back by
        // itself.
        let hopeless = self.trouble.as_ref().is_some_and(|trouble| self.is_final(trouble));
        let wanted = asked || (self.env.spread && self.failed > 0 && !hopeless);
        if self.closing {
            self.fail_all(&Error::Closed);
        }
        if !wanted || self.closing {
            return Poll::Pending;
        }
        // There was one stream, and what ended it is all there is to say.
        if self.env.dial.is_spent()
            && let Some(trouble) = &self.trouble
        {
            let trouble = trouble.again(Fate::NotProcessed);
            self.fail_all(&trouble);
            return Poll::Pending;
        }
        if let Some(at) = self.retry_at
            && self.timer.poll(cx, Some(at)).is_pending()
        {
            return Poll::Pending;
        }
        self.retry_at = None;
        self.env.counters.attempts.add(1);
        let dialing = self
            .env
            .dial
            .dial(self.env.connect_timeout, self.env.settings.lifetime());
        self.current = Current::Dialing(dialing);
        Poll::Ready(())
    }

    /// An attempt has failed.
    fn fail(&mut self, error: Error) {
        self.current = Current::None;
        self.failed = self.failed.saturating_add(1);
        let pause = self.env.backoff.pause(self.failed, &self.env.entropy);
        self.retry_at = Some(Instant::now() + pause);
        warn!(%error, attempt = self.failed, ?pause, "no connection");
        // Whoever asked for a connection is told at once; and so is everybody, where waiting does
        // not help.
        for to in self.openers.drain(..) {
            let _ = to.send(Err(error.again(Fate::NotProcessed)));
        }
        if self.is_final(&error) || self.env.fail_fast || self.closing {
            self.fail_all(&error);
        }
        self.trouble = Some(error);
    }

    /// Whether to wait for another attempt is of no use, as far as can be told.
    fn is_final(&self, error: &Error) -> bool {
        if self.env.dial.is_spent() {
            return true;
        }
        let end = match error {
            Error::Connection { end, .. } => Some(*end),
            Error::Entropy(_) | Error::Setup(_) => return true,
            // A name without a port, a path that is too long: it will be so the next time.
            Error::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput => return true,
            Error::Io { .. } | Error::TimedOut { .. } | Error::Request(_) | Error::Closed | Error::Settings(_) => None,
        };
        after_attempt(end, self.env.admitted.load(Ordering::Relaxed)) == Retry::Fail
    }

    fn fail_all(&mut self, error: &Error) {
        for (_, pending) in core::mem::take(&mut self.waiting) {
            answer(pending, Err(error.again(Fate::NotProcessed)));
        }
        for to in self.pings.drain(..) {
            let _ = to.send(Err(error.again(Fate::NotProcessed)));
        }
        for to in self.openers.drain(..) {
            let _ = to.send(Err(error.again(Fate::NotProcessed)));
        }
    }

    /// A server that takes hellos and then ends, or closes, at once is not asked again and again.
    /// One that has served is: each attempt then comes with a request.
    fn pause_if_soon(&mut self, since: Instant, served: bool) {
        if served || since.elapsed() >= SOON {
            self.failed = 0;
        } else {
            self.failed = self.failed.saturating_add(1);
            let pause = self.env.backoff.pause(self.failed, &self.env.entropy);
            self.retry_at = Some(Instant::now() + pause);
        }
    }

    /// The current connection has ended.
    fn end(&mut self, connection: Connection, since: Instant, end: &io::Result<ConnectionError>) {
        if !connection.is_established() {
            self.fail(error_of(end, SHAKING_HANDS, Fate::NotProcessed));
            return;
        }
        self.pause_if_soon(since, connection.served);
        self.trouble = Some(error_of(end, "waiting for a connection", Fate::NotProcessed));
        if !connection.is_over() {
            self.old.push(connection);
        }
    }

    /// Polls the current connection or the attempt at one. Ready: something has changed.
    fn poll_current(
        &mut self,
        cx: &mut Context<'_>,
        poll: impl FnOnce(&mut Connection, &mut Context<'_>) -> Poll<News>,
    ) -> Poll<()> {
        match core::mem::replace(&mut self.current, Current::None) {
            Current::None => self.begin(cx),
            Current::Dialing(mut dialing) => {
                match dialing.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.current = Current::Dialing(dialing);
                        return Poll::Pending;
                    }
                    Poll::Ready(Err(error)) => self.fail(error),
                    Poll::Ready(Ok(socket)) => match Connection::new(socket, &self.env, self.env.keys()) {
                        Ok(connection) => self.current = Current::Connection(Box::new(connection), Instant::now()),
                        Err(error) => self.fail(error.into()),
                    },
                }
                Poll::Ready(())
            }
            Current::Connection(mut connection, since) => {
                let polled = poll(&mut connection, cx);
                let returned = core::mem::take(&mut connection.returned);
                let gave_back = !returned.is_empty();
                self.take_back(returned);
                match polled {
                    Poll::Pending => {
                        self.current = Current::Connection(connection, since);
                        // What came back goes out again, and nobody else would wake the task for
                        // it.
                        return if gave_back { Poll::Ready(()) } else { Poll::Pending };
                    }
                    Poll::Ready(News::Established) => {
                        debug!("connected");
                        self.env.admit();
                        self.trouble = None;
                        self.current = Current::Connection(connection, Instant::now());
                    }
                    Poll::Ready(News::Closing) => {
                        self.pause_if_soon(since, connection.served);
                        self.old.push(*connection);
                    }
                    Poll::Ready(News::Ended(end)) => self.end(*connection, since, &end),
                }
                Poll::Ready(())
            }
        }
    }

    fn tell_load(&self) {
        let (connected, in_flight) = match &self.current {
            Current::Connection(connection, _) => (connection.is_established(), connection.in_flight()),
            Current::None | Current::Dialing(_) => (false, 0),
        };
        self.shared.set_load(!connected && self.failed > 0, in_flight);
    }

    fn poll_old(&mut self, cx: &mut Context<'_>) {
        let mut at = 0;
        while let Some(connection) = self.old.get_mut(at) {
            let polled = connection.poll(cx);
            let returned = core::mem::take(&mut connection.returned);
            let over = connection.is_over();
            self.take_back(returned);
            if over {
                self.old.swap_remove(at);
            } else if polled.is_pending() {
                at += 1;
            }
        }
    }
}

impl Future for Slot {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        loop {
            this.take_orders(cx);
            this.stop_connecting();
            this.poll_old(cx);
            if this.look(cx) {
                continue;
            }
            this.hand_over();
            let changed = this.poll_current(cx, Connection::poll).is_ready();
            if this.closing && this.old.is_empty() && matches!(this.current, Current::None) && this.waiting.is_empty() {
                this.shared.abandon();
                for to in this.closers.drain(..) {
                    let _ = to.send(());
                }
                return Poll::Ready(());
            }
            if !changed {
                this.tell_load();
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Slot {
    /// With its runtime, or when all is done: whoever still waits is told by the end of the
    /// channel.
    fn drop(&mut self) {
        self.shared.abandon();
    }
}
