//! What each frame that names a request does in each state of the request, on both sides, as a
//! table: also what is out of place in that state.

use crate::common::noise::{
    AtClient, AtServer, BEGIN, CANCEL, CLOSE, CREDIT, END, Frame, IntoNoiseEvent, MESSAGE, NoiseEvent, OPEN, PART,
    PING, PONG, REFUSE, Rig, at_client_with, at_server_with, begin, honest,
};
use falco_core::testing::{raw_frame, raw_streams};
use falco_core::{CloseReason, ConnectionError, KeyRef, OutgoingRequest, Refusal, Role, Settings};

/// What a frame does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Does {
    /// It ends the connection as a protocol error.
    Breaks,
    /// It has no effect.
    Skips,
    /// Its event is returned.
    Tells,
    /// Its event is returned, as that of the last part of a message.
    Ends,
    /// The request is abandoned and refused as cancelled.
    Refuses,
}

use Does::{Breaks, Ends, Refuses, Skips, Tells};

/// The frames of the columns. BEGIN has four of eight bytes, and the other bodies four bytes.
const AT_SERVER: [&str; 7] = ["MESSAGE", "BEGIN", "open BEGIN", "PART", "END", "CREDIT", "CANCEL"];
const AT_CLIENT: [&str; 7] = ["MESSAGE", "BEGIN", "open BEGIN", "PART", "END", "CREDIT", "REFUSE"];

fn frame(name: &str, id: u32) -> Vec<u8> {
    match name {
        "MESSAGE" => raw_frame(MESSAGE, id, b"body"),
        "BEGIN" => raw_frame(BEGIN, id, &begin(8, b"body")),
        "open BEGIN" => raw_frame(BEGIN, id, &begin(OPEN, b"body")),
        "PART" => raw_frame(PART, id, b"body"),
        "END" => raw_frame(END, id, b""),
        "CREDIT" => raw_frame(CREDIT, id, &1_u32.to_be_bytes()),
        "CANCEL" => raw_frame(CANCEL, id, b""),
        "REFUSE" => raw_frame(REFUSE, id, &[4]),
        other => panic!("{other}"),
    }
}

/// The event of a frame.
fn event(name: &str, id: u32, last: bool) -> NoiseEvent {
    let body = b"body".to_vec();
    match name {
        "MESSAGE" => NoiseEvent::Whole(id, body),
        "BEGIN" => NoiseEvent::Begin(id, 8, body),
        "open BEGIN" => NoiseEvent::Opened(id, body),
        "PART" => NoiseEvent::Part(id, body, last),
        "END" => NoiseEvent::Part(id, vec![], true),
        "CREDIT" => NoiseEvent::Credit(id),
        "CANCEL" => NoiseEvent::Cancelled(id),
        "REFUSE" => NoiseEvent::Refused(id, Refusal::Cancelled),
        other => panic!("{other}"),
    }
}

/// A state of a request, and what each frame does in it.
type Row = (&'static str, u32, [Does; 7]);

/// The requests of `busy_server`.
#[rustfmt::skip]
const SERVER: [Row; 21] = [
    // The columns are those of `AT_SERVER`.
    ("of no request",                                     0, [Breaks, Breaks, Breaks, Breaks, Breaks, Breaks, Breaks]),
    ("open",                                              1, [Breaks, Breaks, Breaks, Tells,  Tells,  Skips,  Tells]),
    ("open, its open answer has begun",                   2, [Breaks, Breaks, Breaks, Tells,  Tells,  Tells,  Tells]),
    ("open, its whole answer has begun",                  3, [Breaks, Breaks, Breaks, Tells,  Tells,  Skips,  Tells]),
    ("open, and END has come",                            4, [Breaks, Breaks, Breaks, Skips,  Skips,  Skips,  Tells]),
    ("open, and END has come, its open answer has begun", 5, [Breaks, Breaks, Breaks, Skips,  Skips,  Tells,  Tells]),
    ("open and cancelled",                                6, [Breaks, Breaks, Breaks, Skips,  Skips,  Skips,  Skips]),
    ("open and cancelled, its open answer has begun",     7, [Breaks, Breaks, Breaks, Skips,  Skips,  Tells,  Skips]),
    ("open and cancelled behind its END",                 8, [Breaks, Breaks, Breaks, Skips,  Skips,  Skips,  Skips]),
    ("open, its body is discarded",                       9, [Breaks, Breaks, Breaks, Skips,  Skips,  Skips,  Tells]),
    ("open and refused",                                 10, [Breaks, Breaks, Breaks, Skips,  Skips,  Skips,  Skips]),
    ("open and answered before its END",                 11, [Breaks, Breaks, Breaks, Skips,  Skips,  Skips,  Skips]),
    ("open and answered behind its END",                 12, [Breaks, Breaks, Breaks, Skips,  Skips,  Skips,  Skips]),
    ("half received",                                    13, [Breaks, Breaks, Breaks, Ends,   Breaks, Skips,  Refuses]),
    ("whole",                                            14, [Breaks, Breaks, Breaks, Skips,  Skips,  Skips,  Tells]),
    ("whole, its open answer has begun",                 15, [Breaks, Breaks, Breaks, Skips,  Skips,  Tells,  Tells]),
    ("whole, its whole answer has begun",                16, [Breaks, Breaks, Breaks, Skips,  Skips,  Skips,  Skips]),
    ("whole and cancelled",                              17, [Breaks, Breaks, Breaks, Skips,  Skips,  Skips,  Skips]),
    ("whole and cancelled, its open answer has begun",   18, [Breaks, Breaks, Breaks, Skips,  Skips,  Tells,  Skips]),
    ("whole and answered",                               19, [Breaks, Breaks, Breaks, Skips,  Skips,  Skips,  Skips]),
    ("not begun",                                        21, [Tells,  Tells,  Tells,  Breaks, Breaks, Breaks, Skips]),
];
const LAST_AT_SERVER: u32 = 20;

fn server() -> AtServer {
    let mut handshake = honest();
    handshake.settings = raw_streams(handshake.settings, 2, 0);
    at_server_with(&Settings::new().with_streams(4, 20), &handshake)
}

fn busy_server() -> AtServer {
    let mut rig = server();
    for id in 1..=12 {
        rig.receive(&frame("open BEGIN", id));
    }
    rig.receive(&frame("BEGIN", 13));
    for id in 14..=20 {
        rig.receive(&frame("MESSAGE", id));
    }
    for id in [4, 5, 8, 12] {
        rig.receive(&frame("END", id));
    }
    for id in [2, 5, 7, 15, 18] {
        let mut answer = rig.machine.open_answer(rig.ids[&id]).unwrap();
        rig.seal_answer(&mut answer, b"head");
    }
    for id in [3, 16] {
        let body = vec![7; 100_000];
        let mut answer = rig.machine.answer(rig.ids[&id], body.len()).unwrap();
        rig.seal_answer(&mut answer, &body);
        assert!(!answer.is_done());
    }
    for id in [6, 7, 8, 17, 18] {
        assert_eq!(rig.receive(&frame("CANCEL", id)), [NoiseEvent::Cancelled(id)]);
    }
    rig.machine.discard(rig.ids[&9]).unwrap();
    rig.machine.refuse(rig.ids[&10], Refusal::Busy).unwrap();
    for id in [11, 12, 19] {
        rig.answer(id, b"done");
    }
    rig.sent();
    rig
}

/// The requests of `busy_client`.
#[rustfmt::skip]
const CLIENT: [Row; 18] = [
    // The columns are those of `AT_CLIENT`.
    ("of no request",                                     0, [Breaks, Breaks, Breaks, Breaks, Breaks, Breaks, Breaks]),
    ("open",                                              1, [Tells,  Tells,  Tells,  Breaks, Breaks, Tells,  Tells]),
    ("open, its open answer has begun",                   2, [Breaks, Breaks, Breaks, Tells,  Tells,  Tells,  Tells]),
    ("open, its whole answer has begun",                  3, [Breaks, Breaks, Breaks, Ends,   Breaks, Tells,  Tells]),
    ("open, and END is sent",                             4, [Tells,  Tells,  Tells,  Breaks, Breaks, Skips,  Tells]),
    ("open, and END is sent, its open answer has begun",  5, [Breaks, Breaks, Breaks, Tells,  Tells,  Skips,  Tells]),
    ("open and cancelled",                                6, [Tells,  Tells,  Tells,  Breaks, Breaks, Tells,  Tells]),
    ("open and cancelled, its open answer has begun",     7, [Breaks, Breaks, Breaks, Tells,  Tells,  Tells,  Tells]),
    ("open and cancelled, its whole answer has begun",    8, [Breaks, Breaks, Breaks, Ends,   Breaks, Tells,  Tells]),
    ("open and refused",                                  9, [Breaks, Breaks, Breaks, Breaks, Breaks, Skips,  Breaks]),
    ("open and answered as a whole",                     10, [Breaks, Breaks, Breaks, Breaks, Breaks, Skips,  Breaks]),
    ("open and answered up to END",                      11, [Breaks, Breaks, Breaks, Breaks, Breaks, Skips,  Breaks]),
    ("whole",                                            12, [Tells,  Tells,  Tells,  Breaks, Breaks, Skips,  Tells]),
    ("whole, its open answer has begun",                 13, [Breaks, Breaks, Breaks, Tells,  Tells,  Skips,  Tells]),
    ("whole, its whole answer has begun",                14, [Breaks, Breaks, Breaks, Ends,   Breaks, Skips,  Tells]),
    ("whole and cancelled, its open answer has begun",   15, [Breaks, Breaks, Breaks, Tells,  Tells,  Skips,  Tells]),
    ("whole and answered",                               16, [Breaks, Breaks, Breaks, Breaks, Breaks, Skips,  Breaks]),
    ("not begun",                                        17, [Breaks, Breaks, Breaks, Breaks, Breaks, Breaks, Breaks]),
];
const LAST_AT_CLIENT: u32 = 16;

fn client() -> AtClient {
    let mut handshake = honest();
    handshake.settings = raw_streams(handshake.settings, 2, 20);
    at_client_with(&Settings::new().with_streams(4, 0), &handshake)
}

fn open_request(rig: &mut AtClient) -> OutgoingRequest {
    let mut request = rig.machine.open_request().unwrap();
    rig.seal_request(&mut request, b"head");
    rig.ids.extend(request.id().map(|id| (id.number(), id)));
    request.take_sealed();
    request
}

fn busy_client() -> AtClient {
    let mut rig = client();
    for id in 1..=11 {
        let mut request = open_request(&mut rig);
        if [4, 5].contains(&id) {
            request.finish();
            rig.seal_request(&mut request, b"");
            assert!(request.is_done());
        }
    }
    for _ in 12..=16 {
        rig.request(b"whole");
    }
    for id in [2, 5, 7, 11, 13, 15] {
        rig.receive(&frame("open BEGIN", id));
    }
    for id in [3, 8, 14] {
        rig.receive(&frame("BEGIN", id));
    }
    rig.receive(&frame("REFUSE", 9));
    for id in [10, 16] {
        rig.receive(&frame("MESSAGE", id));
    }
    rig.receive(&frame("END", 11));
    for id in [6, 7, 8, 15] {
        rig.machine.cancel(rig.ids[&id]).unwrap();
    }
    rig.sent();
    rig
}

/// Asserts what each frame does to the request of each row, in a record of its own and behind other
/// frames. A frame that breaks the rules earns the frames `last_words`.
fn check<R: for<'u> Role<Event<'u>: IntoNoiseEvent>, H: KeyRef<R>>(
    new: impl Fn() -> Rig<R, H>,
    frames: [&str; 7],
    rows: &[Row],
    last_words: &[Frame],
) {
    for (what, id, row) in rows {
        for (name, does) in frames.into_iter().zip(row) {
            for before in [vec![], raw_frame(PING, 0, &[1; 8]), raw_frame(200, 7, b"?")] {
                let mut rig = new();
                let mut received = rig.receive(&[&before[..], &frame(name, *id)].concat());
                received.retain(|event| *event != NoiseEvent::Ping);
                let mut said = rig.sent();
                said.retain(|frame| frame.0 != PONG);
                let expected = match does {
                    Breaks => (vec![], last_words.to_vec()),
                    Skips => (vec![], vec![]),
                    Tells | Ends => (vec![event(name, *id, *does == Ends)], vec![]),
                    Refuses => (vec![NoiseEvent::Abandoned(*id)], vec![(REFUSE, *id, vec![4])]),
                };
                assert_eq!((received, said), expected, "{name} of a request that is: {what}");
                let end = (*does == Breaks).then_some(ConnectionError::Protocol);
                assert_eq!(rig.machine.end(), end, "{name} of a request that is: {what}");
            }
        }
    }
}

#[test]
fn each_frame_of_a_client_has_its_effect_in_each_state_of_its_request() {
    check(busy_server, AT_SERVER, &SERVER, &[(CLOSE, LAST_AT_SERVER, vec![4])]);
}

#[test]
fn each_frame_of_a_server_has_its_effect_in_each_state_of_its_request() {
    check(busy_client, AT_CLIENT, &CLIENT, &[(CLOSE, LAST_AT_CLIENT, vec![4])]);
}

/// The rows with what the frames of the columns do to a request that has not begun.
fn with_new<const N: usize>(mut rows: [Row; N], does: [Does; 7]) -> [Row; N] {
    let last = rows.last_mut().unwrap();
    assert_eq!(last.0, "not begun");
    last.2 = does;
    rows
}

#[test]
fn after_the_close_of_either_side_only_new_requests_are_judged_otherwise() {
    // The server skips them, and does not close a second time.
    let closing = || {
        let mut rig = busy_server();
        rig.machine.close(rig.now, CloseReason::ShuttingDown);
        assert_eq!(rig.sent(), [(CLOSE, LAST_AT_SERVER, vec![2])]);
        rig
    };
    let skipped = [Skips, Skips, Skips, Breaks, Breaks, Breaks, Skips];
    check(closing, AT_SERVER, &with_new(SERVER, skipped), &[]);
    // They break the rules.
    let closed = || {
        let mut rig = busy_server();
        let close = raw_frame(CLOSE, LAST_AT_SERVER, &[0]);
        assert_eq!(rig.receive(&close), [NoiseEvent::Closing(CloseReason::Done)]);
        rig
    };
    let broken = [Breaks, Breaks, Breaks, Breaks, Breaks, Breaks, Skips];
    let last_words = [(CLOSE, LAST_AT_SERVER, vec![4])];
    check(closed, AT_SERVER, &with_new(SERVER, broken), &last_words);
    // At a client there are none.
    let closing = || {
        let mut rig = busy_client();
        rig.machine.close(rig.now, CloseReason::Done);
        assert_eq!(rig.sent(), [(CLOSE, LAST_AT_CLIENT, vec![0])]);
        rig
    };
    check(closing, AT_CLIENT, &CLIENT, &[]);
    let closed = || {
        let mut rig = busy_client();
        let close = raw_frame(CLOSE, LAST_AT_CLIENT, &[2]);
        assert_eq!(rig.receive(&close), [NoiseEvent::Closing(CloseReason::ShuttingDown)]);
        rig
    };
    check(closed, AT_CLIENT, &CLIENT, &[(CLOSE, LAST_AT_CLIENT, vec![4])]);
}

#[test]
fn a_client_sends_nothing_of_a_cancelled_request_whatever_credit_it_receives() {
    let mut rig = busy_client();
    for id in [6, 7, 8] {
        assert_eq!(rig.receive(&frame("CREDIT", id)), [NoiseEvent::Credit(id)]);
        assert_eq!(rig.machine.sendable(rig.ids[&id]), 0);
    }
}
