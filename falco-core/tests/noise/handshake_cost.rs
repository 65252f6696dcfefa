//! What a handshake computes and draws: each side no more than the pattern needs.

use core::cell::Cell;
use core::convert::Infallible;

use crate::common::{ms, pending_output};
use falco_core::crypto::{Crypto, NoiseCrypto};
use falco_core::noise::{HeapTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::testing::{CountingRng, NoSecurity, RecvBytes, key};
use falco_core::{ClientConnection, ServerConnection, Settings, Status};
use rand_core::{TryCryptoRng, TryRng};

/// How often each function was called.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    private_keys: Cell<u32>,
    public_keys: Cell<u32>,
    agreements: Cell<u32>,
    hashes: Cell<u32>,
    macs: Cell<u32>,
    aeads: Cell<u32>,
}

fn count(calls: &Cell<u32>) {
    calls.set(calls.get() + 1);
}

#[derive(Clone, Copy)]
struct Counted<'c>(&'c Counts);

impl Crypto for Counted<'_> {
    type Aead = <NoSecurity as Crypto>::Aead;

    fn aead(&self, key: &[u8; 32]) -> Self::Aead {
        count(&self.0.aeads);
        NoSecurity.aead(key)
    }
}

impl NoiseCrypto for Counted<'_> {
    type PrivateKey = <NoSecurity as NoiseCrypto>::PrivateKey;

    fn private_key(&self, bytes: &[u8; 32]) -> Self::PrivateKey {
        count(&self.0.private_keys);
        NoSecurity.private_key(bytes)
    }

    fn x25519_public(&self, private: &Self::PrivateKey) -> [u8; 32] {
        count(&self.0.public_keys);
        NoSecurity.x25519_public(private)
    }

    fn x25519(&self, private: &Self::PrivateKey, public: &[u8; 32]) -> [u8; 32] {
        count(&self.0.agreements);
        NoSecurity.x25519(private, public)
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        count(&self.0.hashes);
        NoSecurity.sha256(parts)
    }

    fn hmac_sha256(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        count(&self.0.macs);
        NoSecurity.hmac_sha256(key, parts)
    }
}

/// A generator that counts how often it is asked.
struct Asked(CountingRng, u32);

impl TryRng for Asked {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.1 += 1;
        self.0.try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.1 += 1;
        self.0.try_next_u64()
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.1 += 1;
        self.0.try_fill_bytes(bytes)
    }
}

impl TryCryptoRng for Asked {}

#[test]
fn a_handshake_computes_nothing_twice_and_draws_once() {
    let (ours, theirs) = (Counts::default(), Counts::default());
    let clients = NoiseClient::<HeapTable, _>::new(key(7), &[][..], Counted(&ours)).unwrap();
    let secret = NoiseSecret::derive(key(7), &Counted(&theirs));
    let ring = KeyRing::new([Some(secret)], &mut CountingRng::new(1)).unwrap();
    let servers = NoiseServer::<HeapTable, _, _>::new(ring, &[][..], Counted(&theirs)).unwrap();
    // What the keys need, once for all connections.
    ours.macs.set(0);
    theirs.macs.set(0);
    let mut generators = [Asked(CountingRng::new(2), 0), Asked(CountingRng::new(3), 0)];
    let [first, second] = &mut generators;
    let mut client = ClientConnection::new(&clients, &Settings::new(), ms(0), first).unwrap();
    let mut server = ServerConnection::new(&servers, &Settings::new(), ms(0), second).unwrap();
    server
        .recv_bytes(ms(1), &mut pending_output(&mut client, ms(1)))
        .unwrap();
    client
        .recv_bytes(ms(1), &mut pending_output(&mut server, ms(1)))
        .unwrap();
    assert_eq!(client.status(), Status::Established);
    let sides = [("client", &ours, &generators[0]), ("server", &theirs, &generators[1])];
    for (side, counts, generator) in sides {
        let expected = Counts {
            private_keys: Cell::new(1),
            public_keys: Cell::new(1),
            agreements: Cell::new(1),
            hashes: Cell::new(6),
            // Four MixKeys with both outputs of HKDF take three MACs each. The one with the
            // server's public key needs only the first output: two MACs.
            macs: Cell::new(4 * 3 + 2),
            // One for each payload, and one for each direction.
            aeads: Cell::new(4),
        };
        assert_eq!(*counts, expected, "{side}");
        assert_eq!(generator.1, 1, "{side}: each draw can be a system call");
    }
}
