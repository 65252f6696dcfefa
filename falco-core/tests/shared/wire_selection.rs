//! Which wire a connection speaks, and under which key: servers of one wire and of both, rings
//! whose keys change.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, RwLock};

use crate::common::{assert_ended, ms, pending_output, secrets};
use falco_core::keys::Secrets;
use falco_core::noise::{HeapTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer, Ring, RingError};
use falco_core::testing::{ClientLog, CountingRng, Pair, RecvBytes, ServerLog, classic_key, key, noise_client};
use falco_core::{
    ClientKeyRef, CloseReason, ConnectionError, Received, RustCrypto, ServerConnection, ServerKeyRef, Settings,
};

fn answered<A: ClientKeyRef, B: ServerKeyRef>(client: A, server: B) -> (Vec<ClientLog>, Vec<ServerLog>) {
    // Each has its own entropy, or a classic server would take the next one for a replay.
    static SEED: AtomicU64 = AtomicU64::new(1);
    let mut pair = Pair::new(client, server, &Settings::new(), SEED.fetch_add(1, Ordering::Relaxed)).unwrap();
    pair.request(b"hello").unwrap();
    pair.settle().unwrap();
    pair.client_log.retain(|entry| !matches!(entry, ClientLog::Pong(_)));
    (pair.client_log.clone(), pair.server_log.clone())
}

#[test]
fn a_server_of_both_wires_answers_each_client_on_its_own() {
    let server = secrets(Some(7), Some(8)).into_server(&mut rng()).unwrap();
    let good = [ClientLog::Established, ClientLog::Answer(1, b"hello".to_vec())];
    assert_eq!(answered(&noise_client(7), &server).0, good);
    assert_eq!(answered(&classic_key(8), &server).0, good);
    let client = |secrets: Secrets| secrets.into_client(&mut rng()).unwrap();
    assert_eq!(answered(&client(secrets(Some(7), None)), &server).0, good);
    assert_eq!(answered(&client(secrets(None, Some(8))), &server).0, good);
    // A key of one wire is of no use on the other.
    let refused = [ClientLog::Ended(ConnectionError::Refused)];
    assert_eq!(answered(&noise_client(8), &server).0, refused);
    assert_eq!(answered(&classic_key(7), &server).0, refused);
}

#[test]
fn a_server_of_one_wire_refuses_the_other_without_a_reply() {
    let only_noise = secrets(Some(7), None).into_server(&mut rng()).unwrap();
    let only_classic = secrets(None, Some(7)).into_server(&mut rng()).unwrap();
    let good = [ClientLog::Established, ClientLog::Answer(1, b"hello".to_vec())];
    assert_eq!(answered(&noise_client(7), &only_noise).0, good);
    assert_eq!(answered(&classic_key(7), &only_classic).0, good);
    let unknown = |first| [ServerLog::Ended(ConnectionError::UnknownWire { first })];
    assert_eq!(answered(&classic_key(7), &only_noise).1, unknown(0x00));
    assert_eq!(answered(&noise_client(7), &only_classic).1, unknown(0x4E));
    let both = secrets(Some(7), Some(8)).into_server(&mut rng()).unwrap();
    for (server, known) in [
        (&only_noise, vec![0x4E]),
        (&only_classic, vec![0]),
        (&both, vec![0, 0x4E]),
    ] {
        for first in 0..=u8::MAX {
            let mut machine = ServerConnection::new(server, &Settings::new(), ms(0), &mut CountingRng::new(1)).unwrap();
            assert_eq!(machine.poll_timeout(), Some(ms(5_000)));
            let mut came = [first];
            let received = machine.recv_bytes(ms(1), &mut came);
            if known.contains(&first) {
                assert!(matches!(received, Ok((_, Received::NeedMore { .. }))), "{first:#x}");
                assert_eq!(pending_output(&mut machine, ms(1)), []);
            } else {
                let end = ConnectionError::UnknownWire { first };
                assert_eq!(received, Err(end));
                assert_ended(&mut machine, ms(1), end);
            }
        }
    }
}

#[test]
fn a_connection_of_both_wires_that_receives_nothing_ends_at_the_deadline_and_can_be_closed() {
    let server = secrets(Some(7), Some(8)).into_server(&mut rng()).unwrap();
    let new = || ServerConnection::new(&server, &Settings::new(), ms(0), &mut CountingRng::new(1)).unwrap();
    let mut machine = new();
    assert!(matches!(
        machine.recv_bytes(ms(1), &mut []),
        Ok((_, Received::NeedMore { .. }))
    ));
    assert_eq!(machine.handle_timeout(ms(4_999)), Ok(()));
    assert_eq!(
        machine.handle_timeout(ms(5_000)),
        Err(ConnectionError::HandshakeTimeout)
    );
    assert_ended(&mut machine, ms(5_000), ConnectionError::HandshakeTimeout);
    let mut machine = new();
    machine.close(ms(1), CloseReason::Done);
    assert_ended(&mut machine, ms(1), ConnectionError::Closed);
    assert_eq!(new().end_of_stream(ms(1), &[]), Err(ConnectionError::ClosedByPeer));
}

fn secret(byte: u8) -> NoiseSecret {
    NoiseSecret::derive(key(byte), &RustCrypto)
}

fn rng() -> CountingRng {
    CountingRng::new(5)
}

#[test]
fn a_ring_has_each_key_once_and_no_more_than_it_has_places() {
    let mut ring = KeyRing::new([const { None }; 2], &mut rng()).unwrap();
    let first = ring.add(secret(1)).unwrap();
    assert_eq!(first, secret(1).id());
    assert_eq!(ring.add(secret(1)), Err(RingError::Duplicate(first)));
    let second = ring.add(secret(2)).unwrap();
    assert_ne!(first, second);
    assert_eq!(ring.add(secret(3)), Err(RingError::Full));
    assert_eq!(
        ring.add(secret(2)),
        Err(RingError::Duplicate(second)),
        "that before the other"
    );
    assert!(ring.retire(first));
    assert!(!ring.retire(first), "once");
    assert!(ring.add(secret(3)).is_ok());
    assert!(!ring.retire(first));
    // Nor when the ring is created.
    let twice = KeyRing::new([Some(secret(4)), Some(secret(4))], &mut rng());
    assert_eq!(twice.unwrap_err(), RingError::Duplicate(secret(4).id()));
}

#[test]
fn a_ring_selects_the_key_of_an_id_and_a_random_one_for_an_unknown_id() {
    let ring = || KeyRing::new([Some(secret(1)), Some(secret(2)), None], &mut rng()).unwrap();
    let rings: [Box<dyn Ring>; 3] = [
        Box::new(core::cell::RefCell::new(ring())),
        Box::new(Mutex::new(ring())),
        Box::new(RwLock::new(ring())),
    ];
    for ring in rings {
        let select = |byte| {
            let mut psk = [0; 32];
            (ring.select(secret(byte).id(), &mut psk), psk)
        };
        let (one, two, none) = (select(1), select(2), select(3));
        assert_eq!((one.0, two.0, none.0), (true, true, false));
        assert!(one.1 != two.1 && two.1 != none.1 && one.1 != none.1 && none.1 != [0; 32]);
        assert_eq!(none.1, select(9).1, "the same for all unknown ids");
    }
}

#[test]
fn keys_are_added_and_retired_while_the_server_runs() {
    let places = vec![Some(secret(1)), None];
    let ring = RwLock::new(KeyRing::new(places, &mut rng()).unwrap());
    let server: NoiseServer<HeapTable, _, _> = NoiseServer::new(ring, &[][..], RustCrypto).unwrap();
    let (one, two) = (noise_client(1), noise_client(2));
    let refused = [ClientLog::Ended(ConnectionError::Refused)];
    let good = [ClientLog::Established, ClientLog::Answer(1, b"hello".to_vec())];
    assert_eq!(answered(&two, &server).0, refused);
    server.ring().write().unwrap().add(secret(2)).unwrap();
    assert_eq!(answered(&two, &server).0, good);

    let mut running = Pair::new(&one, &server, &Settings::new(), 1).unwrap();
    running.settle().unwrap();
    assert_eq!(running.server().key_id(), Some(one.key_id()));
    assert!(server.ring().write().unwrap().retire(one.key_id()));
    assert_eq!(answered(&one, &server).0, refused, "refused at once");
    assert_eq!(answered(&two, &server).0, good);
    // Its connections drain.
    running.request(b"begun").unwrap();
    running.settle().unwrap();
    let now = running.now();
    running.server().close(now, CloseReason::KeyRetired);
    running.settle().unwrap();
    let log = [
        ClientLog::Established,
        ClientLog::Answer(1, b"begun".to_vec()),
        ClientLog::Closing(CloseReason::KeyRetired),
        ClientLog::Ended(ConnectionError::Closed),
    ];
    running.client_log.retain(|entry| !matches!(entry, ClientLog::Pong(_)));
    assert_eq!(running.client_log, log);
}

#[test]
fn the_id_of_a_key_is_the_one_in_the_hello_and_reveals_nothing() {
    let client = NoiseClient::<HeapTable, _>::new(key(7), &[][..], RustCrypto).unwrap();
    let handshake = falco_core::testing::RawHandshake::new(RustCrypto, 7);
    assert_eq!(client.key_id().as_bytes()[..], handshake.clear[2..]);
    let text = base16ct::lower::encode_string(&handshake.clear[2..]);
    assert_eq!(client.key_id().to_string(), text);
    assert_eq!(format!("{:?}", secret(7)), format!("NoiseSecret({text})"));
    assert!(!text.contains("0707"));
}

#[test]
fn a_server_announces_no_more_requests_than_its_table_holds() {
    type Table = falco_core::noise::FixedTable<4>;
    let ring = core::cell::RefCell::new(KeyRing::new([Some(secret(7))], &mut rng()).unwrap());
    let server: NoiseServer<Table, _, _> = NoiseServer::new(ring, &[][..], RustCrypto).unwrap();
    let client = noise_client(7);
    let mut pair = Pair::new(&client, &server, &Settings::new(), 1).unwrap();
    for number in 0..20 {
        pair.request(&[number]).unwrap();
    }
    pair.settle().unwrap();
    let answers = pair
        .client_log
        .iter()
        .filter(|entry| matches!(entry, ClientLog::Answer(..)));
    assert_eq!(answers.count(), 20, "{:?}", pair.client_log);
}
