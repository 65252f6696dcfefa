//! A side of the noise wire that takes open bodies, driven by arbitrary API calls, whose peer sends
//! arbitrary frames in valid records. The first byte of the input chooses the side.

use std::collections::BTreeMap;
use std::vec::Vec;

use super::Input;
use super::noise_attacker::{
    Attacked, BODY, MAX_IN_FLIGHT, handshake, no_security_client, no_security_server, settings,
};
use crate::testing::{CountingRng, NoSecurity, RawHandshake, RecvBytes, raw_frame, raw_streams};
use crate::{
    BufferSizes, ClientConnection, ClientEvent, CloseReason, Connection, Instant, KeyRef, OutgoingAnswer,
    OutgoingRequest, Refusal, RequestId, Role, ServerConnection, ServerEvent, Settings,
};

/// Bytes of the window of both sides.
const WINDOW: usize = 1024;
/// How many requests that began open the server holds.
const MAX_OPEN: u16 = 2;

/// A body that arrives, in whichever way.
#[derive(Clone, Copy, Default)]
struct Read {
    open: bool,
    /// Bytes of an open body for which no credit was given.
    untaken: usize,
    /// The rest of it is to come.
    ends: bool,
}

/// What the caller knows of a request.
struct Known<M> {
    id: RequestId,
    read: Option<Read>,
    written: Option<M>,
    /// Whether the request began open.
    began_open: bool,
}

type Requests<M> = BTreeMap<u32, Known<M>>;

fn our_settings() -> Settings {
    settings().with_streams(1, MAX_OPEN).with_max_held(3_000)
}

fn peer() -> RawHandshake<NoSecurity> {
    let mut peer = handshake();
    peer.settings = raw_streams(peer.settings, 1, MAX_OPEN);
    peer
}

/// A side with open bodies whose peer can produce valid tags.
///
/// # Panics
/// If an invariant is broken, and only then.
pub fn noise_streams_past_tag(data: &[u8]) {
    let mut input = Input::new(data);
    if input.byte() & 1 == 0 {
        attack_server(&mut input);
    } else {
        attack_client(&mut input);
    }
}

/// Adds a valid record to the unread bytes, with frames that the fuzzer chooses. New requests have
/// ids above `last`, which is then raised.
fn arrive<R: Role, H: KeyRef<R>>(driven: &mut Attacked<R, H>, input: &mut Input<'_>, last: &mut u32, begins: bool) {
    let mut frames = Vec::new();
    for _ in 0..=input.index(5) {
        let (kind, choice, length) = (1 + input.byte() % 10, input.byte(), input.index(150));
        let filler = std::vec![choice; length];
        let is_new = begins && matches!(kind, 1 | 2) && choice < 230;
        let id = match kind {
            6 | 7 => 0,
            _ if is_new => *last + 1,
            _ => u32::from(choice) % (*last + 2),
        };
        let body = match kind {
            2 if choice & 1 == 0 => [&[0xFF; 4][..], &filler].concat(),
            2 => [&u32::from(choice).to_be_bytes()[..], &filler].concat(),
            4 | 8 => std::vec![choice % 8],
            5 | 9 if choice < 250 => Vec::new(),
            6 | 7 => std::vec![choice; 8],
            10 if choice < 240 => u32::from(choice).saturating_mul(7).to_be_bytes().to_vec(),
            10 => u32::MAX.to_be_bytes().to_vec(),
            _ => filler,
        };
        let frame = raw_frame(kind, id, &body);
        if frames.len() + frame.len() <= 180 {
            *last = id.max(*last);
            frames.extend(frame);
        }
    }
    if !frames.is_empty() {
        driven.arrive_sealed(&frames);
    }
}

/// Takes bytes of a body that was received.
fn credit<R: Role, H: KeyRef<R>, M>(driven: &mut Attacked<R, H>, requests: &mut Requests<M>, chosen: u8, bytes: u8) {
    let count = requests.len().max(1);
    let Some(known) = requests.values_mut().nth(usize::from(chosen) % count) else {
        return;
    };
    let Some(read) = known.read.as_mut().filter(|read| read.open) else {
        return;
    };
    let taken = read.untaken.min(5 * usize::from(bytes));
    read.untaken -= taken;
    let _ = driven.machine.credit(known.id, taken, read.untaken == 0);
}

impl<M> Known<M> {
    const fn new(id: RequestId) -> Self {
        Self {
            id,
            read: None,
            written: None,
            began_open: false,
        }
    }

    fn opened(&mut self, body: &[u8]) {
        assert!(self.read.is_none(), "a body begins once");
        self.read = Some(Read {
            open: true,
            untaken: body.len(),
            ends: false,
        });
        assert!(body.len() <= WINDOW, "the first part is within the window");
    }

    fn part(&mut self, body: &[u8], last: bool) {
        let read = self.read.as_mut().expect("a part follows a beginning");
        assert!(!read.ends, "nothing follows the end");
        if read.open {
            read.untaken += body.len();
            assert!(read.untaken <= WINDOW, "more than the window is held");
            assert!(!last || body.is_empty(), "the end of an open body has no bytes");
        }
        read.ends = last;
    }
}

/// Checks what the connection has sent: no frames of a request after its end, and no more of an
/// open body than `allowed` says.
fn check<R: Role, H: KeyRef<R>, M>(driven: &mut Attacked<R, H>, requests: &Requests<M>) {
    assert!(
        driven.machine.in_flight() <= MAX_IN_FLIGHT.into(),
        "more are in flight than allowed"
    );
    if driven.told_all && driven.machine.end().is_none() {
        assert_eq!(
            driven.machine.in_flight(),
            requests.len(),
            "a request completes exactly once"
        );
    }
    for (kind, id, body) in driven.said() {
        assert!(kind != 10 || body != [0; 4], "CREDIT of nothing for {id}");
    }
}

/// Seals up to `length` bytes of an open body, and checks that the credit sinks by as much.
fn seal<R: Role, H: KeyRef<R>>(
    driven: &mut Attacked<R, H>,
    message: &mut R::Outgoing,
    id: Option<RequestId>,
    length: usize,
    take: impl Fn(&mut R::Outgoing) -> usize,
) {
    let before = id.map(|id| driven.machine.sendable(id));
    let (mut out, ended) = ([0; 300], driven.machine.end().is_some());
    let (body, _) = BODY.split_at(length.min(BODY.len()));
    let sealed = driven.machine.seal(driven.now, [(&mut *message, body)], &mut out);
    driven.sent(out.split_at(sealed.unwrap_or(0)).0, ended);
    let taken = take(message);
    assert!(taken <= length, "no more than there was");
    if let (Some(before), Some(id)) = (before, id) {
        let credit = usize::try_from(before).unwrap_or(usize::MAX);
        assert!(taken <= credit, "no more than the credit");
        let after = usize::try_from(driven.machine.sendable(id)).unwrap_or(usize::MAX);
        assert!(
            after == credit - taken || after == 0,
            "the credit sinks by what was sealed"
        );
    }
}

fn attack_server(input: &mut Input<'_>) {
    let keys = no_security_server();
    let (now, mut rng) = (Instant::ZERO, CountingRng::new(1));
    let settings = our_settings();
    let mut machine = ServerConnection::new(&keys, &settings, now, &mut rng).expect("the generator does not fail");
    let mut wire = [0; BufferSizes::TRANSMIT];
    machine.recv_bytes(now, &mut peer().hello()).expect("the key is right");
    let length = machine.poll_transmit(now, &mut wire).expect("there is room");
    let mut raw = peer()
        .client(wire.split_at(length).0)
        .expect("the welcome authenticates");
    let first = raw.seal(&raw_frame(6, 0, &[1; 8]));
    let mut driven = Attacked::new(machine, raw);
    driven.arrive(&first);
    driven.take_events(1, |event| assert_eq!(event, ServerEvent::Established));
    driven.transmit();
    let (mut requests, mut last): (Requests<OutgoingAnswer>, u32) = (BTreeMap::new(), 0);
    while !input.is_done() {
        let pick = input.byte();
        let chosen = pick >> 4;
        match pick % 12 {
            0..=3 => arrive(&mut driven, input, &mut last, true),
            4 => driven.wait(input),
            5 | 6 => answer(&mut driven, &mut requests, chosen, input.index(300), pick & 32 == 0),
            7 => credit(&mut driven, &mut requests, chosen, input.byte()),
            8 => {
                let count = requests.len().max(1);
                let chosen = requests.values().nth(usize::from(chosen) % count).map(|known| known.id);
                if let Some(id) = chosen {
                    let refused = driven.machine.refuse(id, Refusal::Busy);
                    if refused.is_ok() {
                        requests.remove(&id.number());
                    }
                }
            }
            9 => driven.transmit(),
            10 if pick > 220 => driven.end_of_stream(),
            11 if pick > 220 => driven.machine.close(driven.now, CloseReason::Done),
            11 => {
                let count = requests.len().max(1);
                if let Some(known) = requests.values_mut().nth(usize::from(chosen) % count) {
                    let _ = driven.machine.discard(known.id);
                }
            }
            _ => {}
        }
        let count = if pick & 64 == 0 { usize::MAX } else { 1 };
        driven.take_events(count, |event| note_request(&mut requests, event));
        let open = requests.values().filter(|known| known.began_open).count();
        assert!(open <= usize::from(MAX_OPEN), "more are open than allowed");
        check(&mut driven, &requests);
    }
}

fn answer<H: KeyRef<crate::ServerSide> + crate::ServerKeyRef>(
    driven: &mut Attacked<crate::ServerSide, H>,
    requests: &mut Requests<OutgoingAnswer>,
    chosen: u8,
    length: usize,
    finish: bool,
) {
    let count = requests.len().max(1);
    let Some((number, known)) = requests.iter_mut().nth(usize::from(chosen) % count) else {
        return;
    };
    let (number, id) = (*number, known.id);
    if known.written.is_none() {
        known.written = driven.machine.open_answer(id).ok();
    }
    let Some(message) = &mut known.written else { return };
    if finish && length < 20 {
        message.finish();
    }
    seal(driven, message, Some(id), length, OutgoingAnswer::take_sealed);
    if message.is_done() {
        requests.remove(&number);
    }
}

fn note_request(requests: &mut Requests<OutgoingAnswer>, event: ServerEvent<'_>) {
    let mut insert = |id: RequestId| {
        assert!(
            requests.insert(id.number(), Known::new(id)).is_none(),
            "a request id is used once"
        );
    };
    match event {
        ServerEvent::Request { id, .. } => insert(id),
        ServerEvent::Begin { id, .. } => {
            insert(id);
            let known = requests.get_mut(&id.number()).expect("it was inserted");
            known.read = Some(Read::default());
        }
        ServerEvent::Opened { id, body } => {
            insert(id);
            let known = requests.get_mut(&id.number()).expect("it was inserted");
            known.began_open = true;
            known.opened(body);
        }
        ServerEvent::Part { id, body, last } => {
            requests
                .get_mut(&id.number())
                .expect("it is in flight")
                .part(body, last);
        }
        ServerEvent::Abandoned { id } => {
            let known = requests.remove(&id.number()).expect("it is in flight");
            assert!(!known.began_open, "an open request has reached its handler");
        }
        ServerEvent::Cancelled { id } | ServerEvent::Credit { id } => {
            assert!(requests.contains_key(&id.number()), "it is in flight");
        }
        ServerEvent::Established | ServerEvent::Closing { .. } | ServerEvent::Ping => {}
    }
}

fn attack_client(input: &mut Input<'_>) {
    let keys = no_security_client();
    let (now, mut rng) = (Instant::ZERO, CountingRng::new(1));
    let settings = our_settings().with_keep_alive(false);
    let mut machine: Connection<crate::ClientSide, _> =
        ClientConnection::new(&keys, &settings, now, &mut rng).expect("the generator does not fail");
    let mut wire = [0; BufferSizes::TRANSMIT];
    let length = machine.poll_transmit(now, &mut wire).expect("there is room");
    let (welcome, raw) = peer().server(wire.split_at(length).0).expect("the hello authenticates");
    let mut driven = Attacked::new(machine, raw);
    driven.arrive(&welcome);
    driven.take_events(1, |event| assert_eq!(event, ClientEvent::Established));
    let (mut queue, mut requests): (Vec<OutgoingRequest>, Requests<()>) = (Vec::new(), BTreeMap::new());
    let mut last = 0;
    while !input.is_done() {
        let pick = input.byte();
        let chosen = usize::from(pick >> 4);
        match pick % 12 {
            0..=3 => arrive(&mut driven, input, &mut { last }, false),
            4 => driven.wait(input),
            5 if queue.len() < 6 => queue.extend(driven.machine.open_request().ok()),
            6 | 7 => {
                let count = queue.len().max(1);
                if let Some(request) = queue.get_mut(chosen % count) {
                    let (length, before) = (input.index(300), request.id());
                    if length < 20 {
                        request.finish();
                    }
                    seal(&mut driven, request, before, length, OutgoingRequest::take_sealed);
                    if let (None, Some(id)) = (before, request.id()) {
                        requests.insert(id.number(), Known::new(id));
                        last = id.number();
                    }
                    queue.retain(|request| !request.is_done());
                }
            }
            8 => credit(&mut driven, &mut requests, pick >> 4, input.byte()),
            9 => driven.transmit(),
            10 => {
                let count = requests.len().max(1);
                if let Some(known) = requests.values().nth(chosen % count) {
                    let _ = driven.machine.cancel(known.id);
                }
            }
            _ if pick > 240 => driven.machine.close(driven.now, CloseReason::Done),
            _ if pick > 220 => driven.end_of_stream(),
            _ => {}
        }
        let count = if pick & 64 == 0 { usize::MAX } else { 1 };
        driven.take_events(count, |event| note_answer(&mut requests, event));
        check(&mut driven, &requests);
    }
}

fn note_answer(requests: &mut Requests<()>, event: ClientEvent<'_>) {
    let waits = "an answer belongs to a request in flight";
    match event {
        ClientEvent::Opened { id, body } => requests.get_mut(&id.number()).expect(waits).opened(body),
        ClientEvent::Begin { id, .. } => {
            let known = requests.get_mut(&id.number()).expect(waits);
            assert!(known.read.is_none(), "an answer begins once");
            known.read = Some(Read::default());
        }
        ClientEvent::Part { id, body, last } => {
            requests.get_mut(&id.number()).expect(waits).part(body, last);
            if last {
                requests.remove(&id.number());
            }
        }
        ClientEvent::Answer { id, .. } => {
            assert!(
                requests.remove(&id.number()).expect(waits).read.is_none(),
                "an answer begins once"
            );
        }
        ClientEvent::Refused { id, refusal } => {
            let known = requests.remove(&id.number()).expect(waits);
            let begun = known.read.is_some_and(|read| read.open);
            assert!(!begun || !refusal.is_unprocessed(), "an answer had begun");
        }
        ClientEvent::Credit { id } => assert!(requests.contains_key(&id.number()), "it is in flight"),
        ClientEvent::Established | ClientEvent::Pong { .. } | ClientEvent::Closing { .. } => {}
    }
}
