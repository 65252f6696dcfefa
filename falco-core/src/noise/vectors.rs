//! Checks the handshake and the records, which are not public API, with the public Noise vectors
//! and with recorded sessions of this protocol.

use std::vec;
use std::vec::Vec;

use serde_json::Value;
use zeroize::Zeroizing;

#[cfg(feature = "streams")]
mod streams;

use super::handshake::{Initiator, Responder};
use super::record::{Direction, RekeyPeriod};
use super::{HeapTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use crate::testing::RecvBytes;
use crate::{
    ClientConnection, ClientEvent, Instant, Key, Received, Refusal, RustCrypto, ServerConnection, ServerEvent,
    Settings, Status, Unread,
};

fn bytes(value: &Value) -> Vec<u8> {
    let text = value.as_str().expect("a string");
    base16ct::mixed::decode_vec(text).expect("hexadecimal")
}

fn array(value: &Value) -> [u8; 32] {
    bytes(value).try_into().expect("32 bytes")
}

#[test]
fn the_public_vector_set_holds_byte_for_byte_on_both_sides() {
    let set: Value = serde_json::from_str(include_str!("../../tests/data/noise-nnpsk0.json")).expect("JSON");
    let vectors = set["vectors"].as_array().expect("vectors");
    assert!(!vectors.is_empty());
    for vector in vectors {
        let psk = array(&vector["init_psks"][0]);
        let prologue = bytes(&vector["init_prologue"]);
        let prologue = [&prologue[..], &[], &[], &[]];
        let messages = vector["messages"].as_array().expect("messages");
        let (payloads, ciphertexts): (Vec<_>, Vec<_>) = messages
            .iter()
            .map(|message| (bytes(&message["payload"]), bytes(&message["ciphertext"])))
            .unzip();

        let mut first = std::vec![0; ciphertexts[0].len()];
        let ephemeral = Zeroizing::new(array(&vector["init_ephemeral"]));
        let mut initiator =
            Initiator::write(&RustCrypto, prologue, &psk, &ephemeral, &payloads[0], &mut first).expect("it writes");
        assert_eq!(first, ciphertexts[0]);
        let (payload, responder) = Responder::read(&RustCrypto, prologue, &psk, &mut first).expect("it reads");
        assert_eq!(payload, payloads[0]);

        let mut second = std::vec![0; ciphertexts[1].len()];
        let ephemeral = Zeroizing::new(array(&vector["resp_ephemeral"]));
        let theirs = responder
            .write(&RustCrypto, &ephemeral, &payloads[1], &mut second)
            .expect("it writes");
        assert_eq!(second, ciphertexts[1]);
        let (payload, ours) = initiator.read(&RustCrypto, &mut second).expect("it reads");
        assert_eq!(payload, payloads[1]);
        assert_eq!(ours.hash, array(&vector["handshake_hash"]));
        assert_eq!(theirs.hash, ours.hash);

        let direction = |key: &[u8; 32]| Direction::new(&RustCrypto, key, RekeyPeriod::WIRE);
        let mut sealing = [direction(&ours.from_client), direction(&theirs.from_server)];
        let mut opening = [direction(&theirs.from_client), direction(&ours.from_server)];
        for (number, (payload, ciphertext)) in payloads.iter().zip(&ciphertexts).enumerate().skip(2) {
            let mut sealed = [&payload[..], &[0; 16]].concat();
            sealing[number % 2]
                .seal(&RustCrypto, &mut sealed, &[])
                .expect("it seals");
            assert_eq!(sealed, *ciphertext, "in place");
            let (text, tag) = sealed.split_last_chunk_mut().expect("it has a tag");
            opening[number % 2].open(&RustCrypto, text, tag).expect("it opens");
            assert_eq!(*text, payload[..]);
        }
    }
}

/// A generator that returns the given bytes first, and then counts.
struct Script(Vec<u8>, u8);

impl rand_core::TryRng for Script {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        for byte in bytes {
            *byte = if self.0.is_empty() {
                self.1 += 1;
                self.1
            } else {
                self.0.remove(0)
            };
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Script {}

type Client = NoiseClient<HeapTable, RustCrypto, Vec<u8>>;
type Server = NoiseServer<HeapTable, core::cell::RefCell<KeyRing<[Option<NoiseSecret>; 1]>>, RustCrypto, Vec<u8>>;

fn sessions_of(file: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(file).expect("JSON");
    let sessions = file["sessions"].as_array().expect("sessions").clone();
    assert!(!sessions.is_empty());
    sessions
}

fn sessions() -> Vec<Value> {
    sessions_of(include_str!("../../tests/data/noise-session.json"))
}

/// Sessions with open bodies.
fn streams() -> Vec<Value> {
    sessions_of(include_str!("../../tests/data/noise-streams.json"))
}

fn key(session: &Value) -> Key {
    Key::from_bytes(array(&session["secret"])).expect("not zero")
}

fn records<'v>(session: &'v Value, from: &'v str) -> impl Iterator<Item = &'v Value> {
    let records = session["records"].as_array().expect("records").iter();
    records.filter(move |record| record["from"] == from)
}

#[test]
fn derived_values_match_the_recorded_sessions() {
    for session in sessions().into_iter().chain(streams()) {
        let secret = NoiseSecret::derive(key(&session), &RustCrypto);
        assert_eq!(secret.psk()[..], bytes(&session["psk"]));
        assert_eq!(secret.id().as_bytes()[..], bytes(&session["key_id"]));
        let clear = super::key::clear(secret.id());
        let context = bytes(&session["context"]);
        let length = u16::try_from(context.len()).expect("it fits").to_be_bytes();
        assert_eq!(
            super::key::prologue(&clear, &length, &context).concat(),
            bytes(&session["prologue"])
        );
    }
}

#[test]
fn whole_sessions_hold_byte_for_byte_in_both_directions_and_over_a_rekey() {
    for session in sessions().into_iter().chain(streams()) {
        let context = bytes(&session["context"]);
        let length = u16::try_from(context.len()).expect("it fits").to_be_bytes();
        let secret = NoiseSecret::derive(key(&session), &RustCrypto);
        let clear = super::key::clear(secret.id());
        let prologue = super::key::prologue(&clear, &length, &context);
        let mut hello = [0; 64];
        let ephemeral = Zeroizing::new(array(&session["client_ephemeral_private"]));
        let settings = bytes(&session["client_settings"]);
        Initiator::write(&RustCrypto, prologue, secret.psk(), &ephemeral, &settings, &mut hello).expect("it writes");
        assert_eq!([&clear[..], &hello].concat(), bytes(&session["hello"]));
        let (read, responder) = Responder::read(&RustCrypto, prologue, secret.psk(), &mut hello).expect("it reads");
        assert_eq!(read, settings);
        let mut welcome = [0; 64];
        let ephemeral = Zeroizing::new(array(&session["server_ephemeral_private"]));
        let settings = bytes(&session["server_settings"]);
        let keys = responder
            .write(&RustCrypto, &ephemeral, &settings, &mut welcome)
            .expect("it writes");
        assert_eq!(welcome[..], bytes(&session["welcome"]));

        for (from, key) in [("client", &keys.from_client), ("server", &keys.from_server)] {
            let after = session["after_rekey"]
                .as_array()
                .expect("records")
                .iter()
                .filter(|record| record["from"] == from);
            let period = RekeyPeriod::of(u64::try_from(records(&session, from).count()).expect("few"));
            let mut sealing = Direction::new(&RustCrypto, key, period);
            let mut opening = Direction::new(&RustCrypto, key, period);
            for record in records(&session, from).chain(after) {
                let plaintext = bytes(&record["plaintext"]);
                let expected = bytes(&record["bytes"]);
                // The first two thirds of the text are in place, the rest is passed as the body.
                let split = plaintext.len() * 2 / 3;
                let mut sealed = vec![0; plaintext.len() + 16];
                sealed[..split].copy_from_slice(&plaintext[..split]);
                sealing
                    .seal(&RustCrypto, &mut sealed, &plaintext[split..])
                    .expect("it seals");
                let length = u16::try_from(sealed.len()).expect("it fits").to_be_bytes();
                assert_eq!([&length[..], &sealed].concat(), expected, "{}", record["note"]);
                let (text, tag) = sealed.split_last_chunk_mut().expect("it has a tag");
                opening.open(&RustCrypto, text, tag).expect("it opens");
                assert_eq!(*text, plaintext[..]);
            }
        }
    }
}

#[test]
fn a_server_reads_the_sessions_and_writes_its_part_of_them() {
    for session in sessions() {
        let ring = KeyRing::new(
            [Some(NoiseSecret::derive(key(&session), &RustCrypto))],
            &mut Script(Vec::new(), 0),
        );
        let ring = core::cell::RefCell::new(ring.expect("the script does not fail"));
        let server = Server::new(ring, bytes(&session["context"]), RustCrypto).expect("a short context");
        let mut entropy = Script(bytes(&session["server_ephemeral_private"]), 0);
        let now = Instant::ZERO;
        let mut server = ServerConnection::new(&server, &Settings::new(), now, &mut entropy).expect("it does not fail");
        let mut hello = bytes(&session["hello"]);
        let consumed = hello.len();
        assert_eq!(server.recv_bytes(now, &mut hello), Ok((consumed, Received::Skip)));
        let mut out = std::vec![0; 1024];
        let sent = server.poll_transmit(now, &mut out).expect("there is room");
        assert_eq!(out[..sent], bytes(&session["welcome"]));
        assert_eq!(server.status(), Status::Handshaking);

        let mut events: Vec<std::string::String> = Vec::new();
        let mut requests = Vec::new();
        for (number, record) in records(&session, "client").enumerate() {
            let mut unread = bytes(&record["bytes"]);
            while !unread.is_empty() {
                let length = unread.len();
                let mut start = 0;
                let received = server.recv(now, Unread::new(&mut unread, &mut start));
                match received.expect("a valid session") {
                    Received::Event(event) => {
                        if let ServerEvent::Request { id, .. } | ServerEvent::Part { id, last: true, .. } = &event {
                            requests.push(*id);
                        }
                        events.push(std::format!("{event:?}").split([' ', '{']).next().unwrap_or("").into());
                    }
                    Received::Skip => {}
                    other => panic!("{other:?} of {length} bytes"),
                }
                unread.drain(..start);
            }
            if number == 0 {
                let sent = server.poll_transmit(now, &mut out).expect("there is room");
                assert_eq!(
                    out[..sent],
                    bytes(&records(&session, "server").next().expect("a PONG")["bytes"])
                );
                assert_eq!(server.status(), Status::Established);
            }
        }
        let expected: [std::string::String; 12] = [
            "Established",
            "Request",
            "Request",
            "Begin",
            "Request",
            "Part",
            "Request",
            "Cancelled",
            "Part",
            "Ping",
            "Request",
            "Request",
        ]
        .map(Into::into);
        assert_eq!(events[..12], expected);
        assert_eq!(events[12], "Closing");
        // Request 4 was cancelled and still waits for its answer.
        let numbers: Vec<_> = requests.iter().map(|id| id.number()).collect();
        assert_eq!(numbers, [1, 2, 4, 6, 3, 7, 8]);
        server.refuse(requests[2], Refusal::Cancelled).expect("it waits");
    }
}

#[test]
fn a_client_writes_its_part_of_the_sessions_and_reads_them() {
    for session in sessions() {
        let client = Client::new(key(&session), bytes(&session["context"]), RustCrypto).expect("a short context");
        let first = bytes(&records(&session, "client").next().expect("a PING")["plaintext"]);
        // The ephemeral key, then the connection's serial, then the eight bytes of its first ping.
        let script = [
            &bytes(&session["client_ephemeral_private"])[..],
            &[0, 0, 0, 9],
            &first[7..],
        ]
        .concat();
        let now = Instant::ZERO;
        let mut client =
            ClientConnection::new(&client, &Settings::new(), now, &mut Script(script, 0)).expect("it does not fail");
        let mut out = std::vec![0; 4096];
        let sent = client.poll_transmit(now, &mut out).expect("there is room");
        assert_eq!(out[..sent], bytes(&session["hello"]));
        let mut welcome = bytes(&session["welcome"]);
        let established = (welcome.len(), Received::Event(ClientEvent::Established));
        assert_eq!(client.recv_bytes(now, &mut welcome), Ok(established));

        let mut ours = records(&session, "client").map(|record| bytes(&record["bytes"]));
        let sent = client.poll_transmit(now, &mut out).expect("there is room");
        assert_eq!(out[..sent], ours.next().expect("a PING"));
        for body in [&b"hello"[..], b""] {
            let mut message = client.request(body.len()).expect("it is established");
            let sent = client
                .seal(now, [(&mut message, body)], &mut out)
                .expect("there is room");
            assert_eq!(out[..sent], ours.next().expect("a MESSAGE"));
        }
        for _ in 3..=8 {
            let mut message = client.request(0).expect("it is established");
            let _ = client
                .seal(now, [(&mut message, &[][..])], &mut out)
                .expect("there is room");
        }
        let (mut answered, mut refused, mut closing) = (Vec::new(), Vec::new(), false);
        for record in records(&session, "server") {
            let mut unread = bytes(&record["bytes"]);
            while !unread.is_empty() {
                let mut start = 0;
                let received = client.recv(now, Unread::new(&mut unread, &mut start));
                match received.expect("a valid session") {
                    Received::Event(event) => {
                        match event {
                            ClientEvent::Answer { id, .. } | ClientEvent::Part { id, last: true, .. } => {
                                answered.push(id.number());
                            }
                            ClientEvent::Refused { id, refusal } => refused.push((id.number(), refusal)),
                            _ => {}
                        }
                        closing = matches!(event, ClientEvent::Closing { .. });
                    }
                    Received::Skip => {}
                    other => panic!("{other:?}"),
                }
                unread.drain(..start);
            }
        }
        assert_eq!(answered, [2, 1, 6, 3, 8, 7]);
        assert!(refused.contains(&(4, Refusal::Cancelled)));
        assert!(closing, "Closing is the last event");
        assert_eq!(
            (client.status(), client.in_flight()),
            (Status::Draining, 1),
            "the session has no answer to request 5"
        );
    }
}
