//! The layout of bytes on the classic wire. Pure functions without cryptography and state.
//!
//! ```text
//! hello     client -> server  0x00 | nonce 12 | 128 sealed | tag 16       = 157 bytes
//! accept    server -> client  0xFF
//! message   client -> server  0x01 | u64 n | nonce 12 | sealed | tag 16   n = 28 + body
//! answer    server -> client         u64 n | nonce 12 | sealed | tag 16
//! ping      client -> server  0x02
//! ```
//!
//! Integers are big-endian.

use core::ops::Range;

use crate::crypto::{NONCE_LENGTH, TAG_LENGTH};
use crate::error::{ConnectionError, RequestError};
use crate::settings::Settings;

pub(super) const HELLO: u8 = 0x00;
pub(super) const MESSAGE: u8 = 0x01;
pub(super) const PING: u8 = 0x02;
pub(super) const ACCEPT: u8 = 0xFF;

/// Random bytes that a hello seals.
pub(super) const HELLO_RANDOM: usize = 128;
const TYPE: usize = 1;
const LENGTH: usize = 8;
/// Bytes that sealing adds to a body: nonce and tag.
pub(super) const SEALING: usize = NONCE_LENGTH + TAG_LENGTH;

/// The least length of a sealed text, which is that of an empty body: [`SEALING`].
const LEAST: u32 = 28;
const _: () = assert!(SEALING == 28);

/// Bytes in a hello: 157.
pub(crate) const HELLO_LENGTH: usize = TYPE + SEALING + HELLO_RANDOM;

/// As [`BufferSizes::classic_request`](crate::BufferSizes::classic_request).
#[must_use]
pub(crate) const fn request_size(body: usize) -> usize {
    body.saturating_add(TYPE + LENGTH + SEALING)
}

/// Bytes of an answer with a body of `body` bytes, which is 36 more, or `usize::MAX` if that
/// overflows.
#[must_use]
pub(crate) const fn answer_size(body: usize) -> usize {
    body.saturating_add(LENGTH + SEALING)
}

/// Bytes in the largest body.
pub(super) fn max_body(settings: &Settings) -> usize {
    usize::try_from(settings.max_message()).unwrap_or(usize::MAX)
}

/// Bytes in a length of zero, which no sealed text follows.
pub(super) const NOTHING_LENGTH: usize = LENGTH;

/// Checks a body that this side is to send against its own limit.
pub(super) fn check_body(length: usize, max_message: u32) -> Result<(), RequestError> {
    let (length, limit) = (u64::try_from(length).unwrap_or(u64::MAX), u64::from(max_message));
    if length > limit {
        Err(RequestError::TooLarge { length, limit })
    } else {
        Ok(())
    }
}

/// What is at the front of the unread bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    /// Too few bytes. This many are needed in all.
    Short(usize),
    Ping,
    /// A length of zero instead of a sealed text.
    Nothing,
    /// A sealed text, in this range.
    Sealed(Range<usize>),
}

/// Finds the next frame that a client sends after its hello.
pub(super) fn client_frame(unread: &[u8], max_message: u32) -> Result<Head, ConnectionError> {
    match unread.first() {
        None => Ok(Head::Short(TYPE)),
        Some(&PING) => Ok(Head::Ping),
        Some(&MESSAGE) => match sealed(unread, TYPE, max_message)? {
            Head::Nothing => Err(frame_length(0, max_message)),
            head @ (Head::Short(_) | Head::Ping | Head::Sealed(_)) => Ok(head),
        },
        Some(&found) => Err(ConnectionError::UnknownType { found }),
    }
}

/// Finds the next frame that a server sends after its accept.
pub(super) fn server_frame(unread: &[u8], max_message: u32) -> Result<Head, ConnectionError> {
    sealed(unread, 0, max_message)
}

/// Checks the length at `at` and returns the range of the sealed text behind it, which may reach
/// beyond the unread bytes.
fn sealed(unread: &[u8], at: usize, max_message: u32) -> Result<Head, ConnectionError> {
    let start = at + LENGTH;
    let Some(length) = unread.get(at..).and_then(<[u8]>::first_chunk) else {
        return Ok(Head::Short(start));
    };
    let length = u64::from_be_bytes(*length);
    if length == 0 {
        return Ok(Head::Nothing);
    }
    if length < LEAST.into() || length > max_sealed(max_message) {
        return Err(frame_length(length, max_message));
    }
    let end = usize::try_from(length)
        .ok()
        .and_then(|length| start.checked_add(length));
    let end = end.ok_or_else(|| frame_length(length, max_message))?;
    Ok(Head::Sealed(start..end))
}

fn max_sealed(max_message: u32) -> u64 {
    u64::from(LEAST) + u64::from(max_message)
}

fn frame_length(length: u64, max_message: u32) -> ConnectionError {
    ConnectionError::FrameLength {
        length,
        min: LEAST,
        max: max_sealed(max_message),
    }
}

/// The sealed text of a hello, or `None` if the hello is not complete.
pub(super) fn hello_text(unread: &mut [u8]) -> Option<&mut [u8]> {
    unread.get_mut(TYPE..HELLO_LENGTH)
}

/// Writes the type of a hello, and returns the place of its sealed text.
pub(super) fn write_hello(out: &mut [u8]) -> Option<&mut [u8]> {
    let (kind, sealed) = out.split_first_mut()?;
    *kind = HELLO;
    sealed.get_mut(..HELLO_LENGTH - TYPE)
}

/// Writes the head of a request with a body of `body` bytes, and returns the place of its sealed
/// text.
pub(super) fn write_request(out: &mut [u8], body: usize) -> Option<&mut [u8]> {
    let (kind, rest) = out.get_mut(..request_size(body))?.split_first_mut()?;
    *kind = MESSAGE;
    write_length(rest)
}

/// Writes the head of an answer with a body of `body` bytes, and returns the place of its sealed
/// text.
pub(super) fn write_answer(out: &mut [u8], body: usize) -> Option<&mut [u8]> {
    write_length(out.get_mut(..answer_size(body))?)
}

fn write_length(out: &mut [u8]) -> Option<&mut [u8]> {
    let (length, sealed) = out.split_first_chunk_mut::<LENGTH>()?;
    *length = u64::try_from(sealed.len()).ok()?.to_be_bytes();
    Some(sealed)
}
