//! A session with open bodies, split into reads of one byte, and cut at every byte: neither side
//! reports a body as complete that was cut off.

use crate::common::noise::{
    AtClient, AtServer, BEGIN, CLOSE, CREDIT, END, MESSAGE, NoiseEvent, OPEN, PART, Rig, at_client_with,
    at_server_with, begin, honest,
};
use falco_core::testing::{raw_frame, raw_streams};
use falco_core::{ConnectionError, Fate, KeyRef, Role, Settings};

fn server() -> AtServer {
    let mut handshake = honest();
    handshake.settings = raw_streams(handshake.settings, 1, 0);
    at_server_with(&Settings::new().with_streams(1, 3), &handshake)
}

/// A client with two open requests, of which the second has ended, and one whose length was given.
fn client() -> AtClient {
    let mut handshake = honest();
    handshake.settings = raw_streams(handshake.settings, 1, 3);
    let mut rig = at_client_with(&Settings::new().with_streams(1, 0), &handshake);
    let mut requests = [1, 2].map(|_| rig.machine.open_request().unwrap());
    requests[1].finish();
    for request in &mut requests {
        rig.seal_request(request, b"body");
    }
    rig.request(b"whole");
    rig.opened();
    rig
}

fn open(id: u32, first: &[u8]) -> Vec<u8> {
    raw_frame(BEGIN, id, &begin(OPEN, first))
}

fn credit(id: u32, bytes: u32) -> Vec<u8> {
    raw_frame(CREDIT, id, &bytes.to_be_bytes())
}

/// Records of a client, and how many of its request bodies are whole after each.
fn from_client() -> Vec<(Vec<u8>, usize)> {
    vec![
        (open(1, b"first"), 0),
        ([raw_frame(PART, 1, &[7; 300]), open(2, b""), credit(1, 9)].concat(), 0),
        (raw_frame(PART, 2, b"only"), 0),
        (raw_frame(END, 1, b""), 1),
        (
            [raw_frame(MESSAGE, 3, b"three"), raw_frame(PART, 2, &[8; 700])].concat(),
            1,
        ),
        ([raw_frame(PART, 2, b"."), raw_frame(END, 2, b"")].concat(), 2),
    ]
}

/// Records of a server, and how many of its answers are whole after each.
fn from_server() -> Vec<(Vec<u8>, usize)> {
    vec![
        ([credit(1, 4), open(1, b"first")].concat(), 0),
        ([open(3, b""), raw_frame(PART, 1, &[7; 300]), open(2, b"")].concat(), 0),
        (raw_frame(END, 1, b""), 1),
        ([raw_frame(PART, 3, b"only"), raw_frame(PART, 2, &[8; 700])].concat(), 1),
        ([raw_frame(END, 3, b""), raw_frame(PART, 2, b".")].concat(), 2),
        ([raw_frame(END, 2, b""), raw_frame(CLOSE, 3, &[2])].concat(), 3),
    ]
}

/// How many bodies are whole according to these events.
fn whole(received: &[NoiseEvent]) -> usize {
    let is_last = |event: &&NoiseEvent| matches!(event, NoiseEvent::Part(_, _, true));
    received.iter().filter(is_last).count()
}

/// Cuts these records at each byte, and passes the events and the end to `each`.
fn cut_everywhere<R, H>(
    new: fn() -> Rig<R, H>,
    records: &[(Vec<u8>, usize)],
    mut each: impl FnMut(&mut Rig<R, H>, &[NoiseEvent], Option<ConnectionError>, usize),
) where
    R: for<'u> Role<Event<'u>: crate::common::noise::IntoNoiseEvent>,
    H: KeyRef<R>,
{
    let mut rig = new();
    let (mut stream, mut ends) = (Vec::new(), vec![(0, 0)]);
    for (frames, whole) in records {
        stream.extend(rig.raw.seal(frames));
        ends.push((stream.len(), *whole));
    }
    let all = new().bytes(&stream);
    for cut in 0..=stream.len() {
        let mut rig = new();
        let received = rig.bytes(&stream[..cut]);
        let mut slow = new();
        let one_by_one: Vec<_> = stream[..cut].iter().flat_map(|byte| slow.bytes(&[*byte])).collect();
        assert_eq!(received, one_by_one, "cut at {cut}");
        assert_eq!(received, all[..received.len()], "cut at {cut}");
        let (_, complete) = ends.iter().rfind(|(end, _)| *end <= cut).unwrap();
        assert_eq!(whole(&received), *complete, "cut at {cut}");
        let end = rig.machine.end_of_stream(rig.now, &rig.unread).err();
        each(&mut rig, &received, end, cut);
    }
}

#[test]
fn a_server_whose_stream_is_cut_at_any_byte_does_not_take_a_body_for_whole() {
    let records = from_client();
    cut_everywhere(server, &records, |_, _, end, cut| {
        assert_eq!(end, Some(ConnectionError::Truncated), "cut at {cut}");
    });
}

#[test]
fn a_client_whose_stream_is_cut_at_any_byte_does_not_take_an_answer_for_whole() {
    let records = from_server();
    let mut closed = 0;
    cut_everywhere(client, &records, |rig, received, end, cut| {
        let complete = whole(received) == 3;
        let expected = if complete {
            ConnectionError::Closed
        } else {
            ConnectionError::Truncated
        };
        closed += usize::from(complete);
        assert_eq!(end, Some(expected), "cut at {cut}");
        if !complete {
            // A request that has begun may have reached a handler, unless no byte has arrived.
            let fate = if cut == 0 {
                Fate::NotProcessed
            } else {
                Fate::MaybeProcessed
            };
            assert_eq!(rig.machine.fate_of(true, false), fate, "cut at {cut}");
        }
    });
    assert_eq!(closed, 1);
}
