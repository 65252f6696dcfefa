//! The open requests of a connection: it hands bytes on between their halves and the mux.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use falco_core::mux::{Halves, KeyShares, ServerMux};
use falco_core::{Instant, KeyId, LostRequest, NoAnswer, RequestError, RequestId};

use super::{Conn, Mux, State, Work};
use crate::open::{ConnectionHandle, HalfError, Pipe};

/// How many handlers of open requests a server may have, waiting and running. They may wait for
/// their clients for a long time, so they get a part of the workers.
#[derive(Clone, Debug)]
pub(in crate::server) struct OpenPlaces(Arc<Mutex<Places>>);

#[derive(Debug)]
struct Places {
    left: usize,
    shares: KeyShares,
}

impl OpenPlaces {
    pub(in crate::server) fn new(places: usize) -> Self {
        let shares = KeyShares::default();
        Self(Arc::new(Mutex::new(Places { left: places, shares })))
    }

    /// Prevents one key from taking all places, because the server has several keys.
    pub(in crate::server) fn share_by_key(&self) {
        self.lock().shares.divide();
    }

    pub(super) fn take(&self, key: Option<KeyId>) -> Option<OpenPlace> {
        let mut places = self.lock();
        let left = places.left.checked_sub(1)?;
        if !places.shares.has_room(key, 1, left) {
            return None;
        }
        places.left = left;
        places.shares.take(key, 1);
        Some(OpenPlace(self.clone(), key))
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        // Nothing panics while the lock is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place of a handler, until it has returned.
pub(in crate::server) struct OpenPlace(OpenPlaces, Option<KeyId>);

impl Drop for OpenPlace {
    fn drop(&mut self) {
        let Self(places, key) = self;
        let mut places = places.lock();
        places.left += 1;
        places.shares.give_back(*key, 1);
    }
}

struct StreamHandle {
    /// Weak, so that halves do not keep the stream of a connection that has ended.
    conn: Weak<Conn>,
    id: RequestId,
}

impl ConnectionHandle for StreamHandle {
    fn notify(&self) {
        if let Some(conn) = self.conn.upgrade() {
            conn.lock().state.pump(self.id);
            conn.flush();
        }
    }
}

/// An open request of a connection.
pub(in crate::server) struct Open(Arc<Pipe>);

impl Drop for Open {
    /// Without effect if the request has ended. Otherwise its connection has ended, for instance by
    /// a panic of its stream, and this wakes a handler that waits.
    fn drop(&mut self) {
        self.0.update(|halves| halves.lose(LostRequest::DROPPED));
    }
}

/// The open requests of a connection that have not completed. An idle connection has no memory for
/// them.
#[derive(Default)]
pub(in crate::server) struct Opens(Option<HashMap<RequestId, Open>>);

impl Opens {
    /// Adds one, and returns what its halves share with the connection.
    pub(super) fn add(&mut self, id: RequestId, conn: Weak<Conn>, halves: Halves<HalfError>) -> Arc<Pipe> {
        let pipe = Pipe::new(Box::new(StreamHandle { conn, id }), halves);
        let open = Open(Arc::clone(&pipe));
        self.0.get_or_insert_default().insert(id, open);
        pipe
    }

    /// What the halves of a request share.
    pub(in crate::server) fn pipe(&self, id: RequestId) -> Option<&Pipe> {
        Some(&*self.0.as_ref()?.get(&id)?.0)
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<Open> {
        let opens = self.0.as_mut()?;
        let open = opens.remove(&id);
        if opens.is_empty() {
            self.0 = None;
        }
        open
    }

    /// The connection has ended with this error. Returns how many requests had their whole answer,
    /// although their handlers have not returned.
    pub(super) fn fail_all(&mut self, why: &HalfError) -> u64 {
        let mut answered = 0;
        for (_, open) in self.0.take().into_iter().flatten() {
            answered += u64::from(open.0.count_answer());
            open.0.update(|halves| halves.fail(why.clone()));
        }
        answered
    }
}

impl State {
    /// Adds an open request that begins with these bytes, as [`push`](Self::push) does, or refuses
    /// it as busy if there is no place for its handler.
    #[must_use]
    pub(in crate::server) fn push_open(&mut self, now: Instant, id: RequestId, body: &[u8]) -> bool {
        self.push_stream(now, id, body, ServerMux::begin_handler)
    }

    /// Adds a complete request whose handler writes an open answer, as `push_open` does.
    pub(super) fn push_whole(&mut self, now: Instant, id: RequestId, body: &[u8]) -> bool {
        let schedule = self.push_stream(now, id, body, ServerMux::begin_whole);
        self.end_body(id);
        schedule
    }

    fn push_stream(
        &mut self,
        now: Instant,
        id: RequestId,
        body: &[u8],
        begin: impl FnOnce(&mut Mux, RequestId) -> Option<Halves<HalfError>>,
    ) -> bool {
        let key = self.mux.connection().key_id();
        let Some(place) = self.open_places.as_ref().and_then(|places| places.take(key)) else {
            self.mux.refuse_unhandled(id);
            return false;
        };
        let Some(halves) = begin(&mut self.mux, id) else {
            return false;
        };
        let pipe = self.opens.add(id, Weak::clone(&self.own), halves);
        pipe.arrive(body);
        self.push_work(now, id, Work::Open(pipe, place))
    }

    /// Moves data between the halves of an open request and the mux.
    pub(super) fn pump(&mut self, id: RequestId) {
        if let Some(pipe) = self.opens.pipe(id) {
            pipe.pump(|halves, next| self.mux.pump(id, halves, next));
        }
    }

    /// Moves to the mux what handlers have written and the mux has room for. Returns whether there
    /// was something.
    pub(super) fn pump_writable(&mut self) -> bool {
        let mut pumped = false;
        while let Some(id) = self.mux.poll_writable() {
            self.pump(id);
            pumped = true;
        }
        pumped
    }

    /// The handler of an open request has ended. Returns as `answer` does.
    pub(in crate::server) fn end_open(
        &mut self,
        id: RequestId,
        result: Result<(), NoAnswer<'_>>,
    ) -> Result<bool, RequestError> {
        self.forget(id);
        let Some(open) = self.opens.remove(id) else {
            return Ok(false);
        };
        open.0
            .hand_over(|halves, next| self.mux.handled(id, halves, result, next))
    }
}
