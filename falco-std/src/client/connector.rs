//! The current connection of a client, and the attempts to make the next one.

mod new_key;

use core::fmt;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::io;
use std::panic::catch_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use falco_core::keys::{ClientKeys, Entropy};
use falco_core::mux::{Admitted, Backoff, ConnectAttempts, NextAttempt, Round, Servers};
use falco_core::{Fate, Instant, Settings};

use super::connection::Connection;
use super::dial::Dial;
use super::limit::Limit;
use super::read_guard::ReadGuard;
use super::stats::Counters;
use crate::clock::Clock;
use crate::error::Error;

/// What does not change while the client exists.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) settings: Settings,
    pub(super) entropy: Entropy,
    /// How to connect to each server, at least one.
    pub(super) dials: Box<[Dial]>,
    /// The server that each round of attempts begins with.
    pub(super) home: usize,
    pub(super) connect_timeout: Duration,
    pub(super) backoff: Backoff,
    pub(super) fail_fast: bool,
}

pub(super) struct Connector {
    config: Config,
    /// The clock of all connections.
    clock: Clock,
    state: Mutex<State>,
    /// Notified when an attempt has ended, and when the client is closed.
    changed: Condvar,
    counters: Arc<Counters>,
}

/// What a caller without a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// One attempt, whether it succeeds or fails.
    Attempt,
    /// A connection, for as long as attempts may succeed.
    Connection,
}

struct State {
    /// Replaced when the key changes.
    keys: Arc<ClientKeys>,
    /// Whether this client was admitted under these keys.
    admitted: Admitted,
    current: Option<Arc<Connection>>,
    /// The server of the current connection.
    server: usize,
    servers: Servers,
    /// The attempts in progress, each of which a thread makes.
    round: Round,
    /// How many rounds have ended. The result of an attempt of an earlier round is discarded.
    rounds: u64,
    /// A connection that has ended. Drop it without the lock held: dropping its stream may run the
    /// user's code.
    gone: Option<Arc<Connection>>,
    /// Closed when the client is closed or dropped. The result of an attempt is then discarded.
    attempts: ConnectAttempts<Error>,
    /// Total number of failed attempts, by which a waiting caller notices a new failure.
    failures: u64,
    /// Total number of failed attempts that fail all waiting callers.
    final_failures: u64,
    /// Callers that wait for a connection.
    waiting: usize,
    /// A thread makes attempts although no caller waits.
    alone: bool,
}

impl Connector {
    pub(super) fn new(config: Config, keys: Arc<ClientKeys>) -> Arc<Self> {
        let state = State {
            keys,
            admitted: Admitted::new(),
            current: None,
            server: config.home,
            servers: Servers::new(config.dials.len(), config.backoff),
            round: Round::new(config.home),
            rounds: 0,
            gone: None,
            attempts: ConnectAttempts::new(config.backoff, config.fail_fast),
            failures: 0,
            final_failures: 0,
            waiting: 0,
            alone: false,
        };
        Arc::new(Self {
            config,
            clock: Clock::new(),
            state: Mutex::new(state),
            changed: Condvar::new(),
            counters: Arc::default(),
        })
    }

    pub(super) const fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Returns the connection if it is open, and otherwise waits for the next one. All callers
    /// share one attempt and its result. Each waits at most until its own limit.
    pub(super) fn connection(self: &Arc<Self>, limit: Option<Limit>, wait: Wait) -> Result<Arc<Connection>, Error> {
        let mut state = self.lock();
        if state.attempts.is_closed() {
            return Err(Error::Closed);
        }
        if let Some(open) = self.open(&mut state) {
            return Ok(open);
        }
        let waiting = state.waiting + 1;
        state.set_waiting(waiting, self.clock.now());
        let (mut state, connection) = self.wait(state, limit, wait);
        let waiting = state.waiting - 1;
        state.set_waiting(waiting, self.clock.now());
        if wait == Wait::Connection {
            self.go_on_alone(&mut state);
        }
        connection
    }

    fn wait<'p>(
        self: &'p Arc<Self>,
        mut state: MutexGuard<'p, State>,
        limit: Option<Limit>,
        wait: Wait,
    ) -> (MutexGuard<'p, State>, Result<Arc<Connection>, Error>) {
        let (failures, final_failures) = (state.failures, state.final_failures);
        loop {
            let next = state.attempts.next(self.clock.now());
            if next == NextAttempt::Closed {
                return (state, Err(Error::Closed));
            }
            if let Some(open) = self.open(&mut state) {
                return (state, Ok(open));
            }
            if let Some(gone) = state.gone.take() {
                drop(state);
                drop(gone);
                state = self.lock();
                continue;
            }
            let failed =
                state.final_failures != final_failures || (wait == Wait::Attempt && state.failures != failures);
            let fails = matches!(next, NextAttempt::Never | NextAttempt::FailUntil(_)) && !state.round.is_running();
            if (failed || fails)
                && let Some(why) = state.error()
            {
                return (state, Err(why));
            }
            if let Some(limit) = limit.filter(|limit| limit.left().is_zero()) {
                // The error of the last attempt is more useful than a timeout.
                let timed_out = || limit.error("connecting", Fate::NotProcessed);
                let why = state.error().unwrap_or_else(timed_out);
                return (state, Err(why));
            }
            state = self.begin_or_wait(state, next, limit.map(Limit::left));
        }
    }

    /// Begins the attempt that is due. If none is, waits until one is or something has changed, for
    /// `left` at most.
    fn begin_or_wait<'p>(
        self: &'p Arc<Self>,
        mut state: MutexGuard<'p, State>,
        next: NextAttempt,
        left: Option<Duration>,
    ) -> MutexGuard<'p, State> {
        let begins_at = match next {
            // Another attempt may begin beside those in progress.
            _ if state.round.is_running() => state.servers.next_at(&state.round),
            NextAttempt::At(at) | NextAttempt::FailUntil(at) => Some(at),
            NextAttempt::Now | NextAttempt::Never | NextAttempt::Closed => Some(Instant::ZERO),
        };
        let now = self.clock.now();
        if begins_at.is_some_and(|at| at <= now) {
            self.begin(&mut state);
            return state;
        }
        let pause = begins_at.map(|at| at.since(now));
        match pause.into_iter().chain(left).min() {
            Some(left) => {
                let waited = self.changed.wait_timeout(state, left);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Starts a thread for the attempts that are wanted although no caller waits.
    fn go_on_alone(self: &Arc<Self>, state: &mut State) {
        if state.waiting == 0 && state.current.is_none() && state.attempts.is_wanted() && !state.alone {
            let own = Arc::clone(self);
            // Without a thread, the next caller makes them.
            state.alone = spawn(move || own.connect_alone()).is_ok();
        }
    }

    /// Makes attempts for as long as they are wanted and there is no connection.
    fn connect_alone(self: Arc<Self>) {
        let mut state = self.lock();
        loop {
            let next = state.attempts.next(self.clock.now());
            let ends = matches!(next, NextAttempt::Closed | NextAttempt::Never) || !state.attempts.is_wanted();
            if ends || state.current.is_some() {
                state.alone = false;
                return;
            }
            state = self.begin_or_wait(state, next, None);
        }
    }

    /// Ends the connection gracefully. From now on callers fail with [`Error::Closed`].
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.attempts.close();
        // It stays in `current`, so that other threads that call `close` wait for it, too.
        let current = state.current.clone();
        drop(state);
        self.changed.notify_all();
        if let Some(connection) = current {
            connection.close();
            let gone = self.lock().current.take();
            drop(gone);
        }
    }

    /// Ends the connection at once: the client was dropped.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.attempts.close();
        let current = state.current.take();
        drop(state);
        self.changed.notify_all();
        if let Some(connection) = current {
            connection.abandon();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether requests can begin on the current connection.
    pub(super) fn is_connected(&self) -> bool {
        let state = self.lock();
        state.current.as_ref().is_some_and(|connection| connection.is_open())
    }

    /// The connection, if requests can begin on it. One that has ended is removed.
    fn open(&self, state: &mut State) -> Option<Arc<Connection>> {
        let connection = state.current.take()?;
        if connection.is_open() {
            let open = Arc::clone(&connection);
            state.current = Some(connection);
            return Some(open);
        }
        let (history, at, why) = connection.history();
        let at = at.unwrap_or_else(|| self.clock.now());
        state.gone = Some(connection);
        let State {
            attempts,
            admitted,
            servers,
            server,
            ..
        } = state;
        let random = |bound| self.config.entropy.below(bound);
        servers.lost(*server, history, at, random);
        attempts.lost(history, why, admitted, at, random);
        None
    }

    /// Begins an attempt, if one is due.
    fn begin(self: &Arc<Self>, state: &mut State) {
        let Some(server) = state.servers.begin(&mut state.round, self.clock.now()) else {
            return;
        };
        self.counters.attempts.add(1);
        let (own, keys, round) = (Arc::clone(self), Arc::clone(&state.keys), state.rounds);
        if let Err(error) = spawn(move || own.attempt(server, round, &keys)) {
            self.conclude(state, server, Err(error));
        }
    }

    /// Makes one attempt. The thread that has made a connection also runs its reader.
    fn attempt(self: Arc<Self>, server: usize, round: u64, keys: &Arc<ClientKeys>) {
        let opened = self.dial(server, keys);
        let mut state = self.lock();
        // Another attempt may have been faster, or the key may have changed.
        let (reader, unused) = if round == state.rounds && !state.attempts.is_closed() {
            (self.conclude(&mut state, server, opened), None)
        } else {
            (None, Some(opened))
        };
        self.go_on_alone(&mut state);
        drop(state);
        drop(unused);
        self.changed.notify_all();
        drop(self);
        if let Some(reader) = reader {
            reader.run();
        }
    }

    fn dial(&self, server: usize, keys: &Arc<ClientKeys>) -> Result<(Connection, Option<ReadGuard>), Error> {
        // A stream of the user may panic. Callers then receive an error.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let dial = self.config.dials.get(server).ok_or(Error::Closed)?;
            let stream = dial.dial(self.config.connect_timeout)?;
            let sources = (&self.config.entropy, self.clock);
            Connection::open(stream, Arc::clone(keys), &self.config.settings, sources)
        }));
        let opened = opened.unwrap_or_else(|_| {
            let error = io::Error::other("the stream panicked");
            Err(Error::io("connecting", error, Fate::NotProcessed))
        });
        self.counters.connected.add(u64::from(opened.is_ok()));
        opened
    }

    /// Records the result of an attempt of the current round.
    fn conclude(
        &self,
        state: &mut State,
        server: usize,
        opened: Result<(Connection, Option<ReadGuard>), Error>,
    ) -> Option<ReadGuard> {
        let now = self.clock.now();
        let random = |bound| self.config.entropy.below(bound);
        let State {
            attempts,
            admitted,
            servers,
            round,
            ..
        } = &mut *state;
        if self.config.dials.iter().all(Dial::is_spent) {
            attempts.spend();
        }
        match opened {
            Ok((connection, reader)) => {
                servers.completed(round, server, now, random);
                attempts.established(admitted, now);
                state.rounds += 1;
                state.server = server;
                state.current = Some(Arc::new(connection));
                reader
            }
            Err(error) => {
                if servers.attempt_failed(round, server, now, random) {
                    // Another attempt is in progress, or a waiting caller begins one at once.
                    return None;
                }
                let retry = attempts.attempt_failed(error.attempt_end(), error, admitted, now, random);
                state.failures += 1;
                state.final_failures += u64::from(!retry);
                None
            }
        }
    }
}

impl State {
    /// Why there is no connection, for a request that waited for one.
    fn error(&self) -> Option<Error> {
        self.attempts.why().map(|error| error.with_fate(Fate::NotProcessed))
    }

    /// Notes how many callers wait for a connection.
    fn set_waiting(&mut self, waiting: usize, now: Instant) {
        self.waiting = waiting;
        self.attempts.set_waiting(now, waiting > 0);
    }
}

/// Starts a thread that connects or reads.
fn spawn(run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let spawned = thread::Builder::new().name("falco client".to_owned()).spawn(run);
    spawned.map_or_else(
        |error| Err(Error::io("starting a thread", error, Fate::NotProcessed)),
        |_| Ok(()),
    )
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use falco_core::{ConnectionError, EntropyError};

    use super::*;

    #[test]
    fn attempts_go_on_unless_no_other_can_succeed() {
        let fate = Fate::NotProcessed;
        let io = |kind: io::ErrorKind| Error::io("connecting", kind.into(), fate);
        let connection = |end| Error::Connection { end, fate };
        let settings = Settings::new()
            .with_lifetime(Duration::ZERO)
            .expect_err("it is too short");
        for (error, expected) in [
            (Error::Entropy(EntropyError::new()), true),
            (io(io::ErrorKind::InvalidInput), true),
            (connection(ConnectionError::KeyExhausted), true),
            (io(io::ErrorKind::ConnectionRefused), false),
            (connection(ConnectionError::HandshakeTimeout), false),
            (connection(ConnectionError::Refused), false),
            (Error::Closed, false),
            (Error::Settings(settings), false),
        ] {
            let mut attempts = ConnectAttempts::new(Backoff::default(), false);
            let (end, why) = (error.attempt_end(), format!("{error:?}"));
            let retry = attempts.attempt_failed(end, error, &Admitted::new(), Instant::ZERO, |_| 0);
            assert_eq!(!retry, expected, "{why}");
        }
    }
}
