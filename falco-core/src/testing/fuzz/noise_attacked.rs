//! A server of the noise wire, driven by arbitrary API calls, whose client sends arbitrary frames
//! in valid records.

use std::collections::{BTreeMap, BTreeSet};

use super::Input;
use super::noise_attacker::{
    Attacked, BODY, MAX_HELD, MAX_IN_FLIGHT, MAX_MESSAGE, ServerKeys, handshake, no_security_server, settings,
};
use crate::testing::{CountingRng, RecvBytes, raw_frame};
use crate::{
    BufferSizes, CloseReason, Instant, OutgoingAnswer, Received, Refusal, RequestId, ServerConnection, ServerEvent,
};

/// What the caller of the server knows of a request.
#[derive(Debug)]
struct Known {
    id: RequestId,
    total: usize,
    received: usize,
    answer: Option<OutgoingAnswer>,
}

/// A server whose client can produce valid tags.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn noise_server_past_tag(data: &[u8]) {
    let keys = no_security_server();
    let (now, mut rng) = (Instant::ZERO, CountingRng::new(1));
    let mut machine = ServerConnection::new(&keys, &settings(), now, &mut rng).expect("the generator does not fail");
    let mut wire = [0; BufferSizes::TRANSMIT];
    let mut hello = handshake().hello();
    let received = machine.recv_bytes(now, &mut hello);
    assert_eq!(received, Ok((74, Received::Skip)), "the key is right");
    let length = machine.poll_transmit(now, &mut wire).expect("there is room");
    let mut raw = handshake()
        .client(wire.split_at(length).0)
        .expect("the welcome authenticates");
    let first = raw.seal(&raw_frame(6, 0, &[1; 8]));
    let mut driven = Attacked::new(machine, raw);
    driven.arrive(&first);
    driven.take_events(1, |event| {
        assert_eq!(event, ServerEvent::Established, "the first event is Established");
    });
    // The server reads nothing more before its PONG to the first PING is sealed.
    driven.transmit();
    assert_eq!(driven.said(), [(7, 0, [1; 8].to_vec())], "a PONG");
    let mut known: BTreeMap<u32, Known> = BTreeMap::new();
    let (mut next, mut ends) = (0, BTreeSet::new());
    let mut input = Input::new(data);
    while !input.is_done() {
        let pick = input.byte();
        let chosen = known
            .keys()
            .nth(usize::from(pick >> 4) % known.len().max(1))
            .copied()
            .unwrap_or(0);
        match pick % 12 {
            0 => {
                let count = input.index(40);
                driven.arrive(input.take(count));
            }
            1..=4 => driven.arrive_record(&mut input, &mut next),
            5 => driven.wait(&mut input),
            6 => answer(&mut driven, &mut known, chosen, input.index(300)),
            7 => {
                if let Some(request) = known.get(&chosen)
                    && driven.machine.refuse(request.id, Refusal::Failed).is_ok()
                {
                    known.remove(&chosen);
                }
            }
            8 => driven.transmit(),
            9 if pick > 200 => driven.machine.close(driven.now, CloseReason::Done),
            10 if pick > 220 => driven.end_of_stream(),
            11 if pick > 200 => driven.set_reading(pick & 32 == 0),
            _ => {}
        }
        let count = if pick & 64 == 0 { usize::MAX } else { 1 };
        driven.take_events(count, |event| note(&mut known, event));
        for (kind, id, body) in driven.said() {
            let ended = match kind {
                1 | 4 => true,
                2 => {
                    assert!(body.len() > 4, "the first part of a message is not empty");
                    false
                }
                _ => continue,
            };
            assert!(id <= next, "there was no request for this answer");
            assert!(
                !ends.contains(&id),
                "a request completed twice, or continued after it completed"
            );
            if ended {
                ends.insert(id);
            }
        }
        assert!(
            driven.machine.in_flight() <= MAX_IN_FLIGHT.into(),
            "more are in flight than allowed"
        );
        let held: usize = known.values().map(|request| request.received).sum();
        assert!(
            u32::try_from(held).is_ok_and(|held| held <= MAX_HELD),
            "more bytes are held than allowed"
        );
        if driven.told_all && driven.machine.end().is_none() {
            assert_eq!(
                driven.machine.in_flight(),
                known.len(),
                "a request completes exactly once"
            );
        }
    }
}

type Server<'k> = Attacked<crate::ServerSide, &'k ServerKeys>;

/// Seals the next part of an answer, and begins an answer if there is none.
fn answer(driven: &mut Server<'_>, known: &mut BTreeMap<u32, Known>, chosen: u32, length: usize) {
    let Some(request) = known.get_mut(&chosen) else { return };
    let whole = request.received == request.total;
    if request.answer.is_none() {
        let made = driven.machine.answer(request.id, length);
        assert!(
            whole || made.is_err() || !driven.told_all,
            "a request in part was answered"
        );
        request.answer = made.ok();
    }
    let Some(message) = &mut request.answer else { return };
    let (body, _) = BODY.split_at(message.length());
    let (mut out, ended) = ([0; 300], driven.machine.end().is_some());
    let sealed = driven.machine.seal(driven.now, [(&mut *message, body)], &mut out);
    let done = message.is_done();
    driven.sent(out.split_at(sealed.unwrap_or(0)).0, ended);
    if done {
        known.remove(&chosen);
    }
}

fn note(known: &mut BTreeMap<u32, Known>, event: ServerEvent<'_>) {
    let mut begin = |id: RequestId, total: usize, received: usize| {
        assert!(
            received <= total && total <= 100,
            "a message is within its total and its limit"
        );
        let request = Known {
            id,
            total,
            received,
            answer: None,
        };
        assert!(
            known.insert(id.number(), request).is_none(),
            "a request id is used once"
        );
    };
    match event {
        ServerEvent::Request { id, body } => begin(id, body.len(), body.len()),
        ServerEvent::Begin { id, total, body } => {
            assert!(total <= MAX_MESSAGE, "a total is within the limit");
            begin(id, usize::try_from(total).unwrap_or(usize::MAX), body.len());
        }
        ServerEvent::Part { id, body, last } => {
            let request = known
                .get_mut(&id.number())
                .expect("a part belongs to a request that has begun");
            request.received += body.len();
            assert!(request.received <= request.total, "a message is within its total");
            assert_eq!(last, request.received == request.total, "the last part is the last");
        }
        ServerEvent::Abandoned { id } => {
            let request = known.remove(&id.number()).expect("an abandoned request has begun");
            assert!(request.received < request.total, "a complete request is not abandoned");
        }
        #[cfg(feature = "streams")]
        ServerEvent::Opened { .. } | ServerEvent::Credit { .. } => panic!("no open body is taken"),
        ServerEvent::Established => panic!("the connection is established once"),
        ServerEvent::Cancelled { .. } | ServerEvent::Closing { .. } | ServerEvent::Ping => {}
    }
}
