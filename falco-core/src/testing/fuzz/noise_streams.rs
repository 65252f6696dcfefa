//! A client and a server of the noise wire that take open bodies, driven by arbitrary API calls.
//! Their link splits the stream and loses nothing. Neither side may report a protocol error of the
//! other, and every byte arrives once and in its place.

use core::time::Duration;
use std::collections::BTreeMap;
use std::vec::Vec;

use super::Input;
use super::noise_attacker::{ClientKeys, ServerKeys, no_security_client, no_security_server, settings};
use super::noise_side::{ROOM, Side};
use super::noise_streams_body::{Read, Written};
use crate::testing::CountingRng;
use crate::{
    ClientConnection, ClientEvent, CloseReason, ConnectionError, Instant, OutgoingAnswer, OutgoingRequest, Refusal,
    RequestId, ServerConnection, ServerEvent,
};

/// What the caller of the client knows of a request.
struct Asked {
    id: RequestId,
    /// Its answer, if that is open.
    answer: Option<Read>,
}

/// What the caller of the server knows of a request.
struct Known {
    id: RequestId,
    body: Read,
    discards: bool,
    cancelled: bool,
    answer: Option<Written<OutgoingAnswer>>,
}

struct Both<'k> {
    now: Instant,
    client: Side<crate::ClientSide, &'k ClientKeys>,
    server: Side<crate::ServerSide, &'k ServerKeys>,
    requests: Vec<Written<OutgoingRequest>>,
    asked: BTreeMap<u32, Asked>,
    known: BTreeMap<u32, Known>,
    /// How long the request bodies and the answers are that were sealed to their end.
    whole_requests: BTreeMap<u32, usize>,
    whole_answers: BTreeMap<u32, usize>,
}

/// A client and a server with open bodies, driven by arbitrary API calls.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn noise_streams(data: &[u8]) {
    let (clients, servers) = (no_security_client(), no_security_server());
    let (now, mut rng) = (Instant::ZERO, CountingRng::new(3));
    let settings = settings().with_streams(1, 2).with_max_held(3_000);
    let client = ClientConnection::new(&clients, &settings, now, &mut rng).expect("the generator does not fail");
    let server = ServerConnection::new(&servers, &settings, now, &mut rng).expect("the generator does not fail");
    let mut both = Both {
        now,
        client: Side::new(client, true),
        server: Side::new(server, true),
        requests: Vec::new(),
        asked: BTreeMap::new(),
        known: BTreeMap::new(),
        whole_requests: BTreeMap::new(),
        whole_answers: BTreeMap::new(),
    };
    let mut input = Input::new(data);
    while !input.is_done() {
        let pick = input.byte();
        both.act(pick, &mut input);
        both.check();
    }
    both.finish();
}

impl Both<'_> {
    fn act(&mut self, pick: u8, input: &mut Input<'_>) {
        let chosen = usize::from(pick >> 4);
        let all = pick & 64 == 0;
        match pick % 16 {
            0 if self.requests.len() < 6 => {
                let request = self.client.machine.open_request();
                self.requests.extend(request.ok().map(Written::new));
            }
            1 | 2 => {
                let bytes = 3 * usize::from(input.byte());
                if let Some(request) = self.request(chosen) {
                    request.add(bytes);
                }
            }
            3 => {
                if let Some(request) = self.request(chosen) {
                    request.finished = true;
                }
            }
            4 => self.seal_request(chosen, 40 + input.index(ROOM - 40)),
            5 => self.open_answer(chosen),
            6 => {
                let bytes = 3 * usize::from(input.byte());
                if let Some(answer) = self.chosen(chosen).and_then(|known| known.answer.as_mut()) {
                    answer.add(bytes);
                }
            }
            7 => {
                if let Some(answer) = self.chosen(chosen).and_then(|known| known.answer.as_mut()) {
                    answer.finished = true;
                }
            }
            8 => self.seal_answer(chosen, 40 + input.index(ROOM - 40)),
            9 => self.credit(chosen, input.byte(), pick & 32 == 0),
            10 => self.carry(pick & 32 == 0, if all { usize::MAX } else { input.index(60) }),
            11 => self.hear_client(if all { usize::MAX } else { 1 }),
            12 => self.hear_server(if all { usize::MAX } else { 1 }),
            13 => {
                self.client.transmit(self.now);
                self.server.transmit(self.now);
            }
            14 => self.end_one(chosen, input.byte()),
            15 if pick > 240 => self.client.machine.close(self.now, CloseReason::Done),
            15 if pick > 220 => self.server.machine.close(self.now, CloseReason::ShuttingDown),
            15 if pick > 200 => {
                self.now = self.now + Duration::from_millis(100 * u64::from(input.byte()));
                let _ = self.client.machine.handle_timeout(self.now);
                let _ = self.server.machine.handle_timeout(self.now);
            }
            _ => self.settle(),
        }
    }

    fn request(&mut self, chosen: usize) -> Option<&mut Written<OutgoingRequest>> {
        let count = self.requests.len().max(1);
        self.requests.get_mut(chosen % count)
    }

    fn chosen(&mut self, chosen: usize) -> Option<&mut Known> {
        let count = self.known.len().max(1);
        self.known.values_mut().nth(chosen % count)
    }

    fn seal_request(&mut self, chosen: usize, room: usize) {
        let at = chosen % self.requests.len().max(1);
        let Some(request) = self.requests.get_mut(at) else {
            return;
        };
        if request.finished {
            request.message.finish();
        }
        let (bytes, before) = (request.bytes(), request.message.id());
        let messages = [(&mut request.message, bytes.as_slice())];
        self.client.seal(self.now, room, messages.into_iter());
        let sealed = request.message.take_sealed();
        request.took(sealed);
        if let (None, Some(id)) = (before, request.message.id()) {
            self.asked.insert(id.number(), Asked { id, answer: None });
        }
        if !request.message.is_done() {
            return;
        }
        // It may also be done because the rest of it is not sent.
        if let Some(id) = request.message.id().filter(|_| request.finished && request.ready == 0) {
            self.whole_requests.insert(id.number(), request.sealed);
        }
        self.requests.remove(at);
    }

    fn open_answer(&mut self, chosen: usize) {
        let count = self.known.len().max(1);
        let Some(known) = self.known.values_mut().nth(chosen % count) else {
            return;
        };
        if known.answer.is_none() {
            known.answer = self.server.machine.open_answer(known.id).ok().map(Written::new);
        }
    }

    fn seal_answer(&mut self, chosen: usize, room: usize) {
        let count = self.known.len().max(1);
        let Some((number, known)) = self.known.iter_mut().nth(chosen % count) else {
            return;
        };
        let number = *number;
        let Some(answer) = &mut known.answer else { return };
        if answer.finished {
            answer.message.finish();
        }
        let bytes = answer.bytes();
        self.server
            .seal(self.now, room, [(&mut answer.message, bytes.as_slice())].into_iter());
        let sealed = answer.message.take_sealed();
        answer.took(sealed);
        if answer.message.is_done() {
            if !answer.message.is_cut() {
                self.whole_answers.insert(number, answer.sealed);
            }
            self.known.remove(&number);
        }
    }

    /// Takes bytes of a body that was received, on either side.
    fn credit(&mut self, chosen: usize, bytes: u8, at_server: bool) {
        let (id, read) = if at_server {
            let Some(known) = self.chosen(chosen) else { return };
            (known.id, &mut known.body)
        } else {
            let count = self.asked.len().max(1);
            let asked = self.asked.values_mut().nth(chosen % count);
            let Some((id, read)) = asked.and_then(|asked| Some((asked.id, asked.answer.as_mut()?))) else {
                return;
            };
            (id, read)
        };
        let taken = read.untaken.min(5 * usize::from(bytes));
        read.untaken -= taken;
        let waits = read.untaken == 0;
        if at_server {
            let _ = self.server.machine.credit(id, taken, waits);
        } else {
            let _ = self.client.machine.credit(id, taken, waits);
        }
    }

    /// Ends a request in some other way.
    fn end_one(&mut self, chosen: usize, how: u8) {
        if how.is_multiple_of(4) {
            let count = self.asked.len().max(1);
            if let Some(asked) = self.asked.values().nth(chosen % count) {
                let _ = self.client.machine.cancel(asked.id);
            }
            return;
        }
        let Some(known) = self.chosen(chosen) else { return };
        let (id, number) = (known.id, known.id.number());
        let has_answer = known.answer.is_some();
        match how % 4 {
            1 => {
                known.discards = true;
                let _ = self.server.machine.discard(id);
            }
            2 if self.server.machine.refuse(id, Refusal::Busy).is_ok() => {
                self.known.remove(&number);
            }
            3 if !has_answer => {
                if let Ok(mut answer) = self.server.machine.answer(id, 5) {
                    let whole = [(&mut answer, &b"whole"[..])];
                    self.server.seal(self.now, ROOM, whole.into_iter());
                    if answer.is_done() {
                        self.known.remove(&number);
                    }
                }
            }
            _ => {}
        }
    }

    /// Carries up to `count` bytes, to the client or to the server.
    fn carry(&mut self, to_client: bool, count: usize) {
        let (from, to) = if to_client {
            (&mut self.server.sent, &mut self.client.inbox)
        } else {
            (&mut self.client.sent, &mut self.server.inbox)
        };
        to.extend(from.drain(..count.min(from.len())));
        if self.server.machine.end().is_some() && self.server.sent.is_empty() {
            self.client.hung_up = true;
        }
        if self.client.machine.end().is_some() && self.client.sent.is_empty() {
            self.server.hung_up = true;
        }
    }

    fn hear_client(&mut self, count: usize) {
        for _ in 0..count {
            let (asked, whole) = (&mut self.asked, &self.whole_answers);
            let noted = self.client.next(self.now, |event| note_client(event, asked, whole));
            if noted.is_none() {
                break;
            }
        }
    }

    fn hear_server(&mut self, count: usize) {
        for _ in 0..count {
            let (known, whole) = (&mut self.known, &self.whole_requests);
            let noted = self.server.next(self.now, |event| note_server(event, known, whole));
            if noted.is_none() {
                break;
            }
        }
    }

    fn check(&mut self) {
        self.client.check();
        self.server.check();
        if self.client.told_all && self.client.end.is_none() {
            assert_eq!(
                self.client.machine.in_flight(),
                self.asked.len(),
                "a request completes exactly once"
            );
        }
        if self.server.told_all && self.server.end.is_none() {
            assert_eq!(
                self.server.machine.in_flight(),
                self.known.len(),
                "a request completes exactly once"
            );
        }
    }

    /// Finishes and sends all bodies, and gives credit for them, until nothing changes. No time
    /// passes.
    fn settle(&mut self) {
        for _ in 0..300 {
            for request in &mut self.requests {
                request.finished = true;
            }
            for chosen in (0..self.requests.len()).rev() {
                self.seal_request(chosen, ROOM);
            }
            self.client.transmit(self.now);
            self.carry(false, usize::MAX);
            self.hear_server(usize::MAX);
            for chosen in (0..self.known.len()).rev() {
                self.credit(chosen, u8::MAX, true);
                self.open_answer(chosen);
                if let Some(answer) = self.chosen(chosen).and_then(|known| known.answer.as_mut()) {
                    answer.finished = true;
                }
                self.stop_if_cancelled(chosen);
                self.seal_answer(chosen, ROOM);
            }
            self.server.transmit(self.now);
            self.carry(true, usize::MAX);
            self.hear_client(usize::MAX);
            for chosen in 0..self.asked.len() {
                self.credit(chosen, u8::MAX, false);
            }
            if self.requests.is_empty() && self.asked.is_empty() && self.known.is_empty() {
                break;
            }
        }
    }

    /// A handler whose request was cancelled stops.
    fn stop_if_cancelled(&mut self, chosen: usize) {
        let Some(known) = self.chosen(chosen).filter(|known| known.cancelled) else {
            return;
        };
        let (id, number) = (known.id, known.id.number());
        if self.server.machine.refuse(id, Refusal::Cancelled).is_ok() {
            self.known.remove(&number);
        }
    }

    /// Completes all requests, and closes. A connection that has not ended yet ends without an
    /// error.
    fn finish(&mut self) {
        self.settle();
        self.check();
        let lives = self.client.end.is_none() && self.server.end.is_none() && !self.server.hung_up;
        if lives {
            assert!(self.asked.is_empty(), "every request has completed");
        }
        self.client.machine.close(self.now, CloseReason::Done);
        self.settle();
        for _ in 0..3 {
            self.client.transmit(self.now);
            self.carry(false, usize::MAX);
            self.hear_server(usize::MAX);
            self.server.transmit(self.now);
            self.carry(true, usize::MAX);
            self.hear_client(usize::MAX);
        }
        self.check();
        if lives {
            let ends = (self.client.end, self.server.end);
            let closed = Some(ConnectionError::Closed);
            assert_eq!(ends, (closed, closed), "the connection ends without an error");
        }
    }
}

fn note_client(event: ClientEvent<'_>, asked: &mut BTreeMap<u32, Asked>, whole: &BTreeMap<u32, usize>) {
    let waits = "an answer belongs to a request in flight";
    match event {
        ClientEvent::Opened { id, body } => {
            let mut read = Read::default();
            read.part(body);
            let before = asked.get_mut(&id.number()).expect(waits).answer.replace(read);
            assert!(before.is_none(), "an answer begins once");
        }
        ClientEvent::Part { id, body, last } => {
            let read = asked.get_mut(&id.number()).expect(waits).answer.as_mut();
            let read = read.expect("a part follows a beginning");
            read.part(body);
            if last {
                read.end(*whole.get(&id.number()).expect("the answer was finished"));
                asked.remove(&id.number());
            }
        }
        ClientEvent::Answer { id, body } => {
            assert_eq!(body, b"whole");
            assert!(asked.remove(&id.number()).expect(waits).answer.is_none());
        }
        ClientEvent::Refused { id, refusal } => {
            let asked = asked.remove(&id.number()).expect(waits);
            assert!(
                asked.answer.is_none() || !refusal.is_unprocessed(),
                "a request with an answer is reported as not processed"
            );
        }
        ClientEvent::Begin { .. } => panic!("all of its length was in the first part"),
        ClientEvent::Credit { .. }
        | ClientEvent::Established
        | ClientEvent::Pong { .. }
        | ClientEvent::Closing { .. } => {}
    }
}

fn note_server(event: ServerEvent<'_>, known: &mut BTreeMap<u32, Known>, whole: &BTreeMap<u32, usize>) {
    match event {
        ServerEvent::Opened { id, body } => {
            let mut read = Read::default();
            read.part(body);
            let request = Known {
                id,
                body: read,
                discards: false,
                cancelled: false,
                answer: None,
            };
            assert!(known.insert(id.number(), request).is_none(), "an id is used once");
        }
        ServerEvent::Part { id, body, last } => {
            let request = known.get_mut(&id.number()).expect("a part follows a beginning");
            assert!(!request.discards, "a part that was to be dropped");
            assert!(!request.cancelled, "nothing follows a cancellation");
            request.body.part(body);
            if last {
                request
                    .body
                    .end(*whole.get(&id.number()).expect("the request was finished"));
            }
        }
        ServerEvent::Cancelled { id } => {
            let request = known.get_mut(&id.number()).expect("it is in flight");
            assert!(!request.cancelled, "a request is cancelled once");
            request.cancelled = true;
        }
        ServerEvent::Credit { id } => assert!(known.contains_key(&id.number()), "it is in flight"),
        ServerEvent::Request { .. } | ServerEvent::Begin { .. } | ServerEvent::Abandoned { .. } => {
            panic!("all requests are open")
        }
        ServerEvent::Established | ServerEvent::Closing { .. } | ServerEvent::Ping => {}
    }
}
