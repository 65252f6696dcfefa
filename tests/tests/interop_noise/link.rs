//! The noise wire once more, on the crate snow alone: key derivation, hello and welcome, records,
//! rekey. What frames mean is elsewhere.

use core::time::Duration;
use std::collections::VecDeque;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use snow::{Builder, TransportState};

use super::Options;
use super::pipe::{Came, Pipe};

const NAME: &str = "Noise_NNpsk0_25519_AESGCM_SHA256";
/// Bytes of a tag.
const TAG: usize = 16;
/// Bytes of a frame besides its body.
pub(super) const HEAD: usize = 7;

/// The kinds of frames.
pub(super) mod kind {
    pub(in super::super) const MESSAGE: u8 = 1;
    pub(in super::super) const BEGIN: u8 = 2;
    pub(in super::super) const PART: u8 = 3;
    pub(in super::super) const REFUSE: u8 = 4;
    pub(in super::super) const CANCEL: u8 = 5;
    pub(in super::super) const PING: u8 = 6;
    pub(in super::super) const PONG: u8 = 7;
    pub(in super::super) const CLOSE: u8 = 8;
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) id: u32,
    pub(super) body: Vec<u8>,
}

impl Frame {
    pub(super) fn new(kind: u8, id: u32, body: &[u8]) -> Self {
        let body = body.to_vec();
        Self { kind, id, body }
    }
}

/// The result of waiting for a frame.
#[derive(Debug)]
pub(super) enum Next {
    Frame(Frame),
    /// The time is over.
    Nothing,
    /// The stream is, between two records.
    End,
}

/// An established connection.
pub(super) struct Link {
    pub(super) pipe: Pipe,
    unread: Vec<u8>,
    noise: TransportState,
    /// Frames of the last record that have not been looked at.
    opened: VecDeque<Frame>,
    period: u64,
    /// The longest record that the other side reads, and that this one does.
    their_max: usize,
    our_max: usize,
    pub(super) sent: u64,
    pub(super) received: u64,
}

fn hmac(secret: &[u8; 32], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length is a key");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn clear(options: &Options) -> Vec<u8> {
    let id = hmac(&options.named, b"FalcoTCP-noise/1 key id");
    [0x4E, 0x01].into_iter().chain(id.into_iter().take(8)).collect()
}

fn prologue(clear: &[u8], context: &str) -> Vec<u8> {
    let length = u16::try_from(context.len()).expect("a short context");
    [b"FalcoTCP-noise/1", clear, &length.to_be_bytes(), context.as_bytes()].concat()
}

fn settings(options: &Options) -> Vec<u8> {
    let mut settings = options.max_record.to_be_bytes().to_vec();
    settings.extend(options.max_in_flight.to_be_bytes());
    settings.extend(options.max_message.to_be_bytes());
    settings.extend(60_000_u32.to_be_bytes());
    settings.extend([0; 4]);
    settings
}

impl Link {
    /// Sends the hello and reads the welcome. The error is the reason for a failure.
    pub(super) fn call(mut pipe: Pipe, options: &Options) -> Result<Self, String> {
        let psk = hmac(&options.secret, b"FalcoTCP-noise/1 psk");
        let clear = clear(options);
        let prologue = prologue(&clear, options.context);
        let mut noise = builder()
            .psk(0, &psk)
            .and_then(|builder| builder.prologue(&prologue))
            .and_then(Builder::build_initiator)
            .expect("the pattern takes them");
        let mut message = [0; 64];
        let written = noise
            .write_message(&settings(options), &mut message)
            .expect("it is the first message");
        assert_eq!(written, message.len());
        pipe.send(&[&clear[..], &message].concat());
        let mut unread = Vec::new();
        let welcome = pipe.read_exactly(64, &mut unread);
        if welcome.is_empty() {
            return Err("in silence".to_owned());
        }
        let mut theirs = [0; 64];
        let read = noise.read_message(&welcome, &mut theirs);
        let Ok(16) = read else {
            return Err(format!("{read:?} of a welcome of {} bytes", welcome.len()));
        };
        let noise = noise.into_transport_mode().expect("two messages are all");
        Ok(Self::new(pipe, unread, noise, theirs, options))
    }

    /// Reads the hello and sends the welcome. The error is the reason for a failure; then no byte
    /// was sent.
    pub(super) fn accept(mut pipe: Pipe, options: &Options) -> Result<Self, String> {
        let psk = hmac(&options.secret, b"FalcoTCP-noise/1 psk");
        let mut unread = Vec::new();
        let hello = pipe.read_exactly(74, &mut unread);
        let Some((head, message)) = hello.split_at_checked(10) else {
            return Err(format!("a hello of {} bytes", hello.len()));
        };
        if head != clear(options) {
            return Err("another wire, version or key id".to_owned());
        }
        let prologue = prologue(head, options.context);
        let mut noise = builder()
            .psk(0, &psk)
            .and_then(|builder| builder.prologue(&prologue))
            .and_then(Builder::build_responder)
            .expect("the pattern takes them");
        let mut theirs = [0; 64];
        let read = noise.read_message(message, &mut theirs);
        let Ok(16) = read else {
            return Err(format!("{read:?}"));
        };
        let mut welcome = [0; 64];
        let written = noise
            .write_message(&settings(options), &mut welcome)
            .expect("it is the second message");
        assert_eq!(written, welcome.len());
        pipe.send(&welcome);
        let noise = noise.into_transport_mode().expect("two messages are all");
        Ok(Self::new(pipe, unread, noise, theirs, options))
    }

    fn new(pipe: Pipe, unread: Vec<u8>, noise: TransportState, theirs: [u8; 64], options: &Options) -> Self {
        let [a, b, ..] = theirs;
        Self {
            pipe,
            unread,
            noise,
            opened: VecDeque::new(),
            period: options.rekey_period,
            their_max: u16::from_be_bytes([a, b]).into(),
            our_max: options.max_record.into(),
            sent: 0,
            received: 0,
        }
    }

    /// The longest body that the other side reads in one frame.
    pub(super) const fn longest_body(&self) -> usize {
        self.their_max - TAG - HEAD
    }

    /// Sends frames, as many to a record as it holds.
    pub(super) fn send(&mut self, frames: &[Frame]) {
        let mut record = Vec::new();
        for frame in frames {
            let length = u16::try_from(frame.body.len()).expect("a body that fits a frame");
            if record.len() + HEAD + frame.body.len() + TAG > self.their_max {
                self.send_record(&core::mem::take(&mut record));
            }
            record.push(frame.kind);
            record.extend(frame.id.to_be_bytes());
            record.extend(length.to_be_bytes());
            record.extend_from_slice(&frame.body);
        }
        self.send_record(&record);
    }

    fn send_record(&mut self, frames: &[u8]) {
        let mut sealed = vec![0; frames.len() + TAG];
        let length = self
            .noise
            .write_message(frames, &mut sealed)
            .expect("it is no longer than a message");
        let length = u16::try_from(length).expect("as long as the other side reads");
        self.pipe.send(&[&length.to_be_bytes()[..], &sealed].concat());
        self.sent += 1;
        if self.sent.is_multiple_of(self.period) {
            self.noise.rekey_outgoing();
        }
    }

    /// Whether all frames of the last record have been looked at.
    pub(super) fn is_between_records(&self) -> bool {
        self.opened.is_empty()
    }

    /// The next frame, waiting no longer than `patience` for bytes.
    pub(super) fn next(&mut self, patience: Duration) -> Next {
        loop {
            if let Some(frame) = self.opened.pop_front() {
                return Next::Frame(frame);
            }
            if let Some(record) = self.whole_record() {
                self.open(&record);
                continue;
            }
            match self.pipe.read(patience) {
                Came::Bytes(bytes) => self.unread.extend(bytes),
                Came::Nothing => return Next::Nothing,
                Came::End => {
                    assert!(self.unread.is_empty(), "the stream ends within a record");
                    return Next::End;
                }
            }
        }
    }

    fn whole_record(&mut self) -> Option<Vec<u8>> {
        let length = usize::from(u16::from_be_bytes(*self.unread.first_chunk()?));
        assert!((23..=self.our_max).contains(&length), "a record of {length} bytes");
        (self.unread.len() >= 2 + length).then(|| self.unread.drain(..2 + length).skip(2).collect())
    }

    fn open(&mut self, record: &[u8]) {
        let mut text = vec![0; record.len()];
        let length = self
            .noise
            .read_message(record, &mut text)
            .unwrap_or_else(|error| panic!("record {}: {error}", self.received));
        self.received += 1;
        if self.received.is_multiple_of(self.period) {
            self.noise.rekey_incoming();
        }
        let mut rest = text.get(..length).expect("no longer than the record");
        assert!(!rest.is_empty(), "a record holds a frame");
        while let [kind, a, b, c, d, e, f, bodies @ ..] = rest {
            let (body, next) = bodies
                .split_at_checked(u16::from_be_bytes([*e, *f]).into())
                .expect("each frame is whole within its record");
            let id = u32::from_be_bytes([*a, *b, *c, *d]);
            self.opened.push_back(Frame::new(*kind, id, body));
            rest = next;
        }
        assert!(rest.is_empty(), "{} bytes after the last frame", rest.len());
    }

    /// Shuts down the sending half and reads to the end.
    pub(super) fn finish(&mut self) {
        self.pipe.end_sending();
        let next = self.next(super::PATIENCE);
        assert!(matches!(next, Next::End), "after the last word came {next:?}");
    }
}

fn builder<'b>() -> Builder<'b> {
    Builder::new(NAME.parse().expect("snow knows the pattern"))
}
