//! A client of the noise wire, driven by arbitrary API calls, whose server sends arbitrary frames
//! in valid records.

use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use super::Input;
use super::noise_attacker::{
    Attacked, BODY, ClientKeys, Frame, MAX_IN_FLIGHT, MAX_MESSAGE, handshake, no_security_client, settings,
};
use crate::testing::CountingRng;
use crate::{BufferSizes, ClientConnection, ClientEvent, CloseReason, Instant, OutgoingRequest, RequestId};

type Client<'k> = Attacked<crate::ClientSide, &'k ClientKeys>;

/// The caller of the client, and what it knows of the requests.
#[derive(Default)]
struct Caller {
    queue: Vec<OutgoingRequest>,
    /// Requests in flight.
    waiting: BTreeMap<u32, RequestId>,
    /// For each answer that has arrived in part, how many bytes are missing.
    missing: BTreeMap<u32, usize>,
    /// The last request that has begun.
    last: u32,
    /// Requests for which the client has sent a CANCEL.
    cancelled: BTreeSet<u32>,
    closed: bool,
    spoken: bool,
}

/// A client whose server can produce valid tags.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn noise_client_past_tag(data: &[u8]) {
    let keys = no_security_client();
    let (now, mut rng) = (Instant::ZERO, CountingRng::new(1));
    let mut input = Input::new(data);
    let keep_alive = input.byte() & 1 == 1;
    let settings = settings().with_keep_alive(keep_alive);
    let mut machine = ClientConnection::new(&keys, &settings, now, &mut rng).expect("the generator does not fail");
    let mut wire = [0; BufferSizes::TRANSMIT];
    let length = machine.poll_transmit(now, &mut wire).expect("there is room");
    let (welcome, raw) = handshake()
        .server(wire.split_at(length).0)
        .expect("the hello authenticates");
    let mut driven = Attacked::new(machine, raw);
    // The deadline for the answer to a PING is earlier than that of the idle timeout.
    driven.deadlines_move = keep_alive;
    driven.arrive(&welcome);
    driven.take_events(1, |event| {
        assert_eq!(event, ClientEvent::Established, "the first event is Established");
    });
    let mut caller = Caller::default();
    while !input.is_done() {
        let pick = input.byte();
        caller.act(&mut driven, pick, &mut input);
        let count = if pick & 64 == 0 { usize::MAX } else { 1 };
        driven.take_events(count, |event| caller.note(event));
        driven.said().iter().for_each(|frame| caller.hear(frame));
        assert!(
            driven.machine.in_flight() <= MAX_IN_FLIGHT.into(),
            "more are in flight than allowed"
        );
        if driven.told_all && driven.machine.end().is_none() {
            assert_eq!(
                driven.machine.in_flight(),
                caller.waiting.len(),
                "a request completes exactly once"
            );
        }
    }
}

impl Caller {
    fn act(&mut self, driven: &mut Client<'_>, pick: u8, input: &mut Input<'_>) {
        match pick % 12 {
            0 => {
                let count = input.index(40);
                driven.arrive(input.take(count));
            }
            1..=3 => driven.arrive_answers(input, self.last),
            4 => driven.wait(input),
            5 if self.queue.len() < 8 => self.queue.extend(driven.machine.request(input.index(300)).ok()),
            6 | 7 => self.seal(driven),
            8 => driven.transmit(),
            9 => {
                let _ = driven.machine.ping();
            }
            10 => {
                let chosen = usize::from(pick >> 4) % self.waiting.len().max(1);
                if let Some(id) = self.waiting.values().nth(chosen) {
                    let _ = driven.machine.cancel(*id);
                }
            }
            _ if pick > 220 => driven.machine.close(driven.now, CloseReason::Done),
            _ if pick > 200 => driven.end_of_stream(),
            _ if pick > 180 => driven.set_reading(pick & 1 == 0),
            _ => {}
        }
    }

    fn seal(&mut self, driven: &mut Client<'_>) {
        let (mut out, ended) = ([0; 700], driven.machine.end().is_some());
        let messages = self.queue.iter_mut().map(|message| {
            let (body, _) = BODY.split_at(message.length());
            (message, body)
        });
        let sealed = driven.machine.seal(driven.now, messages, &mut out).unwrap_or(0);
        driven.sent(out.split_at(sealed).0, ended);
        for id in self.queue.iter().filter_map(OutgoingRequest::id) {
            if id.number() > self.last {
                self.waiting.insert(id.number(), id);
            }
        }
        self.last = self.waiting.keys().next_back().copied().unwrap_or(0).max(self.last);
        self.queue.retain(|message| !message.is_done());
    }

    fn note(&mut self, event: ClientEvent<'_>) {
        let ended = match event {
            ClientEvent::Answer { id, body } => {
                assert!(body.len() <= 100, "an answer is within the limit");
                assert!(!self.missing.contains_key(&id.number()), "an answer begins once");
                id
            }
            ClientEvent::Begin { id, total, body } => {
                assert!(total <= MAX_MESSAGE, "an answer is within the limit");
                assert!(
                    self.waiting.contains_key(&id.number()),
                    "an answer belongs to a request in flight"
                );
                let rest = usize::try_from(total).unwrap_or(usize::MAX).checked_sub(body.len());
                let rest = rest.expect("an answer is within its total");
                assert!(
                    self.missing.insert(id.number(), rest).is_none(),
                    "an answer begins once"
                );
                return;
            }
            ClientEvent::Part { id, body, last } => {
                let rest = self.missing.get_mut(&id.number()).expect("a part follows a Begin");
                *rest = rest.checked_sub(body.len()).expect("an answer is within its total");
                assert_eq!(last, *rest == 0, "the last part is the last");
                if !last {
                    return;
                }
                id
            }
            ClientEvent::Refused { id, .. } => id,
            #[cfg(feature = "streams")]
            ClientEvent::Opened { .. } | ClientEvent::Credit { .. } => panic!("no open body is taken"),
            ClientEvent::Established => panic!("the connection is established once"),
            ClientEvent::Pong { .. } | ClientEvent::Closing { .. } => return,
        };
        self.missing.remove(&ended.number());
        assert_eq!(
            self.waiting.remove(&ended.number()),
            Some(ended),
            "a request completes exactly once"
        );
    }

    /// Checks a frame that the client has sent.
    fn hear(&mut self, (kind, id, body): &Frame) {
        assert!(self.spoken || *kind == 6, "the first frame of a client is a PING");
        self.spoken = true;
        assert!(*id <= self.last, "a request that has not begun");
        assert!(*kind != 5 || self.cancelled.insert(*id), "a second CANCEL");
        assert!(!self.closed || !matches!(kind, 1 | 2), "a request after the CLOSE");
        assert!(*kind != 2 || body.len() > 4, "the first part of a message is not empty");
        assert!(
            *kind != 3 || !self.cancelled.contains(id),
            "a part of a cancelled request"
        );
        self.closed |= *kind == 8;
    }
}
