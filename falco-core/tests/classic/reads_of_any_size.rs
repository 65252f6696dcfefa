//! Events, end and output do not depend on how a stream is split into reads, on the storage of
//! unread bytes, or on how often `recv` is called: for both roles, and for valid and invalid
//! streams.

use crate::common::callers::{Asking, Caller, Cuts, Event, IN_FLIGHT, Seen, Serving, at_once, in_reads};
use crate::common::{ANSWER_HEAD, REQUEST_HEAD, client, ends_with, handle, server};
use falco_core::{ConnectionError, RecvBuf, Settings};
use proptest::collection::vec;
use proptest::prelude::*;

/// The largest message of these connections. With it the largest frame to a server has the length
/// of a hello, 157 bytes.
const LARGEST: u32 = 120;
const TO_SERVER: usize = 157;
const TO_CLIENT: usize = TO_SERVER - 1;

fn settings() -> Settings {
    Settings::new()
        .with_max_message(LARGEST)
        .with_max_in_flight(IN_FLIGHT)
        .unwrap()
}

/// A piece of a stream.
#[derive(Clone, Debug)]
enum Piece {
    Message(usize),
    /// A ping to a server, a length of zero to a client.
    Small,
    /// A message with one bit changed: which byte, modulo its length, and which bit.
    Flipped(usize, usize, u8),
    /// The previous message again.
    Again,
    Junk(Vec<u8>),
}

/// `small`: the weight of the small piece, of about 11.
fn piece(small: u32) -> impl Strategy<Value = Piece> {
    let largest = usize::try_from(LARGEST).unwrap();
    prop_oneof![
        8 => (0..=largest).prop_map(Piece::Message),
        small => Just(Piece::Small),
        1 => (0..=largest, any::<usize>(), 0..8_u8).prop_map(|(length, at, bit)| Piece::Flipped(length, at, bit)),
        1 => Just(Piece::Again),
        1 => vec(any::<u8>(), 0..40).prop_map(Piece::Junk),
    ]
}

/// Builds a stream of its handshake and its pieces, and cuts it after `share` of 256 parts, if that
/// is set.
fn stream(
    opening: Vec<u8>,
    pieces: &[Piece],
    share: u8,
    small: &[u8],
    mut next: impl FnMut(&[u8]) -> Vec<u8>,
) -> Vec<u8> {
    let (mut all, mut last) = (opening, Vec::new());
    for (number, piece) in (1..).zip(pieces) {
        let mut message = |length| next(&vec![number; length]);
        match piece {
            Piece::Message(length) => last = message(*length),
            Piece::Small => last = small.to_vec(),
            Piece::Again => {}
            Piece::Junk(junk) => last.clone_from(junk),
            Piece::Flipped(length, at, bit) => {
                last = message(*length);
                let at = at % last.len();
                last[at] ^= 1 << bit;
            }
        }
        all.extend_from_slice(&last);
    }
    if share < 200 {
        all.truncate(all.len() * usize::from(share) / 200);
    }
    all
}

/// The handshake of a stream, correct or with this bit changed.
fn opening(mut right: Vec<u8>, wrong: Option<(usize, u8)>) -> Vec<u8> {
    if let Some((at, bit)) = wrong {
        let at = at % right.len();
        right[at] ^= 1 << bit;
    }
    right
}

fn cuts() -> impl Strategy<Value = Cuts> {
    let size = prop_oneof![3 => 0..4_usize, 2 => 4..200_usize, 1 => Just(10_000)];
    (vec(size, 0..12), any::<bool>()).prop_map(|(mut sizes, patient)| {
        sizes.push(1);
        Cuts { sizes, patient }
    })
}

/// Runs a stream with every storage, and asserts that each result is that of the stream in one
/// piece. `EXACT` is the length of the largest frame.
fn check<K: Caller, const EXACT: usize>(caller: impl Fn() -> K, stream: &[u8], cuts: &Cuts) -> Seen {
    let expected = at_once(caller(), stream);
    let mut ahead = RecvBuf::new(Vec::new());
    ahead.set_read_ahead(4096);
    // Some size from the largest frame upwards.
    let mut any_room = vec![0xEE; EXACT + cuts.sizes.iter().sum::<usize>() % 400];
    let seen = [
        (
            "an array of the largest frame",
            in_reads(caller(), stream, cuts, EXACT, RecvBuf::new([0xEE; EXACT])),
        ),
        (
            "a larger array",
            in_reads(caller(), stream, cuts, EXACT, RecvBuf::new([0xEE; 500])),
        ),
        (
            "a slice of any length that suffices",
            in_reads(caller(), stream, cuts, EXACT, RecvBuf::new(any_room.as_mut_slice())),
        ),
        (
            "heapless",
            in_reads(
                caller(),
                stream,
                cuts,
                EXACT,
                RecvBuf::new(heapless::Vec::<u8, EXACT>::new()),
            ),
        ),
        (
            "a vector",
            in_reads(caller(), stream, cuts, EXACT, RecvBuf::new(Vec::new())),
        ),
        (
            "a vector that reads ahead",
            in_reads(caller(), stream, cuts, EXACT, ahead),
        ),
    ];
    for (storage, seen) in seen {
        assert_eq!(seen, expected, "{storage}");
    }
    expected
}

fn check_server(pieces: &[Piece], wrong: Option<(usize, u8)>, share: u8, cuts: &Cuts) -> Seen {
    let mut ends = ends_with(&handle(), &handle(), &Settings::new(), 1);
    let stream = stream(opening(ends.hello.clone(), wrong), pieces, share, &[2], |body| {
        ends.request(body)
    });
    let caller = || Serving {
        machine: server(&handle(), &settings(), 2),
        ready: Vec::new(),
    };
    check::<_, TO_SERVER>(caller, &stream, cuts)
}

fn check_client(pieces: &[Piece], wrong: Option<(usize, u8)>, share: u8, cuts: &Cuts) -> Seen {
    let mut ends = ends_with(&handle(), &handle(), &Settings::new(), 1);
    let answer = |body: &[u8]| {
        let request = ends.request(&[]);
        let (id, _) = ends.receive_request(&request);
        ends.answer(id, body)
    };
    let stream = stream(opening(vec![0xFF], wrong), pieces, share, &[0; 8], answer);
    check::<_, TO_CLIENT>(|| Asking(client(&handle(), &settings(), 2)), &stream, cuts)
}

fn wrong() -> impl Strategy<Value = Option<(usize, u8)>> {
    prop_oneof![9 => Just(None), 1 => (any::<usize>(), 0..8_u8).prop_map(Some)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_server_gets_the_same_events_however_its_stream_is_split(
        pieces in vec(piece(3), 0..14), wrong in wrong(), share in any::<u8>(), cuts in cuts(),
    ) {
        check_server(&pieces, wrong, share, &cuts);
    }

    #[test]
    fn a_client_gets_the_same_events_however_its_stream_is_split(
        pieces in vec(piece(1), 0..10), wrong in wrong(), share in any::<u8>(), cuts in cuts(),
    ) {
        check_client(&pieces, wrong, share, &cuts);
    }
}

#[test]
fn a_valid_stream_byte_by_byte_gives_all_its_events_and_output() {
    let one = Cuts {
        sizes: vec![1],
        patient: false,
    };
    let pieces = [
        Piece::Message(0),
        Piece::Small,
        Piece::Message(120),
        Piece::Message(7),
        Piece::Message(1),
    ];
    let seen = check_server(&pieces, None, 255, &one);
    let body = |number, length| (number, Event::Body(vec![u8::try_from(number).unwrap(); length]));
    let numbers: Vec<_> = seen.events.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 1, 0, 2, 3, 4]);
    assert_eq!(seen.events[2].1, Event::Ping);
    assert_eq!(seen.output.len(), 1 + 3 * 36 + 127, "the accept and three answers");
    assert_eq!(seen.end, Some(ConnectionError::ClosedByPeer));

    let seen = check_client(&[Piece::Message(0), Piece::Message(120)], None, 255, &one);
    assert_eq!(seen.events, [(0, Event::Established), body(1, 0), body(2, 120)]);
    assert_eq!(seen.output.len(), 157 + 4 * 39, "the hello and four requests");
    assert_eq!(seen.end, Some(ConnectionError::ClosedByPeer));
}

#[test]
fn storage_one_byte_under_the_largest_frame_is_refused_with_the_numbers() {
    let mut inbox = RecvBuf::new([0; TO_SERVER - 1]);
    let full = inbox
        .space(REQUEST_HEAD + 28 + usize::try_from(LARGEST).unwrap())
        .unwrap_err();
    assert_eq!((full.needed, full.capacity), (TO_SERVER, TO_SERVER - 1));
    assert_eq!(ANSWER_HEAD + 28 + usize::try_from(LARGEST).unwrap(), TO_CLIENT);
}
