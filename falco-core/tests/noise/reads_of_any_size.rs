//! Events, end and output do not depend on how a stream is split into reads, or on the storage of
//! unread bytes.

use std::rc::Rc;

use crate::common::callers::{Caller, Cuts, Event, Seen, at_once, in_reads};
use crate::common::noise::{
    BEGIN, CANCEL, CLOSE, CREDIT, ClientKeys, END, IntoNoiseEvent, MESSAGE, NoiseClientEnd, NoiseEvent, NoiseServerEnd,
    OPEN, PART, PING, PONG, REFUSE, ServerKeys, begin, first_ping, honest, noise_client_end, noise_server_end,
};
use crate::common::{ms, pending_output};
use falco_core::testing::{NoSecurity, RawHandshake, RawPeer, RecvBytes, raw_frame, raw_streams};
use falco_core::{
    ClientEvent, ClientWait, Connection, ConnectionError, KeyRef, RecvBuf, Refusal, RequestId, Role, ServerEvent,
    ServerWait, Settings,
};
use proptest::collection::vec;
use proptest::prelude::*;

/// The largest record of these connections, and with its length the most unread bytes that they
/// need.
const RECORD: u16 = 150;
const EXACT: usize = 152;

fn settings() -> Settings {
    let settings = Settings::new().with_max_record(RECORD).unwrap();
    let settings = settings.with_max_message(120).with_max_in_flight(3).unwrap();
    settings.with_streams(1, 2)
}

/// The other side, which takes open bodies.
fn peer() -> RawHandshake<NoSecurity> {
    let mut peer = honest();
    peer.settings = raw_streams(peer.settings, 1, 2);
    peer
}

/// Answers complete requests, refuses cancelled ones, and leaves every fourth unanswered.
struct Serving(NoiseServerEnd);

/// Sends four requests as soon as it can, and cancels one after each answer.
struct Asking(NoiseClientEnd, Vec<RequestId>);

fn seal<R: Role, H: KeyRef<R>>(
    machine: &mut Connection<R, H>,
    message: &mut R::Outgoing,
    body: &[u8],
    seen: &mut Seen,
) {
    let mut out = [0; 600];
    if let Ok(length) = machine.seal(ms(5), [(message, body)], &mut out) {
        seen.output.extend_from_slice(&out[..length]);
    }
}

impl Caller for Serving {
    type Role = falco_core::ServerSide;
    type Handle = Rc<ServerKeys>;

    fn machine(&mut self) -> &mut NoiseServerEnd {
        &mut self.0
    }

    fn event(&mut self, event: ServerEvent<'_>, seen: &mut Seen) {
        let (reported, id) = event.into_noise_event();
        if let (NoiseEvent::Whole(..) | NoiseEvent::Part(.., true), Some(id)) = (&reported, id)
            && id.number() % 4 != 0
            && let Ok(mut answer) = self.0.answer(id, 2)
        {
            seal(&mut self.0, &mut answer, b"ok", seen);
        }
        if let (NoiseEvent::Cancelled(_), Some(id)) = (&reported, id) {
            let _ = self.0.refuse(id, Refusal::Cancelled);
        }
        if let (NoiseEvent::Opened(_, body) | NoiseEvent::Part(_, body, _), Some(id)) = (&reported, id) {
            let _ = self.0.credit(id, body.len(), id.number() % 2 == 0);
        }
        // Some open requests are answered before they end.
        if let (NoiseEvent::Opened(..), Some(id)) = (&reported, id)
            && id.number() % 3 == 0
            && let Ok(mut answer) = self.0.open_answer(id)
        {
            seal(&mut self.0, &mut answer, b"early", seen);
            answer.take_sealed();
            answer.finish();
            seal(&mut self.0, &mut answer, b".", seen);
        }
        seen.events.push((0, Event::NoiseEvent(reported)));
    }

    fn wait(&mut self, wait: ServerWait, _seen: &mut Seen) {
        assert_eq!(
            wait,
            ServerWait::TransmitFirst,
            "on this wire nothing waits for answers"
        );
    }
}

impl Caller for Asking {
    type Role = falco_core::ClientSide;
    type Handle = Rc<ClientKeys>;

    fn machine(&mut self) -> &mut NoiseClientEnd {
        &mut self.0
    }

    fn event(&mut self, event: ClientEvent<'_>, seen: &mut Seen) {
        let (reported, id) = event.into_noise_event();
        if let (NoiseEvent::Opened(_, body) | NoiseEvent::Part(_, body, _), Some(id)) = (&reported, id) {
            let _ = self.0.credit(id, body.len(), id.number() % 2 == 0);
        }
        if reported == NoiseEvent::Established {
            let mut request = self.0.open_request().unwrap();
            seal(&mut self.0, &mut request, b"open", seen);
            self.1.extend(request.id());
            for _ in 0..2 {
                let mut request = self.0.request(2).unwrap();
                seal(&mut self.0, &mut request, b"?!", seen);
                self.1.extend(request.id());
            }
        }
        if let (NoiseEvent::Whole(..), Some(id)) = (&reported, self.1.pop()) {
            let _ = self.0.cancel(id);
        }
        seen.events.push((0, Event::NoiseEvent(reported)));
    }

    fn wait(&mut self, _wait: ClientWait, _seen: &mut Seen) {}
}

/// A piece of a stream.
#[derive(Clone, Debug)]
enum Piece {
    /// A record of frames.
    Record(Vec<u8>),
    /// A record with one bit changed: which byte, modulo its length, and which bit.
    Flipped(Vec<u8>, usize, u8),
    /// A record that is sealed and dropped.
    Dropped(Vec<u8>),
    Junk(Vec<u8>),
}

/// Frames as a peer might send them, most of them valid. The low bits of a random number select the
/// id.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let id = 1..8_u32;
    let open = prop_oneof![
        2 => (id.clone(), 0..60_usize)
            .prop_map(|(id, length)| raw_frame(BEGIN, id, &begin(OPEN, &vec![8; length]))),
        1 => id.clone().prop_map(|id| raw_frame(END, id, &[])),
        1 => (id.clone(), 1..900_u32).prop_map(|(id, bytes)| raw_frame(CREDIT, id, &bytes.to_be_bytes())),
    ];
    prop_oneof![
        3 => open,
        4 => (id.clone(), 0..100_usize).prop_map(|(id, length)| raw_frame(MESSAGE, id, &vec![7; length])),
        3 => (id.clone(), 0..130_u32, 0..60_usize)
            .prop_map(|(id, total, length)| raw_frame(BEGIN, id, &begin(total, &vec![8; length]))),
        3 => (id.clone(), 1..60_usize).prop_map(|(id, length)| raw_frame(PART, id, &vec![9; length])),
        1 => id.clone().prop_map(|id| raw_frame(CANCEL, id, &[])),
        1 => (id.clone(), 0..8_u8).prop_map(|(id, code)| raw_frame(REFUSE, id, &[code])),
        2 => Just(raw_frame(PING, 0, b"eight by")),
        1 => Just(raw_frame(PONG, 0, b"eight by")),
        1 => (id, 0..6_u8).prop_map(|(id, code)| raw_frame(CLOSE, id, &[code])),
        2 => (128..=255_u8, 0..30_usize).prop_map(|(kind, length)| raw_frame(kind, 0, &vec![1; length])),
    ]
}

fn piece() -> impl Strategy<Value = Piece> {
    let record = || vec(frame(), 1..6).prop_map(|frames| frames.concat());
    prop_oneof![
        20 => record().prop_map(Piece::Record),
        1 => (record(), any::<usize>(), 0..8_u8).prop_map(|(frames, at, bit)| Piece::Flipped(frames, at, bit)),
        1 => record().prop_map(Piece::Dropped),
        1 => vec(any::<u8>(), 0..40).prop_map(Piece::Junk),
    ]
}

fn cuts() -> impl Strategy<Value = Cuts> {
    let size = prop_oneof![3 => 0..4_usize, 2 => 4..200_usize, 1 => Just(10_000)];
    (vec(size, 0..12), any::<bool>()).prop_map(|(mut sizes, patient)| {
        sizes.push(1);
        Cuts { sizes, patient }
    })
}

/// A stream of a handshake and pieces, cut after `share` of 200 parts.
fn stream(mut all: Vec<u8>, raw: &mut RawPeer<NoSecurity>, pieces: &[Piece], share: u8) -> Vec<u8> {
    for piece in pieces {
        match piece {
            Piece::Record(frames) => all.extend(raw.seal(frames)),
            Piece::Dropped(frames) => drop(raw.seal(frames)),
            Piece::Junk(junk) => all.extend_from_slice(junk),
            Piece::Flipped(frames, at, bit) => {
                let mut record = raw.seal(frames);
                let at = at % record.len();
                record[at] ^= 1 << bit;
                all.extend(record);
            }
        }
    }
    if share < 200 {
        all.truncate(all.len() * usize::from(share) / 200);
    }
    all
}

fn check<K: Caller>(caller: impl Fn() -> K, stream: &[u8], cuts: &Cuts) -> Seen {
    let expected = at_once(caller(), stream);
    let reads = |inbox| in_reads(caller(), stream, cuts, EXACT, inbox);
    assert_eq!(
        reads(RecvBuf::new([0xEE; EXACT])),
        expected,
        "an array of the largest record"
    );
    let vector = in_reads(caller(), stream, cuts, EXACT, RecvBuf::new(Vec::new()));
    assert_eq!(vector, expected, "a vector");
    let heapless = RecvBuf::new(heapless::Vec::<u8, 400>::new());
    assert_eq!(in_reads(caller(), stream, cuts, EXACT, heapless), expected, "heapless");
    let mut ahead = RecvBuf::new(Vec::new());
    ahead.set_read_ahead(4096);
    assert_eq!(
        in_reads(caller(), stream, cuts, EXACT, ahead),
        expected,
        "a vector that reads ahead"
    );
    expected
}

fn check_server(pieces: &[Piece], share: u8, cuts: &Cuts) -> Seen {
    let caller = || Serving(noise_server_end(&settings(), 1));
    let mut first = caller().0;
    let mut opening = peer().hello();
    first.recv_bytes(ms(0), &mut opening.clone()).unwrap();
    let mut raw = peer().client(&pending_output(&mut first, ms(0))).unwrap();
    opening.extend(raw.seal(&first_ping()));
    check(caller, &stream(opening, &mut raw, pieces, share), cuts)
}

fn check_client(pieces: &[Piece], share: u8, cuts: &Cuts) -> Seen {
    let caller = || {
        let mut machine = noise_client_end(&settings(), 1);
        pending_output(&mut machine, ms(0));
        Asking(machine, Vec::new())
    };
    let hello = pending_output(&mut noise_client_end(&settings(), 1), ms(0));
    let (welcome, mut raw) = peer().server(&hello).unwrap();
    check(caller, &stream(welcome, &mut raw, pieces, share), cuts)
}

/// Makes the ids of new requests ascend, so that most records are valid.
fn rising(pieces: &mut [Piece]) {
    let mut last = 0_u32;
    for piece in pieces {
        let (Piece::Record(frames) | Piece::Flipped(frames, ..) | Piece::Dropped(frames)) = piece else {
            continue;
        };
        let mut at = 0;
        while at < frames.len() {
            let length = usize::from(u16::from_be_bytes([frames[at + 5], frames[at + 6]]));
            let drawn = u32::from_be_bytes(frames[at + 1..at + 5].try_into().unwrap());
            let id = match frames[at] {
                MESSAGE | BEGIN => {
                    last += 1 + drawn / 4;
                    last
                }
                PART | CANCEL | END | CREDIT => last.saturating_sub(drawn / 3).max(1),
                _ => drawn,
            };
            frames[at + 1..at + 5].copy_from_slice(&id.to_be_bytes());
            at += 7 + length;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 768, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_server_gets_the_same_events_however_its_stream_is_split(
        mut pieces in vec(piece(), 0..14), rise in 0..8, share in any::<u8>(), cuts in cuts(),
    ) {
        if rise > 0 {
            rising(&mut pieces);
        }
        check_server(&pieces, share, &cuts);
    }

    #[test]
    fn a_client_gets_the_same_events_however_its_stream_is_split(
        pieces in vec(piece(), 0..10), share in any::<u8>(), cuts in cuts(),
    ) {
        check_client(&pieces, share, &cuts);
    }
}

#[test]
fn a_valid_stream_byte_by_byte_gives_all_its_events_and_output() {
    let one = Cuts {
        sizes: vec![1],
        patient: false,
    };
    let two = [raw_frame(MESSAGE, 2, b"two"), raw_frame(PING, 0, b"eight by")].concat();
    let pieces = [raw_frame(BEGIN, 1, &begin(4, b"ab")), two, raw_frame(PART, 1, b"cd")].map(Piece::Record);
    let seen = check_server(&pieces, 255, &one);
    let expected = [
        NoiseEvent::Established,
        NoiseEvent::Begin(1, 4, b"ab".to_vec()),
        NoiseEvent::Whole(2, b"two".to_vec()),
        NoiseEvent::Ping,
        NoiseEvent::Part(1, b"cd".to_vec(), true),
    ];
    assert_eq!(seen.events, expected.map(|event| (0, Event::NoiseEvent(event))));
    assert_eq!(
        seen.output.len(),
        64 + 33 + (15 + 9 + 18) + 27,
        "the welcome, a pong, a pong with an answer, an answer"
    );
    assert_eq!(seen.end, Some(ConnectionError::Truncated));

    let pieces = [raw_frame(MESSAGE, 2, b"two"), raw_frame(REFUSE, 1, &[1])].map(Piece::Record);
    let seen = check_client(&pieces, 255, &one);
    let expected = [
        NoiseEvent::Established,
        NoiseEvent::Whole(2, b"two".to_vec()),
        NoiseEvent::Refused(1, Refusal::Busy),
    ];
    assert_eq!(seen.events, expected.map(|event| (0, Event::NoiseEvent(event))));
}
