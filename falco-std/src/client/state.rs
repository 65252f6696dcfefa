//! What the threads that use a connection of a client share: the mux with the requests and pings,
//! and what their callers wait for. No I/O.

mod open;
mod read_lock;

use std::net::Shutdown;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use falco_core::keys::ClientKeys;
use falco_core::mux::{Call, ClientMux, ClientStep, History, Unfinished};
use falco_core::{
    ClientConnection, ConnectionError, Ending, Fate, Instant, LostRequest, RequestError, Settings, Unread,
};

pub(super) use self::open::Begin;
use self::open::{Waiter, arrive, begin};
use self::read_lock::ReadLock;
use super::limit::Limit;
use super::outcome::{Ended, Job, Outcome, Reply, waiting_for};
use crate::error::{Error, copy};
use crate::shared::{Output, seal_into};

/// Where a caller waits for the outcome of its request or ping.
pub(super) struct Slot {
    ticket: u64,
    end: Mutex<End>,
    ended: Condvar,
}

#[derive(Default)]
struct End {
    outcome: Option<Outcome<Reply>>,
    /// The caller waits. Otherwise it reads, and takes the outcome itself.
    waits: bool,
}

impl Slot {
    pub(super) const fn ticket(&self) -> u64 {
        self.ticket
    }

    pub(super) fn end(&self, outcome: Outcome<Reply>) {
        let mut end = self.lock();
        end.outcome = Some(outcome);
        if end.waits {
            self.ended.notify_one();
        }
    }

    /// How the request has completed, if it has.
    pub(super) fn take(&self) -> Option<Outcome<Reply>> {
        self.lock().outcome.take()
    }

    /// How the request has completed, or `None` if it has not within `limit`.
    pub(super) fn wait(&self, limit: Option<Limit>) -> Option<Outcome<Reply>> {
        let mut end = self.lock();
        end.waits = true;
        let mut end = match limit {
            Some(limit) => {
                let waited = (self.ended).wait_timeout_while(end, limit.left(), |end| end.outcome.is_none());
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => (self.ended)
                .wait_while(end, |end| end.outcome.is_none())
                .unwrap_or_else(PoisonError::into_inner),
        };
        end.outcome.take()
    }

    fn lock(&self) -> MutexGuard<'_, End> {
        self.end.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The result of receiving unread bytes.
pub(super) enum Progress {
    /// A step was processed.
    Again,
    /// The next step needs this many unread bytes in all.
    NeedMore(usize),
}

pub(super) type Mux = ClientMux<Arc<ClientKeys>, Vec<u8>, Waiter, Arc<Slot>>;

pub(super) struct State {
    pub(super) mux: Mux,
    window_kib: u16,
    tickets: u64,
    /// Pings that have not completed.
    pings: usize,
    /// Which thread reads, if several may.
    pub(super) read_lock: ReadLock,
    /// The connection has ended, and all requests and pings have completed.
    pub(super) ended: bool,
    /// When the connection stopped accepting requests, and the reason if it has ended.
    lost: Option<(Instant, Option<Error>)>,
    /// When bytes last arrived.
    last_input: Instant,
    /// When the connection was last known to be alive. Bytes that arrive after a pause
    /// ([`ClientMux::is_quiet`]) count only if nothing more is readable, because that could be the
    /// end of the stream.
    last_alive: Instant,
    /// There is one request at a time.
    one_by_one: bool,
    /// Why nothing more can be written.
    write_error: Option<Ended>,
    write_failed: bool,
    ending: Option<Ending>,
}

impl State {
    pub(super) fn new(machine: ClientConnection<Arc<ClientKeys>>, settings: &Settings, one_by_one: bool) -> Self {
        Self {
            mux: ClientMux::new(machine, settings),
            window_kib: settings.window_kib(),
            tickets: 0,
            pings: 0,
            read_lock: ReadLock::default(),
            ended: false,
            lost: None,
            last_input: Instant::ZERO,
            last_alive: Instant::ZERO,
            one_by_one,
            write_error: None,
            write_failed: false,
            ending: None,
        }
    }

    /// What the connection has learned about its server; when the connection was lost, if that was
    /// noted; and why.
    pub(super) fn history(&self) -> (History, Option<Instant>, Option<Error>) {
        let (at, why) = self
            .lost
            .as_ref()
            .map_or((None, None), |(at, why)| (Some(*at), why.as_ref()));
        let why = why.map(|why| why.with_fate(Fate::NotProcessed));
        (self.mux.history(), at, why)
    }

    pub(super) fn is_open(&self) -> bool {
        !self.ended && !self.write_failed && self.mux.is_open()
    }

    /// How many requests and pings there have been.
    pub(super) const fn requests(&self) -> u64 {
        self.tickets
    }

    /// Whether the connection must be read until something has changed.
    pub(super) fn needs_reader(&self) -> bool {
        !self.is_open() || self.mux.outstanding() > 0 || self.pings > 0
    }

    /// Notes that bytes have arrived. `more` returns whether something more is readable.
    pub(super) fn received(&mut self, now: Instant, more: impl FnOnce() -> bool) {
        let was_quiet = self.mux.is_quiet(core::mem::replace(&mut self.last_input, now), now);
        if !was_quiet || !more() {
            self.last_alive = now;
        }
    }

    /// Whether the connection may have ended and the reader has not noticed it yet.
    pub(super) fn is_quiet(&self, now: Instant) -> bool {
        self.mux.is_quiet(self.last_alive, now)
    }

    pub(super) fn slot(&mut self) -> Arc<Slot> {
        self.tickets += 1;
        Arc::new(Slot {
            ticket: self.tickets,
            end: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// Queues a request. If it cannot begin on this connection, returns its outcome.
    pub(super) fn add(&mut self, job: Job) -> Result<Arc<Slot>, Outcome<Reply>> {
        if !self.is_open() {
            return Err(Outcome::Retry(job));
        }
        let slot = self.slot();
        let mut call = Call::new(slot.ticket, job.body, Waiter::Caller(Arc::clone(&slot)));
        call.attempts = job.attempts;
        match self.mux.request(call) {
            Ok(()) => Ok(slot),
            Err((call, None)) => Err(Outcome::Retry(job_of(call).1)),
            Err((_, Some(error))) => Err(Outcome::Failed(Error::Request(error))),
        }
    }

    /// Queues a ping, as [`add`](Self::add) does a request.
    pub(super) fn ping(&mut self, job: Job) -> Result<Arc<Slot>, Outcome<Reply>> {
        if !self.is_open() {
            return Err(Outcome::Retry(job));
        }
        let slot = self.slot();
        let mut ping = Call::new(slot.ticket, (), Arc::clone(&slot));
        ping.attempts = job.attempts;
        match self.mux.ping(ping) {
            Ok(()) => {
                self.pings += 1;
                Ok(slot)
            }
            Err(_) => Err(Outcome::Retry(job)),
        }
    }

    /// Cancels the request or the ping of `slot`, because its caller no longer waits. Returns its
    /// fate, and also the request or ping unless it has completed.
    pub(super) fn cancel(&mut self, slot: &Slot) -> (Fate, Option<Job>) {
        let mut pings = self.mux.take_pings(|own| own.ticket == slot.ticket);
        if let Some(ping) = pings.pop() {
            self.pings -= 1;
            return (Fate::OF_PING, Some(job_of_ping(&ping)));
        }
        self.end_writing(false);
        let (call, fate) = self.mux.cancel(slot.ticket).unzip();
        (
            fate.unwrap_or(LostRequest::DROPPED.fate),
            call.map(|call| job_of(call).1),
        )
    }

    /// Nothing more is written. With one request at a time it is known whether the stream has
    /// accepted it.
    fn end_writing(&mut self, all_accepted: bool) {
        if self.one_by_one {
            self.mux.writing_ended(all_accepted);
        }
    }

    /// Receives one step from the unread bytes, and completes the request that it belongs to.
    pub(super) fn recv(&mut self, now: Instant, unread: Unread<'_, '_>) -> Result<Progress, ConnectionError> {
        match self.mux.recv(now, unread)? {
            ClientStep::NeedMore { total } => return Ok(Progress::NeedMore(total)),
            ClientStep::Answer { waiter, body } => {
                waiter.answer(body.into_vec());
            }
            ClientStep::Refused { call, refusal, retry } => {
                let error = Error::Request(RequestError::Refused(refusal));
                let (waiter, job) = job_of(call);
                if retry {
                    waiter.retry(job);
                } else {
                    waiter.fail(error);
                }
            }
            ClientStep::Pong { waiters } => {
                for slot in waiters {
                    self.pings -= 1;
                    slot.end(Outcome::Done(Reply::Pong));
                }
            }
            ClientStep::Opened { ticket, body } => {
                begin(&mut self.mux, ticket);
                arrive(&mut self.mux, ticket, body);
            }
            ClientStep::Part { ticket, body } => {
                arrive(&mut self.mux, ticket, body);
            }
            ClientStep::Ended { waiter, .. } => {
                waiter.end_stream();
            }
            ClientStep::OpenRefused { waiter, refusal, .. } => {
                waiter.fail(Error::Request(RequestError::Refused(refusal)));
            }
            ClientStep::Closing { .. } => {
                self.move_unbegun(now);
            }
            ClientStep::Skip | ClientStep::Established | _ => {}
        }
        Ok(Progress::Again)
    }

    fn seal_once(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        seal_into(out, self.mux.seal_size(), |out| {
            self.mux
                .seal(now, out, |waiter, error| waiter.fail(Error::Request(error)))
        })
    }

    /// If the connection no longer accepts requests, those that have not begun go to another
    /// connection.
    fn move_unbegun(&mut self, now: Instant) {
        let Some(unbegun) = self.mux.poll_closing() else {
            return;
        };
        self.lost.get_or_insert((now, None));
        for call in unbegun {
            let (waiter, job) = job_of(call);
            waiter.retry(job);
        }
        self.move_unbegun_opens();
    }

    /// Takes the error of the write that failed, if one has.
    pub(super) const fn take_write_error(&mut self) -> Option<Ended> {
        self.write_error.take()
    }

    /// The connection has ended: completes all requests and pings. Later calls do nothing.
    pub(super) fn finish(&mut self, now: Instant, end: &Ended) {
        if self.ended {
            return;
        }
        self.ended = true;
        self.ending = end.as_ref().ok().map(|end| self.mux.ending(*end, now));
        let why = |fate| match end {
            Ok(end) => Error::Connection { end: *end, fate },
            Err(source) => Error::io(waiting_for(fate), copy(source), fate),
        };
        let at = self.lost.take().map_or(now, |(at, _)| at);
        self.lost = Some((at, Some(why(Fate::NotProcessed))));
        self.end_writing(false);
        self.finish_opens(why);
        for Unfinished { call, fate, retry, .. } in self.mux.finish() {
            let (waiter, job) = job_of(call);
            if retry {
                waiter.retry(job);
            } else {
                waiter.fail(why(fate));
            }
        }
        for Unfinished { call, fate, retry, .. } in self.mux.finish_pings() {
            call.waiter.end(if retry {
                Outcome::Retry(job_of_ping(&call))
            } else {
                Outcome::Failed(why(fate))
            });
        }
    }
}

fn job_of<W>(call: Call<Vec<u8>, W>) -> (W, Job) {
    let (body, attempts) = (call.body, call.attempts);
    (call.waiter, Job { body, attempts })
}

fn job_of_ping<P>(ping: &Call<(), P>) -> Job {
    Job {
        body: Vec::new(),
        attempts: ping.attempts,
    }
}

impl Output for State {
    fn seal(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        if self.write_failed {
            return 0;
        }
        self.pump_writable();
        let mut sealed = self.seal_once(now, out);
        if sealed == 0 && self.pump_writable() {
            sealed = self.seal_once(now, out);
        }
        self.note_begun();
        // The connection may have closed because it has no request ids left.
        self.move_unbegun(now);
        sealed
    }

    fn all_sealed(&mut self) -> bool {
        self.pump_writable();
        self.mux.all_sealed()
    }

    fn write_failed(&mut self, why: Ended, written: bool) {
        self.end_writing(written);
        self.write_failed = true;
        self.write_error.get_or_insert(why);
    }

    fn blocked(&mut self, since: Instant, now: Instant) -> bool {
        self.mux.blocked(since);
        self.mux.is_stalled(now, self.ending)
    }

    fn unblocked(&mut self) {
        self.mux.wrote();
    }

    fn drained(&mut self, _now: Instant) -> Option<Shutdown> {
        if self.write_failed {
            return None;
        }
        for slot in self.mux.flushed() {
            self.pings -= 1;
            slot.end(Outcome::Done(Reply::Unanswered));
        }
        // The reader ends the stream.
        None
    }

    fn ending(&mut self) -> &mut Option<Ending> {
        &mut self.ending
    }

    fn writes_until(&self, since: Instant) -> Instant {
        self.mux.writes_until(since, self.ending)
    }

    fn set_reading(&mut self, now: Instant, reading: bool) {
        self.mux.set_reading(now, reading);
    }
}

#[cfg(test)]
mod tests {
    use core::time::Duration;

    use falco_core::keys::ClientKeySource;
    use falco_core::mux::Attempts;
    use falco_core::{Key, Settings};

    use super::*;
    use crate::entropy;

    fn state() -> State {
        let mut entropy = entropy::system();
        let key = Key::from_bytes([7; 32]).expect("it is not zero");
        let keys = ClientKeySource::noise(key)
            .keys(&mut entropy)
            .expect("they fit together");
        let machine = ClientConnection::new(keys, &Settings::new(), Instant::ZERO, &mut entropy);
        State::new(machine.expect("the system has random numbers"), &Settings::new(), false)
    }

    fn returned(outcome: Option<Outcome<Reply>>) -> Vec<u8> {
        match outcome {
            Some(Outcome::Retry(job)) => job.body,
            Some(Outcome::Done(_) | Outcome::Failed(_)) | None => panic!("it goes to the next connection"),
        }
    }

    #[test]
    fn a_request_goes_to_the_next_connection_without_another_copy() {
        let job = Job::new(b"hello");
        let body = job.body.as_ptr();
        let mut lost = state();
        let Ok(slot) = lost.add(job) else {
            panic!("requests can begin");
        };
        lost.finish(Instant::ZERO, &Ok(ConnectionError::Closed));
        let back = returned(slot.take());
        assert_eq!((back.as_slice(), back.as_ptr()), (&b"hello"[..], body));
        let Err(Outcome::Retry(job)) = lost.add(Job {
            body: back,
            attempts: Attempts::default(),
        }) else {
            panic!("the connection has ended");
        };
        let mut cancelled = state();
        let Ok(slot) = cancelled.add(job) else {
            panic!("requests can begin");
        };
        let (fate, job) = cancelled.cancel(&slot);
        assert_eq!(fate, Fate::NotProcessed);
        assert_eq!(job.map(|job| job.body.as_ptr()), Some(body));
    }

    #[test]
    fn a_write_of_a_process_that_was_stopped_has_another_lifetime() {
        let mut state = state();
        let (since, lifetime) = (Instant::from_millis(100), Duration::from_secs(60));
        let late = since + lifetime + Duration::from_secs(1);
        assert!(!state.blocked(since, late));
        assert!(state.blocked(since, late + lifetime));
    }
}
