//! What the threads that share a connection of a client share: the requests with those who wait, in
//! the core's care, and the pings. No I/O.

use core::time::Duration;
use std::io;
use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use falco_core::keys::ClientKeys;
use falco_core::mux::{Attempts, Call, ClientMux, ClientStep, Ending, LastStep, Rejected, Retry, Unfinished};
use falco_core::{ClientConnection, CloseReason, ConnectionError, Fate, Instant, RequestError};

use super::limit::Limit;
use crate::error::Error;
use crate::line::{Source, seal_into};

/// A connection that has heard nothing for so long is looked at before something is sent on it. It
/// costs a system call, which requests that follow one another are spared.
const UNHEARD: Duration = Duration::from_millis(1);

/// What came of a request or a ping.
pub(super) enum End {
    Answer(Vec<u8>),
    Failed(Error),
    /// It was not processed, and goes to another connection. With the reason, if there is one.
    Retry(Attempts, Option<Error>),
}

/// Where a caller waits.
pub(super) struct Slot {
    ticket: u64,
    /// How often other connections have tried it.
    attempts: Attempts,
    end: Mutex<Option<End>>,
    ended: Condvar,
}

impl Slot {
    /// The connection was lost after something was sent, or not all of it was written: what becomes
    /// of a request or ping of this fate.
    pub(super) fn lost(&self, fate: Fate, why: Error) -> End {
        let mut attempts = self.attempts;
        match attempts.after_loss(fate) {
            Retry::Again => End::Retry(attempts, Some(why)),
            Retry::Fail => End::Failed(why),
        }
    }

    fn end(&self, end: End) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        self.ended.notify_one();
    }

    /// What came of it, if something has.
    pub(super) fn take(&self) -> Option<End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// What came of it; none where nothing has within `limit`.
    pub(super) fn wait(&self, limit: Option<Limit>) -> Option<End> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let mut end = match limit {
            Some(limit) => {
                let waited = self.ended.wait_timeout_while(end, limit.left(), |end| end.is_none());
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self
                .ended
                .wait_while(end, |end| end.is_none())
                .unwrap_or_else(PoisonError::into_inner),
        };
        end.take()
    }
}

/// What a connection has seen, for what is made of its end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Past {
    /// The server has said that the key is out of service.
    pub(super) key_retired: bool,
    /// The server has answered a request, or refused one by name.
    pub(super) served: bool,
}

/// What came of one look at the unread bytes.
pub(super) enum Look {
    /// So many of them are done with; look again.
    Taken(usize),
    /// So many in all bring the next step.
    NeedMore(usize),
    /// Something has to be written first.
    WriteFirst,
}

pub(super) struct State {
    pub(super) mux: ClientMux<Arc<ClientKeys>, Vec<u8>, Arc<Slot>>,
    tickets: u64,
    /// The connection is over, and everybody has been told.
    pub(super) over: bool,
    key_retired: bool,
    /// When something last came.
    came: Instant,
    /// The same, but what came after a while in which nothing did counts only if nothing lay behind
    /// it.
    heard: Instant,
    /// Why nothing more can be written.
    trouble: Option<io::Result<ConnectionError>>,
    broken: bool,
    ending: Option<Ending>,
}

impl State {
    /// While more than `max_held` bytes of requests are under way, others are held back here.
    pub(super) fn new(machine: ClientConnection<Arc<ClientKeys>>, max_held: usize) -> Self {
        Self {
            mux: ClientMux::new(machine).with_max_held(max_held),
            tickets: 0,
            over: false,
            key_retired: false,
            came: Instant::ZERO,
            heard: Instant::ZERO,
            trouble: None,
            broken: false,
            ending: None,
        }
    }

    pub(super) const fn past(&self) -> Past {
        Past {
            key_retired: self.key_retired,
            served: self.mux.has_served(),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.over && !self.broken && self.mux.is_open()
    }

    /// Something has come. After a while in which nothing did, `more` says whether something lies
    /// behind it, such as the end.
    pub(super) fn heard(&mut self, now: Instant, more: impl FnOnce() -> bool) {
        let goes_on = now.since(core::mem::replace(&mut self.came, now)) < UNHEARD;
        if goes_on || !more() {
            self.heard = now;
        }
    }

    /// Whether so long ago that the connection may have ended meanwhile without anybody having been
    /// there to see it.
    pub(super) fn is_unheard(&self, now: Instant) -> bool {
        now.since(self.heard) >= UNHEARD
    }

    fn slot(&mut self, attempts: Attempts) -> Arc<Slot> {
        self.tickets += 1;
        Arc::new(Slot {
            ticket: self.tickets,
            attempts,
            end: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// Queues a request. `None`: nothing more begins on this connection.
    pub(super) fn add(&mut self, body: &[u8], attempts: Attempts) -> Result<Option<Arc<Slot>>, Error> {
        if !self.is_open() {
            return Ok(None);
        }
        let slot = self.slot(attempts);
        let mut call = Call::new(slot.ticket, body.to_vec(), Arc::clone(&slot));
        call.attempts = attempts;
        match self.mux.request(call) {
            Ok(()) => Ok(Some(slot)),
            Err(Rejected::Closed(_)) => Ok(None),
            Err(Rejected::Failed(_, error)) => Err(Error::Request(error)),
        }
    }

    pub(super) fn ping(&mut self, attempts: Attempts) -> Option<Arc<Slot>> {
        if !self.is_open() {
            return None;
        }
        let slot = self.slot(attempts);
        self.mux.ping(Arc::clone(&slot)).is_ok().then_some(slot)
    }

    /// Nobody waits at `slot` any more: what was not sent is not, what was is cancelled. Says what
    /// that means for the request.
    pub(super) fn leave(&mut self, slot: &Slot) -> Fate {
        drop(self.mux.take_pings(|own| own.ticket == slot.ticket));
        self.mux
            .cancel(slot.ticket)
            .map_or(Fate::MaybeProcessed, |(_, fate)| fate)
    }

    /// Looks once at the unread bytes, and tells those who wait what came.
    pub(super) fn recv(&mut self, now: Instant, unread: &mut [u8]) -> Result<Look, ConnectionError> {
        Ok(match self.mux.recv(now, unread)? {
            ClientStep::NeedMore { total } => Look::NeedMore(total),
            ClientStep::Skip { consumed } | ClientStep::Established { consumed } => Look::Taken(consumed),
            ClientStep::Answer { consumed, waiter, body } => {
                waiter.end(End::Answer(body.into_vec()));
                Look::Taken(consumed)
            }
            ClientStep::Refused {
                consumed,
                call,
                refusal,
                retry,
            } => {
                let error = Error::Request(RequestError::Refused(refusal));
                call.waiter.end(match retry {
                    Retry::Again => End::Retry(call.attempts, Some(error)),
                    Retry::Fail => End::Failed(error),
                });
                Look::Taken(consumed)
            }
            ClientStep::Pong { consumed, waiters } => {
                for slot in waiters {
                    slot.end(End::Answer(Vec::new()));
                }
                Look::Taken(consumed)
            }
            ClientStep::Closing { consumed, reason } => {
                self.key_retired = reason == CloseReason::KeyRetired;
                self.move_on();
                Look::Taken(consumed)
            }
            ClientStep::TransmitFirst | _ => Look::WriteFirst,
        })
    }

    /// Requests that have not begun go elsewhere.
    fn move_on(&mut self) {
        for call in self.mux.take_unbegun() {
            call.waiter.end(End::Retry(call.attempts, None));
        }
    }

    /// The connection is over: whether the request of `slot` is known not to have been processed.
    pub(super) fn is_unprocessed(&mut self, slot: &Slot) -> bool {
        let left = self.mux.finish();
        left.iter()
            .any(|left| left.call.ticket == slot.ticket && left.fate == Fate::NotProcessed)
    }

    /// Why nothing more could be written, if so.
    pub(super) const fn take_trouble(&mut self) -> Option<io::Result<ConnectionError>> {
        self.trouble.take()
    }

    /// The connection is over: everybody who waits is told, once.
    pub(super) fn finish(&mut self, now: Instant, mut end: io::Result<ConnectionError>) {
        if self.over {
            return;
        }
        self.over = true;
        self.ending = end.as_ref().ok().map(|end| self.mux.ending(*end, now));
        let mut why = move |fate| match &mut end {
            Ok(end) => Error::Connection { end: *end, fate },
            Err(source) => {
                let kind = source.kind();
                let source = core::mem::replace(source, kind.into());
                Error::io("waiting for the answer", source, fate)
            }
        };
        for Unfinished { call, fate, retry, .. } in self.mux.finish() {
            call.waiter.end(match retry {
                Retry::Again => End::Retry(call.attempts, Some(why(fate))),
                Retry::Fail => End::Failed(why(fate)),
            });
        }
        for slot in self.mux.take_pings(|_| true) {
            slot.end(slot.lost(Fate::NotProcessed, why(Fate::NotProcessed)));
        }
    }
}

impl Source for State {
    fn seal(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        if self.broken {
            return 0;
        }
        let sealed = seal_into(out, self.mux.seal_size(), |out| {
            self.mux.seal(now, out, |slot, error| {
                slot.end(End::Failed(Error::Request(error)));
            })
        });
        if !self.mux.is_open() && self.mux.has_unbegun() {
            // It is closing, or has no numbers any more.
            self.move_on();
        }
        sealed
    }

    fn lifetime(&self) -> Duration {
        self.mux.machine().lifetime()
    }

    fn broken(&mut self, why: io::Result<ConnectionError>) {
        self.broken = true;
        self.trouble = Some(why);
    }

    fn blocked(&mut self, since: Instant, now: Instant) -> bool {
        self.mux.blocked(since);
        let late = self.ending.map(|ending| ending.step(now) == LastStep::Close);
        late.unwrap_or_else(|| self.mux.is_stalled(now))
    }

    fn wrote(&mut self) {
        self.mux.wrote();
    }

    fn rested(&mut self, _now: Instant) -> Option<Shutdown> {
        // The thread that reads ends the stream.
        None
    }

    fn ending(&mut self) -> &mut Option<Ending> {
        &mut self.ending
    }
}
