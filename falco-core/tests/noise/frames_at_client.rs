//! What each frame of a server does to a client: its event, the reaction, or a protocol error.

use crate::common::noise::{
    AtClient, BEGIN, CANCEL, CLOSE, MESSAGE, NoiseEvent, PART, PING, PONG, REFUSE, asking, at_client, begin,
};
use falco_core::testing::raw_frame;
use falco_core::{ConnectionError, Refusal, Settings};

/// The answer to request 1 has arrived in part (4 of 8 bytes), 2 is answered, 3 to 5 have no answer
/// yet.
fn busy() -> AtClient {
    let mut rig = asking(5);
    assert_eq!(
        rig.receive(&raw_frame(BEGIN, 1, &begin(8, b"half"))),
        [NoiseEvent::Begin(1, 8, b"half".to_vec())]
    );
    assert_eq!(
        rig.receive(&raw_frame(MESSAGE, 2, b"two")),
        [NoiseEvent::Whole(2, b"two".to_vec())]
    );
    rig
}

fn assert_broken(what: &str, frames: &[u8]) {
    for before in [vec![], raw_frame(MESSAGE, 3, b"before"), raw_frame(PING, 0, &[1; 8])] {
        let mut rig = busy();
        let record = [before.as_slice(), frames].concat();
        assert_eq!(rig.receive(&record), [], "{what}: {record:02x?}");
        assert_eq!(
            rig.machine.end(),
            Some(ConnectionError::Protocol),
            "{what}: {record:02x?}"
        );
        assert_eq!(rig.sent(), [(CLOSE, 5, vec![4])], "{what}: {record:02x?}");
        assert_eq!(rig.machine.in_flight(), 4, "{what}: {record:02x?}");
        rig.assert_ended(ConnectionError::Protocol);
    }
}

#[test]
fn kinds_that_a_server_may_not_send_break_the_rules() {
    assert_broken("CANCEL", &raw_frame(CANCEL, 1, &[]));
    for kind in [0].into_iter().chain(9..128) {
        assert_broken("unknown", &raw_frame(kind, 0, &[]));
        assert_broken("unknown", &raw_frame(kind, 4, b"body"));
    }
}

#[test]
fn unknown_kinds_from_128_on_are_skipped_by_their_length() {
    for kind in 128..=255 {
        for (id, body) in [(0, &[][..]), (3, b"body"), (u32::MAX, &[1; 300])] {
            let mut rig = busy();
            let record = [raw_frame(kind, id, body), raw_frame(MESSAGE, 3, b"after")].concat();
            assert_eq!(rig.receive(&record), [NoiseEvent::Whole(3, b"after".to_vec())]);
            assert_eq!(rig.sent(), []);
        }
    }
}

#[test]
fn a_body_of_another_size_breaks_the_rules() {
    for (kind, id, wrong) in [
        (BEGIN, 3, &[0, 1, 3][..]),
        (PART, 1, &[0]),
        (REFUSE, 3, &[0, 2]),
        (PING, 0, &[0, 7, 9]),
        (PONG, 0, &[0, 7, 9]),
        (CLOSE, 5, &[0, 2]),
    ] {
        for length in wrong {
            assert_broken("size", &raw_frame(kind, id, &vec![0; *length]));
        }
    }
}

#[test]
fn an_id_that_is_not_in_flight_breaks_the_rules() {
    for id in [1, 3, u32::MAX] {
        assert_broken("PING", &raw_frame(PING, id, &[0; 8]));
        assert_broken("PONG", &raw_frame(PONG, id, &[0; 8]));
    }
    // 0 is no id, 2 is answered, 6 has not begun.
    for id in [0, 2, 6, u32::MAX] {
        assert_broken("MESSAGE", &raw_frame(MESSAGE, id, b"body"));
        assert_broken("BEGIN", &raw_frame(BEGIN, id, &begin(9, b"body")));
        assert_broken("PART", &raw_frame(PART, id, b"body"));
        assert_broken("REFUSE", &raw_frame(REFUSE, id, &[1]));
    }
    for id in 3..=5 {
        assert_broken("PART without its BEGIN", &raw_frame(PART, id, b"body"));
    }
    for second in [raw_frame(MESSAGE, 1, b""), raw_frame(BEGIN, 1, &begin(8, b"half"))] {
        assert_broken("a second beginning", &second);
    }
    // In one record too.
    for first in [raw_frame(MESSAGE, 3, b"a"), raw_frame(REFUSE, 3, &[1])] {
        for second in [
            raw_frame(MESSAGE, 3, b"a"),
            raw_frame(REFUSE, 3, &[1]),
            raw_frame(PART, 3, b"a"),
        ] {
            assert_broken("twice", &[first.as_slice(), &second].concat());
        }
    }
}

#[test]
fn an_answer_over_the_total_or_over_the_limit_breaks_the_rules() {
    assert_broken("in BEGIN", &raw_frame(BEGIN, 3, &begin(3, b"four")));
    assert_broken("in PART", &raw_frame(PART, 1, b"5 byt"));
    assert_broken("promised", &raw_frame(BEGIN, 3, &begin((16 << 20) + 1, b"")));
    let limited = Settings::new().with_max_message(10);
    for (frames, fine) in [
        (raw_frame(MESSAGE, 1, &[1; 10]), true),
        (raw_frame(MESSAGE, 1, &[1; 11]), false),
        (raw_frame(BEGIN, 1, &begin(10, b"a")), true),
        (raw_frame(BEGIN, 1, &begin(11, b"a")), false),
    ] {
        let mut rig = at_client(&limited);
        rig.request(b"?");
        rig.sent();
        assert_eq!(rig.receive(&frames).len(), usize::from(fine), "{frames:02x?}");
        assert_eq!(rig.machine.end(), (!fine).then_some(ConnectionError::Protocol));
    }
}

#[test]
fn answers_arrive_in_any_order_as_a_whole_or_in_interleaved_parts() {
    let mut rig = busy();
    let all = [
        raw_frame(MESSAGE, 5, b"five"),
        raw_frame(PART, 1, b"re"),
        raw_frame(BEGIN, 4, &begin(0, b"")),
        raw_frame(BEGIN, 3, &begin(2, b"")),
        raw_frame(PART, 3, b"ab"),
        raw_frame(PART, 1, b"st"),
    ];
    let expected = [
        NoiseEvent::Whole(5, b"five".to_vec()),
        NoiseEvent::Part(1, b"re".to_vec(), false),
        NoiseEvent::Whole(4, vec![]),
        NoiseEvent::Begin(3, 2, vec![]),
        NoiseEvent::Part(3, b"ab".to_vec(), true),
        NoiseEvent::Part(1, b"st".to_vec(), true),
    ];
    assert_eq!(rig.receive(&all.concat()), expected);
    assert_eq!(rig.machine.in_flight(), 0);
}

#[test]
fn a_refusal_completes_a_request_even_if_parts_of_its_answer_have_arrived() {
    for (code, refusal) in [
        (1, Refusal::Busy),
        (2, Refusal::TooLarge),
        (3, Refusal::Failed),
        (4, Refusal::Cancelled),
        (5, Refusal::NotProcessed),
        (6, Refusal::AnswerTooLarge),
        (0, Refusal::Failed),
        (7, Refusal::Failed),
        (255, Refusal::Failed),
    ] {
        for id in [1, 3] {
            let mut rig = busy();
            assert_eq!(
                rig.receive(&raw_frame(REFUSE, id, &[code])),
                [NoiseEvent::Refused(id, refusal)]
            );
            assert_eq!(rig.machine.in_flight(), 3);
            // The rest of it must not arrive.
            assert_eq!(rig.receive(&raw_frame(PART, id, b"rest")), []);
            assert_eq!(rig.sent(), [(CLOSE, 5, vec![4])]);
        }
    }
}

#[test]
fn no_more_of_a_request_in_part_is_sent_once_it_completes_or_is_cancelled() {
    let body = vec![1; 200_000];
    for answered in [raw_frame(REFUSE, 1, &[2]), raw_frame(MESSAGE, 1, b"early")] {
        let mut rig = at_client(&Settings::new());
        let mut message = rig.machine.request(body.len()).unwrap();
        rig.seal_request(&mut message, &body);
        assert_eq!(rig.receive(&answered).len(), 1);
        assert!(!message.is_done());
        assert_eq!(rig.seal_request(&mut message, &body), 0);
        assert!(message.is_done() && rig.machine.in_flight() == 0);
    }
    let mut rig = at_client(&Settings::new());
    let mut message = rig.machine.request(body.len()).unwrap();
    rig.seal_request(&mut message, &body);
    rig.opened();
    rig.machine.cancel(message.id().unwrap()).unwrap();
    rig.machine.cancel(message.id().unwrap()).unwrap();
    rig.seal_request(&mut message, &body);
    assert_eq!(rig.opened(), [(CANCEL, 1, vec![])], "once, and no part after it");
    assert_eq!(
        (message.is_done(), rig.machine.in_flight()),
        (true, 1),
        "it waits for its end"
    );
    assert_eq!(
        rig.receive(&raw_frame(REFUSE, 1, &[4])),
        [NoiseEvent::Refused(1, Refusal::Cancelled)]
    );
    // Cancelled too late: the answer completes it, and no CANCEL is sent.
    let mut rig = asking(1);
    let id = rig.ids[&1];
    rig.machine.cancel(id).unwrap();
    assert_eq!(
        rig.receive(&raw_frame(MESSAGE, 1, b"I")),
        [NoiseEvent::Whole(1, b"I".to_vec())]
    );
    assert_eq!((rig.sent(), rig.machine.cancel(id)), (vec![], Ok(())));
    assert_eq!(rig.sent(), []);
}

#[test]
fn a_pong_is_an_event_only_if_its_ping_was_sent() {
    let mut rig = at_client(&Settings::new());
    rig.machine.ping().unwrap();
    rig.machine.ping().unwrap();
    let said = rig.sent();
    assert_eq!(
        (said.len(), said[0].0),
        (1, PING),
        "pings that are not sent yet become one"
    );
    assert_eq!(rig.receive(&raw_frame(PONG, 0, &[0xEE; 8])), [], "matches nothing");
    assert_eq!(rig.receive(&raw_frame(PONG, 0, &said[0].2)), [NoiseEvent::Pong]);
    rig.machine.ping().unwrap();
    let next = (u64::from_be_bytes(said[0].2.clone().try_into().unwrap()) + 1).to_be_bytes();
    assert_eq!(rig.receive(&raw_frame(PONG, 0, &next)), [], "has not gone");
    assert_eq!(
        rig.receive(&[raw_frame(PING, 0, &[1; 8]), raw_frame(PING, 0, &[2; 8])].concat()),
        []
    );
    assert_eq!(rig.sent(), [(PONG, 0, vec![2; 8]), (PING, 0, next.to_vec())]);
}
