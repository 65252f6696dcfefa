//! The handshake of the noise wire, with real cryptography: who is accepted, and that others
//! receive nothing.

use crate::common::{assert_ended, ms, pending_output, span};
use falco_core::crypto::{Crypto, NoiseCrypto};
use falco_core::noise::{HeapTable, NoiseClient};
use falco_core::testing::{
    CountingRng, NoiseTestClient, NoiseTestServer, RawHandshake, RecvBytes, key, noise_client, noise_server,
    raw_settings,
};
use falco_core::{
    ClientConnection, ConnectionError, Received, RustCrypto, ServerConnection, Settings, SettingsError, Status,
};

type Server<'k> = ServerConnection<&'k NoiseTestServer>;
type Client<'k> = ClientConnection<&'k NoiseTestClient>;

fn server(keys: &NoiseTestServer) -> Server<'_> {
    ServerConnection::new(keys, &Settings::new(), ms(0), &mut CountingRng::new(1)).unwrap()
}

fn client(keys: &NoiseTestClient) -> Client<'_> {
    ClientConnection::new(keys, &Settings::new(), ms(0), &mut CountingRng::new(2)).unwrap()
}

fn honest() -> RawHandshake<RustCrypto> {
    RawHandshake::new(RustCrypto, 7)
}

/// Asserts that a server refuses this hello with this error and sends nothing.
fn assert_refused(what: &str, hello: &[u8], end: ConnectionError) {
    let keys = noise_server(7);
    let mut machine = server(&keys);
    assert_eq!(machine.recv_bytes(ms(1), &mut hello.to_vec()), Err(end), "{what}");
    assert_eq!(pending_output(&mut machine, ms(1)), [], "{what}");
    assert_ended(&mut machine, ms(1), end);
    assert_eq!(machine.key_id(), None, "{what}");
}

const UNAUTHENTICATED: ConnectionError = ConnectionError::Unauthenticated;

#[test]
fn a_hello_with_a_wrong_key_key_id_or_context_is_refused_without_a_reply() {
    let mut wrong_psk = honest();
    wrong_psk.psk[31] ^= 1;
    let mut wrong_id = honest();
    wrong_id.clear[9] ^= 1;
    let mut wrong_context = honest();
    wrong_context.context = b"another service".to_vec();
    let mut one_zero = honest();
    one_zero.context = vec![0];
    for (what, handshake) in [
        ("another key", RawHandshake::new(RustCrypto, 8)),
        ("psk", wrong_psk),
        ("key id", wrong_id),
        ("context", wrong_context),
        ("a context of a zero", one_zero),
    ] {
        assert_refused(what, &handshake.hello(), UNAUTHENTICATED);
    }
    // The id of a key in the ring, with the secret of another key in the ring.
    let mut mixed = RawHandshake::new(RustCrypto, 8);
    mixed.clear = honest().clear;
    assert_refused("mixed", &mixed.hello(), UNAUTHENTICATED);
    let keys = noise_server(7);
    assert!(server(&keys).recv_bytes(ms(1), &mut honest().hello()).is_ok());
}

#[test]
fn an_unknown_key_id_is_refused_whatever_the_decryption_says() {
    use rand_core::TryRng;
    // The random key that the ring of this server uses for unknown ids. Only a test can know it.
    let mut dummy = RawHandshake::new(RustCrypto, 9);
    CountingRng::new(0).try_fill_bytes(&mut dummy.psk).unwrap();
    assert_refused("the key that nobody has", &dummy.hello(), UNAUTHENTICATED);
}

#[test]
fn a_context_is_accepted_by_its_own_service_and_no_other() {
    let contexts: [&'static [u8]; 4] = [b"", b"a", b"ab", b"b"];
    for ours in contexts {
        for theirs in contexts {
            let keys = NoiseClient::<HeapTable, _>::new(key(7), ours, RustCrypto).unwrap();
            let mut machine = ClientConnection::new(&keys, &Settings::new(), ms(0), &mut CountingRng::new(2)).unwrap();
            let mut handshake = honest();
            handshake.context = theirs.to_vec();
            assert_eq!(
                handshake.server(&pending_output(&mut machine, ms(0))).is_some(),
                ours == theirs
            );
        }
    }
    let long = vec![7; 65_536];
    let refused = NoiseClient::<HeapTable, _, _>::new(key(7), long, RustCrypto).unwrap_err();
    assert_eq!(refused, SettingsError::Context(65_536));
    assert!(NoiseClient::<HeapTable, _, _>::new(key(7), vec![7; 65_535], RustCrypto).is_ok());
}

#[test]
fn settings_out_of_range_are_refused_by_both_sides_without_a_reply() {
    let table = [
        // max record, max in flight, max message, lifetime: a server accepts it, a client accepts
        // it
        (64, 1, 0, 1_000, true, true),
        (u16::MAX, u16::MAX, u32::MAX - 1, u32::MAX, true, true),
        (64, 1, u32::MAX, 1_000, false, false),
        (63, 1, 0, 1_000, false, false),
        (0, 1, 0, 1_000, false, false),
        (64, 1, 0, 999, false, false),
        (64, 1, 0, 0, false, false),
        (64, 0, 0, 1_000, true, false),
    ];
    let (server_keys, client_keys) = (noise_server(7), noise_client(7));
    for (record, in_flight, message, lifetime, by_server, by_client) in table {
        let mut handshake = honest();
        handshake.settings = raw_settings(record, in_flight, message, lifetime);
        if by_server {
            assert!(server(&server_keys).recv_bytes(ms(1), &mut handshake.hello()).is_ok());
        } else {
            assert_refused("settings", &handshake.hello(), UNAUTHENTICATED);
        }
        let mut machine = client(&client_keys);
        let (mut welcome, _) = handshake.server(&pending_output(&mut machine, ms(0))).unwrap();
        let received = machine.recv_bytes(ms(1), &mut welcome);
        assert_eq!(received.is_ok(), by_client, "{:?}", handshake.settings);
        if !by_client {
            assert_ended(&mut machine, ms(1), ConnectionError::Refused);
        }
    }
    // The last four bytes are ignored.
    let mut handshake = honest();
    handshake.settings[12..].fill(0xFF);
    assert!(server(&server_keys).recv_bytes(ms(1), &mut handshake.hello()).is_ok());
}

#[test]
fn each_side_announces_its_settings() {
    let settings = Settings::new()
        .with_max_record(1_000)
        .unwrap()
        .with_max_in_flight(77)
        .unwrap()
        .with_max_message(12_345)
        .with_lifetime(span(6_789))
        .unwrap();
    let (server_keys, client_keys) = (noise_server(7), noise_client(7));
    let mut machine = ServerConnection::new(&server_keys, &settings, ms(0), &mut CountingRng::new(1)).unwrap();
    machine.recv_bytes(ms(0), &mut honest().hello()).unwrap();
    let raw = honest().client(&pending_output(&mut machine, ms(0))).unwrap();
    assert_eq!(raw.theirs(), &raw_settings(1_000, 77, 12_345, 6_789));
    let mut machine = ClientConnection::new(&client_keys, &settings, ms(0), &mut CountingRng::new(1)).unwrap();
    let (_, raw) = honest().server(&pending_output(&mut machine, ms(0))).unwrap();
    assert_eq!(raw.theirs(), &raw_settings(1_000, 0, 12_345, 6_789));
    // The largest limit is one that a peer accepts.
    let settings = settings.with_max_message(u32::MAX);
    let mut machine = ServerConnection::new(&server_keys, &settings, ms(0), &mut CountingRng::new(1)).unwrap();
    machine.recv_bytes(ms(0), &mut honest().hello()).unwrap();
    let raw = honest().client(&pending_output(&mut machine, ms(0))).unwrap();
    assert_eq!(raw.theirs(), &raw_settings(1_000, 77, u32::MAX - 1, 6_789));
    let mut machine = ClientConnection::new(&client_keys, &settings, ms(0), &mut CountingRng::new(1)).unwrap();
    let (_, raw) = honest().server(&pending_output(&mut machine, ms(0))).unwrap();
    assert_eq!(raw.theirs(), &raw_settings(1_000, 0, u32::MAX - 1, 6_789));
}

/// The points of small order that X25519 maps to zero, in the encodings below 2^255.
fn low_order() -> Vec<[u8; 32]> {
    let mut one = [0; 32];
    one[0] = 1;
    let p = |first: u8| {
        let mut bytes = [0xFF; 32];
        (bytes[0], bytes[31]) = (first, 0x7F);
        bytes
    };
    let eight: [u8; 32] = [
        0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
        0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
    ];
    let other: [u8; 32] = [
        0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
        0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
    ];
    vec![[0; 32], one, eight, other, p(0xEC), p(0xED), p(0xEE)]
}

/// Real cryptography, but the result of its Diffie-Hellman is always zero, as a side knows that
/// sends a point of low order.
#[derive(Clone, Copy)]
struct Nothing;

impl Crypto for Nothing {
    type Aead = <RustCrypto as Crypto>::Aead;

    fn aead(&self, key: &[u8; 32]) -> Self::Aead {
        RustCrypto.aead(key)
    }
}

impl NoiseCrypto for Nothing {
    type PrivateKey = <RustCrypto as NoiseCrypto>::PrivateKey;

    fn private_key(&self, bytes: &[u8; 32]) -> Self::PrivateKey {
        RustCrypto.private_key(bytes)
    }

    fn x25519_public(&self, private: &Self::PrivateKey) -> [u8; 32] {
        RustCrypto.x25519_public(private)
    }

    fn x25519(&self, _private: &Self::PrivateKey, _public: &[u8; 32]) -> [u8; 32] {
        [0; 32]
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        RustCrypto.sha256(parts)
    }

    fn hmac_sha256(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        RustCrypto.hmac_sha256(key, parts)
    }
}

#[test]
fn a_public_key_of_low_order_is_refused_by_both_sides_without_a_reply() {
    let keys = noise_client(7);
    for public in low_order() {
        assert_eq!(
            RustCrypto.x25519(&RustCrypto.private_key(&[9; 32]), &public),
            [0; 32],
            "it is of low order"
        );
        let mut handshake = RawHandshake::new(Nothing, 7);
        handshake.public = Some(public);
        assert_refused("low order", &handshake.hello(), UNAUTHENTICATED);
        let mut machine = client(&keys);
        // The attacker knows the shared secret, so that everything in this welcome authenticates.
        let (mut welcome, _) = handshake.server(&pending_output(&mut machine, ms(0))).unwrap();
        assert_eq!(machine.recv_bytes(ms(1), &mut welcome), Err(ConnectionError::Refused));
        assert_ended(&mut machine, ms(1), ConnectionError::Refused);
    }
}

#[test]
fn a_hello_with_any_flipped_bit_is_refused_without_a_reply() {
    let hello = honest().hello();
    for bit in 0..hello.len() * 8 {
        let mut flipped = hello.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let keys = noise_server(7);
        let mut machine = server(&keys);
        let end = machine.recv_bytes(ms(1), &mut flipped).unwrap_err();
        match (bit / 8, end) {
            (0, ConnectionError::UnknownWire { first }) => assert_eq!(first, hello[0] ^ 1 << bit),
            (0, other) => panic!("{other:?}"),
            (1, _) => {}
            (_, end) => assert_eq!(end, UNAUTHENTICATED, "bit {bit}"),
        }
        assert_eq!(pending_output(&mut machine, ms(1)), [], "bit {bit}");
    }
}

#[test]
fn a_welcome_with_any_flipped_bit_is_a_refused_handshake() {
    let keys = noise_client(7);
    for bit in 0..64 * 8 {
        let mut machine = client(&keys);
        let (mut welcome, _) = honest().server(&pending_output(&mut machine, ms(0))).unwrap();
        welcome[bit / 8] ^= 1 << (bit % 8);
        let received = machine.recv_bytes(ms(1), &mut welcome);
        // X25519 ignores the top bit of a public key; the hash of the handshake does not.
        assert_eq!(received, Err(ConnectionError::Refused), "bit {bit}");
        assert_eq!(pending_output(&mut machine, ms(1)), []);
    }
}

#[test]
fn other_protocols_are_refused_at_their_first_wrong_byte_without_a_reply() {
    for first in (0..=u8::MAX).filter(|first| *first != 0x4E) {
        assert_refused("first byte", &[first], ConnectionError::UnknownWire { first });
    }
    for version in (0..=u8::MAX).filter(|version| *version != 1) {
        let keys = noise_server(7);
        let mut machine = server(&keys);
        assert!(machine.recv_bytes(ms(1), &mut [0x4E, version]).is_err(), "{version}");
        assert_eq!(
            (pending_output(&mut machine, ms(1)), machine.status()),
            (vec![], Status::Ended)
        );
    }
    let (keys, mut hello) = (noise_server(7), honest().hello());
    let mut machine = server(&keys);
    for length in 0..hello.len() {
        assert_eq!(
            machine.recv_bytes(ms(1), &mut hello[..length]),
            Ok((0, Received::NeedMore { total: 74 }))
        );
        assert_eq!(pending_output(&mut machine, ms(1)), []);
    }
}

#[test]
fn both_sides_of_a_connection_have_one_binding_value_and_each_connection_another() {
    let keys = (noise_client(7), noise_server(7));
    let mut values = Vec::new();
    for seed in [2, 3] {
        let mut client = ClientConnection::new(&keys.0, &Settings::new(), ms(0), &mut CountingRng::new(seed)).unwrap();
        let mut server = server(&keys.1);
        assert_eq!((client.channel_binding(), server.channel_binding()), (None, None));
        let mut hello = pending_output(&mut client, ms(0));
        assert!(server.recv_bytes(ms(0), &mut hello).is_ok());
        let mut welcome = pending_output(&mut server, ms(0));
        assert_eq!(server.channel_binding(), None, "the hello may be a replay");
        assert!(client.recv_bytes(ms(0), &mut welcome).is_ok());
        let mut ping = pending_output(&mut client, ms(0));
        assert!(server.recv_bytes(ms(0), &mut ping).is_ok());
        assert_eq!(server.status(), Status::Established);
        assert!(client.channel_binding().is_some());
        assert_eq!(client.channel_binding(), server.channel_binding());
        values.extend(client.channel_binding().copied());
    }
    assert_ne!(values[0], values[1]);
}
