//! The one connection that a client has at a time: who waits for it, and when an attempt to make
//! one begins.

use core::fmt;
use core::panic::AssertUnwindSafe;
use core::time::Duration;
use std::io;
use std::panic::catch_unwind;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use falco_core::keys::{ClientKeys, Entropy, KeyOptions};
use falco_core::mux::{Backoff, Retry, after_attempt};
use falco_core::{Fate, Key, Settings};

use super::connection::Connection;
use super::dial::Dial;
use super::limit::Limit;
use super::outcome::over;
use super::reader::Reader;
use super::stats::Counters;
use crate::error::Error;

/// A connection that ended sooner than this after it stood, and served nothing, counts as an
/// attempt that failed.
const SOON: Duration = Duration::from_secs(1);

/// What does not change while the client lives.
#[derive(Debug)]
pub(super) struct Env {
    /// What another key would be used with.
    pub(super) key_options: KeyOptions,
    pub(super) settings: Settings,
    pub(super) entropy: Entropy,
    pub(super) dial: Dial,
    pub(super) connect_timeout: Duration,
    pub(super) backoff: Backoff,
    pub(super) fail_fast: bool,
}

pub(super) struct Place {
    env: Env,
    state: Mutex<State>,
    /// An attempt is over.
    changed: Condvar,
    counters: Counters,
}

/// What somebody who needs a connection waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// One attempt, whatever comes of it.
    Attempt,
    /// A connection, for as long as attempts may succeed.
    Connection,
}

struct State {
    /// Replaced when the key changes.
    keys: Arc<ClientKeys>,
    /// The connection, and since when it stands.
    current: Option<(Arc<Connection>, Instant)>,
    /// An attempt is being made, by a thread of its own.
    dialing: bool,
    /// The client was closed, or is gone: what an attempt brings is dropped.
    closed: bool,
    /// A server has let this client in under its key, and has not said since that the key is out of
    /// service.
    admitted: bool,
    /// Attempts that failed in a row.
    failed: u32,
    /// Attempts that failed, ever. It tells those who wait that one has.
    failures: u64,
    /// Of those: how many everybody is told of who waits for them.
    verdicts: u64,
    /// How many wait for a connection.
    waiting: usize,
    /// No attempt begins before.
    retry_at: Option<Instant>,
    /// Why there is no connection.
    trouble: Option<Error>,
}

impl Place {
    pub(super) fn new(env: Env, keys: Arc<ClientKeys>) -> Arc<Self> {
        let state = State {
            keys,
            current: None,
            dialing: false,
            closed: false,
            admitted: false,
            failed: 0,
            failures: 0,
            verdicts: 0,
            waiting: 0,
            retry_at: None,
            trouble: None,
        };
        Arc::new(Self {
            env,
            state: Mutex::new(state),
            changed: Condvar::new(),
            counters: Counters::default(),
        })
    }

    pub(super) const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The connection, if it is open, or else the next that is made. All who wait share one attempt
    /// and its outcome; each waits until its own limit.
    pub(super) fn connection(self: &Arc<Self>, limit: Option<Limit>, wait: Wait) -> Result<Arc<Connection>, Error> {
        let mut state = self.lock();
        if state.closed {
            return Err(Error::Closed);
        }
        if let Some(open) = self.open(&mut state) {
            return Ok(open);
        }
        if !self.env.dial.is_spent() {
            state.forget();
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
        let (failures, verdicts) = (state.failures, state.verdicts);
        loop {
            if state.closed {
                return (state, Err(Error::Closed));
            }
            if let Some(open) = self.open(&mut state) {
                return (state, Ok(open));
            }
            let told = state.verdicts != verdicts || (wait == Wait::Attempt && state.failures != failures);
            if told || (self.env.dial.is_spent() && !state.dialing) {
                let why = over(state.why());
                return (state, Err(why));
            }
            if let Some(limit) = limit.filter(|limit| limit.left().is_zero()) {
                // Why there is no connection says more than that there was none in time.
                let late = || limit.error("connecting", Fate::NotProcessed);
                let why = state.why().unwrap_or_else(late);
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

    /// Takes a connection from its place on which nothing can begin any more.
    pub(super) fn give_up(&self, connection: &Arc<Connection>, why: Option<Error>) {
        let mut state = self.lock();
        let current = state.current.as_ref();
        let is_other = current.is_some_and(|(own, _)| !Arc::ptr_eq(own, connection));
        if !is_other && self.open(&mut state).is_none() && state.trouble.is_none() {
            state.trouble = why;
        }
    }

    /// From now on there is no connection for anybody, and the one that there is ends in good
    /// order.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        // It stays in its place meanwhile, so that whoever else closes waits for the same end.
        let current = state.current.as_ref().map(|(connection, _)| Arc::clone(connection));
        drop(state);
        self.changed.notify_all();
        if let Some(connection) = current {
            connection.close();
            self.lock().current = None;
        }
    }

    /// The client is gone: its connection ends at once.
    pub(super) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        let current = state.current.take();
        drop(state);
        if let Some((connection, _)) = current {
            connection.abandon();
        }
    }

    /// Makes a connection under another key, from this thread, and puts it in the place of the one
    /// that there is, on which nothing more begins.
    pub(super) fn set_key(self: &Arc<Self>, key: Key) -> Result<(), Error> {
        if self.lock().closed {
            return Err(Error::Closed);
        }
        let keys = self.env.key_options.keys(key, &mut self.env.entropy.clone())?;
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
        state.failed = 0;
        state.retry_at = None;
        state.trouble = None;
        drop(state);
        self.changed.notify_all();
        if let Some((old, _)) = old {
            old.retire();
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two of its steps, none of which can panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, if requests can begin on it. One that has ended leaves its place.
    fn open(&self, state: &mut State) -> Option<Arc<Connection>> {
        let (connection, since) = state.current.as_ref()?;
        if connection.is_open() {
            return Some(Arc::clone(connection));
        }
        let past = connection.past();
        let soon = !past.served && since.elapsed() < SOON;
        // From here on a refusal means what it says.
        state.admitted &= !past.key_retired;
        state.current = None;
        state.failed = if soon { state.failed.saturating_add(1) } else { 0 };
        // A server that lets clients in and then ends is not asked again and again. One that has
        // served is: each attempt then comes with a request.
        state.retry_at = (state.failed > 0).then(|| self.retry_at(state.failed)).flatten();
        None
    }

    fn retry_at(&self, failed: u32) -> Option<Instant> {
        // A pause that overflows the clock is none.
        let pause = self.env.backoff.pause(failed, |bound| self.env.entropy.below(bound));
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

    /// Makes one attempt. The thread that made a connection which needs one to read becomes that.
    fn attempt(self: Arc<Self>, keys: &Arc<ClientKeys>) {
        let opened = self.dial(keys);
        let mut state = self.lock();
        let reader = if Arc::ptr_eq(keys, &state.keys) {
            self.conclude(&mut state, opened)
        } else {
            // The key has changed meanwhile, with which came a connection: this one is not needed.
            state.dialing = false;
            None
        };
        drop(state);
        self.changed.notify_all();
        drop(self);
        if let Some(reader) = reader {
            reader.run();
        }
    }

    fn dial(&self, keys: &Arc<ClientKeys>) -> Result<(Connection, Option<Reader>), Error> {
        // A stream of the caller's may panic: those who wait are told of it like of any failure.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            let stream = self.env.dial.dial(self.env.connect_timeout)?;
            Connection::open(stream, Arc::clone(keys), &self.env.settings, &self.env.entropy)
        }));
        let opened = opened.unwrap_or_else(|_| {
            let error = io::Error::other("the stream panicked");
            Err(Error::io("connecting", error, Fate::NotProcessed))
        });
        self.counters.connected.add(u64::from(opened.is_ok()));
        opened
    }

    /// Notes what came of an attempt.
    fn conclude(&self, state: &mut State, opened: Result<(Connection, Option<Reader>), Error>) -> Option<Reader> {
        state.dialing = false;
        let error = match opened {
            // Dropping the reader ends the stream.
            Ok(_) if state.closed => return None,
            Ok((connection, reader)) => {
                state.current = Some((Arc::new(connection), Instant::now()));
                state.admitted = true;
                state.retry_at = None;
                state.trouble = None;
                return reader;
            }
            Err(error) => error,
        };
        state.failed = state.failed.saturating_add(1);
        state.failures += 1;
        if self.env.fail_fast || self.env.dial.is_spent() || is_final(&error, state.admitted) {
            state.verdicts += 1;
        }
        state.retry_at = self.retry_at(state.failed);
        state.trouble = Some(error);
        None
    }
}

impl State {
    /// What went wrong when somebody last waited is no news to those who come long after.
    fn forget(&mut self) {
        let pausing = self.retry_at.is_some_and(|at| at > Instant::now());
        if self.waiting == 0 && !self.dialing && !pausing {
            self.trouble = None;
        }
    }

    /// Why there is no connection, for one who waited.
    fn why(&self) -> Option<Error> {
        self.trouble.as_ref().map(|trouble| trouble.again(Fate::NotProcessed))
    }
}

/// Whether everybody who waits for an attempt that failed is told so, as another is not expected to
/// do better.
fn is_final(error: &Error, admitted: bool) -> bool {
    let end = match error {
        Error::Connection { end, .. } => Some(*end),
        // A name without a port, a path that is too long: it will be so the next time.
        Error::Io { source, .. } if source.kind() == io::ErrorKind::InvalidInput => return true,
        Error::Io { .. } | Error::TimedOut { .. } | Error::Request(_) => None,
        Error::Entropy(_) | Error::Setup(_) | Error::Settings(_) | Error::Closed => return true,
    };
    after_attempt(end, admitted) == Retry::Fail
}

/// Starts a thread that connects, or reads.
fn spawn(run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    let spawned = thread::Builder::new().name("falco client".to_owned()).spawn(run);
    spawned.map_or_else(
        |error| Err(Error::io("starting a thread", error, Fate::NotProcessed)),
        |_| Ok(()),
    )
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("env", &self.env).finish_non_exhaustive()
    }
}
