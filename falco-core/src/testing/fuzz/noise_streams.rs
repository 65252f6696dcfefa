//! A client and a server of the noise wire with whole and open bodies, driven by arbitrary API
//! calls at arbitrary times. Their link splits the stream and loses nothing. Neither side may
//! report a protocol error of the other, and every byte arrives once and in its place.

use core::time::Duration;
use std::vec::Vec;

use super::Input;
use super::noise_attacker::{ClientKeys, ServerKeys, no_security_client, no_security_server, settings};
use super::noise_side::{ROOM, Side};
use super::noise_streams_body::{Read, Written};
use super::noise_streams_notes::{Asked, Known, Notes};
use crate::testing::CountingRng;
use crate::{
    ClientConnection, CloseReason, ConnectionError, Fate, Instant, OutgoingRequest, Refusal, RequestId,
    ServerConnection, Settings, Status,
};

/// How many open requests a server holds that takes open bodies.
const MAX_OPEN: u16 = 2;

struct Both<'k> {
    now: Instant,
    client: Side<crate::ClientSide, &'k ClientKeys>,
    server: Side<crate::ServerSide, &'k ServerKeys>,
    /// Bytes that the server may hold and reserve.
    max_held: usize,
    /// The server's process has ended. What it sent still arrives, then the end of the stream.
    killed: bool,
    /// The client has shut down its sending half after a CLOSE.
    half_shut: bool,
    requests: Vec<Written<OutgoingRequest>>,
    /// The number of the last request that has begun.
    begun: u32,
    notes: Notes,
}

/// A client and a server with whole and open bodies, driven by arbitrary API calls.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn noise_streams(data: &[u8]) {
    let (clients, servers) = (no_security_client(), no_security_server());
    let (now, mut rng) = (Instant::ZERO, CountingRng::new(3));
    let mut input = Input::new(data);
    let (of_client, of_server) = chosen_settings(input.byte());
    let client = ClientConnection::new(&clients, &of_client, now, &mut rng).expect("the generator does not fail");
    let server = ServerConnection::new(&servers, &of_server, now, &mut rng).expect("the generator does not fail");
    let mut both = Both {
        now,
        client: Side::new(client, true),
        server: Side::new(server, true),
        max_held: usize::try_from(of_server.max_held()).unwrap_or(usize::MAX),
        killed: false,
        half_shut: false,
        requests: Vec::new(),
        begun: 0,
        notes: Notes::default(),
    };
    while !input.is_done() {
        let pick = input.byte();
        both.act(pick, &mut input);
        both.check();
    }
    both.finish();
}

/// The settings of the client and of the server.
fn chosen_settings(choice: u8) -> (Settings, Settings) {
    // With short records, most messages take several of them. With little memory, there is room for
    // one window and not for all whole requests beside it.
    let max_record = if choice & 1 == 0 { 200 } else { 64 };
    let max_held = if choice & 2 == 0 { 3_000 } else { 1_150 };
    let both = settings().with_max_held(max_held).with_keep_alive(choice & 4 != 0);
    let both = both.with_max_record(max_record).expect("it is in range");
    let takes = |takes: bool| u16::from(takes);
    (
        both.with_streams(takes(choice & 8 == 0), 0),
        both.with_streams(takes(choice & 16 == 0), MAX_OPEN),
    )
}

impl Both<'_> {
    fn act(&mut self, pick: u8, input: &mut Input<'_>) {
        let now = self.now;
        let chosen = usize::from(pick >> 4);
        let all = pick & 64 == 0;
        match pick % 16 {
            0 if self.requests.len() < 6 => self.request(pick & 16 == 0, input),
            1 | 2 => {
                let bytes = 3 * usize::from(input.byte());
                if let Some(request) = self.chosen_request(chosen) {
                    request.add(bytes);
                }
            }
            3 => {
                if let Some(request) = self.chosen_request(chosen) {
                    request.finished = true;
                }
            }
            4 => self.seal_request(chosen, 40 + input.index(ROOM - 40)),
            5 => self.begin_answer(chosen, pick & 128 == 0, input.index(120)),
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
                if pick & 128 != 0 {
                    let _ = self.client.machine.ping();
                }
                self.client.transmit(now);
                self.transmit_server();
            }
            14 => self.end_one(chosen, input.byte()),
            15 => self.act_on_connection(pick, input),
            _ => self.settle(),
        }
    }

    /// Closes, shuts down, pauses reading, or lets time pass.
    fn act_on_connection(&mut self, pick: u8, input: &mut Input<'_>) {
        let now = self.now;
        match pick >> 4 {
            15 => self.client.machine.close(now, CloseReason::Done),
            14 => self.server.machine.close(now, CloseReason::ShuttingDown),
            13 => {
                self.now = now + Duration::from_millis(100 * u64::from(input.byte()));
                let _ = self.client.machine.handle_timeout(self.now);
                let _ = self.server.machine.handle_timeout(self.now);
            }
            12 => self.client.machine.set_reading(now, false),
            11 => self.server.machine.set_reading(now, false),
            10 => {
                self.client.machine.set_reading(now, true);
                self.server.machine.set_reading(now, true);
            }
            9 => self.killed = true,
            8 => self.shut_down_client(),
            _ => self.settle(),
        }
    }

    /// After a CLOSE a client may shut down its sending half, if no body is open either way and it
    /// owes no part of a request.
    fn shut_down_client(&mut self) {
        self.client.transmit(self.now);
        self.carry(false, usize::MAX);
        let owes_parts = self.requests.iter().any(|request| request.message.id().is_some());
        let reads_open = self
            .notes
            .asked
            .values()
            .any(|asked| asked.answer.as_ref().is_some_and(Read::is_open));
        let closes = self.client.machine.status() == Status::Draining;
        if closes && self.client.sent.is_empty() && !owes_parts && !reads_open {
            self.server.hung_up = true;
            self.half_shut = true;
        }
    }

    fn request(&mut self, open: bool, input: &mut Input<'_>) {
        let request = if open {
            self.client.machine.open_request()
        } else {
            // Some are larger than the server reads.
            self.client.machine.request(input.index(110))
        };
        self.requests.extend(request.ok().map(Written::new));
    }

    fn chosen_request(&mut self, chosen: usize) -> Option<&mut Written<OutgoingRequest>> {
        let count = self.requests.len().max(1);
        self.requests.get_mut(chosen % count)
    }

    fn chosen(&mut self, chosen: usize) -> Option<&mut Known> {
        let count = self.notes.known.len().max(1);
        self.notes.known.values_mut().nth(chosen % count)
    }

    fn seal_request(&mut self, chosen: usize, room: usize) {
        let at = chosen % self.requests.len().max(1);
        let Some(request) = self.requests.get_mut(at) else {
            return;
        };
        let before = request.message.id();
        let bytes = request.bytes(before.map_or(self.begun + 1, RequestId::number));
        let messages = [(&mut request.message, bytes.as_slice())];
        self.client.seal(self.now, room, messages.into_iter());
        request.note_sealed();
        if let (None, Some(id)) = (before, request.message.id()) {
            self.begun = id.number();
            self.notes.asked.insert(id.number(), Asked { id, answer: None });
        }
        if !request.message.is_done() {
            return;
        }
        if let Some(id) = request.message.id().filter(|_| request.is_whole()) {
            self.notes.whole_requests.insert(id.number(), request.sealed);
        }
        self.requests.remove(at);
    }

    /// Begins an open answer, or a whole one of `length` bytes.
    fn begin_answer(&mut self, chosen: usize, open: bool, length: usize) {
        let takes_open = self.server.machine.peer_window() > 0;
        let count = self.notes.known.len().max(1);
        let Some(known) = self.notes.known.values_mut().nth(chosen % count) else {
            return;
        };
        if known.answer.is_some() || self.killed {
            return;
        }
        let answer = if open {
            self.server.machine.open_answer(known.id)
        } else {
            self.server.machine.answer(known.id, length)
        };
        assert!(
            answer.is_err() || !open || takes_open,
            "the client takes no open answers"
        );
        let has_request = known.body.is_open() || known.body.is_whole();
        assert!(answer.is_err() || has_request, "a request in part was answered");
        known.answer = answer.ok().map(Written::new);
    }

    fn seal_answer(&mut self, chosen: usize, room: usize) {
        let count = self.notes.known.len().max(1);
        let Some((number, known)) = self.notes.known.iter_mut().nth(chosen % count) else {
            return;
        };
        let number = *number;
        let Some(answer) = known.answer.as_mut().filter(|_| !self.killed) else {
            return;
        };
        let bytes = answer.bytes(number);
        self.server
            .seal(self.now, room, [(&mut answer.message, bytes.as_slice())].into_iter());
        answer.note_sealed();
        if answer.message.has_begun() {
            self.notes.handled.insert(number);
        }
        if answer.message.is_done() {
            if answer.is_whole() && !answer.message.is_cut() {
                self.notes.whole_answers.insert(number, answer.sealed);
            }
            self.notes.known.remove(&number);
        }
    }

    /// Takes bytes of a body that was received, on either side.
    fn credit(&mut self, chosen: usize, bytes: u8, at_server: bool) {
        let (id, read) = if at_server {
            let Some(known) = self.chosen(chosen) else { return };
            (known.id, &mut known.body)
        } else {
            let count = self.notes.asked.len().max(1);
            let asked = self.notes.asked.values_mut().nth(chosen % count);
            let Some((id, read)) = asked.and_then(|asked| Some((asked.id, asked.answer.as_mut()?))) else {
                return;
            };
            (id, read)
        };
        let taken = read.untaken.min(5 * usize::from(bytes));
        read.untaken -= taken;
        let waits = read.untaken == 0;
        if !at_server {
            let _ = self.client.machine.credit(id, taken, waits);
        } else if !self.killed {
            let _ = self.server.machine.credit(id, taken, waits);
        }
    }

    /// Ends a request in some other way.
    fn end_one(&mut self, chosen: usize, how: u8) {
        if how.is_multiple_of(4) {
            let count = self.notes.asked.len().max(1);
            if let Some(asked) = self.notes.asked.values().nth(chosen % count) {
                let _ = self.client.machine.cancel(asked.id);
            }
            return;
        }
        let killed = self.killed;
        let Some(known) = self.chosen(chosen).filter(|_| !killed) else {
            return;
        };
        let (id, number) = (known.id, known.id.number());
        match how % 4 {
            1 => {
                known.discards |= known.body.is_open();
                let _ = self.server.machine.discard(id);
            }
            2 => {
                let reached = known.body.is_whole() || self.notes.handled.contains(&number);
                let refusal = if reached { Refusal::Failed } else { Refusal::Busy };
                if self.server.machine.refuse(id, refusal).is_ok() {
                    self.notes.known.remove(&number);
                }
            }
            _ => {
                self.begin_answer(chosen, false, 5);
                self.seal_answer(chosen, ROOM);
            }
        }
    }

    fn transmit_server(&mut self) {
        if !self.killed {
            self.server.transmit(self.now);
        }
    }

    /// Carries up to `count` bytes, to the client or to the server.
    fn carry(&mut self, to_client: bool, count: usize) {
        let (from, to) = if to_client {
            (&mut self.server.sent, &mut self.client.inbox)
        } else {
            (&mut self.client.sent, &mut self.server.inbox)
        };
        if !to_client && self.half_shut {
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
            let notes = &mut self.notes;
            if self.client.next(self.now, |event| notes.client(event)).is_none() {
                break;
            }
        }
    }

    fn hear_server(&mut self, count: usize) {
        for _ in 0..count {
            let notes = &mut self.notes;
            if self.killed || self.server.next(self.now, |event| notes.server(event)).is_none() {
                break;
            }
        }
    }

    fn check(&mut self) {
        self.client.check();
        self.server.check();
        let (asked, known) = (&self.notes.asked, &self.notes.known);
        let once = "a request completes exactly once";
        if self.client.told_all && self.client.end.is_none() {
            assert_eq!(self.client.machine.in_flight(), asked.len(), "{once}");
        }
        if self.server.told_all && self.server.end.is_none() {
            assert_eq!(self.server.machine.in_flight(), known.len(), "{once}");
        }
        assert!(
            !self.half_shut || self.server.end != Some(ConnectionError::Truncated),
            "a CLOSE was sent, and the stream counts as truncated"
        );
        let held: usize = known.values().map(|request| request.body.held()).sum();
        assert!(held <= self.max_held, "more bytes are held than allowed");
        let open = known.values().filter(|request| request.body.is_open()).count();
        assert!(open <= MAX_OPEN.into(), "more requests are open than allowed");
        assert!(
            open == 0 || self.server.machine.window() > 0,
            "the server takes no open requests"
        );
        if self.client.end.is_some() && self.client.machine.fate() == Fate::NotProcessed {
            // The link loses nothing, and the client has read everything.
            assert!(
                self.notes.seen.is_empty(),
                "a request that was returned is reported as not processed"
            );
        }
        if self.client.end == Some(ConnectionError::Closed) {
            assert!(asked.is_empty(), "a connection that closed has no request in flight");
        }
    }

    /// Finishes and sends all bodies, and gives credit for them, until nothing changes. No time
    /// passes.
    fn settle(&mut self) {
        for _ in 0..300 {
            let before = self.progress();
            for request in &mut self.requests {
                request.finished = true;
            }
            for chosen in (0..self.requests.len()).rev() {
                self.seal_request(chosen, ROOM);
            }
            self.client.transmit(self.now);
            self.carry(false, usize::MAX);
            self.hear_server(usize::MAX);
            for chosen in (0..self.notes.known.len()).rev() {
                self.credit(chosen, u8::MAX, true);
                let open = self.server.machine.peer_window() > 0;
                self.begin_answer(chosen, open, 70);
                if let Some(answer) = self.chosen(chosen).and_then(|known| known.answer.as_mut()) {
                    answer.finished = true;
                }
                self.stop_if_cancelled(chosen);
                self.seal_answer(chosen, ROOM);
            }
            self.transmit_server();
            self.carry(true, usize::MAX);
            self.hear_client(usize::MAX);
            for chosen in 0..self.notes.asked.len() {
                self.credit(chosen, u8::MAX, false);
            }
            if self.progress() == before {
                break;
            }
        }
    }

    /// What changes when a byte is sent, carried or consumed.
    const fn progress(&self) -> [usize; 6] {
        let (client, server) = (&self.client, &self.server);
        [
            client.wrote,
            client.sent.len(),
            client.inbox.len(),
            server.wrote,
            server.sent.len(),
            server.inbox.len(),
        ]
    }

    /// A handler whose request was cancelled stops.
    fn stop_if_cancelled(&mut self, chosen: usize) {
        let killed = self.killed;
        let Some(known) = self.chosen(chosen).filter(|known| known.cancelled && !killed) else {
            return;
        };
        let (id, number) = (known.id, known.id.number());
        if self.server.machine.refuse(id, Refusal::Cancelled).is_ok() {
            self.notes.known.remove(&number);
        }
    }

    /// Completes all requests, and closes. A connection that has not ended yet ends without an
    /// error.
    fn finish(&mut self) {
        self.client.machine.set_reading(self.now, true);
        self.server.machine.set_reading(self.now, true);
        self.settle();
        self.check();
        let ended = self.client.end.is_some() || self.server.end.is_some() || self.server.hung_up;
        let lives = !ended && !self.killed;
        if lives {
            assert!(self.notes.asked.is_empty(), "every request has completed");
        }
        self.client.machine.close(self.now, CloseReason::Done);
        self.settle();
        for _ in 0..3 {
            self.client.transmit(self.now);
            self.carry(false, usize::MAX);
            self.hear_server(usize::MAX);
            self.transmit_server();
            self.carry(true, usize::MAX);
            self.hear_client(usize::MAX);
        }
        self.check();
        if lives {
            let ends = (self.client.end, self.server.end);
            let closed = Some(ConnectionError::Closed);
            assert_eq!(ends, (closed, closed), "the connection ends without an error");
        }
        self.now = self.now + Duration::from_secs(1_000);
        let _ = self.client.machine.handle_timeout(self.now);
        let _ = self.server.machine.handle_timeout(self.now);
        self.check();
        assert!(
            self.client.end.is_some() && self.server.end.is_some(),
            "every connection ends"
        );
    }
}
