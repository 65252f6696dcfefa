//! A connection of the noise wire without security, and its peer, which can seal any record.
//! Invariants of both are checked after each step.

use core::cell::RefCell;
use core::time::Duration;
use std::vec::Vec;

use super::Input;
use crate::noise::{HeapTable, KeyRing, NoiseClient, NoiseSecret, NoiseServer};
use crate::testing::{CountingRng, NoSecurity, RawHandshake, RawPeer, key, raw_frame, raw_settings};
use crate::{BufferSizes, Connection, ConnectionError, Instant, KeyRef, Received, RecvBuf, Role, Settings};

pub(super) const MAX_MESSAGE: u32 = 100;
pub(super) const MAX_IN_FLIGHT: u16 = 3;
pub(super) const MAX_HELD: u32 = 150;
/// The largest record that both sides read.
pub(super) const MAX_RECORD: u16 = 200;

pub(super) type ServerKeys = NoiseServer<HeapTable, RefCell<KeyRing<[Option<NoiseSecret>; 1]>>, NoSecurity>;
pub(super) type ClientKeys = NoiseClient<HeapTable, NoSecurity>;

pub(super) fn no_security_client() -> ClientKeys {
    NoiseClient::new(key(1), &[][..], NoSecurity).expect("an empty context is not too long")
}

pub(super) fn no_security_server() -> ServerKeys {
    let ring = KeyRing::new(
        [Some(NoiseSecret::derive(key(1), &NoSecurity))],
        &mut CountingRng::new(0),
    );
    let ring = RefCell::new(ring.expect("one key is no duplicate"));
    NoiseServer::new(ring, &[][..], NoSecurity).expect("an empty context is not too long")
}

pub(super) fn settings() -> Settings {
    let settings = Settings::new().with_max_message(MAX_MESSAGE).with_max_held(MAX_HELD);
    settings
        .with_max_in_flight(MAX_IN_FLIGHT)
        .and_then(|settings| settings.with_max_record(MAX_RECORD))
        .expect("both are in range")
}

/// The peer's part of the handshake.
pub(super) fn handshake() -> RawHandshake<NoSecurity> {
    let mut handshake = RawHandshake::new(NoSecurity, 1);
    handshake.settings = raw_settings(MAX_RECORD, MAX_IN_FLIGHT, 500, 60_000);
    handshake
}

/// The bytes of all bodies.
pub(super) const BODY: [u8; 300] = [5; 300];

/// A frame that the connection sent: kind, id, body.
pub(super) type Frame = (u8, u32, Vec<u8>);

pub(super) struct Attacked<R: Role, H: KeyRef<R>> {
    pub(super) machine: Connection<R, H>,
    pub(super) now: Instant,
    /// Whether all events were returned, so that the caller's state agrees with that of the
    /// connection.
    pub(super) told_all: bool,
    raw: RawPeer<NoSecurity>,
    inbox: RecvBuf<[u8; 1024]>,
    out: Vec<u8>,
    end: Option<ConnectionError>,
    latest_deadline: Instant,
    /// Whether a deadline may become earlier, because the side has paused reading or sends PINGs
    /// itself.
    pub(super) deadlines_move: bool,
    closed: bool,
}

impl<R: Role, H: KeyRef<R>> Attacked<R, H> {
    pub(super) fn new(machine: Connection<R, H>, raw: RawPeer<NoSecurity>) -> Self {
        Self {
            machine,
            now: Instant::ZERO,
            told_all: true,
            raw,
            inbox: RecvBuf::new([0; 1024]),
            out: Vec::new(),
            end: None,
            latest_deadline: Instant::ZERO,
            deadlines_move: false,
            closed: false,
        }
    }

    /// Adds `bytes` to the unread bytes, if there is room for all of them.
    pub(super) fn arrive(&mut self, mut bytes: &[u8]) {
        if self.inbox.len() + bytes.len() > 1024 {
            return;
        }
        while !bytes.is_empty() {
            let wanted = self.inbox.len() + bytes.len();
            let space = self.inbox.space(wanted).expect("there is room");
            let (now, later) = bytes.split_at(bytes.len().min(space.len()));
            space.split_at_mut(now.len()).0.copy_from_slice(now);
            self.inbox.filled(now.len());
            bytes = later;
        }
    }

    /// Adds a valid record to the unread bytes, with frames of a client that the fuzzer chooses.
    /// Most requests have an id above `next`, which is then raised to that id.
    pub(super) fn arrive_record(&mut self, input: &mut Input<'_>, next: &mut u32) {
        self.arrive_frames(input, next, true);
    }

    /// Adds a valid record to the unread bytes, with frames of a server that the fuzzer chooses.
    /// Their ids go up to `last` and a little beyond.
    pub(super) fn arrive_answers(&mut self, input: &mut Input<'_>, last: u32) {
        self.arrive_frames(input, &mut { last }, false);
    }

    fn arrive_frames(&mut self, input: &mut Input<'_>, next: &mut u32, rising: bool) {
        let mut frames = Vec::new();
        for _ in 0..=input.index(5) {
            let (kind, choice, length) = (input.byte(), input.byte(), input.index(60));
            let kind = if kind < 200 { 1 + kind % 8 } else { kind };
            let id = match (kind, choice) {
                (6 | 7, 0..250) => 0,
                (1 | 2, 0..200) if rising => {
                    *next += 1 + u32::from(choice) / 100;
                    *next
                }
                _ => u32::from(choice) % (*next + 3),
            };
            if rising && matches!(kind, 1 | 2) {
                *next = id.max(*next);
            }
            let filler = std::vec![choice; length];
            let body = match (kind, choice) {
                (2, _) => [&u32::from(choice).to_be_bytes()[..], &filler].concat(),
                (4 | 8, 0..250) => std::vec![choice % 8],
                (5, 0..250) => Vec::new(),
                (6 | 7, 0..250) => std::vec![choice; 8],
                _ => filler,
            };
            let frame = raw_frame(kind, id, &body);
            if frames.len() + frame.len() + 16 <= usize::from(MAX_RECORD) {
                frames.extend(frame);
            }
        }
        if !frames.is_empty() {
            self.arrive_sealed(&frames);
        }
    }

    /// Adds a record with these frames to the unread bytes, if there is room.
    pub(super) fn arrive_sealed(&mut self, frames: &[u8]) {
        if self.inbox.len() + frames.len() + 18 <= 1024 {
            let record = self.raw.seal(frames);
            self.arrive(&record);
        }
    }

    pub(super) fn wait(&mut self, input: &mut Input<'_>) {
        let millis = u64::from(input.byte()) * u64::from(input.byte());
        self.now = self.now + Duration::from_millis(millis);
        let _ = self.machine.handle_timeout(self.now);
    }

    pub(super) fn end_of_stream(&mut self) {
        let _ = self.machine.end_of_stream(self.now, &self.inbox.unread());
    }

    pub(super) fn set_reading(&mut self, reading: bool) {
        self.deadlines_move = true;
        self.machine.set_reading(self.now, reading);
    }

    /// Receives up to `count` events.
    pub(super) fn take_events(&mut self, count: usize, mut note: impl FnMut(R::Event<'_>)) {
        let mut taken = 0;
        self.told_all = false;
        while taken < count {
            let held = self.inbox.len();
            let ended = self.end.is_some();
            match self.machine.recv(self.now, self.inbox.unread()) {
                Ok(Received::Event(event)) => {
                    assert!(!ended, "an event after the end");
                    note(event);
                    assert!(self.inbox.len() <= held, "an event consumes bytes that exist");
                    taken += 1;
                }
                Ok(Received::Skip) => assert!(self.inbox.len() < held, "a skip consumes bytes"),
                Ok(Received::NeedMore { total }) => {
                    let longest = usize::from(MAX_RECORD) + 2;
                    assert!(total > held && total <= longest, "{total} bytes needed, {held} present");
                    self.told_all = true;
                    break;
                }
                Ok(Received::Wait(wait)) => {
                    let wait = std::format!("{wait:?}");
                    assert_eq!(wait, "TransmitFirst", "nothing on this wire waits for answers");
                    break;
                }
                Err(end) => {
                    assert_eq!(self.machine.end(), Some(end), "the end is remembered");
                    break;
                }
            }
        }
        assert!(
            self.end.is_none() || self.machine.end() == self.end,
            "the end does not change"
        );
        self.end = self.machine.end();
        match self.machine.poll_timeout() {
            Some(deadline) => {
                assert!(self.end.is_none(), "nothing is due after the end");
                assert!(
                    self.deadlines_move || deadline >= self.latest_deadline,
                    "a deadline went backwards"
                );
                self.latest_deadline = deadline;
            }
            None => assert!(self.end.is_some(), "a connection that lives has a deadline"),
        }
    }

    pub(super) fn transmit(&mut self) {
        let mut out = [0; BufferSizes::TRANSMIT];
        let ended = self.machine.end().is_some();
        let length = self
            .machine
            .poll_transmit(self.now, &mut out)
            .expect("BufferSizes::TRANSMIT bytes are enough");
        self.sent(out.split_at(length).0, ended);
    }

    /// Notes what is sent, and checks that a connection that has ended sends at most one CLOSE.
    pub(super) fn sent(&mut self, bytes: &[u8], ended: bool) {
        assert!(!ended || bytes.len() <= 26, "after the end only a CLOSE is sent");
        self.out.extend_from_slice(bytes);
    }

    /// The frames that were sent since the last call. Checks that each record authenticates and is
    /// small enough for the peer.
    pub(super) fn said(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(length) = self.out.first_chunk::<2>() {
            let length = u16::from_be_bytes(*length);
            assert!((23..=MAX_RECORD).contains(&length), "a record of {length} bytes");
            let text = self.raw.open(&mut self.out).expect("complete records in order");
            let mut rest = text.as_slice();
            while let Some((&[kind, a, b, c, d, e, f], behind)) = rest.split_first_chunk() {
                let (body, behind) = behind.split_at(u16::from_be_bytes([e, f]).into());
                assert!(!self.closed || kind != 8, "a second CLOSE");
                self.closed |= kind == 8;
                frames.push((kind, u32::from_be_bytes([a, b, c, d]), body.to_vec()));
                rest = behind;
            }
            assert!(rest.is_empty(), "the frames have the length of their record");
        }
        frames
    }
}
