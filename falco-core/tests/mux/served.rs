//! A server's mux, and a client that sends exactly the frames that a test chooses.

use std::collections::HashMap;

use falco_core::mux::{Budget, ServerMux, ServerStep};
use falco_core::noise::{HeapTable, KeyRing, NoiseSecret, NoiseServer};
use falco_core::testing::{CountingRng, NoSecurity, RawHandshake, RawPeer, RecvBytes, key, raw_frame};
use falco_core::{Instant, RequestId, ServerConnection, Settings, Unread};

pub(crate) const MESSAGE: u8 = 1;
pub(crate) const BEGIN: u8 = 2;
pub(crate) const PART: u8 = 3;
pub(crate) const REFUSE: u8 = 4;
pub(crate) const CANCEL: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const PONG: u8 = 7;

pub(crate) type Keys = NoiseServer<HeapTable, KeyRing<[Option<NoiseSecret>; 1]>, NoSecurity>;

pub(crate) fn keys() -> Keys {
    let places = [Some(NoiseSecret::derive(key(7), &NoSecurity))];
    let ring = KeyRing::new(places, &mut CountingRng::new(0)).unwrap();
    NoiseServer::new(ring, &[][..], NoSecurity).unwrap()
}

pub(crate) struct Served<'k, G: Budget> {
    pub(crate) mux: ServerMux<&'k Keys, Vec<u8>, G>,
    pub(crate) raw: RawPeer<NoSecurity>,
    pub(crate) now: Instant,
    /// Bytes of the client that the mux has not taken.
    unread: Vec<u8>,
    /// What was sealed and not opened.
    sent: Vec<u8>,
    /// The requests that have reached a handler.
    pub(crate) ids: HashMap<u32, RequestId>,
}

impl<'k, G: Budget> Served<'k, G> {
    /// Established, with nothing to send.
    pub(crate) fn new(keys: &'k Keys, settings: &Settings, budget: G) -> Self {
        let mut served = Self::greeting(keys, settings, budget);
        assert_eq!(served.sealed(1_000), [(PONG, 0, 8)]);
        served.mux.flushed();
        served
    }

    /// Established. The answer to the first PING is not sealed.
    pub(crate) fn greeting(keys: &'k Keys, settings: &Settings, budget: G) -> Self {
        let now = Instant::ZERO;
        let machine = ServerConnection::new(keys, settings, now, &mut CountingRng::new(1)).unwrap();
        let mut mux = ServerMux::new(machine, budget, settings);
        let handshake = RawHandshake::new(NoSecurity, 7);
        let mut hello = handshake.hello();
        assert!(matches!(
            mux.recv_bytes(now, &mut hello),
            Ok((_, ServerStep::Hello { .. }))
        ));
        let mut out = [0; 100];
        let welcome = mux.seal(now, &mut out).unwrap();
        let mut raw = handshake.client(&out[..welcome]).unwrap();
        let mut first = raw.seal(&raw_frame(PING, 0, &[1; 8]));
        assert!(matches!(
            mux.recv_bytes(now, &mut first),
            Ok((_, ServerStep::Established))
        ));
        Self {
            mux,
            raw,
            now,
            unread: Vec::new(),
            sent: Vec::new(),
            ids: HashMap::new(),
        }
    }

    /// The client sends these frames in one record. Returns the requests that reach a handler.
    pub(crate) fn receive(&mut self, frames: &[u8]) -> Vec<u32> {
        let record = self.raw.seal(frames);
        self.unread.extend(record);
        self.requests()
    }

    /// The requests that reach a handler now.
    pub(crate) fn requests(&mut self) -> Vec<u32> {
        let mut requests = Vec::new();
        loop {
            let mut consumed = 0;
            let unread = Unread::new(&mut self.unread, &mut consumed);
            match self.mux.recv(self.now, unread).unwrap() {
                ServerStep::Request { id, .. } => {
                    requests.push(id.number());
                    self.ids.insert(id.number(), id);
                }
                ServerStep::Skip | ServerStep::Cancelled { .. } => {}
                ServerStep::NeedMore { .. }
                | ServerStep::TransmitFirst
                | ServerStep::AnswerFirst
                | ServerStep::Hello { .. }
                | ServerStep::Established
                | ServerStep::Closing { .. }
                | _ => return requests,
            }
            self.unread.drain(..consumed);
        }
    }

    /// The handler of a request answers with `length` bytes.
    pub(crate) fn answer(&mut self, number: u32, length: usize) {
        self.mux.answer(self.ids[&number], vec![7; length]).unwrap();
    }

    /// Seals once, into an output of `size` bytes. Returns how many bytes were sealed.
    pub(crate) fn seal(&mut self, size: usize) -> usize {
        let mut out = vec![0; size];
        let count = self.mux.seal(self.now, &mut out).unwrap();
        self.sent.extend_from_slice(&out[..count]);
        count
    }

    /// Seals once. Returns the frames: kind, number, bytes of the body.
    pub(crate) fn sealed(&mut self, size: usize) -> Vec<(u8, u32, usize)> {
        self.seal(size);
        let mut sealed = Vec::new();
        while let Some(frames) = self.raw.open(&mut self.sent) {
            let mut rest = &frames[..];
            while let [kind, a, b, c, d, high, low, ..] = *rest {
                let length = usize::from(u16::from_be_bytes([high, low]));
                sealed.push((kind, u32::from_be_bytes([a, b, c, d]), length));
                rest = &rest[7 + length..];
            }
        }
        sealed
    }

    /// Seals until nothing is left.
    pub(crate) fn drain(&mut self) {
        while self.seal(100_000) > 0 {}
    }
}
