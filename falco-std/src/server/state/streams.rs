//! The open requests of a connection: it hands bytes on between their halves and the mux.

use core::fmt;
use core::sync::atomic::{AtomicUsize, Ordering};
use std::collections::HashMap;
use std::sync::{Arc, Weak};

use falco_core::mux::{NoAnswer, StreamError};
use falco_core::{ConnectionError, Fate, Refusal, RequestError, RequestId};

use super::{Conn, State};
use crate::error::Error;
use crate::open::{Owner, Pipe};

/// How many handlers of open requests a server may have, waiting and running. They may wait for
/// their clients for a long time, so they get a part of the workers.
#[derive(Clone, Debug)]
pub(in crate::server) struct OpenPlaces(Arc<AtomicUsize>);

impl OpenPlaces {
    pub(in crate::server) fn new(places: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(places)))
    }

    pub(super) fn take(&self) -> Option<OpenPlace> {
        let left = |left: usize| left.checked_sub(1);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left);
        taken.ok().map(|_| OpenPlace(self.clone()))
    }
}

/// A place of a handler, until it has returned.
pub(in crate::server) struct OpenPlace(OpenPlaces);

impl Drop for OpenPlace {
    fn drop(&mut self) {
        self.0.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct StreamOwner {
    /// Weak, so that halves do not keep the stream of a connection that has ended.
    conn: Weak<Conn>,
    id: RequestId,
}

impl Owner for StreamOwner {
    fn notify(&self) {
        if let Some(conn) = self.conn.upgrade() {
            conn.lock().state.pump(self.id);
            conn.flush();
        }
    }
}

/// An open request of a connection.
#[expect(clippy::struct_excessive_bools, reason = "they are independent")]
pub(in crate::server) struct Open {
    pipe: Arc<Pipe>,
    /// Its answer has begun.
    answering: bool,
    /// The connection has all of its answer.
    answered: bool,
    /// Its handler has returned.
    handled: bool,
    /// Its handler has dropped the rest of the body.
    discarded: bool,
    /// The client has cancelled it before the connection had all of its answer.
    cancelled: bool,
}

impl Drop for Open {
    /// Without effect if the request has ended. Otherwise its connection is gone, for instance by a
    /// panic of its stream, and a handler that waits has to know.
    fn drop(&mut self) {
        let (end, fate) = (ConnectionError::Closed, Fate::MaybeProcessed);
        self.pipe.fail(Error::Connection { end, fate });
    }
}

/// The open requests of a connection that have not completed. An idle connection has no memory for
/// them.
#[derive(Default)]
pub(in crate::server) struct Opens(Option<HashMap<RequestId, Open>>);

impl Opens {
    /// Adds one, and returns what its halves share with the connection.
    pub(super) fn add(&mut self, id: RequestId, conn: Weak<Conn>, window_kib: u16) -> Arc<Pipe> {
        let pipe = Pipe::new(Box::new(StreamOwner { conn, id }), window_kib, false);
        let open = Open {
            pipe: Arc::clone(&pipe),
            answering: false,
            answered: false,
            handled: false,
            discarded: false,
            cancelled: false,
        };
        self.0.get_or_insert_default().insert(id, open);
        pipe
    }

    fn get(&mut self, id: RequestId) -> Option<&mut Open> {
        self.0.as_mut()?.get_mut(&id)
    }

    /// What the halves of a request share.
    pub(in crate::server) fn pipe(&self, id: RequestId) -> Option<&Pipe> {
        Some(&*self.0.as_ref()?.get(&id)?.pipe)
    }

    pub(super) fn remove(&mut self, id: RequestId) -> Option<Open> {
        let opens = self.0.as_mut()?;
        let open = opens.remove(&id);
        if opens.is_empty() {
            self.0 = None;
        }
        open
    }

    /// The connection has ended with this error.
    pub(super) fn fail_all(&mut self, why: &Error) {
        for (_, open) in self.0.take().into_iter().flatten() {
            open.pipe.fail(why.with_fate(Fate::MaybeProcessed));
        }
    }
}

impl State {
    /// Does what the halves of an open request want.
    pub(super) fn pump(&mut self, id: RequestId) {
        let Some(open) = self.opens.get(id) else { return };
        let wishes = open.pipe.wishes();
        if wishes.reader_gone {
            if !core::mem::replace(&mut open.discarded, true) {
                self.mux.discard(id);
            }
        } else if wishes.taken > 0 || wishes.waits {
            self.mux.credit(id, wishes.taken, wishes.waits);
        }
        while !open.answered {
            if !open.answering {
                if !open.pipe.has_output() {
                    break;
                }
                if self.mux.open_answer(id).is_err() {
                    open.pipe.end_output(Error::Stopped);
                    break;
                }
                open.answering = true;
            }
            // What a handler leaves behind goes to the mux at once, which counts it.
            if !open.handled && !self.mux.wants(id) {
                break;
            }
            if let Some(chunk) = open.pipe.take_chunk() {
                let length = chunk.len();
                if let Err(error) = self.mux.write(id, chunk) {
                    open.pipe.end_output(error_of(error, length));
                    break;
                }
            } else if open.pipe.is_finished() {
                // It fails only if the request has completed.
                let _ = self.mux.finish_answer(id);
                open.answered = true;
                open.pipe.accept_all();
                // The request ends with its answer: no more of its body arrives.
                open.pipe.stop_input(Error::Stopped);
            } else {
                break;
            }
        }
        if open.answered && open.handled {
            self.opens.remove(id);
        }
    }

    /// Hands on what handlers have written and the connection now takes. Returns whether there was
    /// something.
    pub(super) fn pump_writable(&mut self) -> bool {
        let mut pumped = false;
        while let Some(id) = self.mux.poll_writable() {
            self.pump(id);
            pumped = true;
        }
        pumped
    }

    /// The client has cancelled an open request. If its handler has returned, the request completes
    /// here.
    pub(super) fn cancel_open(&mut self, id: RequestId) {
        let Some(open) = self.opens.get(id) else { return };
        open.pipe.fail(Error::Cancelled);
        open.cancelled = true;
        if open.handled {
            self.opens.remove(id);
            let _ = self.mux.complete(id, Err(NoAnswer::Dropped), true);
        }
    }

    /// The handler of an open request has ended. Returns as `answer` does.
    pub(in crate::server) fn end_open(
        &mut self,
        id: RequestId,
        result: Result<(), NoAnswer<'_>>,
    ) -> Result<bool, RequestError> {
        let Some(open) = self.opens.get(id) else {
            return Ok(false);
        };
        // An answer that was finished is whole, whatever the handler returns.
        if !open.cancelled && (open.answered || open.pipe.will_finish()) {
            open.handled = true;
            self.forget(id);
            self.pump(id);
            return Ok(true);
        }
        open.pipe.fail(Error::Stopped);
        self.opens.remove(id);
        let unfinished = || NoAnswer::Failed(&Unfinished);
        let result = result.map_or_else(Err, |()| Err(unfinished()));
        self.answer(id, result)
    }
}

/// The error of a handler that has returned without an error, but before its answer was finished.
#[derive(Debug)]
struct Unfinished;

impl fmt::Display for Unfinished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the handler returned before its answer was finished")
    }
}

impl core::error::Error for Unfinished {}

fn error_of(error: StreamError, length: usize) -> Error {
    match error {
        StreamError::TooLarge { limit } => Error::Request(RequestError::TooLarge {
            // What was written before is not known here.
            length: u64::from(limit).saturating_add(u64::try_from(length).unwrap_or(u64::MAX)),
            limit: limit.into(),
        }),
        StreamError::NoRoom => Error::Request(RequestError::Refused(Refusal::AnswerTooLarge)),
        StreamError::Ended | _ => Error::Stopped,
    }
}
