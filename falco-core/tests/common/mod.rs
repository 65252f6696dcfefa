//! Shared by the test binaries: connections that a test drives one call at a time. No expectation
//! about the protocol is here.
#![allow(dead_code, reason = "each suite uses a part of it")]

pub(crate) mod callers;
pub(crate) mod noise;
pub(crate) mod noise_event;
pub(crate) mod shows;
pub(crate) mod verdict;

use core::time::Duration;
use std::rc::Rc;

use falco_core::crypto::Crypto;
use falco_core::testing::{CountingRng, RecvBytes, key, replay_cache};
use falco_core::{
    ClassicKey, ClientConnection, ClientEvent, Connection, ConnectionError, HeapReplayCache, Instant, KeyRef, Received,
    RequestId, Role, RustCrypto, ServerConnection, ServerEvent, Settings,
};

/// A key on the classic wire, shared by the connections under it.
pub(crate) type Handle<C = RustCrypto> = Rc<ClassicKey<HeapReplayCache, C>>;
pub(crate) type ClientEnd<C = RustCrypto> = ClientConnection<Handle<C>>;
pub(crate) type ServerEnd<C = RustCrypto> = ServerConnection<Handle<C>>;

/// Bytes in front of a request's and an answer's sealed text.
pub(crate) const REQUEST_HEAD: usize = 9;
pub(crate) const ANSWER_HEAD: usize = 8;

pub(crate) const fn ms(millis: u64) -> Instant {
    Instant::from_millis(millis)
}

pub(crate) const fn span(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The key of one side. The two sides stand for two processes, so each has its own replay cache.
pub(crate) fn handle() -> Handle {
    handle_with(4096)
}

pub(crate) fn handle_with<C: Crypto + Default>(slots: usize) -> Handle<C> {
    Rc::new(ClassicKey::with_crypto(key(7), replay_cache(slots), &C::default()))
}

pub(crate) fn client<C: Crypto>(key: &Handle<C>, settings: &Settings, seed: u64) -> ClientEnd<C> {
    ClientConnection::new(Rc::clone(key), settings, Instant::ZERO, &mut CountingRng::new(seed)).unwrap()
}

pub(crate) fn server<C: Crypto>(key: &Handle<C>, settings: &Settings, seed: u64) -> ServerEnd<C> {
    ServerConnection::new(Rc::clone(key), settings, Instant::ZERO, &mut CountingRng::new(!seed)).unwrap()
}

/// Keys for the noise wire, the classic wire, or both: 32 times a byte.
pub(crate) fn secrets(noise: Option<u8>, classic: Option<u8>) -> falco_core::keys::Secrets {
    falco_core::keys::Secrets {
        noise: noise.map(key).into_iter().collect(),
        classic: classic.map(key),
        nonces: 4096,
        ..Default::default()
    }
}

/// Takes all pending output of a connection.
pub(crate) fn pending_output<R: Role, H: KeyRef<R>>(machine: &mut Connection<R, H>, now: Instant) -> Vec<u8> {
    let (mut all, mut out) = (Vec::new(), [0; falco_core::BufferSizes::TRANSMIT]);
    loop {
        let length = machine.poll_transmit(now, &mut out).unwrap();
        if length == 0 {
            return all;
        }
        all.extend_from_slice(&out[..length]);
    }
}

/// Asserts that a connection has ended with `end`, returns it from every call, and sends nothing.
pub(crate) fn assert_ended<R: Role, H: KeyRef<R>>(machine: &mut Connection<R, H>, now: Instant, end: ConnectionError) {
    for _ in 0..2 {
        assert_eq!(machine.end(), Some(end));
        assert_eq!(machine.status(), falco_core::Status::Ended);
        assert_eq!(machine.poll_timeout(), None);
        assert_eq!(machine.handle_timeout(now), Err(end));
        assert_eq!(machine.end_of_stream(now, &[]), Err(end));
        assert!(matches!(machine.recv_bytes(now, &mut [0; 200]), Err(error) if error == end));
        assert_eq!(
            machine.poll_transmit(now, &mut [0; falco_core::BufferSizes::TRANSMIT]),
            Ok(0),
            "silence"
        );
        machine.close(now, falco_core::CloseReason::Done);
    }
}

/// A client and a server whose handshake is complete.
pub(crate) struct Ends<C: Crypto = RustCrypto> {
    pub(crate) client: ClientEnd<C>,
    pub(crate) server: ServerEnd<C>,
    /// What the client sent first.
    pub(crate) hello: Vec<u8>,
    /// The time of all calls that the methods make.
    pub(crate) now: Instant,
}

pub(crate) fn ends() -> Ends {
    ends_with(&handle(), &handle(), &Settings::new(), 1)
}

pub(crate) fn ends_with<C: Crypto>(ours: &Handle<C>, theirs: &Handle<C>, settings: &Settings, seed: u64) -> Ends<C> {
    let (mut client, mut server) = (client(ours, settings, seed), server(theirs, settings, seed));
    let now = Instant::ZERO;
    let hello = pending_output(&mut client, now);
    let consumed = hello.len();
    let established = (consumed, Received::Event(ServerEvent::Established));
    assert_eq!(server.recv_bytes(now, &mut hello.clone()), Ok(established));
    let mut accept = pending_output(&mut server, now);
    let established = (1, Received::Event(ClientEvent::Established));
    assert_eq!(client.recv_bytes(now, &mut accept), Ok(established));
    Ends {
        client,
        server,
        hello,
        now,
    }
}

impl<C: Crypto> Ends<C> {
    /// Seals a request.
    pub(crate) fn request(&mut self, body: &[u8]) -> Vec<u8> {
        let mut message = self.client.request(body.len()).unwrap();
        let mut out = vec![0; self.client.seal_size(body.len())];
        let length = self.client.seal(self.now, [(&mut message, body)], &mut out).unwrap();
        assert!(message.is_done());
        out.truncate(length);
        out
    }

    /// Passes a request to the server.
    pub(crate) fn receive_request(&mut self, bytes: &[u8]) -> (RequestId, Vec<u8>) {
        let (mut bytes, length) = (bytes.to_vec(), bytes.len());
        match self.server.recv_bytes(self.now, &mut bytes) {
            Ok((consumed, Received::Event(ServerEvent::Request { id, body }))) if consumed == length => {
                (id, body.to_vec())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Seals an answer.
    pub(crate) fn answer(&mut self, id: RequestId, body: &[u8]) -> Vec<u8> {
        let mut message = self.server.answer(id, body.len()).unwrap();
        let mut out = vec![0; self.server.seal_size(body.len())];
        let length = self.server.seal(self.now, [(&mut message, body)], &mut out).unwrap();
        assert!(message.is_done());
        out.truncate(length);
        out
    }

    /// Passes an answer to the client.
    pub(crate) fn receive_answer(&mut self, bytes: &[u8]) -> (RequestId, Vec<u8>) {
        let (mut bytes, length) = (bytes.to_vec(), bytes.len());
        match self.client.recv_bytes(self.now, &mut bytes) {
            Ok((consumed, Received::Event(ClientEvent::Answer { id, body }))) if consumed == length => {
                (id, body.to_vec())
            }
            other => panic!("{other:?}"),
        }
    }
}

/// A generator that returns these bytes and then fails.
pub(crate) struct Script(pub(crate) Vec<u8>);

/// There are no more bytes.
#[derive(Debug)]
pub(crate) struct ScriptEnd;

impl core::fmt::Display for ScriptEnd {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the script has ended")
    }
}

impl core::error::Error for ScriptEnd {}

impl rand_core::TryRng for Script {
    type Error = ScriptEnd;

    fn try_next_u32(&mut self) -> Result<u32, ScriptEnd> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, ScriptEnd> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), ScriptEnd> {
        if self.0.len() < bytes.len() {
            return Err(ScriptEnd);
        }
        let rest = self.0.split_off(bytes.len());
        bytes.copy_from_slice(&core::mem::replace(&mut self.0, rest));
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Script {}

/// A pair with `count` unanswered requests, whose bodies are `1`, `2` and so on.
pub(crate) fn asked(count: u8) -> (Ends, Vec<RequestId>) {
    let mut both = ends();
    let requests: Vec<_> = (1..=count).map(|number| both.request(&[number])).collect();
    let ids = requests.iter().map(|request| both.receive_request(request).0).collect();
    (both, ids)
}
