//! How connections on the noise wire end: drains, the end of the stream, the last bytes, and that
//! an end does not change.

use crate::common::ms;
use crate::common::noise::{BEGIN, CLOSE, MESSAGE, NoiseEvent, PART, PING, PONG, REFUSE, asking, at_server, begin};
use falco_core::testing::{RecvBytes, raw_frame};
use falco_core::{CloseReason, ConnectionError, Refusal, Settings, Status};

const REASONS: [(CloseReason, u8); 3] = [
    (CloseReason::Done, 0),
    (CloseReason::ShuttingDown, 2),
    (CloseReason::KeyRetired, 3),
];

#[test]
fn a_server_that_closes_completes_its_requests_and_skips_later_ones() {
    for (reason, code) in REASONS {
        let mut rig = at_server(&Settings::new());
        rig.receive(&raw_frame(BEGIN, 3, &begin(4, b"ab")));
        rig.receive(&raw_frame(MESSAGE, 4, b"four"));
        rig.machine.close(rig.now, reason);
        rig.machine.close(rig.now, CloseReason::Done);
        assert_eq!(rig.machine.status(), Status::Draining);
        assert_eq!(
            rig.sent(),
            [(CLOSE, 4, vec![code])],
            "one, with the last that has begun"
        );
        // Later ones are skipped, and their ids count as used.
        let later = [
            raw_frame(MESSAGE, 5, b"later"),
            raw_frame(BEGIN, 7, &begin(9, b"later")),
            raw_frame(PART, 7, b"rest"),
            raw_frame(PART, 6, b"rest"),
            raw_frame(PING, 0, &[1; 8]),
        ];
        assert_eq!(rig.receive(&later.concat()), [NoiseEvent::Ping]);
        assert_eq!(rig.sent(), [(PONG, 0, vec![1; 8])]);
        assert_eq!(rig.machine.in_flight(), 2);
        assert_eq!(
            rig.receive(&raw_frame(PART, 3, b"cd")),
            [NoiseEvent::Part(3, b"cd".to_vec(), true)]
        );
        rig.answer(3, b"III");
        assert_eq!((rig.opened().len(), rig.machine.end()), (1, None));
        rig.answer(4, b"IV");
        assert_eq!(rig.opened(), [(MESSAGE, 4, b"IV".to_vec())]);
        assert_eq!(rig.sent(), []);
        rig.assert_ended(ConnectionError::Closed);
    }
    // An id that was skipped must not be used again.
    let mut rig = at_server(&Settings::new());
    rig.receive(&raw_frame(MESSAGE, 1, b"one"));
    rig.machine.close(rig.now, CloseReason::Done);
    rig.sent();
    rig.receive(&raw_frame(MESSAGE, 5, b"later"));
    rig.receive(&raw_frame(MESSAGE, 5, b"again"));
    assert_eq!(
        (rig.sent(), rig.machine.end()),
        (vec![], Some(ConnectionError::Protocol))
    );
}

#[test]
fn a_server_with_nothing_in_flight_closes_at_once() {
    for (reason, code) in REASONS {
        let mut rig = at_server(&Settings::new());
        rig.receive(&raw_frame(MESSAGE, 4, b"four"));
        rig.answer(4, b"IV");
        rig.opened();
        rig.machine.close(rig.now, reason);
        assert_eq!(rig.sent(), [(CLOSE, 4, vec![code])]);
        rig.assert_ended(ConnectionError::Closed);
    }
}

#[test]
fn after_a_clients_close_the_server_closes_once_its_requests_have_completed() {
    let mut rig = at_server(&Settings::new());
    rig.receive(&raw_frame(MESSAGE, 1, b"one"));
    rig.receive(&[raw_frame(MESSAGE, 2, b"two"), raw_frame(CLOSE, 2, &[0])].concat());
    assert_eq!(
        rig.machine.end_of_stream(rig.now, &[]),
        Ok(()),
        "it may have shut its sending half"
    );
    rig.answer(1, b"I");
    assert_eq!(rig.opened(), [(MESSAGE, 1, b"I".to_vec())]);
    rig.machine.refuse(rig.ids[&2], Refusal::Failed).unwrap();
    assert_eq!(rig.sent(), [(REFUSE, 2, vec![3]), (CLOSE, 2, vec![0])]);
    rig.assert_ended(ConnectionError::Closed);
    // Refusals are sent before the end too.
    let mut rig = at_server(&Settings::new().with_max_in_flight(1).unwrap());
    let frames = [
        raw_frame(MESSAGE, 1, b""),
        raw_frame(MESSAGE, 2, b""),
        raw_frame(CLOSE, 2, &[2]),
    ];
    rig.receive(&frames.concat());
    rig.answer(1, b"");
    let kinds: Vec<_> = rig.opened().iter().map(|frame| (frame.0, frame.1)).collect();
    assert_eq!(kinds, [(REFUSE, 2), (MESSAGE, 1), (CLOSE, 2)]);
    rig.assert_ended(ConnectionError::Closed);
}

#[test]
fn both_sides_may_close_at_once_and_each_sends_one_close() {
    let mut rig = at_server(&Settings::new());
    rig.receive(&raw_frame(MESSAGE, 1, b"one"));
    rig.machine.close(rig.now, CloseReason::ShuttingDown);
    assert_eq!(rig.sent(), [(CLOSE, 1, vec![2])]);
    assert_eq!(
        rig.receive(&raw_frame(CLOSE, 1, &[0])),
        [NoiseEvent::Closing(CloseReason::Done)]
    );
    rig.answer(1, b"I");
    assert_eq!(rig.opened(), [(MESSAGE, 1, b"I".to_vec())]);
    rig.assert_ended(ConnectionError::Closed);

    let mut rig = asking(1);
    rig.machine.close(rig.now, CloseReason::Done);
    assert_eq!(rig.sent(), [(CLOSE, 1, vec![0])]);
    assert_eq!(rig.receive(&raw_frame(CLOSE, 1, &[2])).len(), 1);
    assert_eq!(rig.receive(&raw_frame(MESSAGE, 1, b"I")).len(), 1);
    assert_eq!(rig.sent(), []);
    rig.assert_ended(ConnectionError::Closed);
}

#[test]
fn a_drain_that_lasts_a_lifetime_ends_as_idle_whatever_arrives() {
    // The server's close, then the client's. A ping in between restarts the lifetime and does not
    // move the end of the drain.
    for own in [true, false] {
        let mut rig = at_server(&Settings::new());
        rig.receive(&raw_frame(MESSAGE, 1, b"one"));
        rig.now = ms(1_000);
        if own {
            rig.machine.close(rig.now, CloseReason::Done);
            rig.sent();
        } else {
            rig.receive(&raw_frame(CLOSE, 1, &[0]));
        }
        for now in [30_000, 60_999] {
            rig.now = ms(now);
            rig.receive(&raw_frame(PING, 0, &[1; 8]));
            rig.sent();
        }
        assert_eq!(rig.machine.poll_timeout(), Some(ms(61_000)));
        assert_eq!(rig.machine.handle_timeout(ms(60_999)), Ok(()));
        rig.now = ms(61_000);
        assert_eq!(rig.machine.handle_timeout(rig.now), Err(ConnectionError::Expired));
        let said = rig.sent();
        assert_eq!(said, if own { vec![] } else { vec![(CLOSE, 1, vec![1])] });
        rig.assert_ended(ConnectionError::Expired);
    }
    let mut rig = asking(1);
    rig.now = ms(1_000);
    rig.machine.close(rig.now, CloseReason::Done);
    rig.sent();
    for now in [20_000, 40_000, 60_000] {
        rig.now = ms(now);
        rig.receive(&raw_frame(PING, 0, &[1; 8]));
        assert_eq!(rig.machine.handle_timeout(rig.now), Ok(()));
        rig.sent();
    }
    assert_eq!(rig.machine.handle_timeout(ms(61_000)), Err(ConnectionError::Expired));
}

#[test]
fn the_end_of_the_stream_is_not_a_truncation_only_after_a_close_between_records_with_nothing_in_flight() {
    let truncated = Err(ConnectionError::Truncated);
    let mut rig = at_server(&Settings::new());
    assert_eq!(rig.machine.end_of_stream(rig.now, &[]), truncated, "no CLOSE");
    let mut rig = at_server(&Settings::new());
    rig.receive(&raw_frame(MESSAGE, 1, b"one"));
    assert_eq!(
        rig.machine.end_of_stream(rig.now, &[]),
        truncated,
        "no CLOSE, one running"
    );
    rig.assert_ended(ConnectionError::Truncated);
    // After a CLOSE of either side only an end inside a record is a truncation. A CLOSE that was
    // not sealed does not count.
    for (theirs, asked) in [(true, true), (true, false), (false, true), (false, false)] {
        let mut rig = at_server(&Settings::new());
        if asked {
            rig.receive(&raw_frame(MESSAGE, 1, b"one"));
        }
        if theirs {
            rig.receive(&raw_frame(CLOSE, 1, &[0]));
        } else {
            rig.machine.close(rig.now, CloseReason::Done);
            if asked {
                rig.sent();
            }
        }
        let end = rig.machine.end_of_stream(rig.now, &[0]);
        assert_eq!(end, truncated, "a record is cut: {theirs} {asked}");
        rig.assert_ended(ConnectionError::Truncated);
    }
    for asked in [false, true] {
        let mut rig = at_server(&Settings::new());
        if asked {
            rig.receive(&raw_frame(MESSAGE, 1, b"one"));
        }
        rig.machine.close(rig.now, CloseReason::Done);
        assert_eq!(
            rig.machine.end_of_stream(rig.now, &[]),
            truncated,
            "it has not been said"
        );
    }

    for (asked, close, unread, end) in [
        (0, false, 0, ConnectionError::Truncated),
        (1, false, 0, ConnectionError::Truncated),
        (0, true, 0, ConnectionError::Closed),
        (0, true, 1, ConnectionError::Truncated),
        (1, true, 0, ConnectionError::Truncated),
    ] {
        let mut rig = asking(asked);
        if close {
            rig.machine.close(rig.now, CloseReason::Done);
            rig.sent();
        }
        assert_eq!(
            rig.machine.end_of_stream(rig.now, &[0][..unread]),
            Err(end),
            "{asked} {close} {unread}"
        );
        rig.assert_ended(end);
    }
    let mut rig = asking(1);
    rig.receive(&raw_frame(CLOSE, 1, &[2]));
    assert_eq!(
        rig.machine.end_of_stream(rig.now, &[]),
        truncated,
        "the answer is missing"
    );
}

#[test]
fn requests_still_complete_when_the_stream_ends_after_a_close_of_either_side() {
    for theirs in [true, false] {
        let mut rig = at_server(&Settings::new());
        rig.receive(&raw_frame(BEGIN, 1, &begin(4, b"ab")));
        rig.receive(&raw_frame(MESSAGE, 2, b"two"));
        if theirs {
            rig.receive(&raw_frame(CLOSE, 2, &[0]));
        } else {
            rig.machine.close(rig.now, CloseReason::ShuttingDown);
            assert_eq!(rig.sent(), [(CLOSE, 2, vec![2])]);
        }
        for _ in 0..2 {
            assert_eq!(rig.machine.end_of_stream(rig.now, &[]), Ok(()), "theirs: {theirs}");
        }
        // The rest of requests in part will not arrive.
        assert_eq!(rig.bytes(&[]), [NoiseEvent::Abandoned(1)]);
        assert_eq!(rig.sent(), [(REFUSE, 1, vec![5])]);
        assert_eq!((rig.machine.status(), rig.machine.in_flight()), (Status::Draining, 1));
        rig.answer(2, b"II");
        let mut expected = vec![(MESSAGE, 2, b"II".to_vec())];
        expected.extend(theirs.then(|| (CLOSE, 2, vec![0])));
        assert_eq!(rig.opened(), expected);
        rig.assert_ended(ConnectionError::Closed);
    }
}

#[test]
fn after_its_end_a_connection_returns_no_more_events_of_an_opened_record() {
    for way in 0..3 {
        let mut rig = at_server(&Settings::new().with_max_in_flight(2).unwrap());
        let frames: Vec<u8> = (1..=4).flat_map(|id| raw_frame(MESSAGE, id, b"?")).collect();
        let record = rig.raw.seal(&frames);
        rig.unread.extend(record);
        assert_eq!(rig.next(), Some(NoiseEvent::Whole(1, b"?".to_vec())));
        let end = match way {
            0 => rig.machine.handle_timeout(ms(60_000)).unwrap_err(),
            1 => rig.machine.end_of_stream(rig.now, &rig.unread).unwrap_err(),
            _ => rig.machine.recv_bytes(ms(60_000), &mut []).unwrap_err(),
        };
        assert_eq!(rig.bytes(&[]), [], "way {way}");
        rig.sent();
        rig.assert_ended(end);

        let mut rig = asking(2);
        let frames: Vec<u8> = (1..=2).flat_map(|id| raw_frame(MESSAGE, id, b"!")).collect();
        let record = rig.raw.seal(&frames);
        rig.unread.extend(record);
        assert_eq!(rig.next(), Some(NoiseEvent::Whole(1, b"!".to_vec())));
        let end = match way {
            1 => rig.machine.end_of_stream(rig.now, &rig.unread).unwrap_err(),
            _ => rig.machine.handle_timeout(ms(60_000)).unwrap_err(),
        };
        assert_eq!(rig.bytes(&[]), [], "way {way}");
        rig.sent();
        rig.assert_ended(end);
    }
}
