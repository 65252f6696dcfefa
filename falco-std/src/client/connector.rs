//! The current connection of a client, and the attempts to make the next one.

use core::fmt;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::io;
use std::panic::catch_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use falco_core::keys::{ClientKeys, Entropy, KeyOptions};
use falco_core::mux::{Backoff, FailedAttempts, Retry, after_attempt};
use falco_core::{ConnectionError, Fate, Key, Settings};

use super::connection::Connection;
use super::dial::Dial;
use super::limit::Limit;
use super::outcome::ended;
use super::reader::Reader;
use super::stats::Counters;
use crate::error::Error;

/// A connection that ends within this time after its handshake counts as a failed attempt, unless
/// the server has answered a request or refused one for another reason than `NotProcessed`.
const SHORT_LIVED: Duration = Duration::from_secs(1);

/// What does not change while the client exists.
#[derive(Debug)]
pub(super) struct Config {
    /// How to derive keys when the key changes.
    pub(super) key_options: KeyOptions,
    pub(super) settings: Settings,
    pub(super) entropy: Entropy,
    pub(super) dial: Dial,
    pub(super) connect_timeout: Duration,
    pub(super) backoff: Backoff,
    pub(super) fail_fast: bool,
}

pub(super) struct Connector {
    config: Config,
    state: Mutex<State>,
    /// Notified when an attempt has ended, and when the client is closed.
    changed: Condvar,
    counters: Counters,
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
    /// The connection, and when its handshake was completed.
    current: Option<(Arc<Connection>, Instant)>,
    /// A connection that has ended. Drop it without the lock held: dropping its stream may run the
    /// user's code.
    gone: Option<Arc<Connection>>,
    /// Whether a thread is making an attempt.
    dialing: bool,
    /// Whether the client was closed or dropped. The result of an attempt is then discarded.
    closed: bool,
    /// Whether this client has been let in: it has completed a handshake under its key before, and
    /// no server has reported since that the key is retired.
    admitted: bool,
    /// Failed attempts in a row.
    failed: FailedAttempts,
    /// Total number of failed attempts, by which a waiting caller notices a new failure.
    failures: u64,
    /// Total number of failed attempts that fail all waiting callers.
    final_failures: u64,
    /// Callers that wait for a connection.
    waiting: usize,
    /// No attempt begins before this time.
    retry_at: Option<Instant>,
    /// Why there is no connection.
    last_error: Option<Error>,
}

impl Connector {
    pub(super) fn new(config: Config, keys: Arc<ClientKeys>) -> Arc<Self> {
        let state = State {
            keys,
            current: None,
            gone: None,
            dialing: false,
            closed: false,
            admitted: false,
            failed: FailedAttempts::none(),
            failures: 0,
            final_failures: 0,
            waiting: 0,
            retry_at: None,
            last_error: None,
        };
        Arc::new(Self {
            config,
            state: Mutex::new(state),
            changed: Condvar::new(),
            counters: Counters::default(),
        })
    }

    pub(super) const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Returns the connection if it is open, and otherwise waits for the next one. All callers
    /// share one attempt and its result. Each waits at most until its own limit.
    pub(super) fn connection(self: &Arc<Self>, limit: Option<Limit>, wait: Wait) -> Result<Arc<Connection>, Error> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        if let Some(open) = self.open(&mut state) {
            return Ok(open);
        }
        if !self.config.dial.is_spent() {
            state.forget_error();
        }
        state.waiting += 1;
        let (mut state, connection) = self.wait(state, limit, wait);
        state.waiting -= 1;
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
            if state.closed {
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
            if failed || (self.config.dial.is_spent() && !state.dialing) {
                let why = ended(state.error());
                return (state, Err(why));
            }
            if let Some(limit) = limit.filter(|limit| limit.left().is_zero()) {
                // The error that prevented a connection is more useful than a timeout.
                let timed_out = || limit.error("connecting", Fate::NotProcessed);
                let why = state.error().unwrap_or_else(timed_out);
                return (state, Err(why));
            }
            let pause = state.retry_at.map(|at| at.saturating_duration_since(Instant::now()));
            let pause = pause.filter(|pause| !state.dialing && !pause.is_zero());
            if pause.is_none() && !state.dialing {
                self.begin(&mut state);
                continue;
            }
            let left = limit.map(Limit::left);
            state = match pause.into_iter().chain(left).min() {
                Some(left) => {
                    let waited = self.changed.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Reports a connection on which no request can begin, and why.
    pub(super) fn give_up(&self, connection: &Arc<Connection>, why: Option<Error>) {
        let mut state = self.lock();
        let current = state.current.as_ref();
        let is_other = current.is_some_and(|(own, _)| !Arc::ptr_eq(own, connection));
        if !is_other && self.open(&mut state).is_none() && state.last_error.is_none() {
            state.last_error = why;
        }
        let gone = state.gone.take();
        drop(state);
        drop(gone);
    }

    /// Ends the connection gracefully. From now on callers fail with [`Error::Closed`].
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        // It stays in `current`, so that other threads that call `close` wait for it, too.
        let current = state.current.as_ref().map(|(connection, _)| Arc::clone(connection));
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
        state.closed = true;
        let current = state.current.take();
        drop(state);
        if let Some((connection, _)) = current {
            connection.abandon();
        }
    }

    /// Makes a connection under another key, on this thread. It replaces the current one, on which
    /// no request begins from then on.
    pub(super) fn set_key(self: &Arc<Self>, key: Key) -> Result<(), Error> {
        if self.lock().closed {
            return Err(Error::Closed);
        }
        let keys = self.config.key_options.keys(key, &mut self.config.entropy.clone())?;
        let (connection, reader) = self.dial(&keys)?;
        if let Some(reader) = reader {
            spawn(move || reader.run())?;
        }
        let mut state = self.lock();
        let connection = Arc::new(connection);
        if state.closed {
            drop(state);
            connection.abandon();
            return Err(Error::Closed);
        }
        state.keys = keys;
        let old = state.current.replace((connection, Instant::now()));
        state.admitted = true;
        state.failed = FailedAttempts::none();
        state.retry_at = None;
        state.last_error = None;
        drop(state);
        self.changed.notify_all();
        if let Some((old, _)) = old {
            old.retire();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, if requests can begin on it. One that has ended is removed.
    fn open(&self, state: &mut State) -> Option<Arc<Connection>> {
        let (connection, since) = state.current.take()?;
        if connection.is_open() {
            let open = Arc::clone(&connection);
            state.current = Some((connection, since));
            return Some(open);
        }
        let history = connection.history();
        let short_lived = !history.served && since.elapsed() < SHORT_LIVED;
        state.admitted &= !history.key_retired;
        state.gone = Some(connection);
        if short_lived {
            state.failed.add(None);
        } else {
            state.failed = FailedAttempts::none();
        }
        // Pause before the next attempt if the server completes handshakes and then ends
        // connections at once. No pause is needed if it has served a request: each attempt then
        // makes progress.
        state.retry_at = (state.failed.count() > 0)
            .then(|| self.retry_at(state.failed.count()))
            .flatten();
        None
    }

    fn retry_at(&self, failed: u32) -> Option<Instant> {
        // If the sum overflows, there is no pause.
        let pause = self
            .config
            .backoff
            .pause(failed, |bound| self.config.entropy.below(bound));
        Instant::now().checked_add(pause)
    }

    /// Begins an attempt.
    fn begin(self: &Arc<Self>, state: &mut State) {
        state.dialing = true;
        self.counters.attempts.add(1);
        let (own, keys) = (Arc::clone(self), Arc::clone(&state.keys));
        if let Err(error) = spawn(move || own.attempt(&keys)) {
            self.conclude(state, Err(error));
        }
    }

    /// Makes one attempt. The thread that has made a connection also runs its reader.
    fn attempt(self: Arc<Self>, keys: &Arc<ClientKeys>) {
        let opened = self.dial(keys);
        let mut state = self.lock();
        // The key may have changed meanwhile, and with it the connection.
        let (reader, unused) = if Arc::ptr_eq(keys, &state.keys) && !state.closed {
            (self.conclude(&mut state, opened), None)
        } else {
            state.dialing = false;
            (None, Some(opened))
        };
        drop(state);
        drop(unused);
        self.changed.notify_all();
        drop(self);
        if let Some(reader) = reader {
            reader.run();
        }
    }

    fn dial(&self, keys: &Arc<ClientKeys>) -> Result<(Connection, Option<Reader>), Error> {
        // The user's stream may panic. Callers receive the panic as an error.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let stream = self.config.dial.dial(self.config.connect_timeout)?;
            Connection::open(stream, Arc::clone(keys), &self.config.settings, &self.config.entropy)
        }));
        let opened = opened.unwrap_or_else(|_| {
            let error = io::Error::other("the stream panicked");
            Err(Error::io("connecting", error, Fate::NotProcessed))
        });
        self.counters.connected.add(u64::from(opened.is_ok()));
        opened
    }

    /// Records the result of an attempt.
    fn conclude(&self, state: &mut State, opened: Result<(Connection, Option<Reader>), Error>) -> Option<Reader> {
        state.dialing = false;
        let error = match opened {
            Ok((connection, reader)) => {
                state.current = Some((Arc::new(connection), Instant::now()));
                state.admitted = true;
                state.retry_at = None;
                state.last_error = None;
                return reader;
            }
            Err(error) => error,
        };
        state.failed.add(end_of(&error));
        state.failures += 1;
        if self.config.fail_fast || self.config.dial.is_spent() || is_final(&error, state.admitted, state.failed) {
            state.final_failures += 1;
        }
        state.retry_at = self.retry_at(state.failed.count());
        state.last_error = Some(error);
        None
    }
}

impl State {
    /// Discards the last error if no caller is waiting, so that later callers do not receive it.
    fn forget_error(&mut self) {
        let pausing = self.retry_at.is_some_and(|at| at > Instant::now());
        if self.waiting == 0 && !self.dialing && !pausing {
            self.last_error = None;
        }
    }

    /// Why there is no connection, for a request that waited for one.
    fn error(&self) -> Option<Error> {
        let error = self.last_error.as_ref();
        error.map(|error| error.with_fate(Fate::NotProcessed))
    }
}

/// Whether a failed attempt fails all requests that wait for a connection, because another attempt
/// is not expected to succeed.
fn is_final(error: &Error, admitted: bool, failed: FailedAttempts) -> bool {
    // The same errors as in falco-tokio.
    match error {
        // A name without a port, or a path that is too long: the next attempt fails as well.
        Error::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput => return true,
        Error::Entropy(_) | Error::Setup(_) => return true,
        Error::Connection { .. }
        | Error::Io { .. }
        | Error::TimedOut { .. }
        | Error::Request(_)
        | Error::Closed
        | Error::Settings(_) => {}
    }
    after_attempt(end_of(error), admitted, failed) == Retry::Fail
}

/// What the connection of a failed attempt ended with.
const fn end_of(error: &Error) -> Option<ConnectionError> {
    if let Error::Connection { end, .. } = error {
        Some(*end)
    } else {
        None
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
            let mut failed = FailedAttempts::none();
            failed.add(end_of(&error));
            assert_eq!(is_final(&error, false, failed), expected, "{error:?}");
        }
    }
}
