//! The limits of a server: requests in flight, bytes held, sizes, pending refusals. Each request
//! over a limit completes exactly once.

use crate::common::noise::{
    AtServer, BEGIN, CANCEL, MESSAGE, NoiseEvent, PART, PING, REFUSE, at_client_with, at_server, at_server_with, begin,
    honest,
};
use falco_core::noise::{HeapTable, NoiseClient};
use falco_core::testing::{CountingRng, raw_frame, raw_settings};
use falco_core::{ClientConnection, Instant, Key, RustCrypto};
use falco_core::{Error, Refusal, ReplyError, RequestError, SealError, Settings, Status};

/// Takes all pending output and all events of a server. Returns the events and the refusals.
fn drain(rig: &mut AtServer) -> (Vec<NoiseEvent>, Vec<(u32, u8)>) {
    let (mut received, mut refused) = (Vec::new(), Vec::new());
    loop {
        received.extend(rig.bytes(&[]));
        let said = rig.sent();
        assert!(said.len() <= 20, "{} frames were pending at once", said.len());
        refused.extend(
            said.iter()
                .filter(|frame| frame.0 == REFUSE)
                .map(|frame| (frame.1, frame.2[0])),
        );
        if said.is_empty() && !rig.stuck {
            return (received, refused);
        }
    }
}

#[test]
fn nine_thousand_requests_in_one_record_complete_once_each_with_few_refusals_pending_at_once() {
    let mut rig = at_server(&Settings::new().with_max_in_flight(3).unwrap());
    let size = size_of_val(&rig.machine);
    let frames: Vec<u8> = (1..=9_000).flat_map(|id| raw_frame(MESSAGE, id, &[])).collect();
    assert_eq!(frames.len(), 63_000);
    let first = rig.receive(&frames);
    assert_eq!(
        first,
        [
            NoiseEvent::Whole(1, vec![]),
            NoiseEvent::Whole(2, vec![]),
            NoiseEvent::Whole(3, vec![])
        ]
    );
    assert!(rig.stuck, "pending output is sealed before more is read");
    assert!(!rig.unread.is_empty());
    let (received, refused) = drain(&mut rig);
    assert_eq!(received, []);
    let expected: Vec<_> = (4..=9_000).map(|id| (id, 1)).collect();
    assert_eq!(refused, expected);
    assert_eq!((rig.machine.in_flight(), rig.unread.len()), (3, 0));
    assert_eq!(
        (rig.machine.status(), size_of_val(&rig.machine)),
        (Status::Established, size)
    );
    // There is room again once a request has completed.
    rig.answer(2, b"");
    rig.opened();
    assert_eq!(
        rig.receive(&raw_frame(MESSAGE, 9_001, &[])),
        [NoiseEvent::Whole(9_001, vec![])]
    );
}

#[test]
fn a_server_with_pending_refusals_reads_nothing_until_they_are_sealed_and_loses_nothing() {
    let mut rig = at_server(&Settings::new().with_max_in_flight(1).unwrap());
    let mut frames = raw_frame(MESSAGE, 1, b"one");
    frames.extend((2..=40).flat_map(|id| raw_frame(MESSAGE, id, &[])));
    frames.extend(raw_frame(PING, 0, &[1; 8]));
    rig.receive(&frames);
    let left = rig.unread.len();
    for _ in 0..3 {
        assert_eq!((rig.bytes(&[]), rig.stuck, rig.unread.len()), (vec![], true, left));
    }
    // The handler cannot refuse more either, and an attempt changes nothing.
    assert_eq!(
        rig.machine.refuse(rig.ids[&1], Refusal::Failed),
        Err(ReplyError::TransmitFirst)
    );
    let (received, refused) = drain(&mut rig);
    assert_eq!(received, [NoiseEvent::Ping]);
    assert_eq!(refused, (2..=40).map(|id| (id, 1)).collect::<Vec<_>>());
    rig.machine.refuse(rig.ids[&1], Refusal::Failed).unwrap();
    assert_eq!(rig.sent(), [(REFUSE, 1, vec![3])]);
}

#[test]
fn a_request_over_the_largest_message_is_refused_as_too_large_and_its_id_counts_as_used() {
    let settings = Settings::new().with_max_message(10);
    for (frames, fine) in [
        (raw_frame(MESSAGE, 1, &[1; 10]), true),
        (raw_frame(MESSAGE, 1, &[1; 11]), false),
        (raw_frame(BEGIN, 1, &begin(10, b"a")), true),
        (raw_frame(BEGIN, 1, &begin(11, b"a")), false),
        (raw_frame(BEGIN, 1, &begin(u32::MAX, b"")), false),
    ] {
        let mut rig = at_server(&settings);
        assert_eq!(rig.receive(&frames).len(), usize::from(fine));
        let refusal = (REFUSE, 1, vec![2]);
        assert_eq!(rig.sent(), if fine { vec![] } else { vec![refusal] });
        assert_eq!(rig.machine.in_flight(), usize::from(fine));
        assert_eq!(rig.receive(&raw_frame(MESSAGE, 2, &[])), [NoiseEvent::Whole(2, vec![])]);
    }
}

#[test]
fn held_bytes_are_limited_and_the_request_whose_frame_would_exceed_the_limit_is_refused_as_busy() {
    let settings = Settings::new().with_max_message(10).with_max_held(25);
    let mut rig = at_server(&settings);
    rig.receive(&raw_frame(MESSAGE, 1, &[1; 10]));
    rig.receive(&raw_frame(BEGIN, 2, &begin(10, &[2; 5])));
    rig.receive(&raw_frame(BEGIN, 3, &begin(10, &[3; 9])));
    assert_eq!((rig.sent(), rig.machine.in_flight()), (vec![], 3));
    // 24 are held, because a total does not count. 2 bytes are 1 too many, 1 is not.
    rig.receive(&raw_frame(BEGIN, 4, &begin(10, &[])));
    assert_eq!(rig.receive(&raw_frame(MESSAGE, 5, &[5; 2])), []);
    assert_eq!(rig.sent(), [(REFUSE, 5, vec![1])]);
    assert_eq!(rig.receive(&raw_frame(PART, 2, &[2; 2])), [NoiseEvent::Abandoned(2)]);
    assert_eq!(rig.sent(), [(REFUSE, 2, vec![1])]);
    // The bytes that it held are free again.
    assert_eq!(
        rig.receive(&raw_frame(PART, 4, &[4; 6])),
        [NoiseEvent::Part(4, vec![4; 6], false)]
    );
    assert_eq!(rig.receive(&raw_frame(MESSAGE, 6, &[6; 1])), []);
    assert_eq!(rig.sent(), [(REFUSE, 6, vec![1])]);
    rig.answer(1, b"");
    rig.opened();
    assert_eq!(rig.receive(&raw_frame(MESSAGE, 7, &[7; 10])).len(), 1);
    // A limit under the largest message means the largest message.
    let mut rig = at_server(&Settings::new().with_max_message(10).with_max_held(1));
    assert_eq!(rig.receive(&raw_frame(MESSAGE, 1, &[1; 10])).len(), 1);
}

#[test]
fn a_request_is_in_flight_from_its_first_frame_to_the_last_of_its_answer() {
    let mut rig = at_server(&Settings::new().with_max_in_flight(2).unwrap());
    rig.receive(&raw_frame(BEGIN, 1, &begin(4, b"a")));
    rig.receive(&raw_frame(MESSAGE, 2, b""));
    let full = |rig: &mut AtServer, id| {
        rig.receive(&raw_frame(MESSAGE, id, b""));
        assert_eq!(rig.sent(), [(REFUSE, id, vec![1])]);
    };
    full(&mut rig, 3);
    let body = vec![0; 100_000];
    let mut message = rig.machine.answer(rig.ids[&2], body.len()).unwrap();
    rig.seal_answer(&mut message, &body);
    rig.opened();
    full(&mut rig, 4);
    while !message.is_done() {
        rig.seal_answer(&mut message, &body);
    }
    rig.opened();
    assert_eq!(rig.receive(&raw_frame(MESSAGE, 5, b"")), [NoiseEvent::Whole(5, vec![])]);
    full(&mut rig, 6);
}

#[test]
fn a_client_has_no_more_in_flight_than_the_server_announced() {
    let mut handshake = honest();
    handshake.settings = raw_settings(u16::MAX, 2, 1000, 60_000);
    let mut rig = at_client_with(&Settings::new(), &handshake);
    let mut messages: Vec<_> = (0..4).map(|_| rig.machine.request(1).unwrap()).collect();
    let mut out = vec![0; 500];
    let all = messages.iter_mut().map(|message| (message, &b"?"[..]));
    let length = rig.machine.seal(rig.now, all, &mut out).unwrap();
    rig.out.extend_from_slice(&out[..length]);
    assert_eq!(rig.opened(), [(MESSAGE, 1, b"?".to_vec()), (MESSAGE, 2, b"?".to_vec())]);
    assert_eq!(rig.receive(&raw_frame(MESSAGE, 2, b"")).len(), 1);
    let all = messages.iter_mut().map(|message| (message, &b"?"[..]));
    let length = rig.machine.seal(rig.now, all, &mut out).unwrap();
    rig.out.extend_from_slice(&out[..length]);
    assert_eq!(rig.opened(), [(MESSAGE, 3, b"?".to_vec())]);
    // Nor a message longer than it reads. The error has the numbers.
    let too_large = RequestError::TooLarge {
        length: 1001,
        limit: 1000,
    };
    assert_eq!(rig.machine.request(1001).unwrap_err(), Error::Request(too_large));
    assert!(rig.machine.request(1000).is_ok());
    assert_eq!(rig.sent(), []);
}

#[test]
fn an_answer_longer_than_the_client_reads_is_an_error_and_the_request_can_be_refused() {
    let mut handshake = honest();
    handshake.settings = raw_settings(64, 0, 10, 60_000);
    let mut rig = at_server_with(&Settings::new(), &handshake);
    rig.receive(&raw_frame(MESSAGE, 1, b"?"));
    let too_large = RequestError::TooLarge { length: 11, limit: 10 };
    assert_eq!(
        rig.machine.answer(rig.ids[&1], 11).unwrap_err(),
        ReplyError::Request(too_large)
    );
    rig.machine.refuse(rig.ids[&1], Refusal::AnswerTooLarge).unwrap();
    assert_eq!(rig.sent(), [(REFUSE, 1, vec![6])]);
}

#[test]
fn a_request_is_answered_once_and_only_when_it_is_complete() {
    let mut rig = at_server(&Settings::new());
    let body = vec![1; 100_000];
    rig.receive(&raw_frame(BEGIN, 1, &begin(4, b"a")));
    let half = rig.ids[&1];
    assert_eq!(rig.machine.answer(half, 1).unwrap_err(), ReplyError::NotWaiting(half));
    rig.receive(&raw_frame(MESSAGE, 2, b"?"));
    let id = rig.ids[&2];
    let mut first = rig.machine.answer(id, body.len()).unwrap();
    let mut second = rig.machine.answer(id, body.len()).unwrap();
    rig.seal_answer(&mut first, &body);
    rig.opened();
    assert_eq!(rig.machine.answer(id, 1).unwrap_err(), ReplyError::NotWaiting(id));
    let mut out = vec![0; 70_000];
    let sealed = rig.machine.seal(rig.now, [(&mut second, body.as_slice())], &mut out);
    assert_eq!(sealed, Err(SealError::NotWaiting(id)), "no second beginning");
    rig.seal_answer(&mut first, &body);
    assert_eq!(rig.opened()[0].0, PART);
    // Refused in part: no more of it is sealed.
    rig.receive(&raw_frame(MESSAGE, 3, b"?"));
    let id = rig.ids[&3];
    let mut third = rig.machine.answer(id, body.len()).unwrap();
    rig.seal_answer(&mut third, &body);
    rig.opened();
    rig.machine.refuse(id, Refusal::Failed).unwrap();
    assert_eq!(rig.sent(), [(REFUSE, 3, vec![3])]);
    let sealed = rig.machine.seal(rig.now, [(&mut third, body.as_slice())], &mut out);
    assert_eq!(sealed, Err(SealError::NotWaiting(id)));
    assert_eq!(rig.machine.refuse(id, Refusal::Failed), Err(ReplyError::NotWaiting(id)));
}

#[test]
fn a_request_that_the_handler_has_refused_causes_no_more_events() {
    let mut rig = at_server(&Settings::new());
    let frames = [
        raw_frame(BEGIN, 1, &begin(6, b"ab")),
        raw_frame(PART, 1, b"cd"),
        raw_frame(PART, 1, b"ef"),
        raw_frame(MESSAGE, 2, b"after"),
    ];
    let record = rig.raw.seal(&frames.concat());
    rig.unread.extend(record);
    assert_eq!(rig.next(), Some(NoiseEvent::Begin(1, 6, b"ab".to_vec())));
    rig.machine.refuse(rig.ids[&1], Refusal::Busy).unwrap();
    assert_eq!(rig.bytes(&[]), [NoiseEvent::Whole(2, b"after".to_vec())]);
    assert_eq!(rig.sent(), [(REFUSE, 1, vec![1])]);
    // Nor does it help that it is cancelled.
    let record = rig
        .raw
        .seal(&[raw_frame(MESSAGE, 3, b"three"), raw_frame(CANCEL, 3, b"")].concat());
    rig.unread.extend(record);
    assert_eq!(rig.next(), Some(NoiseEvent::Whole(3, b"three".to_vec())));
    rig.machine.refuse(rig.ids[&3], Refusal::Failed).unwrap();
    assert_eq!((rig.bytes(&[]), rig.sent()), (vec![], vec![(REFUSE, 3, vec![3])]));
}

#[test]
fn neither_side_sends_a_message_longer_than_its_own_limit_whatever_its_peer_reads() {
    let settings = Settings::new().with_max_message(10);
    let too_large = RequestError::TooLarge { length: 11, limit: 10 };
    let mut rig = at_client_with(&settings, &honest());
    assert_eq!(rig.machine.request(11).unwrap_err(), Error::Request(too_large));
    assert!(rig.machine.request(10).is_ok());
    assert!(rig.machine.peer_max_message() > 10, "which is still known");
    let mut rig = at_server(&settings);
    rig.receive(&raw_frame(MESSAGE, 1, b"?"));
    let id = rig.ids[&1];
    assert_eq!(rig.machine.answer(id, 11).unwrap_err(), ReplyError::Request(too_large));
    assert!(rig.machine.answer(id, 10).is_ok());
}

#[test]
fn a_client_keeps_its_own_limit_before_the_handshake_is_complete() {
    let key = Key::from_bytes([7; 32]).unwrap();
    let key = NoiseClient::<HeapTable, _>::new(key, &[][..], RustCrypto).unwrap();
    let settings = Settings::new().with_max_message(1);
    let machine = ClientConnection::new(&key, &settings, Instant::ZERO, &mut CountingRng::new(1));
    let too_large = RequestError::TooLarge { length: 3, limit: 1 };
    assert_eq!(machine.unwrap().request(3).unwrap_err(), Error::Request(too_large));
}
