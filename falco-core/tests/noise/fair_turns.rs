//! Large messages take turns with all others, and records fit a peer that reads small ones.

use crate::common::noise::{
    BEGIN, Frame, MESSAGE, NoiseEvent, PART, PONG, REFUSE, at_client, at_client_with, at_server, at_server_with,
    client_keys, honest, server_keys,
};
use falco_core::testing::{ClientLog, Pair, SendQueue, raw_frame, raw_settings};
use falco_core::{Error, Refusal, ReplyError, RequestError, Settings};

const LARGE: usize = 16 << 20;

/// How many of these records come before the one with this frame.
fn records_before(records: &[Vec<Frame>], kind: u8, id: u32) -> usize {
    let has = |record: &Vec<Frame>| record.iter().any(|frame| (frame.0, frame.1) == (kind, id));
    records.iter().position(has).expect("it has gone")
}

#[test]
fn the_answer_to_a_small_request_waits_for_at_most_two_records_of_a_large_one() {
    let mut rig = at_server(&Settings::new());
    let mut queue = SendQueue::new();
    rig.receive(&raw_frame(MESSAGE, 1, b"large"));
    queue.push(rig.machine.answer(rig.ids[&1], LARGE).unwrap(), vec![1; LARGE]);
    let (mut records, mut out) = (Vec::new(), vec![0; rig.machine.seal_size(LARGE)]);
    let mut asked = 0;
    while !queue.is_empty() {
        if records.len() == 10 {
            rig.receive(&raw_frame(MESSAGE, 2, b"small"));
            queue.push(rig.machine.answer(rig.ids[&2], 5).unwrap(), b"small".to_vec());
            asked = records.len();
        }
        let length = queue.seal(&mut rig.machine, rig.now, &mut out, |_, _| ()).unwrap();
        let mut sent = out[..length].to_vec();
        while let Some(text) = rig.raw.open(&mut sent) {
            records.push(crate::common::noise::split_frames(&text));
        }
        assert!(sent.is_empty() && length > 0);
    }
    let waited = records_before(&records, MESSAGE, 2) - asked;
    assert!(waited <= 2, "it waited for {waited} records");
    assert!(records.len() > 256, "the large one had not ended");
    let received: usize = records
        .iter()
        .flatten()
        .filter(|frame| frame.1 == 1)
        .map(|frame| frame.2.len())
        .sum();
    assert_eq!(received, LARGE + 4);
}

#[test]
fn a_small_request_waits_for_at_most_two_records_of_each_large_one() {
    let mut rig = at_client(&Settings::new());
    let mut queue = SendQueue::new();
    for byte in 0..3 {
        queue.push(rig.machine.request(LARGE).unwrap(), vec![byte; LARGE]);
    }
    let mut out = vec![0; rig.machine.seal_size(LARGE)];
    let mut next = |rig: &mut crate::common::noise::AtClient, queue: &mut SendQueue<_, _>| {
        let length = queue.seal(&mut rig.machine, rig.now, &mut out, |_, _| ()).unwrap();
        rig.out.extend_from_slice(&out[..length]);
        rig.opened()
    };
    for _ in 0..20 {
        next(&mut rig, &mut queue);
    }
    queue.push(rig.machine.request(5).unwrap(), b"small".to_vec());
    let records: Vec<_> = (0..10).map(|_| next(&mut rig, &mut queue)).collect();
    assert!(records_before(&records, MESSAGE, 4) <= 6);
    let parts = |id| {
        records
            .iter()
            .flatten()
            .filter(|frame| (frame.0, frame.1) == (PART, id))
            .count()
    };
    assert!((1..=3).all(|id| parts(id) >= 3), "all three go on");
}

#[test]
fn on_a_pair_a_small_answer_overtakes_a_large_one() {
    let (client, server) = (client_keys(), server_keys());
    let mut pair = Pair::new(&client, &server, &Settings::new(), 1).unwrap();
    pair.request(&vec![7; LARGE]).unwrap();
    pair.request(b"small").unwrap();
    pair.settle().unwrap();
    let order: Vec<_> = pair
        .client_log
        .iter()
        .filter_map(|entry| match entry {
            ClientLog::Answer(id, body) => Some((*id, body.len())),
            ClientLog::Established
            | ClientLog::Refused(..)
            | ClientLog::Pong(_)
            | ClientLog::Closing(_)
            | ClientLog::Ended(_) => None,
        })
        .collect();
    assert_eq!(order, [(2, 5), (1, LARGE)]);
}

#[test]
fn a_pong_and_refusals_are_sent_before_the_next_part() {
    let mut rig = at_server(&Settings::new());
    rig.receive(&raw_frame(MESSAGE, 1, b"large"));
    rig.receive(&raw_frame(MESSAGE, 2, b"refused"));
    let body = vec![1; 200_000];
    let mut message = rig.machine.answer(rig.ids[&1], body.len()).unwrap();
    rig.seal_answer(&mut message, &body);
    assert_eq!(rig.opened()[0].0, BEGIN);
    assert_eq!(rig.receive(&raw_frame(6, 0, &[1; 8])), [NoiseEvent::Ping]);
    rig.machine.refuse(rig.ids[&2], Refusal::Failed).unwrap();
    rig.seal_answer(&mut message, &body);
    let kinds: Vec<u8> = rig.opened().iter().map(|frame| frame.0).collect();
    assert_eq!(kinds[..2], [PONG, REFUSE]);
    rig.seal_answer(&mut message, &body);
    assert!(rig.opened().iter().any(|frame| frame.0 == PART));
}

/// Asserts that no record in `out` is longer than 256 and that they have the whole body.
fn assert_small_records(out: &[u8], mut frames: Vec<Frame>, length: usize) {
    let mut at = 0;
    while at < out.len() {
        let n = usize::from(u16::from_be_bytes([out[at], out[at + 1]]));
        assert!(n <= 256, "a record of {n}");
        at += 2 + n;
    }
    let first = frames.remove(0);
    let rest: usize = frames.iter().map(|frame| frame.2.len()).sum();
    let begin = usize::from(first.0 == BEGIN) * 4;
    assert_eq!(first.2.len() - begin + rest, length);
    assert_eq!(
        first.0 == MESSAGE,
        length <= 256 - 16 - 7,
        "what fits one frame is a MESSAGE"
    );
}

#[test]
fn the_limits_of_a_small_peer_are_kept_and_a_larger_message_is_refused_before_a_byte_is_sent() {
    let mut tiny = honest();
    tiny.settings = raw_settings(256, 8, 1024, 60_000);
    let too_large = RequestError::TooLarge {
        length: 1025,
        limit: 1024,
    };
    assert_eq!(
        too_large.to_string(),
        "a message of 1025 bytes is over the limit of 1024 bytes"
    );
    let mut client = at_client_with(&Settings::new(), &tiny);
    let mut server = at_server_with(&Settings::new(), &tiny);
    assert_eq!(client.machine.request(1025).unwrap_err(), Error::Request(too_large));
    assert_eq!((client.sent(), client.machine.in_flight()), (vec![], 0));
    server.receive(&raw_frame(MESSAGE, 1, b"?"));
    assert_eq!(
        server.machine.answer(server.ids[&1], 1025).unwrap_err(),
        ReplyError::Request(too_large)
    );
    assert_eq!((server.sent(), server.machine.in_flight()), (vec![], 1));
    for (number, length) in (2..).zip([0, 1, 232, 233, 234, 1023, 1024]) {
        client.request(&vec![5; length]);
        let (out, frames) = (client.out.clone(), client.opened());
        assert_small_records(&out, frames, length);
        client.receive(&raw_frame(MESSAGE, number - 1, b""));
        server.receive(&raw_frame(MESSAGE, number, b"?"));
        server.answer(number, &vec![5; length]);
        let (out, frames) = (server.out.clone(), server.opened());
        assert_small_records(&out, frames, length);
    }
}

#[test]
fn a_request_created_before_the_limit_is_known_fails_with_both_numbers_and_is_not_sent() {
    let mut tiny = honest();
    tiny.settings = raw_settings(256, 8, 1024, 60_000);
    let mut machine = crate::common::noise::noise_client_end(&Settings::new(), 1);
    let mut request = machine.request(2000).unwrap();
    let hello = crate::common::pending_output(&mut machine, crate::common::ms(0));
    let (welcome, raw) = tiny.server(&hello).unwrap();
    let mut rig = crate::common::noise::AtClient::new(machine, raw);
    rig.bytes(&welcome);
    rig.sent();
    assert_eq!(rig.seal_request(&mut request, &[0; 2000]), 0);
    let too_large = RequestError::TooLarge {
        length: 2000,
        limit: 1024,
    };
    assert_eq!((request.failure(), request.is_done()), (Some(too_large), true));
    assert_eq!((request.id(), rig.machine.in_flight()), (None, 0));
}
