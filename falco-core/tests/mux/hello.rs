//! The step in which a server has received a hello.

use falco_core::mux::{ServerMux, ServerStep};
use falco_core::testing::{CountingRng, RecvBytes, classic_key, noise_client, noise_server, raw_frame};
use falco_core::{ClientConnection, Instant, ServerConnection, ServerKeyRef, Settings};

use crate::served::{PING, Served, keys};

const NOW: Instant = Instant::ZERO;
/// Bytes in a hello of the noise wire.
const HELLO_LENGTH: usize = 74;

fn server<H: ServerKeyRef>(keys: H) -> ServerMux<H, Vec<u8>, ()> {
    let settings = Settings::new();
    let machine = ServerConnection::new(keys, &settings, NOW, &mut CountingRng::new(1)).unwrap();
    ServerMux::new(machine, (), &settings)
}

/// The fingerprint of a hello, which a new connection receives.
fn fingerprint(mut hello: Vec<u8>) -> u64 {
    let keys = noise_server(7);
    match server(&keys).recv_bytes(NOW, &mut hello) {
        Ok((consumed, ServerStep::Hello { fingerprint })) => {
            assert_eq!(consumed, HELLO_LENGTH);
            fingerprint
        }
        other => panic!("{other:?}"),
    }
}

fn hello(entropy: u64) -> Vec<u8> {
    let (keys, mut out) = (noise_client(7), [0; 200]);
    let mut client = ClientConnection::new(&keys, &Settings::new(), NOW, &mut CountingRng::new(entropy)).unwrap();
    let count = client.poll_transmit(NOW, &mut out).unwrap();
    out[..count].to_vec()
}

#[test]
fn a_replay_has_the_fingerprint_of_its_hello() {
    let (one, other) = (hello(1), hello(2));
    assert_eq!(fingerprint(one.clone()), fingerprint(one.clone()));
    assert_ne!(fingerprint(one.clone()), fingerprint(other));
    let followed = [&one[..], b"what follows is not part of it"].concat();
    assert_eq!(fingerprint(followed), fingerprint(one));
}

#[test]
fn a_part_of_a_hello_and_a_hello_that_does_not_decrypt_are_no_such_step() {
    let keys = noise_server(7);
    let mut whole = hello(1);
    let mut part = whole[..HELLO_LENGTH - 1].to_vec();
    assert!(matches!(
        server(&keys).recv_bytes(NOW, &mut part),
        Ok((_, ServerStep::NeedMore { .. }))
    ));
    whole[HELLO_LENGTH - 1] ^= 1;
    assert!(server(&keys).recv_bytes(NOW, &mut whole).is_err());
}

#[test]
fn after_the_handshake_there_is_no_such_step() {
    let keys = keys();
    let mut served = Served::new(&keys, &Settings::new(), ());
    let mut ping = served.raw.seal(&raw_frame(PING, 0, &[7; 8]).repeat(HELLO_LENGTH / 8));
    assert!(ping.len() > HELLO_LENGTH);
    let step = served.mux.recv_bytes(NOW, &mut ping);
    assert!(matches!(step, Ok((_, ServerStep::Skip))), "{step:?}");
}

#[test]
fn on_the_classic_wire_a_hello_establishes() {
    let (own, theirs, mut out) = (classic_key(7), classic_key(7), [0; 200]);
    let mut client = ClientConnection::new(&theirs, &Settings::new(), NOW, &mut CountingRng::new(2)).unwrap();
    let count = client.poll_transmit(NOW, &mut out).unwrap();
    let step = server(&own).recv_bytes(NOW, &mut out[..count]);
    assert!(matches!(step, Ok((_, ServerStep::Established))), "{step:?}");
}
