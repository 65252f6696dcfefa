//! Attempts to connect to a server: its stream is opened, and then the handshake is done.

use core::future::poll_fn;
use core::task::{Context, Poll, ready};
use std::sync::Arc;

use falco_core::Fate;
use falco_core::mux::Round;
use tracing::{debug, warn};

use super::call::{HANDSHAKE, error_of};
use super::connection::{Connection, Event};
use super::dial::Dialing;
use super::env::{Env, OwnKey};
use crate::error::Error;
use crate::timer::Timer;

/// Dropping it ends the attempt.
pub(super) struct Attempt {
    server: usize,
    key: Arc<OwnKey>,
    stage: Stage,
}

enum Stage {
    Dialing(Dialing),
    Handshake(Box<Connection>),
    Ended,
}

impl Attempt {
    pub(super) fn begin(env: &Env, key: Arc<OwnKey>, server: usize) -> Self {
        if let Some(counters) = env.counters.of(server) {
            counters.attempts.add(1);
        }
        let dial = env.servers.dial(server);
        let stage = Stage::Dialing(dial.dial(env.connect_timeout, env.settings.lifetime()));
        Self { server, key, stage }
    }

    /// Ready with an established connection or an error. Do not poll it again then.
    pub(super) fn poll(&mut self, env: &Arc<Env>, cx: &mut Context<'_>) -> Poll<Result<Box<Connection>, Error>> {
        loop {
            self.stage = match core::mem::replace(&mut self.stage, Stage::Ended) {
                Stage::Dialing(mut dialing) => match dialing.as_mut().poll(cx) {
                    Poll::Pending => {
                        self.stage = Stage::Dialing(dialing);
                        return Poll::Pending;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Ready(Ok(socket)) => match Connection::new(socket, env, Arc::clone(&self.key), self.server) {
                        Ok(connection) => Stage::Handshake(Box::new(connection)),
                        Err(error) => return Poll::Ready(Err(error.into())),
                    },
                },
                Stage::Handshake(mut connection) => {
                    connection.begin_turn(env.clock.now());
                    match connection.poll(cx, None) {
                        Poll::Pending => {
                            self.stage = Stage::Handshake(connection);
                            return Poll::Pending;
                        }
                        Poll::Ready(Event::Established) => {
                            if let Some(counters) = env.counters.of(self.server) {
                                counters.connected.add(1);
                            }
                            return Poll::Ready(Ok(connection));
                        }
                        Poll::Ready(Event::Ended(end)) => {
                            return Poll::Ready(Err(error_of(&end, HANDSHAKE, Fate::NotProcessed)));
                        }
                        // Neither comes before the handshake is completed.
                        Poll::Ready(Event::Closing | Event::Due) => Stage::Ended,
                    }
                }
                Stage::Ended => return Poll::Ready(Err(Error::Closed)),
            };
        }
    }
}

/// The attempts of a round that are in progress. Dropping it ends them.
#[derive(Default)]
pub(super) struct Running(Vec<Attempt>);

impl Running {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Polls the attempts, and begins the next one under `key` when it is due. Ready if one has
    /// ended, with its server and its result.
    pub(super) fn poll(
        &mut self,
        env: &Arc<Env>,
        key: &Arc<OwnKey>,
        round: &mut Round,
        timer: &mut Timer,
        cx: &mut Context<'_>,
    ) -> Poll<(usize, Result<Box<Connection>, Error>)> {
        loop {
            for at in 0..self.0.len() {
                if let Some(attempt) = self.0.get_mut(at)
                    && let Poll::Ready(result) = attempt.poll(env, cx)
                {
                    return Poll::Ready((self.0.remove(at).server, result));
                }
            }
            if let Some(server) = env.servers.begin(round, env.clock.now()) {
                self.0.push(Attempt::begin(env, Arc::clone(key), server));
                continue;
            }
            let next = env.servers.next_at(round);
            ready!(timer.poll(cx, next.map(|at| env.clock.at(at))));
        }
    }
}

/// An attempt at this server has succeeded, which ends its round.
pub(super) fn completed(env: &Env, round: &mut Round, server: usize) {
    let (dial, now) = (env.servers.dial(server), env.clock.now());
    debug!(server = %dial, "connected");
    let random = |bound| env.entropy.below(bound);
    for slow in env.servers.completed(round, server, now, random) {
        if let Some(counters) = env.counters.of(slow) {
            counters.attempt_was_slow();
        }
        warn!(server = %env.servers.dial(slow), faster = %dial, "this server is slow to connect");
    }
}

/// A connection under a key that no server has accepted yet, to one that does.
pub(super) async fn connect_under(
    env: &Arc<Env>,
    key: &Arc<OwnKey>,
    connected: Option<usize>,
) -> Result<Box<Connection>, Error> {
    let mut round = Round::of_new_key(connected, 0);
    let (mut running, mut timer) = (Running::default(), Timer::default());
    loop {
        let (server, result) = poll_fn(|cx| running.poll(env, key, &mut round, &mut timer, cx)).await;
        let error = match result {
            Ok(connection) => {
                completed(env, &mut round, server);
                return Ok(connection);
            }
            Err(error) => error,
        };
        if let Some(counters) = env.counters.of(server) {
            counters.attempt_failed(error.attempt_end());
        }
        let (now, random) = (env.clock.now(), |bound| env.entropy.below(bound));
        if !env.servers.attempt_failed(&mut round, server, now, random) {
            return Err(error);
        }
    }
}
