//! The classic wire against its test vectors, byte for byte: with the vector's entropy both roles
//! must seal its bytes, and from its bytes both must open its text.

use std::rc::Rc;

use crate::common::{Ends, Handle, Script, ends_with, pending_output};
use falco_core::testing::{CountingRng, RecvBytes, replay_cache};
use falco_core::{
    ClassicKey, ClientConnection, ClientEvent, ConnectionError, Instant, Received, ServerConnection, ServerEvent,
    Settings,
};
use serde_json::Value;

/// One sealed text on the wire.
struct Entry {
    nonce: Vec<u8>,
    plaintext: Vec<u8>,
    bytes: Vec<u8>,
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("../data/classic.json")).unwrap()
}

fn unhex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

fn entries(kind: &str, count: usize) -> Vec<Entry> {
    let all = vectors();
    let entries: Vec<_> = all[kind].as_array().unwrap().iter().collect();
    assert_eq!(entries.len(), count, "all vectors of {kind} are there");
    let entry = |value: &Value| Entry {
        nonce: unhex(&value["nonce"]),
        plaintext: unhex(&value["plaintext"]),
        bytes: unhex(&value["bytes"]),
    };
    entries.into_iter().map(entry).collect()
}

fn handle() -> Handle {
    let key = vectors()["key"].as_str().unwrap().parse().unwrap();
    Rc::new(ClassicKey::new(key, replay_cache(64)))
}

/// The nonce before `nonce`.
fn before(nonce: &[u8]) -> Vec<u8> {
    let number = nonce
        .iter()
        .fold(0_u128, |number, byte| number << 8 | u128::from(*byte));
    number.wrapping_sub(1).to_be_bytes()[4..].to_vec()
}

/// An established pair with this entropy: a first nonce for each, and before it the client's text
/// of the hello.
fn connected(client_nonce: &[u8], server_nonce: &[u8]) -> Ends {
    let settings = Settings::new();
    let mut client = Script([&[0x11; 128], client_nonce, &[1; 4]].concat());
    let mut server = Script([server_nonce, &[2; 4]].concat());
    let mut client = ClientConnection::new(handle(), &settings, Instant::ZERO, &mut client).unwrap();
    let mut server = ServerConnection::new(handle(), &settings, Instant::ZERO, &mut server).unwrap();
    let hello = pending_output(&mut client, Instant::ZERO);
    assert!(server.recv_bytes(Instant::ZERO, &mut hello.clone()).is_ok());
    assert!(
        client
            .recv_bytes(Instant::ZERO, &mut pending_output(&mut server, Instant::ZERO))
            .is_ok()
    );
    Ends {
        client,
        server,
        hello,
        now: Instant::ZERO,
    }
}

fn plain() -> Ends {
    ends_with(&handle(), &handle(), &Settings::new(), 9)
}

#[test]
fn a_client_sends_the_hello_of_the_vector() {
    for entry in entries("hello", 1) {
        let mut entropy = Script([entry.plaintext.as_slice(), &entry.nonce, &[0; 4]].concat());
        let mut client = ClientConnection::new(handle(), &Settings::new(), Instant::ZERO, &mut entropy).unwrap();
        assert!(entropy.0.is_empty(), "it draws all of that");
        assert_eq!(pending_output(&mut client, Instant::ZERO), entry.bytes);
    }
}

#[test]
fn a_server_accepts_the_hello_of_the_vector_and_sends_its_accept() {
    let accept = unhex(&vectors()["accept"]);
    for entry in entries("hello", 1) {
        let mut rng = CountingRng::new(3);
        let mut server = ServerConnection::new(handle(), &Settings::new(), Instant::ZERO, &mut rng).unwrap();
        let mut bytes = entry.bytes.clone();
        let established = (bytes.len(), Received::Event(ServerEvent::Established));
        assert_eq!(server.recv_bytes(Instant::ZERO, &mut bytes), Ok(established));
        assert_eq!(bytes[13..141], entry.plaintext, "decrypted where it lay");
        assert_eq!(pending_output(&mut server, Instant::ZERO), accept);
    }
}

#[test]
fn a_client_reads_the_accept_of_the_vector() {
    let mut rng = CountingRng::new(3);
    let mut client = ClientConnection::new(handle(), &Settings::new(), Instant::ZERO, &mut rng).unwrap();
    pending_output(&mut client, Instant::ZERO);
    let mut accept = unhex(&vectors()["accept"]);
    let established = (1, Received::Event(ClientEvent::Established));
    assert_eq!(client.recv_bytes(Instant::ZERO, &mut accept), Ok(established));
}

#[test]
fn a_ping_is_the_byte_of_the_vector_for_both_roles() {
    let mut ends = plain();
    let ping = unhex(&vectors()["ping"]);
    ends.client.ping().unwrap();
    assert_eq!(pending_output(&mut ends.client, ends.now), ping);
    let event = (1, Received::Event(ServerEvent::Ping));
    assert_eq!(ends.server.recv_bytes(ends.now, &mut ping.clone()), Ok(event));
}

#[test]
fn a_client_sends_the_requests_of_the_vectors() {
    for entry in entries("request", 5) {
        // The hello has the nonce before it.
        let mut ends = connected(&before(&entry.nonce), &[9; 12]);
        assert_eq!(ends.request(&entry.plaintext), entry.bytes);
    }
}

#[test]
fn a_server_reads_the_requests_of_the_vectors() {
    for entry in entries("request", 5) {
        assert_eq!(plain().receive_request(&entry.bytes).1, entry.plaintext);
    }
    // All of them on one connection.
    let mut ends = plain();
    for entry in entries("request", 5) {
        assert_eq!(ends.receive_request(&entry.bytes).1, entry.plaintext);
    }
}

#[test]
fn a_server_sends_the_answers_of_the_vectors() {
    for entry in entries("response", 5) {
        let mut ends = connected(&[9; 12], &entry.nonce);
        let request = ends.request(b"what?");
        let (id, _) = ends.receive_request(&request);
        assert_eq!(ends.answer(id, &entry.plaintext), entry.bytes);
    }
}

#[test]
fn a_client_reads_the_answers_of_the_vectors() {
    for entry in entries("response", 5) {
        let mut ends = plain();
        ends.request(b"what?");
        assert_eq!(ends.receive_answer(&entry.bytes).1, entry.plaintext);
    }
}

#[test]
fn no_vector_opens_with_its_last_bit_flipped() {
    let flipped = |entry: Entry| {
        let mut bytes = entry.bytes;
        *bytes.last_mut().unwrap() ^= 1;
        bytes
    };
    for entry in entries("request", 5) {
        let mut ends = plain();
        assert_eq!(
            ends.server.recv_bytes(ends.now, &mut flipped(entry)),
            Err(ConnectionError::Tampered)
        );
    }
    for entry in entries("response", 5) {
        let mut ends = plain();
        ends.request(b"what?");
        assert_eq!(
            ends.client.recv_bytes(ends.now, &mut flipped(entry)),
            Err(ConnectionError::Tampered)
        );
    }
}

#[test]
fn nonces_count_up_as_one_number_of_96_bits() {
    let cases: [(&[u8; 12], &[u8; 12]); 4] = [
        (&[0; 12], &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
        (
            &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255],
            &[5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        ),
        (
            &[5, 0, 0, 7, 255, 255, 255, 255, 255, 255, 255, 255],
            &[5, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0],
        ),
        (&[255; 12], &[0; 12]),
    ];
    for (first, second) in cases {
        let mut ends = connected(first, &[9; 12]);
        assert_eq!(ends.hello[1..13], *first);
        assert_eq!(ends.request(b"")[9..21], *second);
    }
}
