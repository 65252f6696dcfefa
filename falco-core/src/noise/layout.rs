//! The layout of bytes on the noise wire. Pure functions without cryptography and state. Integers
//! are big-endian.
#![expect(clippy::many_single_char_names, reason = "bytes in their order")]

use crate::crypto::TAG_LENGTH;
pub(super) use crate::message::KEY_ID_LENGTH as KEY_ID;
use crate::noise::handshake::MESSAGE_OVERHEAD;
use crate::settings::Settings;

/// The first byte of the wire, and its version.
pub(super) const WIRE: [u8; 2] = [0x4E, 0x01];
/// Bytes of the clear part of a hello: wire, version, key id.
pub(super) const CLEAR: usize = WIRE.len() + KEY_ID;
const SETTINGS: usize = 16;
/// Bytes in a hello: 74.
pub(crate) const HELLO_LENGTH: usize = CLEAR + MESSAGE_OVERHEAD + SETTINGS;
/// Bytes in a welcome: 64.
pub(crate) const WELCOME_LENGTH: usize = MESSAGE_OVERHEAD + SETTINGS;

/// Bytes of a record's length.
pub(super) const RECORD_HEAD: usize = 2;
/// Bytes that a record has besides its frames.
pub(super) const RECORD_OVERHEAD: usize = RECORD_HEAD + TAG_LENGTH;
/// Bytes of a frame besides its body.
pub(super) const FRAME_HEAD: usize = 7;
/// The longest part of a body, in a record of the largest size.
#[cfg(all(feature = "alloc", feature = "streams"))]
pub(crate) const LONGEST_PART: usize = 0xFFFF - TAG_LENGTH - FRAME_HEAD;
/// Bytes of the total in front of the body of a BEGIN.
pub(super) const TOTAL: usize = 4;
/// The least length of a record: one empty frame.
pub(super) const LEAST_RECORD: u16 = 23;
/// The length of the client's first record: one PING.
pub(super) const FIRST_RECORD: u16 = 31;

/// The total of an open body, in its BEGIN.
#[cfg(feature = "streams")]
pub(super) const OPEN: u32 = u32::MAX;

/// The largest limit of a message that can be announced: 0xFFFFFFFF is reserved.
const MAX_MESSAGE: u32 = u32::MAX - 1;

/// What the sender of a handshake message accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Accepts {
    pub(super) max_record: u16,
    pub(super) max_in_flight: u16,
    pub(super) max_message: u32,
    /// In milliseconds.
    pub(super) lifetime: u32,
    /// KiB of an open body that it takes before it has given credit.
    #[cfg(feature = "streams")]
    pub(super) window: u16,
    /// Requests with an open body that it holds at once.
    #[cfg(feature = "streams")]
    pub(super) max_open: u16,
}

impl Accepts {
    pub(super) fn of(settings: &Settings, server: bool) -> Self {
        Self {
            max_record: settings.max_record(),
            max_in_flight: if server { settings.max_in_flight() } else { 0 },
            max_message: settings.max_message().min(MAX_MESSAGE),
            lifetime: u32::try_from(settings.lifetime().as_millis()).unwrap_or(u32::MAX),
            #[cfg(feature = "streams")]
            window: settings.window_kib(),
            #[cfg(feature = "streams")]
            max_open: if server { settings.max_open() } else { 0 },
        }
    }

    /// Announces at most as many requests as the table has room for.
    pub(super) fn with_room_for(mut self, requests: u16) -> Self {
        self.max_in_flight = self.max_in_flight.min(requests);
        self
    }

    pub(super) fn encode(self) -> [u8; SETTINGS] {
        let [a, b] = self.max_record.to_be_bytes();
        let [c, d] = self.max_in_flight.to_be_bytes();
        let [e, f, g, h] = self.max_message.to_be_bytes();
        let [i, j, k, l] = self.lifetime.to_be_bytes();
        #[cfg(feature = "streams")]
        let ([m, n], [o, p]) = (self.window.to_be_bytes(), self.max_open.to_be_bytes());
        #[cfg(not(feature = "streams"))]
        let [m, n, o, p] = [0; 4];
        [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]
    }

    /// `None` if a value is out of its range.
    pub(super) fn decode(bytes: &[u8], server: bool) -> Option<Self> {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *<&[u8; SETTINGS]>::try_from(bytes).ok()?;
        #[cfg(not(feature = "streams"))]
        let _ = [m, n, o, p];
        let accepts = Self {
            max_record: u16::from_be_bytes([a, b]),
            max_in_flight: u16::from_be_bytes([c, d]),
            max_message: u32::from_be_bytes([e, f, g, h]),
            lifetime: u32::from_be_bytes([i, j, k, l]),
            #[cfg(feature = "streams")]
            window: u16::from_be_bytes([m, n]),
            #[cfg(feature = "streams")]
            max_open: u16::from_be_bytes([o, p]),
        };
        let in_range = accepts.max_record >= 64
            && accepts.lifetime >= 1000
            && accepts.max_message <= MAX_MESSAGE
            && (!server || accepts.max_in_flight >= 1);
        in_range.then_some(accepts)
    }
}

/// The kinds of frames.
pub(super) mod kind {
    pub(in crate::noise) const MESSAGE: u8 = 1;
    pub(in crate::noise) const BEGIN: u8 = 2;
    pub(in crate::noise) const PART: u8 = 3;
    pub(in crate::noise) const REFUSE: u8 = 4;
    pub(in crate::noise) const CANCEL: u8 = 5;
    pub(in crate::noise) const PING: u8 = 6;
    pub(in crate::noise) const PONG: u8 = 7;
    pub(in crate::noise) const CLOSE: u8 = 8;
    #[cfg(feature = "streams")]
    pub(in crate::noise) const END: u8 = 9;
    #[cfg(feature = "streams")]
    pub(in crate::noise) const CREDIT: u8 = 10;
    /// Unknown kinds from here on are skipped.
    pub(in crate::noise) const SKIPPED: u8 = 128;
}

/// The total length at the front of the body of a BEGIN frame, and the bytes behind it.
#[inline]
pub(super) fn split_total(body: &[u8]) -> Option<(u32, &[u8])> {
    let (total, rest) = body.split_first_chunk::<TOTAL>()?;
    Some((u32::from_be_bytes(*total), rest))
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) kind: u8,
    pub(super) id: u32,
    pub(super) length: u16,
}

impl FrameHead {
    /// The head and the body of the frame at the front of `bytes`, if both are complete.
    #[inline]
    pub(super) fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&[kind, a, b, c, d, e, f], rest) = bytes.split_first_chunk::<FRAME_HEAD>()?;
        let (id, length) = (u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([e, f]));
        Some((Self { kind, id, length }, rest.get(..usize::from(length))?))
    }

    #[inline]
    pub(super) fn write(self) -> [u8; FRAME_HEAD] {
        let [a, b, c, d] = self.id.to_be_bytes();
        let [e, f] = self.length.to_be_bytes();
        [self.kind, a, b, c, d, e, f]
    }
}
