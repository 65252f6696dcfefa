//! A session cut at every byte: each side gets a typed error, no incomplete message, and `Closed`
//! only after a complete close.

use core::cell::RefCell;

use crate::common::noise::{ClientKeys, IntoNoiseEvent, NoiseEvent, ServerKeys, client_keys, server_keys};
use crate::common::{ms, pending_output};
use falco_core::testing::{CountingRng, Pair, RecvBytes, ServerLog};
use falco_core::{
    ClientConnection, CloseReason, ConnectionError, OutgoingAnswer, OutgoingRequest, Received, ServerConnection,
    Settings,
};

const SEED: u64 = 11;
const LARGE: usize = 300;

fn settings() -> Settings {
    Settings::new().with_max_record(64).unwrap()
}

fn bodies() -> [Vec<u8>; 3] {
    [b"small".to_vec(), vec![b'L'; LARGE], vec![]]
}

/// Both directions of a session: three requests with their answers, then the client closes.
fn session(client: &ClientKeys, server: &ServerKeys) -> (Vec<u8>, Vec<u8>) {
    let carried = RefCell::new((Vec::new(), Vec::new()));
    let mut pair = Pair::new(client, server, &settings(), SEED).unwrap();
    let copy = &carried;
    pair.link = Box::new(move |to_server, bytes| {
        let mut carried = copy.borrow_mut();
        let side = if to_server { &mut carried.0 } else { &mut carried.1 };
        side.extend_from_slice(bytes);
    });
    for body in bodies() {
        pair.request(&body).unwrap();
    }
    pair.settle().unwrap();
    pair.client().close(ms(0), CloseReason::Done);
    pair.settle().unwrap();
    assert_eq!(pair.server_log.last(), Some(&ServerLog::Ended(ConnectionError::Closed)));
    assert_eq!(pair.client().end(), Some(ConnectionError::Closed));
    drop(pair);
    carried.into_inner()
}

/// Where the records of a stream end, after its first `head` bytes.
fn record_ends(stream: &[u8], head: usize) -> Vec<usize> {
    let (mut ends, mut at) = (vec![head], head);
    while at < stream.len() {
        at += 2 + usize::from(u16::from_be_bytes([stream[at], stream[at + 1]]));
        ends.push(at);
    }
    assert_eq!(ends.last(), Some(&stream.len()));
    ends
}

/// The complete messages of these events.
fn whole(received: &[NoiseEvent]) -> Vec<(u32, Vec<u8>)> {
    let (mut all, mut parts) = (Vec::new(), Vec::new());
    for event in received {
        match event {
            NoiseEvent::Whole(id, body) => all.push((*id, body.clone())),
            NoiseEvent::Begin(_, _, body) => parts.clone_from(body),
            NoiseEvent::Part(id, body, last) => {
                parts.extend_from_slice(body);
                if *last {
                    all.push((*id, core::mem::take(&mut parts)));
                }
            }
            NoiseEvent::Established | NoiseEvent::Ping | NoiseEvent::Pong | NoiseEvent::Closing(_) => {}
            NoiseEvent::Refused(..)
            | NoiseEvent::Abandoned(_)
            | NoiseEvent::Cancelled(_)
            | NoiseEvent::Opened(..)
            | NoiseEvent::Credit(_) => panic!("{event:?}"),
        }
    }
    all
}

fn assert_whole(received: &[NoiseEvent], cut: usize) -> usize {
    let whole = whole(received);
    for (id, body) in &whole {
        assert_eq!(
            *body,
            bodies()[usize::try_from(*id).unwrap() - 1],
            "cut at {cut}: a message that was not whole"
        );
    }
    whole.len()
}

/// The result of a server for the start of a stream.
fn serve(keys: (&ClientKeys, &ServerKeys), stream: &[u8]) -> (Vec<NoiseEvent>, ConnectionError) {
    let mut rng = CountingRng::new(SEED);
    drop(ClientConnection::new(keys.0, &settings(), ms(0), &mut rng).unwrap());
    let mut machine = ServerConnection::new(keys.1, &settings(), ms(0), &mut rng).unwrap();
    let (mut unread, mut received) = (stream.to_vec(), Vec::new());
    let mut answers: Vec<(OutgoingAnswer, Vec<u8>)> = Vec::new();
    let mut total = std::collections::HashMap::new();
    loop {
        let messages = answers.iter_mut().map(|(message, body)| (message, body.as_slice()));
        let _ = machine.seal(ms(0), messages, &mut [0; 5000]);
        answers.retain(|(message, _)| !message.is_done());
        match machine.recv_bytes(ms(0), &mut unread) {
            Ok((_, Received::NeedMore { .. })) if answers.is_empty() => break,
            Ok((_, Received::NeedMore { .. } | Received::Wait(_))) => {}
            Ok((consumed, Received::Skip)) => drop(unread.drain(..consumed)),
            Ok((consumed, Received::Event(event))) => {
                let (event, id) = event.into_noise_event();
                unread.drain(..consumed);
                let mut whole = None;
                if let NoiseEvent::Whole(_, body) = &event {
                    whole = Some(body.len());
                } else if let NoiseEvent::Begin(id, length, _) = &event {
                    total.insert(*id, usize::try_from(*length).unwrap());
                } else if let NoiseEvent::Part(id, _, true) = &event {
                    whole = Some(total[id]);
                }
                if let (Some(length), Some(id)) = (whole, id) {
                    answers.push((machine.answer(id, length).unwrap(), vec![0; length]));
                }
                received.push(event);
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => break,
        }
    }
    let end = machine
        .end_of_stream(ms(0), &unread)
        .expect_err("nothing is left to do");
    (received, end)
}

#[test]
fn a_server_whose_stream_is_cut_at_any_byte_gets_a_typed_error_and_only_complete_messages() {
    let (client, server) = (client_keys(), server_keys());
    let (stream, _) = session(&client, &server);
    let ends = record_ends(&stream, 74);
    let mut most = 0;
    for cut in 0..=stream.len() {
        let (received, end) = serve((&client, &server), &stream[..cut]);
        let expected = match cut {
            // Between the hello and the first PING there are no records.
            0 | 74 => ConnectionError::ClosedByPeer,
            _ if cut == stream.len() => ConnectionError::Closed,
            _ => ConnectionError::Truncated,
        };
        assert_eq!(end, expected, "cut at {cut}");
        let established = received.first() == Some(&NoiseEvent::Established);
        assert_eq!(established, cut >= ends[1], "cut at {cut}");
        let count = assert_whole(&received, cut);
        assert!(count >= most, "more bytes, fewer messages");
        most = count;
    }
    assert_eq!(most, 3);
}

/// The result of a client that has sent its requests and closed, for the start of a stream.
fn ask(keys: (&ClientKeys, &ServerKeys), stream: &[u8], close: bool) -> (Vec<NoiseEvent>, ConnectionError) {
    let mut rng = CountingRng::new(SEED);
    let mut machine = ClientConnection::new(keys.0, &settings(), ms(0), &mut rng).unwrap();
    pending_output(&mut machine, ms(0));
    let (mut unread, mut received) = (stream.to_vec(), Vec::new());
    loop {
        match machine.recv_bytes(ms(0), &mut unread) {
            Ok((_, Received::NeedMore { .. })) | Err(_) => break,
            Ok((0, Received::Wait(_))) => drop(pending_output(&mut machine, ms(0))),
            Ok((consumed, Received::Skip)) => drop(unread.drain(..consumed)),
            Ok((consumed, Received::Event(event))) => {
                received.push(event.into_noise_event().0);
                unread.drain(..consumed);
                if received.len() > 1 {
                    continue;
                }
                let bodies = bodies();
                let mut requests: Vec<OutgoingRequest> =
                    bodies.iter().map(|body| machine.request(body.len()).unwrap()).collect();
                while !requests.iter().all(OutgoingRequest::is_done) {
                    let messages = requests.iter_mut().zip(bodies.iter().map(Vec::as_slice));
                    machine.seal(ms(0), messages, &mut [0; 5000]).unwrap();
                }
                if close {
                    machine.close(ms(0), CloseReason::Done);
                    pending_output(&mut machine, ms(0));
                }
            }
            Ok(other) => panic!("{other:?}"),
        }
    }
    let end = machine
        .end_of_stream(ms(0), &unread)
        .expect_err("a client has nothing left to do");
    (received, end)
}

#[test]
fn a_client_whose_stream_is_cut_at_any_byte_gets_a_typed_error_and_only_complete_answers() {
    let (client, server) = (client_keys(), server_keys());
    let (_, stream) = session(&client, &server);
    let ends = record_ends(&stream, 64);
    for close in [true, false] {
        let mut most = 0;
        for cut in 0..=stream.len() {
            let (received, end) = ask((&client, &server), &stream[..cut], close);
            let count = assert_whole(&received, cut);
            assert!(count >= most, "more bytes, fewer answers");
            most = count;
            // A complete close: a CLOSE of either side, no record cut, all answers there.
            let all_said = close && count == 3 && ends.contains(&cut);
            let expected = match cut {
                0..64 => ConnectionError::Refused,
                _ if cut == stream.len() || all_said => ConnectionError::Closed,
                _ => ConnectionError::Truncated,
            };
            assert_eq!(end, expected, "cut at {cut}, close: {close}");
        }
        assert_eq!(most, 3);
    }
}
