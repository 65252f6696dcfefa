//! A connection on the noise wire, and a peer that sends any record that a test wants.

use core::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use falco_core::noise::{HeapTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use falco_core::testing::{CountingRng, NoSecurity, RawHandshake, RawPeer, RecvBytes, key, raw_frame};
use falco_core::{
    BufferSizes, ClientConnection, Connection, ConnectionError, Instant, KeyRef, OutgoingAnswer, OutgoingRequest,
    Received, RequestId, Role, ServerConnection, Settings, Status, Unread,
};

pub(crate) const MESSAGE: u8 = 1;
pub(crate) const BEGIN: u8 = 2;
pub(crate) const PART: u8 = 3;
pub(crate) const REFUSE: u8 = 4;
pub(crate) const CANCEL: u8 = 5;
pub(crate) const PING: u8 = 6;
pub(crate) const PONG: u8 = 7;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const END: u8 = 9;
pub(crate) const CREDIT: u8 = 10;

/// The total of an open body.
pub(crate) const OPEN: u32 = u32::MAX;

/// Keys without security. What frames do does not depend on cryptography, and handshakes are fast.
pub(crate) type ServerKeys = NoiseServer<HeapTable, RefCell<KeyRing<[Option<NoiseSecret>; 1]>>, NoSecurity>;
pub(crate) type ClientKeys = NoiseClient<HeapTable, NoSecurity>;
pub(crate) type NoiseServerEnd = ServerConnection<Rc<ServerKeys>>;
pub(crate) type NoiseClientEnd = ClientConnection<Rc<ClientKeys>>;

pub(crate) use super::noise_event::{IntoNoiseEvent, NoiseEvent};

/// A frame that a connection sent: kind, id, body.
pub(crate) type Frame = (u8, u32, Vec<u8>);

/// A connection and its peer, after the handshake.
pub(crate) struct Rig<R: Role, H: KeyRef<R>> {
    pub(crate) machine: Connection<R, H>,
    pub(crate) raw: RawPeer<NoSecurity>,
    pub(crate) unread: Vec<u8>,
    pub(crate) now: Instant,
    /// Bytes that the connection sealed and the peer has not read.
    pub(crate) out: Vec<u8>,
    pub(crate) ids: HashMap<u32, RequestId>,
    /// Whether the connection returned `Wait`.
    pub(crate) stuck: bool,
}

pub(crate) type AtServer = Rig<falco_core::ServerSide, Rc<ServerKeys>>;
pub(crate) type AtClient = Rig<falco_core::ClientSide, Rc<ClientKeys>>;

pub(crate) fn server_keys() -> ServerKeys {
    let places = [Some(NoiseSecret::derive(key(7), &NoSecurity))];
    let ring = KeyRing::new(places, &mut CountingRng::new(0)).unwrap();
    NoiseServer::new(RefCell::new(ring), &[][..], NoSecurity).unwrap()
}

pub(crate) fn client_keys() -> ClientKeys {
    NoiseClient::new(key(7), &[][..], NoSecurity).unwrap()
}

pub(crate) fn noise_server_end(settings: &Settings, seed: u64) -> NoiseServerEnd {
    let mut rng = CountingRng::new(seed);
    ServerConnection::new(Rc::new(server_keys()), settings, Instant::ZERO, &mut rng).unwrap()
}

pub(crate) fn noise_client_end(settings: &Settings, seed: u64) -> NoiseClientEnd {
    let mut rng = CountingRng::new(!seed);
    ClientConnection::new(Rc::new(client_keys()), settings, Instant::ZERO, &mut rng).unwrap()
}

pub(crate) fn honest() -> RawHandshake<NoSecurity> {
    RawHandshake::new(NoSecurity, 7)
}

/// The PING that a client has to send first.
pub(crate) fn first_ping() -> Vec<u8> {
    raw_frame(PING, 0, b"eight by")
}

/// A server whose client has completed `handshake` and the first PING.
pub(crate) fn at_server_with(settings: &Settings, handshake: &RawHandshake<NoSecurity>) -> AtServer {
    let mut machine = noise_server_end(settings, 1);
    let mut hello = handshake.hello();
    let consumed = hello.len();
    assert_eq!(
        machine.recv_bytes(Instant::ZERO, &mut hello),
        Ok((consumed, Received::Skip))
    );
    let welcome = super::pending_output(&mut machine, Instant::ZERO);
    let raw = handshake.client(&welcome).expect("the welcome authenticates");
    let mut rig = Rig::new(machine, raw);
    assert_eq!(rig.receive(&first_ping()), [NoiseEvent::Established]);
    assert_eq!(rig.sent(), [(PONG, 0, b"eight by".to_vec())]);
    rig
}

pub(crate) fn at_server(settings: &Settings) -> AtServer {
    at_server_with(settings, &honest())
}

/// A client whose server has completed `handshake` and read the first PING.
pub(crate) fn at_client_with(settings: &Settings, handshake: &RawHandshake<NoSecurity>) -> AtClient {
    let mut machine = noise_client_end(settings, 1);
    let hello = super::pending_output(&mut machine, Instant::ZERO);
    let (welcome, raw) = handshake.server(&hello).expect("the hello authenticates");
    let mut rig = Rig::new(machine, raw);
    assert_eq!(rig.bytes(&welcome), [NoiseEvent::Established]);
    let said = rig.sent();
    assert!(matches!(said.as_slice(), [(PING, 0, body)] if body.len() == 8));
    rig
}

pub(crate) fn at_client(settings: &Settings) -> AtClient {
    at_client_with(settings, &honest())
}

/// A client with the requests 1 to `count` in flight, each of one byte.
pub(crate) fn asking(count: u32) -> AtClient {
    let mut rig = at_client(&Settings::new());
    for number in 1..=count {
        rig.request(b"?");
        assert_eq!(rig.sent(), [(MESSAGE, number, b"?".to_vec())]);
    }
    rig
}

impl<R: for<'u> Role<Event<'u>: IntoNoiseEvent>, H: KeyRef<R>> Rig<R, H> {
    pub(crate) fn new(machine: Connection<R, H>, raw: RawPeer<NoSecurity>) -> Self {
        Self {
            machine,
            raw,
            unread: Vec::new(),
            now: Instant::ZERO,
            out: Vec::new(),
            ids: HashMap::new(),
            stuck: false,
        }
    }

    /// Passes a record with these frames to the connection. Returns its events.
    pub(crate) fn receive(&mut self, frames: &[u8]) -> Vec<NoiseEvent> {
        let record = self.raw.seal(frames);
        self.bytes(&record)
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Vec<NoiseEvent> {
        self.unread.extend_from_slice(bytes);
        let mut all = Vec::new();
        while let Some(event) = self.next() {
            all.push(event);
        }
        all
    }

    /// The next event, if there is one.
    pub(crate) fn next(&mut self) -> Option<NoiseEvent> {
        loop {
            self.stuck = false;
            let mut consumed = 0;
            let unread = self.unread.len();
            let received = self
                .machine
                .recv(self.now, Unread::new(&mut self.unread, &mut consumed));
            let reported = match received {
                Ok(Received::NeedMore { total }) => {
                    assert!(total > unread, "{total} bytes are there");
                    return None;
                }
                Ok(Received::Wait(_)) => {
                    self.stuck = true;
                    return None;
                }
                Ok(Received::Skip) => None,
                Ok(Received::Event(event)) => {
                    let (reported, id) = event.into_noise_event();
                    self.ids.extend(id.map(|id| (id.number(), id)));
                    Some(reported)
                }
                Ok(other) => panic!("{other:?}"),
                Err(end) => {
                    assert_eq!(self.machine.end(), Some(end), "the end is remembered");
                    return None;
                }
            };
            assert!(consumed <= self.unread.len());
            self.unread.drain(..consumed);
            if reported.is_some() {
                return reported;
            }
        }
    }

    /// The frames of all pending output.
    pub(crate) fn sent(&mut self) -> Vec<Frame> {
        let mut out = [0; BufferSizes::TRANSMIT];
        loop {
            let length = self.machine.poll_transmit(self.now, &mut out).unwrap();
            if length == 0 {
                return self.opened();
            }
            self.out.extend_from_slice(&out[..length]);
        }
    }

    /// The frames of everything that was sealed.
    pub(crate) fn opened(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while !self.out.is_empty() {
            let text = self.raw.open(&mut self.out).expect("whole records, in order");
            frames.extend(split_frames(&text));
        }
        frames
    }

    /// Asserts that the connection has ended with `end`, returns it from every call, and sends
    /// nothing.
    pub(crate) fn assert_ended(&mut self, end: ConnectionError) {
        assert_eq!(self.machine.status(), Status::Ended);
        super::assert_ended(&mut self.machine, self.now, end);
    }
}

pub(crate) fn split_frames(mut text: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    while !text.is_empty() {
        let id = u32::from_be_bytes(text[1..5].try_into().unwrap());
        let length = usize::from(u16::from_be_bytes([text[5], text[6]]));
        frames.push((text[0], id, text[7..7 + length].to_vec()));
        text = &text[7 + length..];
    }
    frames
}

impl AtServer {
    /// Seals an answer into `out`.
    pub(crate) fn answer(&mut self, number: u32, body: &[u8]) {
        let mut message = self.machine.answer(self.ids[&number], body.len()).unwrap();
        while !message.is_done() {
            assert!(self.seal_answer(&mut message, body) > 0, "something goes at each call");
        }
    }

    pub(crate) fn seal_answer(&mut self, message: &mut OutgoingAnswer, body: &[u8]) -> usize {
        let mut out = vec![0; self.machine.seal_size(body.len())];
        let length = self.machine.seal(self.now, [(message, body)], &mut out).unwrap();
        self.out.extend_from_slice(&out[..length]);
        length
    }
}

impl AtClient {
    /// Seals a request into `out`.
    pub(crate) fn request(&mut self, body: &[u8]) {
        let mut message = self.machine.request(body.len()).unwrap();
        while !message.is_done() {
            assert!(self.seal_request(&mut message, body) > 0, "something goes at each call");
        }
        let id = message.id().unwrap();
        self.ids.insert(id.number(), id);
    }

    pub(crate) fn seal_request(&mut self, message: &mut OutgoingRequest, body: &[u8]) -> usize {
        let mut out = vec![0; self.machine.seal_size(body.len())];
        let length = self.machine.seal(self.now, [(message, body)], &mut out).unwrap();
        self.out.extend_from_slice(&out[..length]);
        length
    }
}

/// The body of a BEGIN.
pub(crate) fn begin(total: u32, part: &[u8]) -> Vec<u8> {
    [&total.to_be_bytes(), part].concat()
}
