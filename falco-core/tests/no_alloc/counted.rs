//! What a server counts for requests that arrive in parts is what it has reserved.

use allocation_counter::measure;
use falco_core::mux::{ServerMux, ServerStep, SharedBudget};
use falco_core::noise::{HeapTable, KeyRing, NoiseSecret, NoiseServer};
use falco_core::testing::{CountingRng, NoSecurity, RawHandshake, RawPeer, key, raw_frame};
use falco_core::{BufferSizes, Instant, RequestId, ServerConnection, Settings, Unread};

const NOW: Instant = Instant::ZERO;
const MESSAGE: u8 = 1;
const BEGIN: u8 = 2;
const PART: u8 = 3;
const PING: u8 = 6;
/// What the tables of 100 requests may take besides their bodies.
const TABLES: i64 = 20_000;

type Keys = NoiseServer<HeapTable, KeyRing<[Option<NoiseSecret>; 1]>, NoSecurity>;
type Mux<'k> = ServerMux<&'k Keys, Vec<u8>, SharedBudget>;

fn keys() -> Keys {
    let places = [Some(NoiseSecret::derive(key(7), &NoSecurity))];
    let ring = KeyRing::new(places, &mut CountingRng::new(0)).unwrap();
    NoiseServer::new(ring, &[][..], NoSecurity).unwrap()
}

/// Passes all of `bytes` to the server. Returns the whole requests that there were.
fn pass(server: &mut Mux<'_>, mut bytes: Vec<u8>) -> Vec<RequestId> {
    let (mut start, mut whole) = (0, Vec::new());
    loop {
        match server.recv(NOW, Unread::new(&mut bytes, &mut start)).unwrap() {
            ServerStep::Established | ServerStep::Hello { .. } | ServerStep::Skip => {}
            ServerStep::Request { id, .. } => whole.push(id),
            _ => return whole,
        }
    }
}

fn established<'k>(keys: &'k Keys, settings: &Settings, budget: &SharedBudget) -> (Mux<'k>, RawPeer<NoSecurity>) {
    let machine = ServerConnection::new(keys, settings, NOW, &mut CountingRng::new(1)).unwrap();
    let mut server = Mux::new(machine, budget.clone(), settings);
    let handshake = RawHandshake::new(NoSecurity, 7);
    pass(&mut server, handshake.hello());
    let mut out = [0; BufferSizes::TRANSMIT];
    let length = server.seal(NOW, &mut out).unwrap();
    let mut raw = handshake.client(&out[..length]).unwrap();
    pass(&mut server, raw.seal(&raw_frame(PING, 0, &[1; 8])));
    server.seal(NOW, &mut out).unwrap();
    server.flushed();
    (server, raw)
}

fn begin(id: u32, total: u32, part: &[u8]) -> Vec<u8> {
    raw_frame(BEGIN, id, &[&total.to_be_bytes(), part].concat())
}

/// By how many bytes the memory in use changes while the server reads a record.
fn reserved(server: &mut Mux<'_>, record: Vec<u8>) -> i64 {
    let taken = measure(|| {
        pass(server, record);
    });
    taken.bytes_current
}

#[test]
fn what_is_counted_of_a_request_in_parts_is_what_is_reserved_and_never_more_than_its_total() {
    let (keys, budget) = (keys(), SharedBudget::new(1 << 30));
    let settings = Settings::new().with_max_message(1 << 20);
    let (mut server, mut raw) = established(&keys, &settings, &budget);
    // Tables get their memory before anything is measured.
    pass(&mut server, raw.seal(&begin(1, 1 << 20, b"")));
    let (mut arrived, mut in_memory) = (0, 0);
    for length in [
        1, 10, 1_000, 30_000, 60_000, 60_000, 500, 60_000, 60_000, 60_000, 60_000,
    ] {
        let record = raw.seal(&raw_frame(PART, 1, &vec![7; length]));
        // The record itself is dropped in the measurement.
        let dropped = i64::try_from(record.capacity()).unwrap();
        in_memory += reserved(&mut server, record) + dropped;
        arrived += i64::try_from(length).unwrap();
        // A request counts 1 KiB besides its body.
        let counted = (1 << 30) - i64::try_from(budget.left()).unwrap() - (1 << 10);
        assert_eq!(in_memory, counted, "{arrived} bytes have arrived");
        assert!(in_memory >= arrived && in_memory <= 1 << 20);
    }
}

#[test]
fn a_connection_reserves_no_more_than_it_may_hold() {
    let (keys, budget) = (keys(), SharedBudget::new(1 << 30));
    let settings = Settings::new().with_max_message(1 << 20).with_max_held(1 << 20);
    let (mut server, mut raw) = established(&keys, &settings, &budget);
    let mut in_memory = 0;
    let mut step = |frames: Vec<u8>| {
        let record = raw.seal(&frames);
        let dropped = i64::try_from(record.capacity()).unwrap();
        in_memory += reserved(&mut server, record) + dropped;
        server.seal(NOW, &mut [0; 1_000]).unwrap();
        in_memory
    };
    for id in 1..=100 {
        assert!(step(begin(id, 1 << 20, &[7; 10_000])) < (1 << 20) + TABLES);
    }
    // One byte more for each, for which its memory would double.
    let mut most = 0;
    for id in 1..=100 {
        most = most.max(step(raw_frame(PART, id, &[7])));
    }
    assert!(most > 900_000 && most < (1 << 20) + TABLES, "{most} bytes");
}

#[test]
fn a_server_without_requests_releases_the_table_of_many_at_the_next_ping() {
    let (keys, budget) = (keys(), SharedBudget::new(1 << 30));
    let (mut server, mut raw) = established(&keys, &Settings::new(), &budget);
    let requests: Vec<_> = (1..=100).flat_map(|id| raw_frame(MESSAGE, id, &[7])).collect();
    let ids = pass(&mut server, raw.seal(&requests));
    let (last, earlier) = ids.split_last().unwrap();
    let mut answered_then_ping = |ids: &[RequestId]| {
        for id in ids {
            assert!(server.complete(*id, Ok(vec![7]), false).unwrap());
        }
        server.seal(NOW, &mut [0; 10_000]).unwrap();
        let ping = raw.seal(&raw_frame(PING, 0, &[2; 8]));
        let dropped = i64::try_from(ping.capacity()).unwrap();
        reserved(&mut server, ping) + dropped
    };
    assert_eq!(answered_then_ping(earlier), 0);
    let released = -answered_then_ping(&[*last]);
    assert!(released >= 100 * 20, "{released} bytes");
}
