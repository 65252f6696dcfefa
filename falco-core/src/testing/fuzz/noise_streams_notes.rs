//! What the callers of two correct sides know of their requests, and the events that they may
//! receive.

use std::collections::{BTreeMap, BTreeSet};

use super::noise_streams_body::{Read, Written};
use crate::{ClientEvent, OutgoingAnswer, RequestId, ServerEvent};

/// What the caller of the client knows of a request in flight.
pub(super) struct Asked {
    pub(super) id: RequestId,
    /// Its answer, once that has begun.
    pub(super) answer: Option<Read>,
}

/// What the caller of the server knows of a request in flight.
pub(super) struct Known {
    pub(super) id: RequestId,
    pub(super) body: Read,
    pub(super) discards: bool,
    pub(super) cancelled: bool,
    pub(super) answer: Option<Written<OutgoingAnswer>>,
}

/// What the client has in flight, and how long the bodies are that were sealed to their end. A
/// request has the same number at both sides.
#[derive(Default)]
pub(super) struct Notes {
    pub(super) asked: BTreeMap<u32, Asked>,
    pub(super) known: BTreeMap<u32, Known>,
    pub(super) whole_requests: BTreeMap<u32, usize>,
    pub(super) whole_answers: BTreeMap<u32, usize>,
    /// Requests of which the server has returned an event.
    pub(super) seen: BTreeSet<u32>,
    /// Requests that a handler may have acted on: whole ones that have arrived, and open ones to
    /// which an answer has begun.
    pub(super) handled: BTreeSet<u32>,
}

const WAITS: &str = "an answer belongs to a request in flight";

impl Notes {
    pub(super) fn client(&mut self, event: ClientEvent<'_>) {
        match event {
            ClientEvent::Opened { id, body } => self.begin_answer(id, Read::open(id.number(), body)),
            ClientEvent::Begin { id, total, body } => {
                let total = usize::try_from(total).unwrap_or(usize::MAX);
                self.begin_answer(id, Read::whole(id.number(), total, body));
            }
            ClientEvent::Part { id, body, last } => {
                let read = self.asked.get_mut(&id.number()).expect(WAITS).answer.as_mut();
                let read = read.expect("a part follows a beginning");
                read.part(body);
                assert!(read.is_open() || last == read.is_whole(), "the last part is the last");
                if last {
                    read.end(self.whole_answers.get(&id.number()));
                    self.asked.remove(&id.number());
                }
            }
            ClientEvent::Answer { id, body } => {
                self.begin_answer(id, Read::whole(id.number(), body.len(), body));
                let read = self.asked.remove(&id.number()).and_then(|asked| asked.answer);
                read.expect(WAITS).end(self.whole_answers.get(&id.number()));
            }
            ClientEvent::Refused { id, refusal } => {
                let asked = self.asked.remove(&id.number()).expect(WAITS);
                let handled = asked.answer.is_some() || self.handled.contains(&id.number());
                assert!(
                    !handled || !refusal.is_unprocessed(),
                    "a request that was handled is reported as not processed"
                );
            }
            ClientEvent::Credit { id } => assert!(self.asked.contains_key(&id.number()), "it is in flight"),
            ClientEvent::Established | ClientEvent::Pong { .. } | ClientEvent::Closing { .. } => {}
        }
    }

    fn begin_answer(&mut self, id: RequestId, read: Read) {
        let before = self.asked.get_mut(&id.number()).expect(WAITS).answer.replace(read);
        assert!(before.is_none(), "an answer begins once");
    }

    pub(super) fn server(&mut self, event: ServerEvent<'_>) {
        match event {
            ServerEvent::Opened { id, body } => self.begin_request(id, Read::open(id.number(), body)),
            ServerEvent::Request { id, body } => {
                let mut read = Read::whole(id.number(), body.len(), body);
                read.end(self.whole_requests.get(&id.number()));
                self.begin_request(id, read);
            }
            ServerEvent::Begin { id, total, body } => {
                let total = usize::try_from(total).unwrap_or(usize::MAX);
                self.begin_request(id, Read::whole(id.number(), total, body));
            }
            ServerEvent::Part { id, body, last } => self.part_of_request(id.number(), body, last),
            ServerEvent::Abandoned { id } => {
                let request = self.known.remove(&id.number()).expect("an abandoned request has begun");
                let abandoned = !request.body.is_open() && !request.body.is_whole();
                assert!(abandoned, "an open or complete request is not abandoned");
            }
            ServerEvent::Cancelled { id } => {
                let request = self.known.get_mut(&id.number()).expect("it is in flight");
                assert!(!request.cancelled, "a request is cancelled once");
                request.cancelled = true;
            }
            ServerEvent::Credit { id } => assert!(self.known.contains_key(&id.number()), "it is in flight"),
            ServerEvent::Established | ServerEvent::Closing { .. } | ServerEvent::Ping => {}
        }
    }

    fn begin_request(&mut self, id: RequestId, body: Read) {
        let request = Known {
            id,
            body,
            discards: false,
            cancelled: false,
            answer: None,
        };
        assert!(
            self.known.insert(id.number(), request).is_none() && self.seen.insert(id.number()),
            "an id is used once"
        );
        if body.is_whole() {
            self.handled.insert(id.number());
        }
    }

    fn part_of_request(&mut self, number: u32, body: &[u8], last: bool) {
        let request = self.known.get_mut(&number).expect("a part follows a beginning");
        assert!(!request.discards, "a part that was to be dropped");
        assert!(!request.cancelled, "nothing follows a cancellation");
        let read = &mut request.body;
        read.part(body);
        assert!(read.is_open() || last == read.is_whole(), "the last part is the last");
        if last {
            read.end(self.whole_requests.get(&number));
            if !read.is_open() {
                self.handled.insert(number);
            }
        }
    }
}
