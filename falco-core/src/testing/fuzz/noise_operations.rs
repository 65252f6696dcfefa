//! A client and a server of the noise wire, driven by arbitrary API calls at arbitrary times. Their
//! link splits the stream and loses nothing. Neither side may report a protocol error of the other.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use super::Input;
use super::noise_attacker::{ClientKeys, MAX_HELD, ServerKeys, no_security_client, no_security_server, settings};
use super::noise_side::{ROOM, Side};
use crate::noise::WELCOME_LENGTH;
use crate::testing::CountingRng;
use crate::{
    ClientConnection, ClientEvent, CloseReason, ConnectionError, Fate, Instant, OutgoingAnswer, OutgoingRequest,
    Refusal, RequestId, ServerConnection, ServerEvent, Status,
};

/// A body whose bytes are the last byte of the request's number, so that a message of another
/// request is noticed.
fn body(number: u32, length: usize) -> Vec<u8> {
    let [.., byte] = number.to_be_bytes();
    std::vec![byte; length]
}

fn assert_of(number: u32, bytes: &[u8]) {
    let [.., expected] = number.to_be_bytes();
    assert!(bytes.iter().all(|byte| *byte == expected), "bytes of another message");
}

/// What the caller of the server knows of a request.
struct Known {
    id: RequestId,
    total: usize,
    received: usize,
    answer: Option<(OutgoingAnswer, Vec<u8>)>,
}

struct Both<'k> {
    now: Instant,
    client: Side<crate::ClientSide, &'k ClientKeys>,
    server: Side<crate::ServerSide, &'k ServerKeys>,
    /// The client has shut down its sending half after a CLOSE.
    half_shut: bool,
    /// The server's process has ended. What it sent still arrives, then the end of the stream.
    killed: bool,
    queue: Vec<(OutgoingRequest, Vec<u8>)>,
    /// The client's requests in flight, with the bytes of an answer that are missing.
    waiting: BTreeMap<u32, (RequestId, Option<usize>)>,
    begun: u32,
    known: BTreeMap<u32, Known>,
    /// Requests that arrived as a whole.
    handled: BTreeSet<u32>,
    /// Requests of which the server has returned an event.
    seen: BTreeSet<u32>,
    /// Requests whose answers were sealed as a whole.
    answered: BTreeSet<u32>,
}

/// A client and a server, driven by arbitrary API calls.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn noise_operations(data: &[u8]) {
    let (clients, servers) = (no_security_client(), no_security_server());
    let mut input = Input::new(data);
    let keep_alive = input.byte() & 1 == 1;
    let (now, mut rng) = (Instant::ZERO, CountingRng::new(3));
    // Most messages take several records.
    let settings = settings()
        .with_keep_alive(keep_alive)
        .with_max_record(64)
        .expect("64 is in range");
    let client = ClientConnection::new(&clients, &settings, now, &mut rng).expect("the generator does not fail");
    let server = ServerConnection::new(&servers, &settings, now, &mut rng).expect("the generator does not fail");
    let mut both = Both {
        now,
        client: Side::new(client, true),
        server: Side::new(server, false),
        half_shut: false,
        killed: false,
        queue: Vec::new(),
        waiting: BTreeMap::new(),
        begun: 0,
        known: BTreeMap::new(),
        handled: BTreeSet::new(),
        seen: BTreeSet::new(),
        answered: BTreeSet::new(),
    };
    while !input.is_done() {
        let pick = input.byte();
        both.act(pick, &mut input);
        both.check();
    }
    both.finish();
}

impl Both<'_> {
    fn act(&mut self, pick: u8, input: &mut Input<'_>) {
        let now = self.now;
        let chosen = usize::from(pick >> 4);
        match pick % 16 {
            0 | 1 if self.queue.len() < 8 => {
                // Some are larger than the server reads.
                let length = input.index(110);
                if let Ok(request) = self.client.machine.request(length) {
                    self.queue.push((request, Vec::new()));
                }
            }
            2 | 3 => self.seal_requests(40 + input.index(ROOM - 40)),
            4 => self.client.transmit(now),
            5 if !self.killed => self.server.transmit(now),
            6 if !self.killed => self.answer(chosen, input.index(120), 40 + input.index(ROOM - 40)),
            7 if !self.killed => self.refuse(chosen),
            8 => {
                let count = if pick & 64 == 0 { usize::MAX } else { input.index(60) };
                self.carry(true, count);
            }
            9 => {
                let count = if pick & 64 == 0 { usize::MAX } else { input.index(60) };
                self.carry(false, count);
            }
            10 => self.hear_client(if pick & 64 == 0 { usize::MAX } else { 1 }),
            11 if !self.killed => self.hear_server(if pick & 64 == 0 { usize::MAX } else { 1 }),
            12 => {
                let factor = if pick & 64 == 0 { 1 } else { u64::from(input.byte()) };
                self.now = now + Duration::from_millis(u64::from(input.byte()) * factor);
                let _ = self.client.machine.handle_timeout(self.now);
                let _ = self.server.machine.handle_timeout(self.now);
            }
            13 => {
                if let Some((id, _)) = self.waiting.values().nth(chosen % self.waiting.len().max(1)) {
                    let _ = self.client.machine.cancel(*id);
                }
            }
            14 => match pick >> 5 {
                0 => _ = self.client.machine.ping(),
                1 => self.client.machine.set_reading(now, pick & 16 == 0),
                2 => {
                    self.server.deadlines_move = true;
                    self.server.machine.set_reading(now, pick & 16 == 0);
                }
                _ => self.settle(),
            },
            15 if pick > 240 => self.client.machine.close(now, CloseReason::Done),
            15 if pick > 220 => self.server.machine.close(now, CloseReason::ShuttingDown),
            15 if pick == 15 => self.killed = true,
            // After its CLOSE a client may shut down its sending half.
            15 if pick > 200 && self.client.machine.status() == Status::Draining => {
                self.client.transmit(now);
                self.carry(false, usize::MAX);
                let owes_parts = self.queue.iter().any(|(request, _)| request.id().is_some());
                if self.client.sent.is_empty() && !owes_parts && self.client.machine.status() == Status::Draining {
                    self.server.hung_up = true;
                    self.half_shut = true;
                }
            }
            _ => {}
        }
    }

    fn seal_requests(&mut self, room: usize) {
        // One at a time, so that the number of each is known in advance.
        for at in 0..self.queue.len() {
            let Some((request, bytes)) = self.queue.get_mut(at) else {
                break;
            };
            if request.id().is_none() {
                *bytes = body(self.begun + 1, request.length());
            }
            self.client
                .seal(self.now, room, [(&mut *request, bytes.as_slice())].into_iter());
            if let Some(id) = request.id().filter(|id| id.number() > self.begun) {
                self.begun = id.number();
                self.waiting.insert(id.number(), (id, None));
            }
        }
        self.queue.retain(|(request, _)| !request.is_done());
    }

    fn answer(&mut self, chosen: usize, length: usize, room: usize) {
        let count = self.known.len().max(1);
        let Some((number, request)) = self.known.iter_mut().nth(chosen % count) else {
            return;
        };
        let number = *number;
        if request.answer.is_none() {
            let Ok(answer) = self.server.machine.answer(request.id, length) else {
                return;
            };
            assert_eq!(request.received, request.total, "a request in part was answered");
            request.answer = Some((answer, body(number, length)));
        }
        let Some((answer, bytes)) = &mut request.answer else {
            return;
        };
        self.server
            .seal(self.now, room, [(&mut *answer, bytes.as_slice())].into_iter());
        if answer.is_done() {
            self.known.remove(&number);
            self.answered.insert(number);
        }
    }

    fn refuse(&mut self, chosen: usize) {
        let count = self.known.len().max(1);
        let Some((number, request)) = self.known.iter().nth(chosen % count) else {
            return;
        };
        let number = *number;
        let whole = request.received == request.total;
        let refusal = if whole { Refusal::Failed } else { Refusal::Busy };
        if self.server.machine.refuse(request.id, refusal).is_ok() {
            self.known.remove(&number);
        }
    }

    /// Carries up to `count` bytes, to the client or to the server.
    fn carry(&mut self, to_client: bool, count: usize) {
        let (from, to) = if to_client {
            (&mut self.server.sent, &mut self.client.inbox)
        } else {
            (&mut self.client.sent, &mut self.server.inbox)
        };
        if !to_client && self.server.hung_up {
            // The client's sending half is shut down.
            from.clear();
        }
        to.extend(from.drain(..count.min(from.len())));
        if (self.killed || self.server.machine.end().is_some()) && self.server.sent.is_empty() {
            self.client.hung_up = true;
        }
        if self.client.machine.end().is_some() && self.client.sent.is_empty() {
            self.server.hung_up = true;
        }
    }

    fn hear_client(&mut self, count: usize) {
        for _ in 0..count {
            let (waiting, answered, handled) = (&mut self.waiting, &self.answered, &self.handled);
            let noted = self
                .client
                .next(self.now, |event| note_client(event, waiting, answered, handled));
            if noted.is_none() {
                break;
            }
        }
    }

    fn hear_server(&mut self, count: usize) {
        for _ in 0..count {
            let wrote = self.server.wrote;
            let (known, handled, seen) = (&mut self.known, &mut self.handled, &mut self.seen);
            let noted = self
                .server
                .next(self.now, |event| note_server(event, wrote, known, handled, seen));
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
                self.waiting.len(),
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
        assert!(
            !self.half_shut || self.server.end != Some(ConnectionError::Truncated),
            "a CLOSE was sent, and the stream counts as truncated"
        );
        let held: usize = self.known.values().map(|request| request.received).sum();
        assert!(
            u32::try_from(held).is_ok_and(|held| held <= MAX_HELD),
            "more bytes are held than allowed"
        );
        if self.client.end.is_some() && self.client.machine.fate() == Fate::NotProcessed {
            // The link loses nothing, and the client has read everything.
            assert!(
                self.seen.is_empty(),
                "a request that was returned is reported as not processed"
            );
        }
        if self.client.end == Some(ConnectionError::Closed) {
            assert!(
                self.waiting.is_empty(),
                "a connection that closed has no request in flight"
            );
        }
    }

    /// Sends and answers everything until nothing changes. No time passes.
    fn settle(&mut self) {
        for _ in 0..40 {
            self.seal_requests(ROOM);
            self.client.transmit(self.now);
            self.carry(false, usize::MAX);
            if !self.killed {
                self.hear_server(usize::MAX);
                for chosen in 0..self.known.len() {
                    self.answer(chosen, 70, ROOM);
                }
                self.server.transmit(self.now);
            }
            self.carry(true, usize::MAX);
            self.hear_client(usize::MAX);
        }
    }

    /// Closes the client, and checks that all requests complete, and that a connection that has not
    /// ended yet ends without an error.
    fn finish(&mut self) {
        self.client.machine.set_reading(self.now, true);
        self.server.deadlines_move = true;
        self.server.machine.set_reading(self.now, true);
        self.settle();
        self.check();
        let ended = self.client.end.is_some() || self.server.end.is_some() || self.server.hung_up;
        let lives = !ended && !self.killed;
        self.client.machine.close(self.now, CloseReason::Done);
        self.settle();
        self.check();
        if lives {
            assert_eq!(
                self.server.end,
                Some(ConnectionError::Closed),
                "the connection ends without an error"
            );
            assert_eq!(
                self.client.end,
                Some(ConnectionError::Closed),
                "the connection ends without an error"
            );
            assert!(self.waiting.is_empty(), "every request has completed");
        }
        self.now = self.now + Duration::from_secs(1_000);
        let _ = self.client.machine.handle_timeout(self.now);
        let _ = self.server.machine.handle_timeout(self.now);
        assert!(self.client.machine.end().is_some(), "every connection ends");
        assert!(self.server.machine.end().is_some(), "every connection ends");
        self.check();
    }
}

fn note_client(
    event: ClientEvent<'_>,
    waiting: &mut BTreeMap<u32, (RequestId, Option<usize>)>,
    answered: &BTreeSet<u32>,
    handled: &BTreeSet<u32>,
) {
    let waits = "an answer belongs to a request in flight";
    match event {
        ClientEvent::Answer { id, body } => {
            assert_of(id.number(), body);
            assert!(answered.contains(&id.number()), "the server did not send this answer");
            let was = waiting.remove(&id.number()).expect(waits);
            assert_eq!(was.1, None, "an answer begins once");
        }
        ClientEvent::Begin { id, total, body } => {
            assert_of(id.number(), body);
            let missing = usize::try_from(total)
                .ok()
                .and_then(|total| total.checked_sub(body.len()));
            let was = waiting.get_mut(&id.number()).expect(waits);
            assert_eq!(was.1, None, "an answer begins once");
            was.1 = Some(missing.expect("an answer is within its total"));
        }
        ClientEvent::Part { id, body, last } => {
            assert_of(id.number(), body);
            let missing = &mut waiting.get_mut(&id.number()).expect(waits).1;
            *missing = missing.and_then(|missing| missing.checked_sub(body.len()));
            assert_eq!(
                last,
                missing.expect("a part follows a Begin") == 0,
                "the last part is the last"
            );
            if last {
                assert!(answered.contains(&id.number()), "the server did not send this answer");
                waiting.remove(&id.number());
            }
        }
        ClientEvent::Refused { id, refusal } => {
            waiting.remove(&id.number()).expect("a request completes exactly once");
            assert!(
                !refusal.is_unprocessed() || !handled.contains(&id.number()),
                "a request that was handled is reported as not processed"
            );
        }
        #[cfg(feature = "streams")]
        ClientEvent::Opened { .. } | ClientEvent::Credit { .. } => panic!("no open body is taken"),
        ClientEvent::Established | ClientEvent::Pong { .. } | ClientEvent::Closing { .. } => {}
    }
}

/// `wrote` is the number of bytes that the server sent before.
fn note_server(
    event: ServerEvent<'_>,
    wrote: usize,
    known: &mut BTreeMap<u32, Known>,
    handled: &mut BTreeSet<u32>,
    seen: &mut BTreeSet<u32>,
) {
    let (id, total, received) = match event {
        ServerEvent::Request { id, body } => {
            assert_of(id.number(), body);
            (id, body.len(), body.len())
        }
        ServerEvent::Begin { id, total, body } => {
            assert_of(id.number(), body);
            (id, usize::try_from(total).unwrap_or(usize::MAX), body.len())
        }
        ServerEvent::Part { id, body, last } => {
            assert_of(id.number(), body);
            let request = known.get_mut(&id.number()).expect("a part follows a Begin");
            request.received += body.len();
            assert_eq!(last, request.received == request.total, "the last part is the last");
            if last {
                handled.insert(id.number());
            }
            return;
        }
        ServerEvent::Abandoned { id } => {
            let request = known.remove(&id.number()).expect("an abandoned request has begun");
            assert!(request.received < request.total, "a complete request is not abandoned");
            return;
        }
        ServerEvent::Cancelled { id } => {
            assert!(known.contains_key(&id.number()), "a cancelled request is in flight");
            return;
        }
        #[cfg(feature = "streams")]
        ServerEvent::Opened { .. } | ServerEvent::Credit { .. } => panic!("no open body is taken"),
        ServerEvent::Established | ServerEvent::Closing { .. } | ServerEvent::Ping => return,
    };
    let request = Known {
        id,
        total,
        received,
        answer: None,
    };
    assert!(
        wrote > WELCOME_LENGTH,
        "a request was returned before the first PING was answered"
    );
    assert!(
        known.insert(id.number(), request).is_none(),
        "a request id is used once"
    );
    seen.insert(id.number());
    if received == total {
        handled.insert(id.number());
    }
}
