//! What either side sends of an open body: no more than window and credit allow, and CREDIT when it
//! is due.

use crate::common::noise::{
    AtClient, AtServer, BEGIN, CANCEL, CREDIT, END, Frame, MESSAGE, NoiseEvent, OPEN, PART, PING, PONG, REFUSE,
    at_client_with, at_server_with, begin, honest,
};
use falco_core::testing::{RecvBytes, raw_frame, raw_settings, raw_streams};
use falco_core::{
    Error, Misuse, OutgoingAnswer, OutgoingRequest, OutputTooSmall, Refusal, ReplyError, RequestError, SealError,
    Settings,
};

const KIB: usize = 1024;

/// A server whose client has a window of 1 KiB and reads records of `max_record` bytes.
fn server(max_record: u16) -> AtServer {
    let mut handshake = honest();
    handshake.settings = raw_streams(raw_settings(max_record, 8, 100, 60_000), 1, 0);
    at_server_with(&Settings::new().with_streams(4, 3), &handshake)
}

/// A client whose server has a window of 1 KiB, takes three open requests, and reads records of
/// `max_record` bytes.
fn client(max_record: u16) -> AtClient {
    let mut handshake = honest();
    handshake.settings = raw_streams(raw_settings(max_record, 8, 100, 60_000), 1, 3);
    at_client_with(&Settings::new().with_streams(4, 0), &handshake)
}

fn credit(id: u32, bytes: u32) -> Vec<u8> {
    raw_frame(CREDIT, id, &bytes.to_be_bytes())
}

fn open(id: u32, first: &[u8]) -> Vec<u8> {
    raw_frame(BEGIN, id, &begin(OPEN, first))
}

/// Bytes of the bodies in these frames of open bodies.
fn sum(frames: &[Frame]) -> usize {
    let body = |frame: &Frame| match frame.0 {
        BEGIN => frame.2.len() - 4,
        PART => frame.2.len(),
        _ => 0,
    };
    frames.iter().map(body).sum()
}

/// Either side with an open body to write.
trait Writes {
    fn write(&mut self, body: &[u8]) -> Vec<Frame>;
    fn finish(&mut self);
    fn taken(&mut self) -> usize;
    fn credit(&mut self, bytes: u32) -> Vec<NoiseEvent>;
    fn sendable(&self) -> u32;
    fn is_done(&self) -> bool;
}

macro_rules! writes {
    ($rig:ty, $message:ty, $seal:ident, $id:expr) => {
        impl Writes for ($rig, $message) {
            fn write(&mut self, body: &[u8]) -> Vec<Frame> {
                self.0.$seal(&mut self.1, body);
                self.0.opened()
            }

            fn finish(&mut self) {
                self.1.finish();
            }

            fn taken(&mut self) -> usize {
                self.1.take_sealed()
            }

            fn credit(&mut self, bytes: u32) -> Vec<NoiseEvent> {
                self.0.receive(&credit(1, bytes))
            }

            fn sendable(&self) -> u32 {
                let id: fn(&Self) -> falco_core::RequestId = $id;
                self.0.machine.sendable(id(self))
            }

            fn is_done(&self) -> bool {
                self.1.is_done()
            }
        }
    };
}

writes!(AtServer, OutgoingAnswer, seal_answer, |side| side.1.id());
writes!(AtClient, OutgoingRequest, seal_request, |side| side.1.id().unwrap());

/// Both sides, with a peer that reads records of `max_record` bytes.
fn both(max_record: u16) -> [Box<dyn Writes>; 2] {
    let mut server = server(max_record);
    server.receive(&raw_frame(MESSAGE, 1, b"?"));
    let answer = server.machine.open_answer(server.ids[&1]).unwrap();
    let mut client = client(max_record);
    let request = client.machine.open_request().unwrap();
    [Box::new((server, answer)), Box::new((client, request))]
}

#[test]
fn a_body_without_its_sealed_bytes_is_not_taken_for_its_end() {
    let mut server = server(u16::MAX);
    server.receive(&raw_frame(MESSAGE, 1, b"?"));
    let mut answer = server.machine.open_answer(server.ids[&1]).unwrap();
    server.seal_answer(&mut answer, &[7; 8]);
    answer.finish();
    let mut client = client(u16::MAX);
    let mut request = client.machine.open_request().unwrap();
    client.seal_request(&mut request, &[7; 8]);
    request.finish();
    // `take_sealed` was not called, so these bytes are still at the front of the body.
    let (announced, given, mut out) = (8, 7, [0; KIB]);
    let misuse = Err(SealError::Misuse(Misuse::BodyLength { announced, given }));
    let (short, now) = ([7; 7], server.now);
    assert_eq!(server.machine.seal(now, [(&mut answer, &short[..])], &mut out), misuse);
    assert_eq!(client.machine.seal(now, [(&mut request, &short[..])], &mut out), misuse);
    assert!(!answer.is_done() && !request.is_done());
}

#[test]
fn a_body_begins_without_bytes_and_ends_without_credit() {
    for mut side in both(u16::MAX) {
        assert_eq!(side.write(b""), [(BEGIN, 1, OPEN.to_be_bytes().to_vec())]);
        assert_eq!(side.write(b""), [], "nothing to say");
        assert_eq!(side.write(&[7; 2 * KIB]), [(PART, 1, vec![7; KIB])], "the window");
        assert_eq!((side.taken(), side.sendable()), (KIB, 0));
        assert_eq!(side.write(&[7; KIB]), [], "it waits for credit");
        side.finish();
        assert_eq!(side.write(&[7; KIB]), [], "its end comes after the rest");
        assert_eq!(side.credit(1), [NoiseEvent::Credit(1)]);
        assert_eq!(side.sendable(), 1);
        assert_eq!(
            side.write(&[7; KIB]),
            [(PART, 1, vec![7])],
            "any credit is used at once"
        );
        assert_eq!(side.taken(), 1);
        side.credit(u32::try_from(KIB).unwrap());
        assert_eq!(
            side.write(&[7; KIB - 1]),
            [(PART, 1, vec![7; KIB - 1]), (END, 1, vec![])],
            "END follows at once"
        );
        assert!(side.is_done());
        assert_eq!(side.write(&[7; KIB - 1]), []);
    }
    for mut side in both(u16::MAX) {
        side.finish();
        assert_eq!(side.write(b"all"), [(BEGIN, 1, begin(OPEN, b"all")), (END, 1, vec![])]);
        assert!(side.is_done());
    }
    for mut side in both(u16::MAX) {
        assert_eq!(side.write(&[7; KIB]), [(BEGIN, 1, begin(OPEN, &[7; KIB]))]);
        assert_eq!(side.taken(), KIB);
        side.finish();
        assert_eq!(side.write(b""), [(END, 1, vec![])], "END needs no credit");
        assert!(side.is_done());
    }
}

#[test]
fn bytes_that_are_sealed_and_not_taken_may_be_passed_again() {
    for mut side in both(u16::MAX) {
        assert_eq!(sum(&side.write(b"abc")), 3);
        assert_eq!(side.write(b"abc"), []);
        assert_eq!(side.write(b"abcd"), [(PART, 1, b"d".to_vec())]);
        assert_eq!((side.taken(), side.taken()), (4, 0));
        assert_eq!(side.write(b"e"), [(PART, 1, b"e".to_vec())]);
    }
}

#[test]
fn parts_fit_the_records_of_the_peer_and_the_output() {
    let body: Vec<u8> = (0..KIB).map(|at| u8::try_from(at % 251).unwrap()).collect();
    for max_record in [64, 65, 100, 300, 1_000, u16::MAX] {
        for mut side in both(max_record) {
            let (mut got, mut rest, mut ended) = (Vec::new(), body.as_slice(), false);
            side.finish();
            while !side.is_done() {
                let frames = side.write(rest);
                assert!(!frames.is_empty());
                for (kind, _, part) in &frames {
                    assert!(!ended && 7 + part.len() + 16 <= usize::from(max_record));
                    ended = *kind == END;
                    got.extend_from_slice(if *kind == BEGIN { &part[4..] } else { part });
                }
                rest = &rest[side.taken()..];
            }
            assert_eq!((got == body, ended), (true, true), "records of {max_record} bytes");
        }
    }
}

#[test]
fn any_output_that_is_large_enough_makes_progress_and_a_smaller_one_says_so() {
    // BEGIN and a byte, PART and a byte, END.
    let mut rig = client(u16::MAX);
    let mut request = rig.machine.open_request().unwrap();
    for (finished, body, needed) in [(false, &b"ab"[..], 12), (false, b"b", 8), (true, b"", 7)] {
        if finished {
            request.finish();
        }
        let (mut small, mut fits) = (vec![0; 17 + needed], vec![0; 18 + needed]);
        let error = rig.machine.seal(rig.now, [(&mut request, body)], &mut small);
        let expected = OutputTooSmall {
            needed: 18 + needed,
            given: 17 + needed,
        };
        assert_eq!(error, Err(SealError::OutputTooSmall(expected)));
        let sealed = rig.machine.seal(rig.now, [(&mut request, body)], &mut fits);
        assert_eq!(sealed, Ok(18 + needed));
        request.take_sealed();
    }
    assert!(request.is_done());
    // Without room for END behind the last part, it comes with the next call.
    let mut request = rig.machine.open_request().unwrap();
    request.finish();
    let mut out = [0; 18 + 12 + 6];
    assert_eq!(
        rig.machine.seal(rig.now, [(&mut request, b"a".as_slice())], &mut out),
        Ok(30)
    );
    assert!(!request.is_done());
    assert_eq!(
        rig.machine.seal(rig.now, [(&mut request, b"a".as_slice())], &mut out),
        Ok(25)
    );
    assert!(request.is_done());
}

#[test]
fn credit_is_given_for_half_a_window_or_to_a_reader_that_waits() {
    let half = 2 * KIB;
    let mut rig = server(u16::MAX);
    rig.receive(&open(1, &[1; 4 * KIB]));
    let id = rig.ids[&1];
    rig.machine.credit(id, half - 1, false).unwrap();
    assert_eq!(rig.sent(), []);
    rig.machine.credit(id, 0, true).unwrap();
    assert_eq!(rig.sent(), [(CREDIT, 1, 2047_u32.to_be_bytes().to_vec())], "it waits");
    rig.machine.credit(id, 0, true).unwrap();
    assert_eq!(rig.sent(), [], "no CREDIT is due");
    rig.machine.credit(id, half - 1, false).unwrap();
    rig.machine.credit(id, 1, false).unwrap();
    rig.machine.credit(id, 1, false).unwrap();
    assert_eq!(
        rig.sent(),
        [(CREDIT, 1, 2049_u32.to_be_bytes().to_vec())],
        "in one frame"
    );
    // All that arrived was taken, so no more CREDIT is due, whatever the caller says.
    rig.machine.credit(id, usize::MAX, true).unwrap();
    assert_eq!(rig.sent(), []);
    rig.receive(&raw_frame(PART, 1, b"abc"));
    rig.machine.credit(id, usize::MAX, true).unwrap();
    assert_eq!(rig.sent(), [(CREDIT, 1, 3_u32.to_be_bytes().to_vec())]);
    // Once its END has come, none is due.
    rig.receive(&raw_frame(PART, 1, &[1; 4 * KIB]));
    rig.machine.credit(id, 3 * KIB, true).unwrap();
    assert_eq!(rig.receive(&raw_frame(END, 1, b"")).len(), 1);
    assert_eq!(rig.sent(), [], "what was pending is not due any more");
    rig.machine.credit(id, KIB, true).unwrap();
    assert_eq!(rig.sent(), []);

    let mut rig = client(u16::MAX);
    rig.request(b"?");
    rig.opened();
    rig.receive(&open(1, &[1; 4 * KIB]));
    let id = rig.ids[&1];
    rig.machine.credit(id, half, false).unwrap();
    assert_eq!(rig.sent(), [(CREDIT, 1, 2048_u32.to_be_bytes().to_vec())]);
    rig.machine.credit(id, half, false).unwrap();
    rig.machine.cancel(id).unwrap();
    assert_eq!(rig.sent(), [(CANCEL, 1, vec![])], "a cancelled answer gets none");
    rig.machine.credit(id, half, true).unwrap();
    assert_eq!(rig.sent(), []);
}

#[test]
fn pending_credit_goes_before_parts_and_behind_pong_however_many_bodies_get_some() {
    let mut handshake = honest();
    handshake.settings = raw_streams(handshake.settings, 1, 0);
    let settings = Settings::new().with_streams(4, 100);
    let mut rig = at_server_with(&settings, &handshake);
    let begins: Vec<u8> = (1..=40).flat_map(|id| open(id, b"abc")).collect();
    rig.receive(&begins);
    let mut answer = rig.machine.open_answer(rig.ids[&7]).unwrap();
    rig.receive(&raw_frame(PING, 0, &[1; 8]));
    for id in 1..=40 {
        rig.machine.credit(rig.ids[&id], 3, true).unwrap();
    }
    rig.seal_answer(&mut answer, b"part");
    let said = rig.opened();
    assert_eq!(said[0], (PONG, 0, vec![1; 8]));
    let mut credits: Vec<_> = said[1..41].iter().map(|frame| (frame.0, frame.1)).collect();
    credits.sort_unstable();
    assert_eq!(credits, (1..=40).map(|id| (CREDIT, id)).collect::<Vec<_>>());
    assert_eq!(said[41..], [(BEGIN, 7, begin(OPEN, b"part"))]);
    // With little output, some at a time, and none twice.
    for id in 1..=40 {
        rig.receive(&raw_frame(PART, id, b"de"));
        rig.machine.credit(rig.ids[&id], 2, true).unwrap();
    }
    let (mut out, mut all) = ([0; 18 + 3 * 11], Vec::new());
    loop {
        let length = rig.machine.poll_transmit(rig.now, &mut out).unwrap();
        rig.out.extend_from_slice(&out[..length]);
        if length == 0 {
            break;
        }
        all.extend(rig.opened().into_iter().map(|frame| frame.1));
    }
    all.sort_unstable();
    assert_eq!(all, (1..=40).collect::<Vec<_>>());
}

#[test]
fn a_client_holds_back_what_the_server_would_not_take() {
    let mut rig = client(u16::MAX);
    let mut requests: Vec<_> = (0..4).map(|_| rig.machine.open_request().unwrap()).collect();
    for request in &mut requests {
        request.finish();
        rig.seal_request(request, b"");
    }
    let sent: Vec<_> = rig.opened().into_iter().map(|frame| (frame.0, frame.1)).collect();
    assert_eq!(sent, [1, 2, 3].map(|id| [(BEGIN, id), (END, id)]).concat());
    // Their ENDs are sent. The next begins when one has its end.
    assert_eq!(rig.seal_request(&mut requests[3], b""), 0);
    rig.receive(&raw_frame(MESSAGE, 2, b""));
    rig.seal_request(&mut requests[3], b"");
    assert_eq!(rig.opened(), [(BEGIN, 4, begin(OPEN, b"")), (END, 4, vec![])]);
    // Created before the settings of the server were known.
    let mut handshake = honest();
    handshake.settings = raw_streams(handshake.settings, 1, 0);
    let (settings, mut rng) = (Settings::new(), falco_core::testing::CountingRng::new(3));
    let keys = crate::common::noise::client_keys();
    let mut machine = falco_core::ClientConnection::new(&keys, &settings, rig.now, &mut rng).unwrap();
    let mut early = machine.open_request().unwrap();
    let hello = crate::common::pending_output(&mut machine, rig.now);
    let (mut welcome, _) = handshake.server(&hello).unwrap();
    machine.recv_bytes(rig.now, &mut welcome).unwrap();
    let mut out = [0; 100];
    machine.seal(rig.now, [(&mut early, b"".as_slice())], &mut out).unwrap();
    assert_eq!(
        (early.failure(), early.is_done()),
        (Some(RequestError::NoOpenBodies), true)
    );
    let late = machine.open_request();
    assert_eq!(late.err(), Some(Error::Request(RequestError::NoOpenBodies)));
}

#[test]
fn a_client_has_as_many_open_requests_in_flight_as_windows_fit_its_memory() {
    let mut handshake = honest();
    handshake.settings = raw_streams(handshake.settings, 1, 8);
    for (window, held, expected) in [(0, 1 << 20, 8), (256, 1 << 20, 4), (256, 0, 1), (1, 1 << 20, 8)] {
        let settings = Settings::new()
            .with_max_message(9)
            .with_max_held(held)
            .with_streams(window, 0);
        let settings = settings.with_max_in_flight(8).unwrap();
        let rig = at_client_with(&settings, &handshake);
        assert_eq!(rig.machine.peer_max_open(), expected, "{window} KiB, {held} bytes");
        // Other requests are not affected: what is collected of their answers has a limit of its
        // own.
        assert_eq!(rig.machine.max_in_flight(), 8);
    }
}

#[test]
fn a_server_reserves_the_window_of_each_open_request_until_it_has_completed() {
    // Room for one window and a little.
    let settings = Settings::new()
        .with_max_message(100)
        .with_max_held(5_000)
        .with_streams(4, 9);
    assert_eq!(settings.max_held(), 5_000);
    let mut rig = at_server_with(&settings, &honest());
    assert_eq!(rig.receive(&open(1, b"")).len(), 1);
    assert_eq!(rig.receive(&open(2, b"")), []);
    assert_eq!(rig.sent(), [(REFUSE, 2, vec![1])]);
    // 904 bytes are left.
    let all: Vec<u8> = (3..=12).flat_map(|id| raw_frame(MESSAGE, id, &[1; 100])).collect();
    assert_eq!(rig.receive(&all).len(), 9);
    assert_eq!(rig.sent(), [(REFUSE, 12, vec![1])]);
    // Its parts cross no bound.
    assert_eq!(rig.receive(&raw_frame(PART, 1, &[1; 4 * KIB])).len(), 1);
    assert_eq!(rig.receive(&raw_frame(END, 1, b"")).len(), 1);
    assert_eq!(rig.receive(&open(13, b"")), []);
    assert_eq!(rig.sent(), [(REFUSE, 13, vec![1])]);
    for id in [1, 3, 4, 5, 6, 7, 8, 9, 10, 11] {
        rig.answer(id, b"");
    }
    rig.opened();
    assert_eq!(rig.receive(&open(14, b"")).len(), 1, "there is room again");
    // The bound is at least one window.
    let settings = settings.with_max_held(0);
    assert_eq!(settings.max_held(), 4_096);
    let mut rig = at_server_with(&settings, &honest());
    assert_eq!(rig.receive(&open(1, b"")).len(), 1);
}

#[test]
fn an_answer_may_be_open_only_if_the_client_takes_it() {
    let mut rig = at_server_with(&Settings::new().with_streams(4, 3), &honest());
    rig.receive(&raw_frame(MESSAGE, 1, b"?"));
    let id = rig.ids[&1];
    let error = rig.machine.open_answer(id).err();
    assert_eq!(error, Some(ReplyError::Request(RequestError::NoOpenBodies)));
    rig.answer(1, b"whole");
    // One in part cannot be answered, an open one can, and only once.
    let mut rig = server(u16::MAX);
    rig.receive(&raw_frame(BEGIN, 1, &begin(9, b"part")));
    let id = rig.ids[&1];
    assert_eq!(rig.machine.open_answer(id).err(), Some(ReplyError::NotWaiting(id)));
    rig.receive(&open(2, b"part"));
    let id = rig.ids[&2];
    let (mut first, mut second) = (
        rig.machine.open_answer(id).unwrap(),
        rig.machine.open_answer(id).unwrap(),
    );
    rig.seal_answer(&mut first, b"a");
    let sealed = rig
        .machine
        .seal(rig.now, [(&mut second, b"b".as_slice())], &mut [0; 100]);
    assert_eq!(sealed, Err(SealError::NotWaiting(id)));
    assert_eq!(rig.machine.answer(id, 1).err(), Some(ReplyError::NotWaiting(id)));
    assert_eq!(rig.machine.open_answer(id).err(), Some(ReplyError::NotWaiting(id)));
}

#[test]
fn a_handler_that_drops_its_body_has_the_rest_discarded_and_credited() {
    let mut rig = server(u16::MAX);
    rig.receive(&open(1, &[1; 2 * KIB - 1]));
    let id = rig.ids[&1];
    rig.machine.discard(id).unwrap();
    assert_eq!(rig.sent(), [], "less than half a window was taken");
    assert_eq!(rig.receive(&raw_frame(PART, 1, b"x")), []);
    assert_eq!(rig.sent(), [(CREDIT, 1, 2048_u32.to_be_bytes().to_vec())]);
    for _ in 0..5 {
        assert_eq!(rig.receive(&raw_frame(PART, 1, &[1; 3 * KIB])), []);
        assert_eq!(rig.sent(), [(CREDIT, 1, 3072_u32.to_be_bytes().to_vec())]);
    }
    // The rules hold for it as before.
    assert_eq!(rig.receive(&raw_frame(END, 1, b"")), []);
    rig.answer(1, b"done");
    assert_eq!(rig.opened(), [(MESSAGE, 1, b"done".to_vec())]);
    let mut rig = server(u16::MAX);
    rig.receive(&open(1, &[1; KIB]));
    rig.machine.discard(rig.ids[&1]).unwrap();
    assert_eq!(rig.receive(&raw_frame(PART, 1, &[1; 3 * KIB + 1])), []);
    assert!(rig.machine.end().is_some(), "past the window");
    // Parts that are judged and not returned yet are dropped too.
    let mut rig = server(u16::MAX);
    let record = [open(1, b"a"), raw_frame(PART, 1, b"b"), raw_frame(END, 1, b"")].concat();
    let record = rig.raw.seal(&record);
    rig.unread.extend_from_slice(&record);
    assert_eq!(rig.next(), Some(NoiseEvent::Opened(1, b"a".to_vec())));
    rig.machine.discard(rig.ids[&1]).unwrap();
    assert_eq!(rig.next(), None);
    rig.machine.refuse(rig.ids[&1], Refusal::Failed).unwrap();
    assert_eq!(rig.sent(), [(REFUSE, 1, vec![3])]);
}
