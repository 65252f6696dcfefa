//! No text that is printed at any step of a connection has bytes of a secret, and secrets are
//! wiped.

use core::cell::RefCell;

use crate::common::shows::{printed, shows};
use crate::common::{Script, ms, pending_output};
use falco_core::crypto::{Crypto, NoiseCrypto};
use falco_core::noise::{HeapTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::testing::RecvBytes;
use falco_core::{ClientConnection, Key, RustCrypto, ServerConnection, Settings};
use zeroize::ZeroizeOnDrop;

/// Bytes of which no three consecutive ones appear by chance.
fn bytes(seed: u8) -> [u8; 32] {
    let mut at = seed;
    [0; 32].map(|_: u8| {
        at = at.wrapping_mul(29).wrapping_add(131);
        at | 0x80
    })
}

fn key(seed: u8) -> Key {
    Key::from_bytes(bytes(seed)).unwrap()
}

#[test]
fn nothing_secret_is_printed_at_any_step_of_a_connection() {
    let (secret, dummy) = (bytes(1), bytes(2));
    let ephemerals = [bytes(3), bytes(4)];
    let psk = RustCrypto.hmac_sha256(&secret, &[b"FalcoTCP-noise/1 psk"]);
    let ring = KeyRing::new(
        [Some(NoiseSecret::derive(key(1), &RustCrypto)), None],
        &mut Script(dummy.to_vec()),
    );
    let servers = NoiseServer::<HeapTable, _, _>::new(RefCell::new(ring.unwrap()), &[][..], RustCrypto).unwrap();
    let clients = NoiseClient::<HeapTable, _>::new(key(1), &[][..], RustCrypto).unwrap();
    let entropy = |ephemeral: [u8; 32]| Script([&ephemeral[..], &[0; 12]].concat());
    let mut client = ClientConnection::new(&clients, &Settings::new(), ms(0), &mut entropy(ephemerals[0])).unwrap();
    let mut server = ServerConnection::new(&servers, &Settings::new(), ms(0), &mut entropy(ephemerals[1])).unwrap();
    let mut text = printed(&(
        NoiseSecret::derive(key(1), &RustCrypto),
        &clients,
        &servers,
        servers.ring(),
    ));
    text += &printed(&(&client, &server));
    let hello = pending_output(&mut client, ms(0));
    server.recv_bytes(ms(0), &mut hello.clone()).unwrap();
    text += &printed(&(&client, &server));
    client
        .recv_bytes(ms(0), &mut pending_output(&mut server, ms(0)))
        .unwrap();
    server
        .recv_bytes(ms(0), &mut pending_output(&mut client, ms(0)))
        .unwrap();
    let mut message = client.request(32).unwrap();
    let (body, mut out) = (bytes(5), [0; 200]);
    let length = client.seal(ms(0), [(&mut message, &body[..])], &mut out).unwrap();
    let received = server.recv_bytes(ms(0), &mut out[..length]).unwrap();
    text += &printed(&(&client, &server, &message, received));
    for (what, secret) in [
        ("the key", secret),
        ("the pre-shared key", psk),
        ("the key that nobody has", dummy),
        ("the client's ephemeral key", ephemerals[0]),
        ("the server's ephemeral key", ephemerals[1]),
        ("a message", body),
    ] {
        assert!(shows(&printed(&secret), &secret), "{what} would be found");
        assert!(!shows(&text, &secret), "{what} is shown: {text}");
    }
}

#[test]
fn without_entropy_there_is_no_connection() {
    let ring = KeyRing::new(
        [Some(NoiseSecret::derive(key(1), &RustCrypto))],
        &mut Script(vec![1; 32]),
    )
    .unwrap();
    let servers = NoiseServer::<HeapTable, _, _>::new(ring, &[][..], RustCrypto).unwrap();
    let clients = NoiseClient::<HeapTable, _>::new(key(1), &[][..], RustCrypto).unwrap();
    // An ephemeral key and a serial number. A client also uses 8 bytes for the first PING.
    for drawn in 0..=44 {
        let client = ClientConnection::new(&clients, &Settings::new(), ms(0), &mut Script(vec![1; drawn]));
        assert_eq!(client.is_ok(), drawn == 44, "{drawn} bytes of entropy");
        let server = ServerConnection::new(&servers, &Settings::new(), ms(0), &mut Script(vec![1; drawn]));
        assert_eq!(server.is_ok(), drawn >= 36, "{drawn} bytes of entropy");
    }
    let places = [Some(NoiseSecret::derive(key(1), &RustCrypto))];
    assert!(KeyRing::new(places, &mut Script(vec![1; 31])).is_err());
}

#[test]
fn keys_and_their_schedules_are_wiped_when_they_are_dropped() {
    const fn is_wiped<T: ZeroizeOnDrop>() {}
    is_wiped::<Key>();
    is_wiped::<<RustCrypto as Crypto>::Aead>();
    is_wiped::<NoiseSecret>();
    // A retired key is dropped, and its place is free.
    let mut ring = KeyRing::new(
        [Some(NoiseSecret::derive(key(1), &RustCrypto))],
        &mut Script(vec![1; 32]),
    )
    .unwrap();
    let id = NoiseSecret::id_of(&key(1), &RustCrypto);
    assert!(ring.retire(id) && ring.add(NoiseSecret::derive(key(2), &RustCrypto)).is_ok());
}
