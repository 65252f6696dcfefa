//! What each frame of a client does to a server: its event, the reaction, or a protocol error.

use crate::common::noise::{
    AtServer, BEGIN, CANCEL, CLOSE, MESSAGE, NoiseEvent, PART, PING, PONG, REFUSE, at_server, begin,
};
use falco_core::testing::raw_frame;
use falco_core::{CloseReason, ConnectionError, Settings, Status};

fn settings() -> Settings {
    Settings::new().with_max_message(100).with_max_in_flight(4).unwrap()
}

/// Request 5 has arrived in part (4 of 8 bytes), 6 is with the handler, 7 is answered, the answer
/// to 8 is sealed in part.
fn busy() -> AtServer {
    let mut rig = at_server(&Settings::new());
    rig.receive(&raw_frame(BEGIN, 5, &begin(8, b"half")));
    rig.receive(&raw_frame(MESSAGE, 6, b"six"));
    rig.receive(&raw_frame(MESSAGE, 7, b"seven"));
    rig.answer(7, b"VII");
    rig.receive(&raw_frame(MESSAGE, 8, b"eight"));
    let body = vec![8; 100_000];
    let mut message = rig.machine.answer(rig.ids[&8], body.len()).unwrap();
    rig.seal_answer(&mut message, &body);
    assert!(!message.is_done());
    let said = rig.opened();
    assert_eq!((said.len(), said[0].0, said[1].0), (2, MESSAGE, BEGIN));
    rig
}

/// Asserts that these frames are a protocol error, that their record causes no events, and that the
/// CLOSE has the id 8.
fn assert_broken(what: &str, frames: &[u8]) {
    for before in [vec![], raw_frame(MESSAGE, 9, b"before"), raw_frame(PING, 0, &[1; 8])] {
        let mut rig = busy();
        let record = [before.as_slice(), frames].concat();
        assert_eq!(rig.receive(&record), [], "{what}: {record:02x?}");
        assert_eq!(
            rig.machine.end(),
            Some(ConnectionError::Protocol),
            "{what}: {record:02x?}"
        );
        assert_eq!(rig.sent(), [(CLOSE, 8, vec![4])], "{what}: {record:02x?}");
        assert_eq!(rig.machine.in_flight(), 3, "{what}: {record:02x?}");
        rig.assert_ended(ConnectionError::Protocol);
    }
}

#[test]
fn kinds_that_a_client_may_not_send_break_the_rules() {
    assert_broken("REFUSE", &raw_frame(REFUSE, 6, &[3]));
    for kind in [0].into_iter().chain(9..128) {
        assert_broken("unknown", &raw_frame(kind, 0, &[]));
        assert_broken("unknown", &raw_frame(kind, 9, b"body"));
    }
}

#[test]
fn unknown_kinds_from_128_on_are_skipped_by_their_length() {
    for kind in 128..=255 {
        for (id, body) in [(0, &[][..]), (6, b"body"), (u32::MAX, &[1; 300])] {
            let mut rig = busy();
            let record = [raw_frame(kind, id, body), raw_frame(MESSAGE, 9, b"after")].concat();
            assert_eq!(rig.receive(&record), [NoiseEvent::Whole(9, b"after".to_vec())]);
            assert_eq!(rig.sent(), []);
        }
    }
}

#[test]
fn a_body_of_another_size_breaks_the_rules() {
    for (kind, id, wrong) in [
        (BEGIN, 9, &[0, 1, 3][..]),
        (PART, 5, &[0]),
        (CANCEL, 6, &[1, 2]),
        (PING, 0, &[0, 7, 9]),
        (PONG, 0, &[0, 7, 9]),
        (CLOSE, 8, &[0, 2]),
    ] {
        for length in wrong {
            assert_broken("size", &raw_frame(kind, id, &vec![0; *length]));
        }
    }
}

#[test]
fn an_id_out_of_place_breaks_the_rules() {
    for id in [1, 6, u32::MAX] {
        assert_broken("PING", &raw_frame(PING, id, &[0; 8]));
        assert_broken("PONG", &raw_frame(PONG, id, &[0; 8]));
    }
    for (kind, body) in [
        (MESSAGE, &b"body"[..]),
        (BEGIN, &[0; 4]),
        (PART, b"part"),
        (CANCEL, b""),
    ] {
        assert_broken("id 0", &raw_frame(kind, 0, body));
    }
    // Ids ascend: none is used again, whether it completed or was skipped.
    for id in 1..=8 {
        assert_broken("MESSAGE again", &raw_frame(MESSAGE, id, b"again"));
        assert_broken("BEGIN again", &raw_frame(BEGIN, id, &begin(9, b"again")));
    }
    for id in [10, 11, u32::MAX] {
        assert_broken("PART ahead", &raw_frame(PART, id, b"part"));
    }
}

#[test]
fn a_frame_that_does_not_fit_its_record_breaks_the_rules() {
    let whole = raw_frame(MESSAGE, 9, b"12345678");
    for cut in 7..whole.len() {
        assert_broken("cut", &whole[..cut]);
    }
    for rest in 1..7 {
        let record = [whole.as_slice(), &whole[..rest]].concat();
        assert_broken("rest", &record);
    }
}

#[test]
fn a_message_longer_than_its_total_breaks_the_rules() {
    assert_broken("in BEGIN", &raw_frame(BEGIN, 9, &begin(3, b"four")));
    assert_broken("in BEGIN", &raw_frame(BEGIN, 9, &begin(0, b"1")));
    assert_broken("in PART", &raw_frame(PART, 5, b"5 byt"));
    let two = [raw_frame(PART, 5, b"abc"), raw_frame(PART, 5, b"de")].concat();
    assert_broken("in the second PART", &two);
}

#[test]
fn ids_may_have_gaps_up_to_the_last_possible_one() {
    let mut rig = at_server(&Settings::new());
    for id in [1, 2, 9, 1_000_000, u32::MAX - 1, u32::MAX] {
        assert_eq!(
            rig.receive(&raw_frame(MESSAGE, id, &[7])),
            [NoiseEvent::Whole(id, vec![7])]
        );
    }
    assert_eq!(rig.machine.in_flight(), 6);
    assert_eq!(rig.receive(&raw_frame(MESSAGE, u32::MAX, &[7])), []);
    assert_eq!(rig.sent(), [(CLOSE, u32::MAX, vec![4])]);
}

#[test]
fn a_begin_may_be_the_whole_message_and_there_may_be_many_parts() {
    let mut rig = at_server(&Settings::new());
    assert_eq!(
        rig.receive(&raw_frame(BEGIN, 1, &begin(0, b""))),
        [NoiseEvent::Whole(1, vec![])]
    );
    assert_eq!(
        rig.receive(&raw_frame(BEGIN, 2, &begin(3, b"abc"))),
        [NoiseEvent::Whole(2, b"abc".to_vec())]
    );
    let all = [
        raw_frame(BEGIN, 3, &begin(3, b"")),
        raw_frame(MESSAGE, 4, b"between"),
        raw_frame(PART, 3, b"a"),
        raw_frame(PING, 0, &[9; 8]),
        raw_frame(PART, 3, b"bc"),
        raw_frame(PART, 3, b"skipped, as all has come"),
        raw_frame(MESSAGE, 5, b""),
    ];
    let expected = [
        NoiseEvent::Begin(3, 3, vec![]),
        NoiseEvent::Whole(4, b"between".to_vec()),
        NoiseEvent::Part(3, b"a".to_vec(), false),
        NoiseEvent::Ping,
        NoiseEvent::Part(3, b"bc".to_vec(), true),
        NoiseEvent::Whole(5, vec![]),
    ];
    assert_eq!(rig.receive(&all.concat()), expected);
    assert_eq!(rig.sent(), [(PONG, 0, vec![9; 8])]);
}

#[test]
fn parts_of_requests_that_have_completed_or_not_begun_are_skipped() {
    for id in [1, 4, 6, 7, 8] {
        let mut rig = busy();
        let record = [raw_frame(PART, id, &[0; 500]), raw_frame(MESSAGE, 9, b"after")].concat();
        assert_eq!(rig.receive(&record), [NoiseEvent::Whole(9, b"after".to_vec())], "{id}");
        assert_eq!(rig.sent(), []);
    }
    // Refused as too large, as busy, by the handler, or cancelled.
    let mut rig = at_server(&settings());
    rig.receive(&raw_frame(BEGIN, 1, &begin(101, b"large")));
    assert_eq!(rig.sent(), [(REFUSE, 1, vec![2])]);
    rig.receive(&raw_frame(BEGIN, 2, &begin(50, b"no")));
    rig.machine.refuse(rig.ids[&2], falco_core::Refusal::Busy).unwrap();
    assert_eq!(rig.sent(), [(REFUSE, 2, vec![1])]);
    rig.receive(&raw_frame(BEGIN, 3, &begin(50, b"no")));
    assert_eq!(rig.receive(&raw_frame(CANCEL, 3, b"")), [NoiseEvent::Abandoned(3)]);
    assert_eq!(rig.sent(), [(REFUSE, 3, vec![4])]);
    for id in 1..=3 {
        assert_eq!(rig.receive(&raw_frame(PART, id, &[0; 200])), []);
    }
    assert_eq!((rig.sent(), rig.machine.in_flight()), (vec![], 0));
    assert_eq!(rig.machine.status(), Status::Established);
}

#[test]
fn a_cancel_has_its_effect_in_each_state() {
    // In part: refused at once.
    let mut rig = busy();
    assert_eq!(rig.receive(&raw_frame(CANCEL, 5, b"")), [NoiseEvent::Abandoned(5)]);
    assert_eq!(rig.sent(), [(REFUSE, 5, vec![4])]);
    // With the handler: one event, and refused once the handler has stopped.
    assert_eq!(rig.receive(&raw_frame(CANCEL, 6, b"")), [NoiseEvent::Cancelled(6)]);
    assert_eq!(rig.receive(&raw_frame(CANCEL, 6, b"")), []);
    assert_eq!((rig.sent(), rig.machine.in_flight()), (vec![], 2));
    rig.machine.refuse(rig.ids[&6], falco_core::Refusal::Cancelled).unwrap();
    assert_eq!(rig.sent(), [(REFUSE, 6, vec![4])]);
    // Answered, unknown, or with an answer that has begun: no effect.
    for id in [1, 6, 7, 8, 99, u32::MAX] {
        assert_eq!(rig.receive(&raw_frame(CANCEL, id, b"")), [], "{id}");
        assert_eq!(rig.sent(), []);
    }
    assert_eq!(rig.machine.in_flight(), 1);
    // The answer may still be sealed first.
    let mut rig = busy();
    rig.receive(&raw_frame(CANCEL, 6, b""));
    rig.answer(6, b"VI");
    assert_eq!(rig.opened(), [(MESSAGE, 6, b"VI".to_vec())]);
    // Begun and cancelled in one record.
    let both = [raw_frame(BEGIN, 9, &begin(9, b"a")), raw_frame(CANCEL, 9, b"")].concat();
    assert_eq!(
        rig.receive(&both),
        [NoiseEvent::Begin(9, 9, b"a".to_vec()), NoiseEvent::Abandoned(9)]
    );
    assert_eq!(rig.sent(), [(REFUSE, 9, vec![4])]);
}

#[test]
fn a_pong_answers_the_latest_ping_and_a_pong_that_matches_nothing_is_ignored() {
    let mut rig = at_server(&Settings::new());
    let pings: Vec<u8> = (1..=9).flat_map(|byte| raw_frame(PING, 0, &[byte; 8])).collect();
    assert_eq!(rig.receive(&pings), vec![NoiseEvent::Ping; 9]);
    assert_eq!(rig.sent(), [(PONG, 0, vec![9; 8])]);
    assert_eq!(rig.receive(&raw_frame(PONG, 0, &[1; 8])), []);
    assert_eq!((rig.sent(), rig.machine.status()), (vec![], Status::Established));
}

#[test]
fn a_close_that_ends_at_once_is_not_answered() {
    for (code, end) in [
        (1, ConnectionError::PeerExpired),
        (4, ConnectionError::PeerReportsProtocolError),
    ] {
        let mut rig = busy();
        let record = [raw_frame(MESSAGE, 9, b"before"), raw_frame(CLOSE, 9, &[code])].concat();
        assert_eq!(rig.receive(&record), [NoiseEvent::Whole(9, b"before".to_vec())]);
        rig.assert_ended(end);
    }
}

#[test]
fn after_its_close_a_client_may_complete_its_requests_and_begin_no_new_ones() {
    for (code, reason) in [
        (0, CloseReason::Done),
        (2, CloseReason::ShuttingDown),
        (3, CloseReason::KeyRetired),
        (5, CloseReason::Done),
        (255, CloseReason::Done),
    ] {
        // The id in a client's CLOSE is not checked.
        for last in [0, 3, 8, u32::MAX] {
            let mut rig = busy();
            assert_eq!(
                rig.receive(&raw_frame(CLOSE, last, &[code])),
                [NoiseEvent::Closing(reason)]
            );
            assert_eq!(rig.machine.status(), Status::Draining);
        }
        let broken = [
            raw_frame(MESSAGE, 9, b"new"),
            raw_frame(BEGIN, 9, &begin(9, b"new")),
            raw_frame(CLOSE, 8, &[code]),
            raw_frame(CLOSE, 8, &[4]),
        ];
        for frames in broken {
            let mut rig = busy();
            rig.receive(&raw_frame(CLOSE, 8, &[code]));
            assert_eq!(rig.receive(&frames), [], "{frames:02x?}");
            assert_eq!(rig.sent(), [(CLOSE, 8, vec![4])]);
            rig.assert_ended(ConnectionError::Protocol);
            assert_broken("with its close", &[raw_frame(CLOSE, 8, &[code]), frames].concat());
        }
    }
    let mut rig = busy();
    rig.receive(&raw_frame(CLOSE, 8, &[0]));
    let rest = [
        raw_frame(PART, 5, b"rest"),
        raw_frame(CANCEL, 6, b""),
        raw_frame(PING, 0, &[3; 8]),
        raw_frame(PONG, 0, &[3; 8]),
        raw_frame(200, 3, b"?"),
    ];
    let expected = [
        NoiseEvent::Part(5, b"rest".to_vec(), true),
        NoiseEvent::Cancelled(6),
        NoiseEvent::Ping,
    ];
    assert_eq!(rig.receive(&rest.concat()), expected);
    assert_eq!(rig.sent(), [(PONG, 0, vec![3; 8])]);
}
