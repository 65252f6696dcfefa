//! A connection without security, driven by arbitrary API calls, whose peer is an attacker who can
//! seal.

use core::time::Duration;
use std::collections::VecDeque;
use std::vec::Vec;

use super::Input;
use crate::crypto::{Crypto, Nonce};
use crate::testing::{ClassicNoSecurity, CountingRng, NoSecurity, classic_key_with};
use crate::{
    ClientConnection, ClientEvent, CloseReason, Connection, ConnectionError, Instant, KeyRef, OutgoingRequest,
    Received, RecvBuf, Refusal, RequestId, Role, ServerConnection, ServerEvent, Settings, Status,
};

const MAX_MESSAGE: u32 = 48;
const MAX_IN_FLIGHT: u16 = 3;
/// No frame of either direction is longer than a hello or the longest message.
const LONGEST_FRAME: usize = 157;

fn settings() -> Settings {
    Settings::new()
        .with_max_message(MAX_MESSAGE)
        .with_max_in_flight(MAX_IN_FLIGHT)
        .expect("3 is not 0")
}

/// A server whose client can produce valid tags.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn server_past_tag(data: &[u8]) {
    let key = classic_key_with(1, &NoSecurity);
    let mut rng = CountingRng::new(1);
    let machine =
        ServerConnection::new(&key, &settings(), Instant::ZERO, &mut rng).expect("the generator does not fail");
    let mut driven = Driven::new(machine);
    let mut waiting: VecDeque<RequestId> = VecDeque::new();
    let mut answered = 0;
    let mut out = [0; 256];
    let mut input = Input::new(data);
    while !input.is_done() {
        match input.byte() % 10 {
            0 => {
                let count = input.index(64);
                driven.arrive(input.take(count));
            }
            1 => driven.arrive_sealed(&[0x00], &[7; 128], false, &mut input),
            2 => driven.arrive_sealed(&[0x01], &[9; 48], true, &mut input),
            3 => driven.arrive(&[0x02]),
            4 => driven.wait(&mut input),
            5 => {
                let pick = input.index(waiting.len());
                if let Some(&id) = waiting.get(pick)
                    && let Ok(mut answer) = driven.machine.answer(id, 5)
                {
                    let sent = driven
                        .machine
                        .seal(driven.now, [(&mut answer, &b"reply"[..])], &mut out)
                        .unwrap_or(0);
                    assert_eq!(answer.is_done(), sent > 1, "an answer that is done was written");
                    if answer.is_done() {
                        assert_eq!(waiting.pop_front(), Some(id), "an answer is sealed once, in its turn");
                        answered += 1;
                    }
                }
            }
            6 => {
                if let Some(&id) = waiting.get(input.index(waiting.len())) {
                    let _ = driven.machine.refuse(id, Refusal::Failed);
                }
            }
            7 => {
                let sent = driven
                    .machine
                    .poll_transmit(driven.now, &mut out)
                    .expect("there is room");
                assert!(
                    sent == 0 || driven.machine.status() != Status::Handshaking,
                    "an unauthenticated client receives nothing"
                );
            }
            8 => driven.machine.close(driven.now, CloseReason::Done),
            _ => driven.end_of_stream(),
        }
        driven.take_events(|event| {
            if let ServerEvent::Request { id, .. } = event {
                waiting.push_back(id);
                assert_eq!(
                    usize::try_from(id.number()),
                    Ok(answered + waiting.len()),
                    "numbers go up by one"
                );
            }
        });
        assert!(
            waiting.len() <= MAX_IN_FLIGHT.into(),
            "more are in flight than the settings allow"
        );
        assert_eq!(
            driven.machine.in_flight(),
            waiting.len(),
            "a request completes exactly once"
        );
    }
}

/// A client whose server can produce valid tags.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn client_past_tag(data: &[u8]) {
    let key = classic_key_with(1, &NoSecurity);
    let mut rng = CountingRng::new(1);
    let machine =
        ClientConnection::new(&key, &settings(), Instant::ZERO, &mut rng).expect("the generator does not fail");
    let mut driven = Driven::new(machine);
    let mut queue: Vec<OutgoingRequest> = Vec::new();
    let mut waiting: VecDeque<RequestId> = VecDeque::new();
    let mut out = [0; 256];
    let mut input = Input::new(data);
    while !input.is_done() {
        match input.byte() % 10 {
            0 => {
                let count = input.index(64);
                driven.arrive(input.take(count));
            }
            1 => driven.arrive(&[0xFF]),
            2 => driven.arrive_sealed(&[], &[9; 48], true, &mut input),
            3 => driven.arrive(&[0; 8]),
            4 => driven.wait(&mut input),
            5 => queue.extend(driven.machine.request(4).ok().filter(|_| waiting.len() < 8)),
            6 => {
                let before = driven.machine.status();
                let messages = queue.iter_mut().map(|message| (message, &b"four"[..]));
                let sent = driven.machine.seal(driven.now, messages, &mut out).unwrap_or(0);
                assert!(before != Status::Ended || sent == 0, "nothing is sent after the end");
                let begun = queue.iter().filter_map(OutgoingRequest::id);
                waiting.extend(begun);
                queue.retain(|message| !message.is_done());
            }
            7 => {
                let _ = driven
                    .machine
                    .poll_transmit(driven.now, &mut out)
                    .expect("there is room");
            }
            8 => {
                let _ = driven.machine.ping();
            }
            _ => match input.byte() % 8 {
                0 => driven.machine.close(driven.now, CloseReason::Done),
                1 => driven.end_of_stream(),
                _ => {}
            },
        }
        driven.take_events(|event| {
            if let ClientEvent::Answer { id, .. } | ClientEvent::Refused { id, .. } = event {
                assert_eq!(
                    waiting.pop_front(),
                    Some(id),
                    "answers arrive in the order of the requests, once each"
                );
            }
        });
        assert!(
            waiting.len() <= MAX_IN_FLIGHT.into(),
            "more are in flight than the settings allow"
        );
        assert_eq!(
            driven.machine.in_flight(),
            waiting.len(),
            "a request completes exactly once"
        );
    }
}

type Handle<'k> = &'k ClassicNoSecurity;

/// A connection with its unread bytes and its clock. It checks invariants after each step.
struct Driven<'k, R: Role>
where
    &'k ClassicNoSecurity: KeyRef<R>,
{
    machine: Connection<R, Handle<'k>>,
    inbox: RecvBuf<[u8; 512]>,
    now: Instant,
    latest_deadline: Instant,
    end: Option<ConnectionError>,
    made: u8,
    last: Vec<u8>,
}

impl<'k, R: Role> Driven<'k, R>
where
    &'k ClassicNoSecurity: KeyRef<R>,
{
    const fn new(machine: Connection<R, Handle<'k>>) -> Self {
        Self {
            machine,
            inbox: RecvBuf::new([0; 512]),
            now: Instant::ZERO,
            latest_deadline: Instant::ZERO,
            end: None,
            made: 0,
            last: Vec::new(),
        }
    }

    /// Adds as many of `bytes` to the unread bytes as there is room for.
    fn arrive(&mut self, bytes: &[u8]) {
        let Ok(space) = self.inbox.space(0) else { return };
        let count = space.len().min(bytes.len());
        space.split_at_mut(count).0.copy_from_slice(bytes.split_at(count).0);
        self.inbox.filled(count);
    }

    /// Adds a valid frame to the unread bytes, or repeats the last one.
    fn arrive_sealed(&mut self, kind: &[u8], body: &[u8], with_length: bool, input: &mut Input<'_>) {
        let choice = input.byte();
        if choice >= 250 {
            let again = core::mem::take(&mut self.last);
            self.arrive(&again);
            self.last = again;
            return;
        }
        let body = if with_length {
            body.split_at(usize::from(choice) % (body.len() + 1)).0
        } else {
            body
        };
        self.made = self.made.wrapping_add(1);
        let nonce: Nonce = [self.made; 12];
        let mut frame = kind.to_vec();
        if with_length {
            frame.extend((28 + u64::try_from(body.len()).unwrap_or(0)).to_be_bytes());
        }
        frame.extend(nonce);
        frame.extend(body);
        frame.extend(NoSecurity.aead(&[1; 32]).tag(&nonce, &[], body));
        self.arrive(&frame);
        self.last = frame;
    }

    fn wait(&mut self, input: &mut Input<'_>) {
        let millis = u64::from(input.byte()) * u64::from(input.byte());
        self.now = self.now + Duration::from_millis(millis);
        let _ = self.machine.handle_timeout(self.now);
    }

    fn end_of_stream(&mut self) {
        let _ = self.machine.end_of_stream(self.now, &self.inbox.unread());
    }

    fn take_events(&mut self, mut note: impl FnMut(R::Event<'_>)) {
        loop {
            let held = self.inbox.len();
            match self.machine.recv(self.now, self.inbox.unread()) {
                Ok(Received::Event(event)) => {
                    note(event);
                    assert!(self.inbox.len() < held, "an event consumes bytes");
                }
                Ok(Received::Skip) => assert!(self.inbox.len() < held, "a skip consumes bytes"),
                Ok(Received::NeedMore { total }) => {
                    assert!(
                        total > held && total <= LONGEST_FRAME,
                        "{total} bytes needed, {held} present"
                    );
                    break;
                }
                Ok(Received::Wait(_)) => break,
                Err(end) => {
                    assert_eq!(self.machine.end(), Some(end), "the end is remembered");
                    break;
                }
            }
        }
        assert!(
            self.end.is_none() || self.machine.end() == self.end,
            "the end does not change"
        );
        self.end = self.machine.end();
        if let Some(deadline) = self.machine.poll_timeout() {
            assert!(self.end.is_none(), "nothing is due after the end");
            assert!(deadline >= self.latest_deadline, "a deadline went backwards");
            self.latest_deadline = deadline;
        }
    }
}
