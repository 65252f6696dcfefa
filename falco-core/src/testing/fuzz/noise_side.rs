//! One of two correct sides of the noise wire, with its end of a link that splits the stream and
//! loses nothing. Invariants are checked after each step.

use std::vec::Vec;

use super::noise_attacker::MAX_IN_FLIGHT;
use crate::{BufferSizes, Connection, ConnectionError, Instant, KeyRef, Received, Role, Unread};

/// Output for a whole record, and pending output before it.
pub(super) const ROOM: usize = 260;

/// One side and its end of the link.
pub(super) struct Side<R: Role, H: KeyRef<R>> {
    pub(super) machine: Connection<R, H>,
    /// Bytes that have arrived and are not consumed.
    pub(super) inbox: Vec<u8>,
    /// Bytes that were sent and have not arrived.
    pub(super) sent: Vec<u8>,
    /// Bytes that were sent in all.
    pub(super) wrote: usize,
    /// The other side has shut down its stream: nothing follows its bytes.
    pub(super) hung_up: bool,
    pub(super) end: Option<ConnectionError>,
    deadline: Instant,
    /// Whether a deadline may become earlier, because the side has paused reading or sends PINGs
    /// itself.
    pub(super) deadlines_move: bool,
    /// All events of the received bytes were taken.
    pub(super) told_all: bool,
}

impl<R: Role, H: KeyRef<R>> Side<R, H> {
    pub(super) fn new(machine: Connection<R, H>, deadlines_move: bool) -> Self {
        Self {
            machine,
            inbox: Vec::new(),
            sent: Vec::new(),
            wrote: 0,
            hung_up: false,
            end: None,
            deadline: Instant::ZERO,
            deadlines_move,
            told_all: false,
        }
    }

    pub(super) fn transmit(&mut self, now: Instant) {
        let mut out = [0; BufferSizes::TRANSMIT];
        let length = self.machine.poll_transmit(now, &mut out).expect("there is room");
        self.send(out.split_at(length).0);
    }

    fn send(&mut self, bytes: &[u8]) {
        self.sent.extend_from_slice(bytes);
        self.wrote += bytes.len();
    }

    /// Seals into `room` bytes of output.
    pub(super) fn seal<'m>(
        &mut self,
        now: Instant,
        room: usize,
        messages: impl Iterator<Item = (&'m mut R::Outgoing, &'m [u8])>,
    ) where
        R::Outgoing: 'm,
    {
        let mut out = std::vec![0; room];
        let length = self.machine.seal(now, messages, &mut out).unwrap_or(0);
        self.send(out.split_at(length).0);
    }

    /// Passes the next event to `take`, if there is one, and drops the bytes that it consumed.
    pub(super) fn next<T>(&mut self, now: Instant, take: impl FnOnce(R::Event<'_>) -> T) -> Option<T> {
        self.told_all = false;
        loop {
            let mut start = 0;
            match self.machine.recv(now, Unread::new(&mut self.inbox, &mut start)) {
                Ok(Received::Event(event)) => {
                    assert!(self.end.is_none(), "an event after the end");
                    let taken = take(event);
                    self.inbox.drain(..start);
                    return Some(taken);
                }
                Ok(Received::Skip) => drop(self.inbox.drain(..start)),
                Ok(Received::NeedMore { total }) => {
                    assert!(total > self.inbox.len(), "{total} bytes are there");
                    self.told_all = true;
                    if self.hung_up {
                        let _ = self.machine.end_of_stream(now, &self.inbox);
                    }
                    return None;
                }
                Ok(Received::Wait(_)) | Err(_) => return None,
            }
        }
    }

    /// Checks invariants of both roles after each step.
    pub(super) fn check(&mut self) {
        let end = self.machine.end();
        assert!(
            self.end.is_none() || end == self.end,
            "a connection that has ended stays so"
        );
        self.end = end;
        assert!(
            self.machine.in_flight() <= MAX_IN_FLIGHT.into(),
            "more are in flight than allowed"
        );
        assert!(
            end.is_none_or(is_fair),
            "one of two correct sides found an error of the other: {end:?}"
        );
        if let Some(deadline) = self.machine.poll_timeout() {
            assert!(end.is_none(), "nothing is due after the end");
            assert!(
                self.deadlines_move || deadline >= self.deadline,
                "a deadline went backwards"
            );
            self.deadline = deadline;
        } else {
            assert!(end.is_some(), "a connection that lives has a deadline");
        }
    }
}

/// Whether a connection between two correct sides may end like this, given that deadlines pass and
/// streams end.
const fn is_fair(end: ConnectionError) -> bool {
    matches!(
        end,
        ConnectionError::Closed
            | ConnectionError::ClosedByPeer
            | ConnectionError::Expired
            | ConnectionError::HandshakeTimeout
            | ConnectionError::PeerDead
            | ConnectionError::PeerExpired
            | ConnectionError::Refused
            | ConnectionError::Truncated
    )
}
