//! An attempt to connect to a server: its stream is opened, and then the handshake is done.

use core::task::{Context, Poll};
use std::sync::Arc;

use falco_core::Fate;

use super::call::{HANDSHAKE, error_of};
use super::connection::{Connection, Event};
use super::dial::Dialing;
use super::env::{Env, OwnKey};
use crate::error::Error;

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
        env.counters.attempts.add(1);
        let dial = env.servers.dial(server);
        let stage = Stage::Dialing(dial.dial(env.connect_timeout, env.settings.lifetime()));
        Self { server, key, stage }
    }

    pub(super) const fn server(&self) -> usize {
        self.server
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
                            env.counters.connected.add(1);
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
