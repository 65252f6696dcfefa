//! How a client changes its key.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, mpsc};

use falco_core::Key;
use falco_core::keys::ClientKeys;
use falco_core::mux::{Admitted, Round};

use super::super::connection::Connection;
use super::super::read_guard::ReadGuard;
use super::{Connector, State, spawn};
use crate::error::Error;

/// A connection, and what its thread runs, with the number of its server.
type Opened = (usize, Result<(Connection, Option<ReadGuard>), Error>);

impl Connector {
    /// Makes a connection under another key. It replaces the current one, on which no request
    /// begins from then on.
    pub(in crate::client) fn set_key(self: &Arc<Self>, key: Key) -> Result<(), Error> {
        let state = self.lock();
        if state.attempts.is_closed() {
            return Err(Error::Closed);
        }
        let old = Arc::clone(&state.keys);
        drop(state);
        let keys = Arc::new(old.with_key(key, &mut self.config.entropy.clone())?);
        drop(old);
        let (server, connection, reader) = self.connect_under(&keys)?;
        if let Some(reader) = reader {
            spawn(move || reader.run())?;
        }
        let mut state = self.lock();
        let connection = Arc::new(connection);
        if state.attempts.is_closed() {
            drop(state);
            connection.abandon();
            return Err(Error::Closed);
        }
        state.keys = keys;
        state.server = server;
        state.round.abandon();
        state.rounds += 1;
        let old = state.current.replace(connection);
        state.admitted = Admitted::new();
        state.attempts.key_changed();
        let State { attempts, admitted, .. } = &mut *state;
        attempts.established(admitted, self.clock.now());
        drop(state);
        self.changed.notify_all();
        if let Some(old) = old {
            old.drain();
        }
        Ok(())
    }

    /// A connection under keys that no server has accepted yet, to one that does.
    fn connect_under(
        self: &Arc<Self>,
        keys: &Arc<ClientKeys>,
    ) -> Result<(usize, Connection, Option<ReadGuard>), Error> {
        let mut round = {
            let state = self.lock();
            let connected = state.current.as_ref().filter(|current| current.is_open());
            Round::of_new_key(connected.map(|_| state.server), self.config.home)
        };
        let (to, ended) = channel();
        loop {
            let now = self.clock.now();
            let state = self.lock();
            let (next, next_at) = (state.servers.begin(&mut round, now), state.servers.next_at(&round));
            drop(state);
            if let Some(server) = next {
                self.attempt_under(server, keys, &to);
                continue;
            }
            let received = match next_at {
                Some(at) => ended.recv_timeout(at.since(now)),
                None => ended.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            // Another attempt is due. This side has a sender too, so it is never disconnected.
            let Ok((server, opened)) = received else { continue };
            let (now, servers) = (self.clock.now(), &mut self.lock().servers);
            let random = |bound| self.config.entropy.below(bound);
            match opened {
                Ok((connection, reader)) => {
                    servers.completed(&mut round, server, now, random);
                    return Ok((server, connection, reader));
                }
                Err(error) => {
                    if !servers.attempt_failed(&mut round, server, now, random) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Makes an attempt on a thread of its own. If another one is faster, its result is dropped.
    fn attempt_under(self: &Arc<Self>, server: usize, keys: &Arc<ClientKeys>, to: &mpsc::Sender<Opened>) {
        self.counters.attempts.add(1);
        let (own, keys, result) = (Arc::clone(self), Arc::clone(keys), to.clone());
        let spawned = spawn(move || drop(result.send((server, own.dial(server, &keys)))));
        if let Err(error) = spawned {
            let _ = to.send((server, Err(error)));
        }
    }
}
