//! What each frame of an open body does to either side, when it is expected and when it is not.

use crate::common::noise::{
    AtClient, AtServer, BEGIN, CANCEL, CLOSE, CREDIT, END, Frame, MESSAGE, NoiseEvent, OPEN, PART, PING, REFUSE, Rig,
    at_client_with, at_server_with, begin, honest,
};
use falco_core::testing::{raw_frame, raw_settings, raw_streams};
use falco_core::{ConnectionError, KeyRef, Refusal, Role, Settings};

const KIB: usize = 1024;

/// Both sides take open bodies: 4 KiB, and 3 requests.
fn settings() -> Settings {
    Settings::new().with_streams(4, 3)
}

fn server() -> AtServer {
    let mut handshake = honest();
    handshake.settings = raw_streams(handshake.settings, 2, 0);
    at_server_with(&settings(), &handshake)
}

fn client() -> AtClient {
    let mut handshake = honest();
    handshake.settings = raw_streams(handshake.settings, 2, 3);
    at_client_with(&settings(), &handshake)
}

fn open(id: u32, first: &[u8]) -> Vec<u8> {
    raw_frame(BEGIN, id, &begin(OPEN, first))
}

fn credit(id: u32, bytes: u32) -> Vec<u8> {
    raw_frame(CREDIT, id, &bytes.to_be_bytes())
}

/// A server with these requests: 1 is open and its answer too; 2 is open, of which END has come; 3
/// was refused; 4 has arrived in part, of 8 bytes; 5 waits, and its length was given; 6 is
/// answered.
fn busy_server() -> AtServer {
    let mut rig = server();
    rig.receive(&open(1, b"one"));
    let mut answer = rig.machine.open_answer(rig.ids[&1]).unwrap();
    rig.seal_answer(&mut answer, b"I");
    rig.receive(&[open(2, b"two"), raw_frame(END, 2, &[])].concat());
    rig.receive(&open(3, b""));
    rig.machine.refuse(rig.ids[&3], Refusal::Busy).unwrap();
    rig.receive(&raw_frame(BEGIN, 4, &begin(8, b"four")));
    rig.receive(&raw_frame(MESSAGE, 5, b"five"));
    rig.receive(&raw_frame(MESSAGE, 6, b"six"));
    rig.answer(6, b"VI");
    rig.sent();
    rig
}

/// A client with these requests: 1 is open and so is its answer; 2 is open and its END is sent; 3
/// is answered in part, of 8 bytes; 4 is answered; 5 was sent whole.
fn busy_client() -> AtClient {
    let mut rig = client();
    let mut one = rig.machine.open_request().unwrap();
    rig.seal_request(&mut one, b"one");
    rig.receive(&open(1, b"I"));
    let mut two = rig.machine.open_request().unwrap();
    two.finish();
    rig.seal_request(&mut two, b"two");
    assert!(two.is_done());
    for body in [b"three", b"four.", b"five."] {
        rig.request(body);
    }
    rig.receive(&raw_frame(BEGIN, 3, &begin(8, b"III.")));
    rig.receive(&raw_frame(MESSAGE, 4, b"IV"));
    rig.ids
        .extend([one.id(), two.id()].into_iter().flatten().map(|id| (id.number(), id)));
    rig.sent();
    rig
}

/// What a record does.
#[derive(Debug)]
enum Does {
    /// It ends the connection as a protocol error and has no other effect.
    Breaks,
    /// It has these events and is answered with these frames.
    Tells(Vec<NoiseEvent>, Vec<Frame>),
}

fn skipped() -> Does {
    Does::Tells(vec![], vec![])
}

fn tells(event: NoiseEvent) -> Does {
    Does::Tells(vec![event], vec![])
}

/// Asserts what `frames` do, in a record of their own and behind other frames. `last` is the last
/// id that the connection knows.
fn check<R: for<'u> Role<Event<'u>: crate::common::noise::IntoNoiseEvent>, H: KeyRef<R>>(
    new: fn() -> Rig<R, H>,
    last: u32,
    what: &str,
    frames: &[u8],
    does: &Does,
) {
    for before in [vec![], raw_frame(PING, 0, &[1; 8]), raw_frame(200, 7, b"?")] {
        let mut rig = new();
        let received = rig.receive(&[&before, frames].concat());
        let received: Vec<_> = received
            .into_iter()
            .filter(|event| *event != NoiseEvent::Ping)
            .collect();
        let said: Vec<_> = rig.sent().into_iter().filter(|frame| frame.0 != 7).collect();
        match does {
            Does::Breaks => {
                assert_eq!(received, [], "{what}");
                assert_eq!(rig.machine.end(), Some(ConnectionError::Protocol), "{what}");
                assert_eq!(said, [(CLOSE, last, vec![4])], "{what}");
                rig.assert_ended(ConnectionError::Protocol);
            }
            Does::Tells(events, frames) => {
                assert_eq!((&received, &said), (events, frames), "{what}");
                assert_eq!(rig.machine.end(), None, "{what}");
            }
        }
    }
}

#[test]
fn each_frame_of_an_open_body_has_its_effect_at_a_server() {
    let part = |id, last| NoiseEvent::Part(id, if last { vec![] } else { b"part".to_vec() }, last);
    let rows = [
        (
            "PART of an open request",
            raw_frame(PART, 1, b"part"),
            tells(part(1, false)),
        ),
        ("an empty PART", raw_frame(PART, 1, b""), Does::Breaks),
        ("PART after END", raw_frame(PART, 2, b"part"), skipped()),
        ("PART of one refused", raw_frame(PART, 3, b"part"), skipped()),
        ("PART of one that is whole", raw_frame(PART, 5, b"part"), skipped()),
        ("PART of one answered", raw_frame(PART, 6, b"part"), skipped()),
        ("PART ahead", raw_frame(PART, 7, b"part"), Does::Breaks),
        ("END", raw_frame(END, 1, b""), tells(part(1, true))),
        ("END with a body", raw_frame(END, 1, b"x"), Does::Breaks),
        ("END again", raw_frame(END, 2, b""), skipped()),
        ("END of one refused", raw_frame(END, 3, b""), skipped()),
        (
            "END of one whose length was given",
            raw_frame(END, 4, b""),
            Does::Breaks,
        ),
        ("END of one that is whole", raw_frame(END, 5, b""), skipped()),
        ("END of one answered", raw_frame(END, 6, b""), skipped()),
        ("END ahead", raw_frame(END, 7, b""), Does::Breaks),
        ("END of no request", raw_frame(END, 0, b""), Does::Breaks),
        ("a second BEGIN", open(1, b""), Does::Breaks),
        ("BEGIN of one refused", open(3, b""), Does::Breaks),
        ("an open BEGIN of no request", open(0, b""), Does::Breaks),
        (
            "BEGIN",
            open(7, b"part"),
            tells(NoiseEvent::Opened(7, b"part".to_vec())),
        ),
        (
            "BEGIN without a part",
            open(9, b""),
            tells(NoiseEvent::Opened(9, vec![])),
        ),
        (
            "CANCEL of an open request",
            raw_frame(CANCEL, 1, b""),
            tells(NoiseEvent::Cancelled(1)),
        ),
        (
            "CANCEL of an open request after its END",
            raw_frame(CANCEL, 2, b""),
            tells(NoiseEvent::Cancelled(2)),
        ),
        (
            "PART, END and CREDIT after CANCEL",
            [
                raw_frame(CANCEL, 1, b""),
                raw_frame(PART, 1, &[7; 5 * KIB]),
                raw_frame(END, 1, b""),
            ]
            .concat(),
            tells(NoiseEvent::Cancelled(1)),
        ),
        (
            "all of a request in one record",
            [
                open(7, b"a"),
                raw_frame(PART, 7, b"b"),
                raw_frame(END, 7, b""),
                raw_frame(CANCEL, 7, b""),
            ]
            .concat(),
            Does::Tells(
                vec![
                    NoiseEvent::Opened(7, b"a".to_vec()),
                    NoiseEvent::Part(7, b"b".to_vec(), false),
                    NoiseEvent::Part(7, vec![], true),
                    NoiseEvent::Cancelled(7),
                ],
                vec![],
            ),
        ),
        // 1 and 2 count, although the body of 2 has ended. 3 was refused.
        (
            "one over max open",
            [
                open(7, b""),
                open(8, b"ab"),
                raw_frame(PART, 8, b"c"),
                raw_frame(END, 8, b""),
                credit(8, 1),
            ]
            .concat(),
            Does::Tells(vec![NoiseEvent::Opened(7, vec![])], vec![(REFUSE, 8, vec![1])]),
        ),
    ];
    for (what, frames, does) in rows {
        check(busy_server, 6, what, &frames, &does);
    }
}

#[test]
fn credit_has_its_effect_at_a_server() {
    let rows = [
        ("CREDIT for an open answer", credit(1, 1), tells(NoiseEvent::Credit(1))),
        ("CREDIT for an answer that has not begun", credit(2, 1), skipped()),
        ("CREDIT for one refused", credit(3, 1), skipped()),
        ("CREDIT for one half received", credit(4, 1), skipped()),
        ("CREDIT for one that waits", credit(5, 1), skipped()),
        ("CREDIT for one answered", credit(6, 1), skipped()),
        ("CREDIT ahead", credit(7, 1), Does::Breaks),
        ("CREDIT for no request", credit(0, 1), Does::Breaks),
        ("CREDIT of 0", credit(1, 0), Does::Breaks),
        ("CREDIT of 0 for one answered", credit(6, 0), Does::Breaks),
        ("CREDIT of three bytes", raw_frame(CREDIT, 1, &[0, 0, 1]), Does::Breaks),
        (
            "CREDIT of five bytes",
            raw_frame(CREDIT, 1, &[0, 0, 0, 1, 0]),
            Does::Breaks,
        ),
        ("CREDIT of any size for one answered", credit(6, u32::MAX), skipped()),
        // The answer to 1 has sent one byte of its 2 KiB.
        (
            "the most credit",
            credit(1, (1 << 31) - 2 * 1024),
            tells(NoiseEvent::Credit(1)),
        ),
        ("too much credit", credit(1, (1 << 31) - 2 * 1024 + 1), Does::Breaks),
        (
            "too much credit in two frames",
            [credit(1, 1 << 30), credit(1, 1 << 30)].concat(),
            Does::Breaks,
        ),
        (
            "too much credit after CANCEL",
            [raw_frame(CANCEL, 1, b""), credit(1, u32::MAX)].concat(),
            Does::Breaks,
        ),
        ("CREDIT of a number with a sign", credit(1, u32::MAX), Does::Breaks),
    ];
    for (what, frames, does) in rows {
        check(busy_server, 6, what, &frames, &does);
    }
}

#[test]
fn each_frame_of_an_open_body_has_its_effect_at_a_client() {
    let rows = [
        (
            "PART of an open answer",
            raw_frame(PART, 1, b"a"),
            tells(NoiseEvent::Part(1, b"a".to_vec(), false)),
        ),
        ("an empty PART", raw_frame(PART, 1, b""), Does::Breaks),
        (
            "END of an answer",
            raw_frame(END, 1, b""),
            tells(NoiseEvent::Part(1, vec![], true)),
        ),
        ("END with a body", raw_frame(END, 1, b"x"), Does::Breaks),
        ("END without BEGIN", raw_frame(END, 2, b""), Does::Breaks),
        (
            "END of an answer whose length was given",
            raw_frame(END, 3, b""),
            Does::Breaks,
        ),
        ("END of one answered", raw_frame(END, 4, b""), Does::Breaks),
        ("END ahead", raw_frame(END, 6, b""), Does::Breaks),
        ("END of no request", raw_frame(END, 0, b""), Does::Breaks),
        ("a second BEGIN", open(1, b""), Does::Breaks),
        ("MESSAGE after BEGIN", raw_frame(MESSAGE, 1, b""), Does::Breaks),
        ("an open BEGIN after one with its length", open(3, b""), Does::Breaks),
        ("BEGIN for one answered", open(4, b""), Does::Breaks),
        ("BEGIN ahead", open(6, b""), Does::Breaks),
        ("BEGIN for no request", open(0, b""), Does::Breaks),
        ("BEGIN", open(5, b"V"), tells(NoiseEvent::Opened(5, b"V".to_vec()))),
        (
            "a whole open answer in one record",
            [open(2, b""), raw_frame(PART, 2, b"II"), raw_frame(END, 2, b"")].concat(),
            Does::Tells(
                vec![
                    NoiseEvent::Opened(2, vec![]),
                    NoiseEvent::Part(2, b"II".to_vec(), false),
                    NoiseEvent::Part(2, vec![], true),
                ],
                vec![],
            ),
        ),
        (
            "MESSAGE after END",
            [raw_frame(END, 1, b""), raw_frame(MESSAGE, 1, b"")].concat(),
            Does::Breaks,
        ),
        (
            "PART after END",
            [raw_frame(END, 1, b""), raw_frame(PART, 1, b"a")].concat(),
            Does::Breaks,
        ),
        (
            "REFUSE after END",
            [raw_frame(END, 1, b""), raw_frame(REFUSE, 1, &[3])].concat(),
            Does::Breaks,
        ),
        ("CREDIT", credit(1, 1), tells(NoiseEvent::Credit(1))),
        ("CREDIT after END of the request", credit(2, 1), skipped()),
        ("CREDIT for one whose length was given", credit(3, 1), skipped()),
        ("CREDIT for one answered", credit(4, 1), skipped()),
        ("CREDIT ahead", credit(6, 1), Does::Breaks),
        ("CREDIT for no request", credit(0, 1), Does::Breaks),
        ("CREDIT of 0", credit(1, 0), Does::Breaks),
        ("CREDIT of three bytes", raw_frame(CREDIT, 1, &[0, 0, 1]), Does::Breaks),
        (
            "CREDIT of five bytes",
            raw_frame(CREDIT, 1, &[0, 0, 0, 1, 0]),
            Does::Breaks,
        ),
        // 3 bytes of 2 KiB are sent.
        (
            "the most credit",
            credit(1, (1 << 31) - 1 - 2 * 1024 + 3),
            tells(NoiseEvent::Credit(1)),
        ),
        ("too much credit", credit(1, (1 << 31) - 2 * 1024 + 3), Does::Breaks),
        (
            "too much credit in two frames",
            [credit(1, 1 << 30), credit(1, 1 << 30)].concat(),
            Does::Breaks,
        ),
        (
            "REFUSE",
            raw_frame(REFUSE, 1, &[4]),
            tells(NoiseEvent::Refused(1, Refusal::Cancelled)),
        ),
        (
            "MESSAGE for an open request",
            raw_frame(MESSAGE, 2, b"II"),
            tells(NoiseEvent::Whole(2, b"II".to_vec())),
        ),
        (
            "CREDIT in the record of the end of its request",
            [raw_frame(MESSAGE, 2, b"II"), credit(2, 1), credit(2, 1)].concat(),
            tells(NoiseEvent::Whole(2, b"II".to_vec())),
        ),
    ];
    for (what, frames, does) in rows {
        check(busy_client, 5, what, &frames, &does);
    }
}

#[test]
fn the_window_and_credit_are_honoured_at_the_byte_by_the_reader() {
    // A server, whose window is 4 KiB.
    for (frames, fine) in [
        (open(1, &[1; 4 * KIB]), true),
        (open(1, &[1; 4 * KIB + 1]), false),
        ([open(1, &[1; KIB]), raw_frame(PART, 1, &[1; 3 * KIB])].concat(), true),
        (
            [open(1, &[1; KIB]), raw_frame(PART, 1, &[1; 3 * KIB + 1])].concat(),
            false,
        ),
        ([open(1, &[1; 4 * KIB]), raw_frame(PART, 1, &[1])].concat(), false),
        ([open(1, &[1; 4 * KIB]), raw_frame(END, 1, &[])].concat(), true),
    ] {
        let mut rig = server();
        rig.receive(&frames);
        let end = rig.machine.end();
        assert_eq!(
            end,
            (!fine).then_some(ConnectionError::Protocol),
            "{} bytes",
            frames.len()
        );
    }
    // With credit, as much as was taken.
    for over in [0, 1] {
        let mut rig = server();
        rig.receive(&open(1, &[1; 3 * KIB]));
        let id = rig.ids[&1];
        rig.machine.credit(id, 2 * KIB, false).unwrap();
        assert_eq!(rig.sent(), [(CREDIT, 1, 2048_u32.to_be_bytes().to_vec())]);
        rig.receive(&raw_frame(PART, 1, &vec![1; 3 * KIB + over]));
        assert_eq!(rig.machine.end().is_some(), over == 1);
    }
    // A client, in the same way.
    for (frames, fine) in [
        (open(1, &[1; 4 * KIB]), true),
        (open(1, &[1; 4 * KIB + 1]), false),
        ([open(1, &[1; KIB]), raw_frame(PART, 1, &[1; 3 * KIB])].concat(), true),
        (
            [open(1, &[1; KIB]), raw_frame(PART, 1, &[1; 3 * KIB + 1])].concat(),
            false,
        ),
        ([open(1, &[1; 4 * KIB]), raw_frame(PART, 1, &[1])].concat(), false),
        ([open(1, &[1; 4 * KIB]), raw_frame(END, 1, &[])].concat(), true),
    ] {
        let mut rig = client();
        rig.request(b"?");
        rig.receive(&frames);
        let end = rig.machine.end();
        assert_eq!(
            end,
            (!fine).then_some(ConnectionError::Protocol),
            "{} bytes",
            frames.len()
        );
    }
    for over in [0, 1] {
        let mut rig = client();
        rig.request(b"?");
        rig.sent();
        rig.receive(&open(1, &[1; 3 * KIB]));
        rig.machine.credit(rig.ids[&1], 2 * KIB, false).unwrap();
        assert_eq!(rig.sent(), [(CREDIT, 1, 2048_u32.to_be_bytes().to_vec())]);
        rig.receive(&raw_frame(PART, 1, &vec![1; 3 * KIB + over]));
        assert_eq!(rig.machine.end().is_some(), over == 1);
    }
}

#[test]
fn a_side_without_a_window_treats_open_bodies_as_one_that_does_not_know_them() {
    let settings = Settings::new();
    for max_open in [0, 7] {
        let settings = settings.with_streams(0, max_open);
        let mut rig = at_server_with(&settings, &honest());
        assert_eq!(rig.receive(&open(1, &[1; 5 * KIB])), []);
        assert_eq!(rig.sent(), [(REFUSE, 1, vec![2])]);
        assert_eq!(rig.receive(&raw_frame(PART, 1, b"part")), []);
        for frames in [raw_frame(END, 1, b""), credit(1, 1)] {
            let mut rig = at_server_with(&settings, &honest());
            rig.receive(&raw_frame(MESSAGE, 1, b"one"));
            assert_eq!(rig.receive(&frames), []);
            assert_eq!(rig.sent(), [(CLOSE, 1, vec![4])]);
        }
        let mut rig = at_client_with(&settings, &honest());
        for frames in [open(1, b""), raw_frame(END, 1, b""), credit(1, 1)] {
            let mut rig = at_client_with(&settings, &honest());
            rig.request(b"?");
            rig.sent();
            assert_eq!(rig.receive(&frames), []);
            assert_eq!(rig.sent(), [(CLOSE, 1, vec![4])], "{frames:02x?}");
        }
        assert!(rig.machine.open_request().is_err());
    }
    // Without a number of open requests, a server takes none.
    let mut rig = at_server_with(&settings.with_streams(4, 0), &honest());
    assert_eq!(rig.receive(&open(1, b"")), []);
    assert_eq!(rig.sent(), [(REFUSE, 1, vec![2])]);
}

#[test]
fn each_side_announces_its_window_and_reads_that_of_the_other() {
    let rig = at_server_with(&Settings::new().with_streams(0x1234, 0x5678), &honest());
    assert_eq!(rig.raw.theirs()[12..], [0x12, 0x34, 0x56, 0x78]);
    assert_eq!(rig.machine.window(), 0x1234 << 10);
    let rig = at_client_with(&Settings::new().with_streams(0x1234, 0x5678), &honest());
    assert_eq!(
        rig.raw.theirs()[12..],
        [0x12, 0x34, 0, 0],
        "a client has no number to announce"
    );
    assert_eq!(rig.machine.window(), 0x1234 << 10);
    let rig = server();
    assert_eq!(rig.machine.peer_window(), 2048);
    let mut rig = client();
    assert_eq!((rig.machine.peer_window(), rig.machine.peer_max_open()), (2048, 3));
    assert!(rig.machine.open_request().is_ok());
    // The server takes none if either is 0.
    for (window, max_open) in [(0, 3), (2, 0)] {
        let mut handshake = honest();
        handshake.settings = raw_streams(raw_settings(u16::MAX, 8, 100, 60_000), window, max_open);
        let mut rig = at_client_with(&settings(), &handshake);
        assert!(rig.machine.open_request().is_err());
    }
}
