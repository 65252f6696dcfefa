//! Connections from which nothing has arrived. They have no threads: the thread that accepts waits
//! for all of them. On systems other than Unix a connection gets its thread at once, so none is
//! here.

use core::net::SocketAddr;
use core::time::Duration;
use std::collections::BTreeMap;
use std::io;

use falco_core::Instant;
#[cfg(unix)]
use rustix::event::{PollFd, PollFlags, Timespec};

use super::admission::Permit;
use super::listener::Listener;
use crate::stream::BoxedStream;

pub(super) struct SilentConnection {
    pub(super) peer: Option<SocketAddr>,
    pub(super) stream: BoxedStream,
    /// Dropped last, so that the descriptor is free when the place is.
    pub(super) permit: Permit,
}

/// The connections by number. All have the same handshake timeout, so the first one expires first.
#[derive(Default)]
pub(super) struct Silent(BTreeMap<u64, SilentConnection>);

impl Silent {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a connection from which the server has read everything that has arrived.
    pub(super) fn insert(&mut self, connection: SilentConnection) {
        connection.permit.all_read();
        self.0.insert(connection.permit.number(), connection);
    }

    /// Removes connections that were dropped for others.
    pub(super) fn remove(&mut self, dropped: &[u64]) {
        for number in dropped {
            self.0.remove(number);
        }
    }

    /// The earliest handshake deadline.
    pub(super) fn first_deadline(&self) -> Option<Instant> {
        let (_, first) = self.0.first_key_value()?;
        let conn = first.permit.conn();
        conn.lock().state.poll_timeout(conn.now())
    }

    /// Ends the connections whose handshake deadline has passed, and returns how many there were.
    pub(super) fn take_expired(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        while let Some(first) = self.0.first_entry() {
            let conn = first.get().permit.conn();
            if conn.lock().state.handle_timeout(now) {
                break;
            }
            conn.cut();
            first.remove();
            expired += 1;
        }
        expired
    }

    /// Takes the connections from which something has arrived. If there are none, waits for them
    /// and for a connection on `listener`, for `limit` at most. Also returns whether a connection
    /// may be ready to accept.
    ///
    /// # Errors
    /// The system has no memory, or the limit of file descriptors is now lower than the number of
    /// sockets.
    #[cfg(unix)]
    pub(super) fn wait(
        &mut self,
        listener: Option<&Listener>,
        limit: Option<Duration>,
    ) -> io::Result<(bool, Vec<SilentConnection>)> {
        let sockets = self.0.iter().filter_map(|(number, connection)| {
            let socket = connection.permit.socket()?;
            Some((*number, PollFd::new(socket, PollFlags::IN)))
        });
        let (numbers, mut polled): (Vec<u64>, Vec<_>) = sockets.unzip();
        polled.extend(listener.map(|listener| PollFd::new(listener, PollFlags::IN)));
        // A limit that is too long for the system counts as no limit.
        let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
        match rustix::event::poll(&mut polled, limit.as_ref()) {
            Ok(1..) => {}
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok((false, Vec::new())),
            Err(error) => return Err(error.into()),
        }
        let is_ready = |polled: &PollFd<'_>| !polled.revents().is_empty();
        let accept = listener.is_some() && polled.last().is_some_and(is_ready);
        let ready = numbers.into_iter().zip(&polled).filter(|(_, polled)| is_ready(polled));
        let ready: Vec<_> = ready.map(|(number, _)| number).collect();
        let readable = ready.iter().filter_map(|number| self.0.remove(number)).collect();
        Ok((accept, readable))
    }

    #[cfg(not(unix))]
    pub(super) fn wait(
        &mut self,
        listener: Option<&Listener>,
        _limit: Option<Duration>,
    ) -> io::Result<(bool, Vec<SilentConnection>)> {
        Ok((listener.is_some(), Vec::new()))
    }
}
