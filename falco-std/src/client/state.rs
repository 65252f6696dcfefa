//! What the threads that share a connection of a client share: the machine, the requests that are to go, those that wait, and what came of each. No I/O.

use core::time::Duration;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use falco_core::{
    ClientEvent, CloseReason, ConnectionError, Fate, Instant, Misuse, OutgoingRequest, Partial, PingId, Reassembly,
    RequestError, RequestId, Status,
};

use super::serial::Machine;
use crate::error::Error;
use crate::line::Source;

/// What came of a request or a ping.
pub(super) enum End {
    Answer(Vec<u8>),
    Failed(Error),
    /// Nothing of it was sent, and nothing of it will be on this connection.
    NotBegun,
}

/// Where a caller waits.
#[derive(Default)]
pub(super) struct Slot {
    end: Mutex<Option<End>>,
    ended: Condvar,
}

impl Slot {
    fn end(&self, end: End) {
        *self.end.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        self.ended.notify_one();
    }

    /// What came of it; none where nothing has within `limit`.
    pub(super) fn wait(&self, limit: Option<Duration>) -> Option<End> {
        let end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let mut end = match limit {
            Some(limit) => {
                let waited = self.ended.wait_timeout_while(end, limit, |end| end.is_none());
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

/// A request of which not all has been sealed.
struct Entry {
    request: OutgoingRequest,
    body: Vec<u8>,
    slot: Arc<Slot>,
}

pub(super) struct State {
    pub(super) machine: Machine,
    /// In the order in which they take their turns.
    queue: VecDeque<Entry>,
    waiting: HashMap<RequestId, Arc<Slot>>,
    pings: Vec<(PingId, Arc<Slot>)>,
    parts: Reassembly<Vec<Partial<Vec<u8>>>>,
    /// The connection is over, and everybody has been told.
    pub(super) over: bool,
    /// Why nothing more can be written.
    trouble: Option<io::Error>,
    broken: bool,
}

impl State {
    pub(super) fn new(machine: Machine) -> Self {
        Self {
            machine,
            queue: VecDeque::new(),
            waiting: HashMap::new(),
            pings: Vec::new(),
            parts: Reassembly::default(),
            over: false,
            trouble: None,
            broken: false,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        !self.over && !self.broken && self.machine.status() == Status::Established
    }

    /// Queues a request. `None`: nothing more begins on this connection.
    pub(super) fn add(&mut self, body: &[u8]) -> Result<Option<Arc<Slot>>, Error> {
        if !self.is_open() {
            return Ok(None);
        }
        match self.machine.request(body.len()) {
            Ok(request) => {
                let slot = Arc::new(Slot::default());
                self.queue.push_back(Entry {
                    request,
                    body: body.to_vec(),
                    slot: Arc::clone(&slot),
                });
                Ok(Some(slot))
            }
            Err(falco_core::Error::Request(error)) => Err(Error::Request(error)),
            Err(_) => Ok(None),
        }
    }

    pub(super) fn ping(&mut self) -> Option<Arc<Slot>> {
        let ping = self.machine.ping().ok().filter(|_| self.is_open())?;
        let slot = Arc::new(Slot::default());
        self.pings.push((ping, Arc::clone(&slot)));
        Some(slot)
    }

    /// Nobody waits at `slot` any more: what was not sent is not, what was is cancelled. Says what that means for the request.
    pub(super) fn leave(&mut self, slot: &Arc<Slot>) -> Fate {
        self.pings.retain(|(_, own)| !Arc::ptr_eq(own, slot));
        let mut fate = Fate::MaybeProcessed;
        if let Some(at) = self.queue.iter().position(|entry| Arc::ptr_eq(&entry.slot, slot)) {
            // What has not gone whole is not processed.
            fate = Fate::NotProcessed;
            self.queue.remove(at);
        }
        let id = self
            .waiting
            .iter()
            .find(|(_, own)| Arc::ptr_eq(own, slot))
            .map(|(id, _)| *id);
        if let Some(id) = id {
            self.waiting.remove(&id);
            self.parts.forget(id);
            // It fails only where the connection has ended.
            let _ = self.machine.cancel(id);
        }
        fate
    }

    /// What happened, with the bytes that the event's ranges are of.
    pub(super) fn take(&mut self, event: ClientEvent, unread: &[u8]) {
        let bytes = |range| unread.get(range).unwrap_or_default();
        match event {
            ClientEvent::Answer { id, body } => self.end(id, || End::Answer(bytes(body).to_vec())),
            ClientEvent::Begin { id, total, body } => {
                if self.waiting.contains_key(&id) {
                    // A vector has room, and the machine has judged the parts.
                    let _ = self.parts.begin(id, total, bytes(body));
                }
            }
            ClientEvent::Part { id, body, last } => {
                let _ = self.parts.part(id, bytes(body));
                if let Some((body, _)) = self.parts.take(id).filter(|_| last) {
                    self.end(id, || End::Answer(body));
                }
            }
            ClientEvent::Refused { id, refusal } => {
                self.parts.forget(id);
                self.end(id, || End::Failed(Error::Request(RequestError::Refused(refusal))));
                // Of a request half sent, nothing more goes.
                self.queue.retain(|entry| entry.request.id() != Some(id));
            }
            ClientEvent::Pong { ping } => {
                for (_, slot) in self.pings.extract_if(.., |(own, _)| *own <= ping) {
                    slot.end(End::Answer(Vec::new()));
                }
            }
            ClientEvent::Closing { .. } => self.move_on(),
            ClientEvent::Established | _ => {}
        }
    }

    fn end(&mut self, id: RequestId, end: impl FnOnce() -> End) {
        if let Some(slot) = self.waiting.remove(&id) {
            slot.end(end());
        }
    }

    /// Requests that have not begun go elsewhere.
    fn move_on(&mut self) {
        self.queue.retain(|entry| {
            let begun = entry.request.id().is_some();
            if !begun {
                entry.slot.end(End::NotBegun);
            }
            begun
        });
    }

    /// The connection is over: everybody who waits is told, once.
    pub(super) fn finish(&mut self, end: io::Result<ConnectionError>) {
        if self.over {
            return;
        }
        self.over = true;
        self.move_on();
        let mut end = match (end, self.trouble.take()) {
            (Ok(ConnectionError::Truncated), Some(trouble)) | (Err(trouble), _) => Err(trouble),
            (Ok(end), _) => Ok(end),
        };
        let mut why = move |fate| match &mut end {
            Ok(end) => Error::Connection { end: *end, fate },
            Err(source) => {
                let kind = source.kind();
                let source = core::mem::replace(source, kind.into());
                Error::io("waiting for the answer", source, fate)
            }
        };
        for entry in self.queue.drain(..) {
            // It has not gone whole, so no handler has seen it.
            entry.slot.end(End::Failed(why(Fate::NotProcessed)));
            if let Some(id) = entry.request.id() {
                self.waiting.remove(&id);
            }
        }
        for (_, slot) in self.waiting.drain() {
            slot.end(End::Failed(why(Fate::MaybeProcessed)));
        }
        for (_, slot) in self.pings.drain(..) {
            slot.end(End::NotBegun);
        }
        self.parts = Reassembly::default();
    }

    /// After something was sealed: who has begun waits for an answer, who has gone whole leaves the queue, and a large one goes to its end.
    fn settle(&mut self, before: &[usize]) {
        let mut turned = None;
        for (at, entry) in self.queue.iter().enumerate() {
            let progress = before.get(at).is_some_and(|before| *before != entry.request.sealed());
            if let Some(id) = entry.request.id()
                && (progress || entry.request.is_done())
            {
                self.waiting.entry(id).or_insert_with(|| Arc::clone(&entry.slot));
            }
            if let Some(failure) = entry.request.failure() {
                entry.slot.end(End::Failed(Error::Request(failure)));
            }
            if progress && !entry.request.is_done() {
                turned = turned.or(Some(at));
            }
        }
        if let Some(entry) = turned.and_then(|at| self.queue.remove(at)) {
            self.queue.push_back(entry);
        }
        self.queue.retain(|entry| !entry.request.is_done());
    }

    /// Whether the end deserves that the other side is given time to end as well.
    pub(super) fn is_orderly(end: &io::Result<ConnectionError>) -> bool {
        matches!(
            end,
            Ok(ConnectionError::Closed | ConnectionError::Protocol | ConnectionError::Expired)
        )
    }
}

impl Source for State {
    fn seal(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        if self.broken {
            return 0;
        }
        let before: Vec<_> = self.queue.iter().map(|entry| entry.request.sealed()).collect();
        let total = self.queue.iter().map(|entry| entry.body.len() + 16).sum();
        let mut size = self.machine.seal_size(total);
        loop {
            if out.len() < size {
                out.resize(size, 0);
            }
            let queue = self.queue.iter_mut();
            let messages = queue.map(|entry| (&mut entry.request, entry.body.as_slice()));
            match self.machine.seal(now, messages, out) {
                Ok(0) => return 0,
                Ok(count) => {
                    self.settle(&before);
                    return count;
                }
                Err(falco_core::Error::Misuse(Misuse::OutputTooSmall { needed, .. })) if needed > size => size = needed,
                // The machine says it again to the thread that reads; a connection without numbers ends when what it has begun is done.
                Err(_) => {
                    self.machine.close(now, CloseReason::Done);
                    self.move_on();
                    return 0;
                }
            }
        }
    }

    fn broken(&mut self, error: io::Error) {
        self.broken = true;
        self.trouble = Some(error);
    }

    fn rested(&mut self) -> bool {
        // The thread that reads ends the stream.
        false
    }
}
