//! How requests with open bodies end: answered early, cancelled, refused, closed, cut off.

use core::time::Duration;

use crate::common::noise::{
    AtClient, AtServer, BEGIN, CANCEL, CLOSE, CREDIT, END, MESSAGE, NoiseEvent, OPEN, PART, PING, PONG, REFUSE,
    at_client_with, at_server_with, begin, honest,
};
use falco_core::testing::{raw_frame, raw_streams};
use falco_core::{
    CloseReason, ConnectionError, Fate, OutgoingRequest, Refusal, RequestId, SealError, Settings, Status,
};

const KIB: usize = 1024;

fn server() -> AtServer {
    let mut handshake = honest();
    handshake.settings = raw_streams(handshake.settings, 1, 0);
    at_server_with(&Settings::new().with_streams(4, 3), &handshake)
}

fn client() -> AtClient {
    let mut handshake = honest();
    handshake.settings = raw_streams(handshake.settings, 1, 3);
    at_client_with(&Settings::new().with_streams(4, 0).with_keep_alive(false), &handshake)
}

fn open(id: u32, first: &[u8]) -> Vec<u8> {
    raw_frame(BEGIN, id, &begin(OPEN, first))
}

fn credit(id: u32, bytes: u32) -> Vec<u8> {
    raw_frame(CREDIT, id, &bytes.to_be_bytes())
}

/// A client with an open request that has begun, and nothing else.
fn asking() -> (AtClient, OutgoingRequest, RequestId) {
    let mut rig = client();
    let mut request = rig.machine.open_request().unwrap();
    rig.seal_request(&mut request, b"one");
    rig.opened();
    request.take_sealed();
    let id = request.id().unwrap();
    (rig, request, id)
}

#[test]
fn a_whole_answer_ends_a_request_whose_body_is_still_open() {
    let mut rig = server();
    rig.receive(&open(1, b"one"));
    rig.answer(1, b"enough");
    assert_eq!((rig.opened().len(), rig.machine.in_flight()), (1, 0));
    // What is on its way is skipped, and earns no credit.
    let rest = [raw_frame(PART, 1, &[7; 9 * KIB]), raw_frame(END, 1, b""), credit(1, 5)].concat();
    assert_eq!((rig.receive(&rest), rig.sent()), (vec![], vec![]));
    for answer in [
        raw_frame(MESSAGE, 1, b"enough"),
        [open(1, b"enough"), raw_frame(END, 1, b"")].concat(),
    ] {
        let (mut rig, mut request, id) = asking();
        assert!(!rig.receive(&answer).is_empty());
        assert_eq!(rig.machine.sendable(id), 0);
        assert_eq!(rig.seal_request(&mut request, b"more"), 0);
        assert_eq!((request.is_done(), rig.machine.in_flight()), (true, 0));
        assert_eq!(rig.receive(&credit(1, 5)), []);
    }
    // An answer whose length is given may go in parts while the request's body is read.
    let mut rig = server();
    rig.receive(&open(1, b"one"));
    let body = vec![7; 100_000];
    let mut answer = rig.machine.answer(rig.ids[&1], body.len()).unwrap();
    rig.seal_answer(&mut answer, &body);
    assert!(!answer.is_done());
    assert_eq!(rig.receive(&raw_frame(PART, 1, b"two")).len(), 1);
    rig.seal_answer(&mut answer, &body);
    assert_eq!((answer.is_done(), rig.machine.in_flight()), (true, 0));
}

#[test]
fn a_part_of_a_collected_answer_earns_credit_only_while_the_answer_fits() {
    for (most, fits) in [(KIB, true), (KIB + 1, true), (KIB - 1, false)] {
        let (mut rig, _, id) = asking();
        rig.receive(&open(1, &[7; KIB]));
        assert_eq!(rig.machine.collect(id, KIB, KIB, most), fits, "{most}");
        let frame = (CREDIT, 1, 1024_u32.to_be_bytes().to_vec());
        let earned = if fits { vec![frame] } else { Vec::new() };
        assert_eq!(rig.sent(), earned, "{most}");
        // Nothing is left to be given credit for.
        assert_eq!(rig.machine.collect(id, 0, KIB, most), fits, "{most}");
        assert_eq!(rig.sent(), [], "{most}");
    }
}

#[test]
fn the_handler_of_a_cancelled_stream_receives_the_cancellation_and_no_end() {
    for answers in [false, true] {
        let mut rig = server();
        rig.receive(&open(1, b"one"));
        let id = rig.ids[&1];
        let mut answer = rig.machine.open_answer(id).unwrap();
        if answers {
            rig.seal_answer(&mut answer, &[7; 2 * KIB]);
            answer.take_sealed();
            assert_eq!((rig.opened().len(), rig.machine.sendable(id)), (1, 0));
        }
        assert_eq!(rig.receive(&raw_frame(CANCEL, 1, b"")), [NoiseEvent::Cancelled(1)]);
        assert_eq!(rig.receive(&raw_frame(CANCEL, 1, b"")), []);
        assert_eq!(
            rig.receive(&[raw_frame(PART, 1, b"x"), raw_frame(END, 1, b"")].concat()),
            []
        );
        rig.machine.credit(id, 3, true).unwrap();
        assert_eq!(
            (rig.sent(), rig.machine.in_flight()),
            (vec![], 1),
            "until the handler has stopped"
        );
        rig.machine.refuse(id, Refusal::Cancelled).unwrap();
        assert_eq!((rig.sent(), rig.machine.in_flight()), (vec![(REFUSE, 1, vec![4])], 0));
        if answers {
            let sealed = rig
                .machine
                .seal(rig.now, [(&mut answer, b"x".as_slice())], &mut [0; 99]);
            assert_eq!(sealed, Err(SealError::NotWaiting(id)));
        }
    }
    // Its answer may end first.
    let mut rig = server();
    rig.receive(&open(1, b"one"));
    let mut answer = rig.machine.open_answer(rig.ids[&1]).unwrap();
    rig.seal_answer(&mut answer, b"a");
    rig.receive(&raw_frame(CANCEL, 1, b""));
    answer.finish();
    rig.seal_answer(&mut answer, b"a");
    assert_eq!(rig.opened(), [(BEGIN, 1, begin(OPEN, b"a")), (END, 1, vec![])]);
    // An open answer to a request whose length was given is cancelled too.
    let mut rig = server();
    rig.receive(&raw_frame(MESSAGE, 1, b"tail"));
    let mut answer = rig.machine.open_answer(rig.ids[&1]).unwrap();
    rig.seal_answer(&mut answer, b"line");
    assert_eq!(rig.receive(&raw_frame(CANCEL, 1, b"")), [NoiseEvent::Cancelled(1)]);
}

#[test]
fn a_cancelled_client_sends_nothing_more_of_its_stream_and_reads_the_rest_of_the_answer() {
    let (mut rig, mut request, id) = asking();
    rig.receive(&open(1, b"I"));
    rig.machine.cancel(id).unwrap();
    assert_eq!(rig.machine.sendable(id), 0);
    request.finish();
    rig.seal_request(&mut request, b"two");
    assert_eq!((rig.opened(), request.is_done()), (vec![(CANCEL, 1, vec![])], true));
    rig.machine.credit(id, 1, true).unwrap();
    assert_eq!(rig.sent(), [], "no CREDIT is due");
    // What the server has sent before it reads the CANCEL is within the window.
    let part = raw_frame(PART, 1, &[7; 4 * KIB - 1]);
    assert_eq!(rig.receive(&part).len(), 1);
    assert_eq!(
        rig.receive(&raw_frame(REFUSE, 1, &[4])),
        [NoiseEvent::Refused(1, Refusal::Cancelled)]
    );
    assert_eq!(rig.machine.in_flight(), 0);
    for (last, is_valid) in [
        (raw_frame(END, 1, b""), true),
        (raw_frame(PART, 1, &[7; 4 * KIB]), false),
    ] {
        let (mut rig, _, id) = asking();
        rig.receive(&open(1, b"I"));
        rig.machine.cancel(id).unwrap();
        assert_eq!(rig.receive(&last).len(), usize::from(is_valid));
        assert_eq!(rig.machine.end(), (!is_valid).then_some(ConnectionError::Protocol));
    }
}

#[test]
fn a_refusal_as_not_processed_counts_only_before_credit_and_answer() {
    let refusals = [
        (1, Refusal::Busy),
        (2, Refusal::TooLarge),
        (3, Refusal::Failed),
        (4, Refusal::Cancelled),
        (5, Refusal::NotProcessed),
        (6, Refusal::AnswerTooLarge),
    ];
    for (code, refusal) in refusals {
        let after = if refusal.is_unprocessed() {
            Refusal::Failed
        } else {
            refusal
        };
        let frame = raw_frame(REFUSE, 1, &[code]);
        let nothing = raw_frame(200, 1, b"");
        for (before, expected) in [(nothing, refusal), (credit(1, 1), after), (open(1, b""), after)] {
            let (mut rig, ..) = asking();
            rig.receive(&before);
            assert_eq!(rig.receive(&frame), [NoiseEvent::Refused(1, expected)]);
            // In one record too.
            let (mut rig, ..) = asking();
            let events = rig.receive(&[before, frame.clone()].concat());
            assert_eq!(events.last(), Some(&NoiseEvent::Refused(1, expected)));
        }
        // A server does not say it then.
        let mut rig = server();
        rig.receive(&open(1, b"abc"));
        rig.machine.refuse(rig.ids[&1], refusal).unwrap();
        assert_eq!(rig.sent(), [(REFUSE, 1, vec![code])]);
        let sent = if refusal.is_unprocessed() { 3 } else { code };
        let mut rig = server();
        rig.receive(&open(1, b"abc"));
        rig.machine.credit(rig.ids[&1], 3, true).unwrap();
        rig.sent();
        rig.machine.refuse(rig.ids[&1], refusal).unwrap();
        assert_eq!(rig.sent(), [(REFUSE, 1, vec![sent])]);
        let mut rig = server();
        rig.receive(&open(1, b"abc"));
        let mut answer = rig.machine.open_answer(rig.ids[&1]).unwrap();
        rig.seal_answer(&mut answer, b"");
        rig.opened();
        rig.machine.refuse(rig.ids[&1], refusal).unwrap();
        assert_eq!(rig.sent(), [(REFUSE, 1, vec![sent])], "it cuts off the answer");
    }
}

#[test]
fn nothing_but_the_lifetime_ends_a_silent_stream() {
    let mut rig = server();
    rig.receive(&open(1, b"one"));
    rig.receive(&raw_frame(BEGIN, 2, &begin(9, b"half")));
    for at in 1..4 {
        rig.now = rig.now + Duration::from_secs(50);
        rig.machine.handle_timeout(rig.now).unwrap();
        let events = rig.receive(&raw_frame(PING, 0, &[at; 8]));
        let stale = rig.sent().contains(&(REFUSE, 2, vec![5]));
        assert_eq!((stale, events.contains(&NoiseEvent::Abandoned(2))), (at == 2, at == 2));
    }
    assert_eq!(rig.machine.in_flight(), 1);
    rig.machine.set_reading(rig.now, false);
    rig.machine.set_reading(rig.now, true);
    rig.machine.credit(rig.ids[&1], 3, true).unwrap();
    assert_eq!(
        rig.sent(),
        [(CREDIT, 1, 3_u32.to_be_bytes().to_vec())],
        "after a pause too"
    );
    assert_eq!(rig.receive(&raw_frame(PART, 1, &[7; 4 * KIB])).len(), 1);
}

#[test]
fn a_stream_goes_on_after_either_close_until_it_ends() {
    // The client closes.
    let (mut rig, mut request, id) = asking();
    rig.receive(&open(1, b"I"));
    rig.machine.close(rig.now, CloseReason::Done);
    assert_eq!(rig.sent(), [(CLOSE, 1, vec![0])]);
    rig.machine.credit(id, 1, true).unwrap();
    request.finish();
    rig.seal_request(&mut request, b"two");
    let said: Vec<_> = rig.opened().into_iter().map(|frame| frame.0).collect();
    assert_eq!(said, [CREDIT, PART, END]);
    rig.receive(
        &[
            raw_frame(CLOSE, 1, &[0]),
            raw_frame(PART, 1, b"II"),
            raw_frame(END, 1, b""),
        ]
        .concat(),
    );
    rig.assert_ended(ConnectionError::Closed);
    // Another one does not begin.
    let (mut rig, ..) = asking();
    let mut late = rig.machine.open_request().unwrap();
    rig.machine.close(rig.now, CloseReason::Done);
    assert!(rig.machine.open_request().is_err());
    rig.seal_request(&mut late, b"late");
    assert_eq!((rig.opened(), late.id()), (vec![(CLOSE, 1, vec![0])], None));

    let mut rig = server();
    rig.receive(&open(1, b"one"));
    rig.receive(&raw_frame(CLOSE, 1, &[0]));
    let mut answer = rig.machine.open_answer(rig.ids[&1]).unwrap();
    rig.seal_answer(&mut answer, &[7; KIB]);
    answer.take_sealed();
    let rest = [raw_frame(PART, 1, b"two"), raw_frame(END, 1, b""), credit(1, 9)].concat();
    assert_eq!(rig.receive(&rest).len(), 3);
    answer.finish();
    rig.seal_answer(&mut answer, &[8; 9]);
    let said: Vec<_> = rig.opened().into_iter().map(|frame| frame.0).collect();
    assert_eq!(said, [BEGIN, PART, END]);
    assert_eq!(rig.sent(), [(CLOSE, 1, vec![0])]);
    rig.assert_ended(ConnectionError::Closed);
    // A new one after it breaks the rules.
    let mut rig = server();
    rig.receive(&raw_frame(CLOSE, 0, &[0]));
    rig.receive(&open(1, b""));
    assert_eq!(rig.machine.end(), Some(ConnectionError::Protocol));

    // The server closes: a later one is skipped with all its frames.
    let mut rig = server();
    rig.receive(&open(1, b"one"));
    rig.machine.close(rig.now, CloseReason::ShuttingDown);
    let late = [
        open(2, b"late"),
        raw_frame(PART, 2, b"x"),
        raw_frame(END, 2, b""),
        credit(2, 1),
    ]
    .concat();
    assert_eq!(rig.receive(&late), []);
    assert_eq!(rig.sent(), [(CLOSE, 1, vec![2])]);
    assert_eq!(rig.receive(&raw_frame(PART, 1, b"two")).len(), 1);
    let (mut rig, ..) = asking();
    let events = rig.receive(&raw_frame(CLOSE, 0, &[2]));
    let refused = NoiseEvent::Refused(1, Refusal::NotProcessed);
    assert_eq!(events, [NoiseEvent::Closing(CloseReason::ShuttingDown), refused]);
    rig.assert_ended(ConnectionError::Closed);
    // A server that contradicts itself.
    for before in [credit(1, 1), open(1, b"")] {
        let (mut rig, ..) = asking();
        rig.receive(&before);
        let events = rig.receive(&raw_frame(CLOSE, 0, &[2]));
        assert_eq!(events.last(), Some(&NoiseEvent::Refused(1, Refusal::Failed)));
    }
}

#[test]
fn a_drain_of_a_lifetime_ends_a_stream() {
    let mut rig = server();
    rig.receive(&open(1, b"one"));
    rig.machine.close(rig.now, CloseReason::ShuttingDown);
    rig.sent();
    for _ in 0..2 {
        rig.now = rig.now + Duration::from_secs(30);
        rig.receive(&raw_frame(PING, 0, &[7; 8]));
    }
    assert_eq!(rig.machine.end(), Some(ConnectionError::Expired));
}

#[test]
fn the_end_of_the_stream_without_a_close_cuts_off_both_bodies() {
    let mut rig = server();
    rig.receive(&open(1, b"one"));
    let end = rig.machine.end_of_stream(rig.now, &[]);
    assert_eq!(end, Err(ConnectionError::Truncated));
    for answer in [vec![], open(1, b"I"), raw_frame(PONG, 0, &[7; 8])] {
        let (mut rig, ..) = asking();
        let heard = !answer.is_empty();
        if heard {
            rig.receive(&answer);
        }
        let end = rig.machine.end_of_stream(rig.now, &[]);
        assert_eq!(end, Err(ConnectionError::Truncated));
        let expected = if heard {
            Fate::MaybeProcessed
        } else {
            Fate::NotProcessed
        };
        assert_eq!(rig.machine.fate_of(true, false), expected, "its first frame is sealed");
    }
    // A CLOSE before does not make it whole.
    let (mut rig, ..) = asking();
    rig.receive(&[open(1, b"I"), raw_frame(CLOSE, 1, &[2])].concat());
    assert_eq!(rig.machine.end_of_stream(rig.now, &[]), Err(ConnectionError::Truncated));
}

#[test]
fn at_the_end_of_a_clients_sending_half_its_body_is_cut_off_and_its_answer_may_use_its_credit() {
    let mut rig = server();
    for id in 1..=3 {
        rig.receive(&open(id, b"abc"));
    }
    rig.receive(&raw_frame(END, 3, b""));
    rig.receive(&raw_frame(MESSAGE, 4, b"four"));
    rig.receive(&raw_frame(CLOSE, 4, &[0]));
    let mut answers: Vec<_> = (1..=4)
        .map(|id| rig.machine.open_answer(rig.ids[&id]).unwrap())
        .collect();
    rig.seal_answer(&mut answers[1], &[7; KIB]);
    rig.machine.end_of_stream(rig.now, &[]).unwrap();
    rig.machine.end_of_stream(rig.now, &[]).unwrap();
    let events = rig.bytes(&[]);
    assert_eq!(
        events,
        [NoiseEvent::Cancelled(1), NoiseEvent::Cancelled(2)],
        "not those that were whole"
    );
    assert!(!rig.stuck, "no event is pending");
    rig.opened();
    // 1 is refused once its handler has stopped. 2 has no credit: it may end, with nothing more.
    rig.machine.refuse(rig.ids[&1], Refusal::Cancelled).unwrap();
    answers[1].take_sealed();
    rig.seal_answer(&mut answers[1], b"");
    answers[1].finish();
    rig.seal_answer(&mut answers[1], b"");
    assert_eq!(rig.opened(), [(REFUSE, 1, vec![4]), (END, 2, vec![])]);
    // 3 needs more than its client's window, and is cut off. 4 does not.
    rig.seal_answer(&mut answers[2], &[7; KIB + 1]);
    assert!(!answers[2].is_cut());
    answers[2].take_sealed();
    let mut out = [0; 100];
    rig.machine
        .seal(rig.now, [(&mut answers[2], b"x".as_slice())], &mut out)
        .unwrap();
    assert!(answers[2].is_cut() && answers[2].is_done());
    answers[3].finish();
    rig.seal_answer(&mut answers[3], &[7; KIB]);
    let said: Vec<_> = rig.opened().into_iter().map(|frame| (frame.0, frame.1)).collect();
    assert_eq!(said, [(BEGIN, 3), (REFUSE, 3), (BEGIN, 4), (END, 4)]);
    assert_eq!(rig.machine.status(), Status::Draining);
    assert_eq!(rig.sent(), [(CLOSE, 4, vec![0])]);
    rig.assert_ended(ConnectionError::Closed);
}

#[test]
fn a_stream_that_was_cut_off_may_complete_before_its_event_is_returned() {
    let mut rig = server();
    rig.receive(&open(1, b"abc"));
    rig.receive(&open(2, b"abc"));
    rig.receive(&raw_frame(CLOSE, 2, &[0]));
    rig.machine.end_of_stream(rig.now, &[]).unwrap();
    rig.answer(1, b"I");
    assert_eq!(rig.bytes(&[]), [NoiseEvent::Cancelled(2)]);
    assert!(!rig.stuck, "no event is pending");
    rig.answer(2, b"II");
    assert_eq!(rig.machine.end(), Some(ConnectionError::Closed));
}
