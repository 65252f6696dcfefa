//! Recorded sessions with open bodies, which a connection of either role reads, and whose records
//! it writes, byte for byte. The sessions have some records that these connections do not write;
//! there the test says what else the protocol allows, and compares all frames in their order. The
//! bytes of all records are also checked with those of the other sessions.

use std::borrow::ToOwned;
use std::collections::VecDeque;
use std::string::String;
use std::vec::Vec;

use serde_json::Value;
use zeroize::Zeroizing;

use super::{Client, Script, Server, bytes, key, records, streams};
use crate::noise::handshake::{Initiator, Outcome, Responder};
use crate::noise::record::{Direction, RekeyPeriod};
use crate::noise::{KeyRing, NoiseSecret};
use crate::testing::{RecvBytes, raw_frame};
use crate::{
    ClientConnection, CloseReason, Connection, Instant, KeyRef, Received, Refusal, RequestId, Role, RustCrypto,
    ServerConnection, Settings, Status, Unread,
};

const NOW: Instant = Instant::ZERO;

/// The frames of a record, in order.
fn frames(mut text: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while !text.is_empty() {
        let length = 7 + usize::from(u16::from_be_bytes([text[5], text[6]]));
        frames.push(text[..length].to_vec());
        text = &text[length..];
    }
    frames
}

/// One side of a session: a connection, the records of the peer that it has not read, and those
/// that it has to write.
struct Side<R: Role, H: KeyRef<R>> {
    machine: Connection<R, H>,
    theirs: VecDeque<Vec<u8>>,
    /// Their bytes and plaintexts.
    ours: VecDeque<(Vec<u8>, Vec<u8>)>,
    opening: Direction<<RustCrypto as crate::crypto::Crypto>::Aead>,
    out: Vec<u8>,
    ids: Vec<RequestId>,
}

impl<R: Role, H: KeyRef<R>> Side<R, H> {
    fn new(machine: Connection<R, H>, session: &Value, own: &str, key: &[u8; 32]) -> Self {
        let other = if own == "client" { "server" } else { "client" };
        Self {
            machine,
            theirs: records(session, other).map(|record| bytes(&record["bytes"])).collect(),
            ours: records(session, own)
                .map(|record| (bytes(&record["bytes"]), bytes(&record["plaintext"])))
                .collect(),
            opening: Direction::new(&RustCrypto, key, RekeyPeriod::WIRE),
            out: Vec::new(),
            ids: Vec::new(),
        }
    }

    /// Reads the peer's next record, and returns its events as text.
    fn read(&mut self) -> Vec<String>
    where
        for<'u> R::Event<'u>: RequestOf,
    {
        let (mut unread, mut events) = (self.theirs.pop_front().expect("a record"), Vec::new());
        while !unread.is_empty() {
            let mut start = 0;
            let received = self.machine.recv(NOW, Unread::new(&mut unread, &mut start));
            match received.expect("a valid session") {
                Received::Event(event) => {
                    self.ids.extend(event.id());
                    events.push(std::format!("{event:?}").replace("RequestId", ""));
                }
                Received::Skip => {}
                other => panic!("{other:?}"),
            }
            unread.drain(..start);
        }
        events.iter().map(|event| short(event)).collect()
    }

    /// Seals `body` and pending output.
    fn seal(&mut self, message: &mut R::Outgoing, body: &[u8]) {
        self.seal_all([(message, body)]);
    }

    fn seal_all<const N: usize>(&mut self, messages: [(&mut R::Outgoing, &[u8]); N]) {
        let mut out = std::vec![0; 4096];
        let sent = self.machine.seal(NOW, messages, &mut out).expect("it fits");
        self.out.extend_from_slice(&out[..sent]);
    }

    fn transmit(&mut self) {
        let mut out = std::vec![0; 4096];
        let sent = self.machine.poll_transmit(NOW, &mut out).expect("it fits");
        self.out.extend_from_slice(&out[..sent]);
    }

    /// Asserts that what was sealed is the next record of the session.
    fn assert_wrote(&mut self) {
        let (bytes, _) = self.ours.pop_front().expect("a record");
        assert_eq!(self.out, bytes);
        self.wrote();
    }

    /// Asserts that what was sealed has the frames of the next `count` records of the session, once
    /// `arrange` has made of these frames what a writer may send as well.
    fn assert_wrote_frames(&mut self, count: usize, arrange: impl FnOnce(&mut Vec<Vec<u8>>)) {
        let records = self.ours.drain(..count);
        let mut expected: Vec<_> = records.flat_map(|(_, text)| frames(&text)).collect();
        arrange(&mut expected);
        assert_eq!(self.wrote(), expected);
    }

    /// The frames of what was sealed.
    fn wrote(&mut self) -> Vec<Vec<u8>> {
        let mut wrote = Vec::new();
        while let Some(length) = self.out.first_chunk::<2>() {
            let length = usize::from(u16::from_be_bytes(*length));
            let (text, tag) = self.out[2..2 + length].split_last_chunk_mut().expect("a tag");
            self.opening.open(&RustCrypto, text, tag).expect("records in order");
            wrote.extend(frames(text));
            self.out.drain(..2 + length);
        }
        wrote
    }

    fn id(&self, number: u32) -> RequestId {
        *self.ids.iter().find(|id| id.number() == number).expect("it has begun")
    }
}

/// `Opened { id: RequestId { serial: 1, number: 2 }, body: 3 bytes }` as `Opened 2 3`.
fn short(event: &str) -> String {
    let name = event.split([' ', '{']).next().unwrap_or_default();
    let number = |after: &str| {
        let rest = event.split_once(after).map_or("", |(_, rest)| rest);
        rest.split([' ', ',']).next().unwrap_or_default().to_owned()
    };
    let last = if event.contains("last: true") { " last" } else { "" };
    std::format!("{name} {} {}{last}", number("number: "), number("body: "))
}

/// An event with its request.
trait RequestOf: core::fmt::Debug {
    fn id(&self) -> Option<RequestId>;
}

impl RequestOf for crate::ServerEvent<'_> {
    fn id(&self) -> Option<RequestId> {
        match self {
            Self::Request { id, .. } | Self::Opened { id, .. } | Self::Begin { id, .. } => Some(*id),
            _ => None,
        }
    }
}

impl RequestOf for crate::ClientEvent<'_> {
    fn id(&self) -> Option<RequestId> {
        None
    }
}

/// The keys of a session.
fn keys(session: &Value) -> Outcome {
    let secret = NoiseSecret::derive(key(session), &RustCrypto);
    let clear = super::super::key::clear(secret.id());
    let context = bytes(&session["context"]);
    let length = u16::try_from(context.len()).expect("it fits").to_be_bytes();
    let prologue = super::super::key::prologue(&clear, &length, &context);
    let mut hello = [0; 64];
    let ephemeral = Zeroizing::new(super::array(&session["client_ephemeral_private"]));
    let settings = bytes(&session["client_settings"]);
    Initiator::write(&RustCrypto, prologue, secret.psk(), &ephemeral, &settings, &mut hello).expect("it writes");
    let (_, responder) = Responder::read(&RustCrypto, prologue, secret.psk(), &mut hello).expect("it reads");
    let ephemeral = Zeroizing::new(super::array(&session["server_ephemeral_private"]));
    let settings = bytes(&session["server_settings"]);
    let mut welcome = [0; 64];
    responder
        .write(&RustCrypto, &ephemeral, &settings, &mut welcome)
        .expect("it writes")
}

#[test]
fn a_server_reads_sessions_with_open_bodies_and_writes_its_records_of_them() {
    for session in streams() {
        let ring = KeyRing::new(
            [Some(NoiseSecret::derive(key(&session), &RustCrypto))],
            &mut Script(Vec::new(), 0),
        );
        let ring = core::cell::RefCell::new(ring.expect("the script does not fail"));
        let server = Server::new(ring, bytes(&session["context"]), RustCrypto).expect("a short context");
        let mut entropy = Script(bytes(&session["server_ephemeral_private"]), 0);
        let settings = Settings::new().with_streams(64, 16);
        let machine = ServerConnection::new(&server, &settings, NOW, &mut entropy).expect("it does not fail");
        let mut side = Side::new(machine, &session, "server", &keys(&session).from_server);
        let mut hello = bytes(&session["hello"]);
        let consumed = hello.len();
        assert_eq!(side.machine.recv_bytes(NOW, &mut hello), Ok((consumed, Received::Skip)));
        side.transmit();
        assert_eq!(side.out, bytes(&session["welcome"]), "with the settings");
        side.out.clear();

        assert_eq!(side.read(), ["Established  "]);
        side.transmit();
        side.assert_wrote();
        assert_eq!(side.machine.peer_window(), 256 << 10);

        assert_eq!(side.read(), ["Opened 1 4"]);
        let mut answer = side.machine.open_answer(side.id(1)).expect("it takes open answers");
        side.seal(&mut answer, b"first");
        side.assert_wrote();
        assert_eq!(answer.take_sealed(), 5);
        assert_eq!(side.machine.sendable(side.id(1)), (256 << 10) - 5);
        assert_eq!(side.read(), ["Part 1 4", "Credit 1 "]);
        assert_eq!(side.machine.sendable(side.id(1)), 256 << 10);
        side.machine.credit(side.id(1), 8, true).expect("it is open");
        side.seal(&mut answer, b"second");
        side.assert_wrote();
        answer.take_sealed();
        assert_eq!(side.read(), ["Part 1 0 last"]);
        answer.finish();
        side.seal(&mut answer, b"third");
        side.assert_wrote();
        assert!(answer.is_done() && side.machine.in_flight() == 0);

        assert_eq!(side.read(), ["Opened 2 0"]);
        let mut answer = side.machine.answer(side.id(2), 6).expect("it waits");
        side.seal(&mut answer, b"enough");
        side.assert_wrote();
        assert_eq!(side.read(), ["Request 3 4"]);
        let mut answer = side.machine.open_answer(side.id(3)).expect("it waits");
        side.seal(&mut answer, b"line 1\n");
        // The session has a CREDIT for request 1 in front, which a client has to ignore. This side
        // sends none for a body that has ended.
        side.assert_wrote_frames(1, |frames| drop(frames.remove(0)));
        answer.take_sealed();
        assert_eq!(side.read(), ["Credit 3 ", "Cancelled 3 "]);
        side.seal(&mut answer, b"line 2\n");
        side.machine.refuse(side.id(3), Refusal::Cancelled).expect("it waits");
        side.transmit();
        // In two records, because this side writes a REFUSE in front of the parts of its record. So
        // the numbers of the records that follow differ, and with them their bytes.
        side.assert_wrote_frames(1, |_| {});

        assert_eq!(side.read(), ["Begin 4 5"]);
        assert_eq!(side.read(), ["Part 4 5 last"]);
        let mut answer = side.machine.open_answer(side.id(4)).expect("it waits");
        side.seal(&mut answer, b"");
        side.assert_wrote_frames(1, |_| {});
        answer.finish();
        side.seal(&mut answer, b"");
        side.assert_wrote_frames(1, |_| {});
        assert_eq!(side.read(), ["Closing  "]);
        side.transmit();
        side.assert_wrote_frames(1, |_| {});
        assert_eq!((side.machine.status(), side.ours.len()), (Status::Ended, 0));
    }
}

#[test]
fn a_client_writes_its_records_of_sessions_with_open_bodies_and_reads_them() {
    for session in streams() {
        let client = Client::new(key(&session), bytes(&session["context"]), RustCrypto).expect("a short context");
        let first = bytes(&records(&session, "client").next().expect("a PING")["plaintext"]);
        // The ephemeral key, then the connection's serial, then the eight bytes of its first ping.
        let script = [
            &bytes(&session["client_ephemeral_private"])[..],
            &[0, 0, 0, 9],
            &first[7..],
        ];
        let settings = Settings::new().with_streams(256, 0);
        let machine = ClientConnection::new(&client, &settings, NOW, &mut Script(script.concat(), 0));
        let mut side = Side::new(
            machine.expect("it does not fail"),
            &session,
            "client",
            &keys(&session).from_client,
        );
        side.transmit();
        assert_eq!(side.out, bytes(&session["hello"]), "with the settings");
        side.out.clear();
        side.theirs.push_front(bytes(&session["welcome"]));
        assert_eq!(side.read(), ["Established  "]);
        side.transmit();
        side.assert_wrote();
        assert_eq!(
            (side.machine.peer_window(), side.machine.peer_max_open()),
            (64 << 10, 16)
        );
        assert_eq!(side.read(), ["Pong  "]);

        let mut one = side.machine.open_request().expect("it is established");
        side.seal(&mut one, b"head");
        side.assert_wrote();
        assert_eq!(one.take_sealed(), 4);
        let id = one.id().expect("it has begun");
        assert_eq!(side.machine.sendable(id), (64 << 10) - 4);
        assert_eq!(side.read(), ["Opened 1 5"]);
        side.machine.credit(id, 5, true).expect("it is open");
        side.seal(&mut one, b"more");
        // CREDIT goes in front of PARTs. The session has it behind, which a server has to read too.
        side.assert_wrote_frames(1, |frames| frames.reverse());
        one.take_sealed();
        assert_eq!(side.read(), ["Credit 1 ", "Part 1 6"]);
        assert_eq!(side.machine.sendable(id), 64 << 10);
        one.finish();
        side.seal(&mut one, b"");
        side.assert_wrote();
        assert!(one.is_done());
        assert_eq!(side.read(), ["Part 1 5", "Part 1 0 last"]);

        let mut two = side.machine.open_request().expect("it is established");
        side.seal(&mut two, b"");
        side.assert_wrote();
        // What this side sends before it has read the answer, which ends the request.
        let mut three = side.machine.request(4).expect("it is established");
        two.finish();
        side.seal_all([(&mut two, b"on its way"), (&mut three, b"tail")]);
        side.assert_wrote();
        assert_eq!(side.read(), ["Answer 2 6"]);
        assert_eq!(side.read(), ["Opened 3 7"], "the CREDIT has no effect");
        let id = three.id().expect("it has begun");
        side.machine.credit(id, 7, true).expect("it is open");
        side.transmit();
        side.machine.cancel(id).expect("it lives");
        side.transmit();
        // In two records, because a CREDIT that is pending for a cancelled request is dropped.
        side.assert_wrote_frames(1, |_| {});
        assert_eq!(side.read(), ["Part 3 7", "Refused 3 "]);

        // In one MESSAGE, because it fits one frame. The session has it in two. So the numbers of
        // the records that follow are those of the session again.
        let mut four = side.machine.request(10).expect("it is established");
        side.seal(&mut four, b"knowntotal");
        side.assert_wrote_frames(2, |frames| {
            let parts = [&frames[0][11..], &frames[1][7..]].concat();
            *frames = std::vec![raw_frame(1, 4, &parts)];
        });
        assert_eq!(side.read(), ["Opened 4 0"]);
        assert_eq!(side.read(), ["Part 4 0 last"]);
        side.machine.close(NOW, CloseReason::Done);
        side.transmit();
        side.assert_wrote();
        assert_eq!(side.read(), ["Closing  "]);
        assert_eq!((side.machine.status(), side.ours.len()), (Status::Ended, 0));
    }
}
