//! An AEAD that fails to seal ends the connection, and nothing is sent after the record that was
//! lost.

use core::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::common::noise::{NoiseEvent, Rig, first_ping, honest};
use crate::common::pending_output;
use falco_core::crypto::{Aead, AeadError, Crypto, NoiseCrypto, Nonce, Tag};
use falco_core::noise::{HeapTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::testing::{CountingRng, NoSecurity, NoSecurityAead, RecvBytes, key, raw_frame};
use falco_core::{ClientConnection, CloseReason, ConnectionError, Instant, SealError, ServerConnection, Settings};

/// Cryptography without security that seals a limited number of texts.
#[derive(Clone)]
struct Failing(Rc<Cell<u32>>);

struct FailingAead(NoSecurityAead, Rc<Cell<u32>>);

impl Crypto for Failing {
    type Aead = FailingAead;

    fn aead(&self, key: &[u8; 32]) -> FailingAead {
        FailingAead(NoSecurity.aead(key), Rc::clone(&self.0))
    }
}

impl Aead for FailingAead {
    fn seal(&self, nonce: &Nonce, associated: &[u8], out: &mut [u8], body: &[u8]) -> Result<Tag, AeadError> {
        self.1.set(self.1.get().checked_sub(1).ok_or(AeadError::new())?);
        self.0.seal(nonce, associated, out, body)
    }

    fn open(&self, nonce: &Nonce, associated: &[u8], text: &mut [u8], tag: &Tag) -> Result<(), AeadError> {
        self.0.open(nonce, associated, text, tag)
    }
}

impl NoiseCrypto for Failing {
    type PrivateKey = <NoSecurity as NoiseCrypto>::PrivateKey;

    fn private_key(&self, bytes: &[u8; 32]) -> Self::PrivateKey {
        NoSecurity.private_key(bytes)
    }

    fn x25519_public(&self, private: &Self::PrivateKey) -> [u8; 32] {
        NoSecurity.x25519_public(private)
    }

    fn x25519(&self, private: &Self::PrivateKey, public: &[u8; 32]) -> [u8; 32] {
        NoSecurity.x25519(private, public)
    }

    fn sha256(&self, parts: &[&[u8]]) -> [u8; 32] {
        NoSecurity.sha256(parts)
    }

    fn hmac_sha256(&self, key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
        NoSecurity.hmac_sha256(key, parts)
    }
}

const END: ConnectionError = ConnectionError::KeyExhausted;
const NOW: Instant = Instant::ZERO;

#[test]
fn a_client_that_cannot_seal_ends() {
    // The hello, the first PING, then records with one part of each large request.
    for records in 0..4 {
        let left = Rc::new(Cell::new(1));
        let keys = NoiseClient::<HeapTable, _>::new(key(7), &[][..], Failing(Rc::clone(&left))).unwrap();
        let mut machine = ClientConnection::new(&keys, &Settings::new(), NOW, &mut CountingRng::new(1)).unwrap();
        let hello = pending_output(&mut machine, NOW);
        let (mut welcome, _) = honest().server(&hello).unwrap();
        machine.recv_bytes(NOW, &mut welcome).unwrap();
        left.set(records);
        let body = vec![1; 200_000];
        let mut messages = [(); 4].map(|()| machine.request(body.len()).unwrap());
        let mut out = vec![0; 300_000];
        let all = messages.iter_mut().map(|message| (message, body.as_slice()));
        let sealed = machine.seal(NOW, all, &mut out);
        assert_eq!(sealed, Err(SealError::Connection(END)), "{records}");
        // That sealing works again is too late.
        left.set(100);
        crate::common::assert_ended(&mut machine, NOW, END);
        let all = messages.iter_mut().map(|message| (message, body.as_slice()));
        assert_eq!(machine.seal(NOW, all, &mut out), Err(SealError::Connection(END)));
    }
}

type Keys = NoiseServer<HeapTable, RefCell<KeyRing<[Option<NoiseSecret>; 1]>>, Failing>;

/// An established server.
fn established(keys: &Keys) -> Rig<falco_core::ServerSide, &Keys> {
    let mut machine = ServerConnection::new(keys, &Settings::new(), NOW, &mut CountingRng::new(1)).unwrap();
    machine.recv_bytes(NOW, &mut honest().hello()).unwrap();
    let raw = honest().client(&pending_output(&mut machine, NOW)).unwrap();
    let mut rig = Rig::new(machine, raw);
    assert_eq!(rig.receive(&first_ping()), [NoiseEvent::Established]);
    rig.sent();
    rig
}

#[test]
fn a_server_that_cannot_seal_ends() {
    let left = Rc::new(Cell::new(1_000));
    let keyring = KeyRing::new(
        [Some(NoiseSecret::derive(key(7), &NoSecurity))],
        &mut CountingRng::new(0),
    );
    let keys = Keys::new(RefCell::new(keyring.unwrap()), &[][..], Failing(Rc::clone(&left))).unwrap();
    let mut out = vec![0; 300_000];
    for records in 0..4 {
        let mut rig = established(&keys);
        let body = vec![1; 200_000];
        let mut messages = [1, 2, 3, 4].map(|number| {
            rig.receive(&raw_frame(1, number, b"?"));
            rig.machine.answer(rig.ids[&number], body.len()).unwrap()
        });
        left.set(records);
        let all = messages.iter_mut().map(|message| (message, body.as_slice()));
        let sealed = rig.machine.seal(NOW, all, &mut out);
        assert_eq!(sealed, Err(SealError::Connection(END)), "{records}");
        left.set(1_000);
        rig.assert_ended(END);
    }
    // If the last CLOSE cannot be sealed, the end is not `Closed`, whether `close` was called or
    // not.
    for own in [true, false] {
        let mut rig = established(&keys);
        if own {
            rig.machine.close(NOW, CloseReason::Done);
        } else {
            rig.receive(&raw_frame(8, 0, &[0]));
        }
        left.set(0);
        assert_eq!(rig.machine.poll_transmit(NOW, &mut out), Ok(0));
        left.set(1_000);
        rig.assert_ended(END);
    }
}
