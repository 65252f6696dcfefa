//! What the write paths of client and server share: the next frame of a message, turns, sizes and
//! results.

use super::layout::{FRAME_HEAD, HELLO_LENGTH, RECORD_HEAD, RECORD_OVERHEAD, TOTAL, kind};
use super::link::Link;
use super::writer::Writer;
use crate::crypto::Crypto;
use crate::error::{ConnectionError, OutputTooSmall, RequestError, SealError};
use crate::outgoing::unsealed;
use crate::session::BufferSizes;
use crate::settings::Settings;

/// Calls `turn` for each message until it returns `false`, because the output is full, or an error.
/// Returns that error.
#[inline]
pub(super) fn write_each<M>(
    messages: impl Iterator<Item = M>,
    mut turn: impl FnMut(M) -> Result<bool, SealError>,
) -> Option<SealError> {
    for message in messages {
        match turn(message) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => return Some(error),
        }
    }
    None
}

/// The result of a call that wrote nothing into `given` bytes of output. `pending` is whether
/// frames were pending.
pub(super) fn nothing_written(error: Option<SealError>, pending: bool, given: usize) -> Result<usize, SealError> {
    match error {
        Some(error) => Err(error),
        None if pending => Err(OutputTooSmall {
            needed: RECORD_OVERHEAD + FRAME_HEAD + 8,
            given,
        }
        .into()),
        None => Ok(0),
    }
}

/// The result of a call that only writes pending output. An error that ended the connection becomes
/// 0 bytes, because `recv` returns it.
pub(super) fn pending_only(wrote: Result<usize, SealError>) -> Result<usize, OutputTooSmall> {
    match wrote {
        Ok(written) => Ok(written),
        Err(SealError::OutputTooSmall(small)) => Err(small),
        Err(SealError::Connection(_) | SealError::NotWaiting(_) | SealError::Closing | SealError::Misuse(_)) => Ok(0),
    }
}

/// Checks that a message of `length` bytes is within the limit.
#[inline]
pub(super) fn check_length(length: usize, limit: u32) -> Result<(), RequestError> {
    let (length, limit) = (u64::try_from(length).unwrap_or(u64::MAX), u64::from(limit));
    if length > limit {
        return Err(RequestError::TooLarge { length, limit });
    }
    Ok(())
}

/// The size of an output that lets one call seal as much as it can of a message of `length` bytes.
/// `pending` bytes of frames go before the message, and the peer reads records of at most
/// `max_record` bytes.
pub(super) fn seal_size(length: usize, pending: usize, max_record: u16) -> usize {
    let frame = length.saturating_add(FRAME_HEAD + TOTAL).saturating_add(pending);
    let record = usize::from(max_record) + RECORD_HEAD;
    // Pending frames may need a record of their own.
    frame
        .saturating_add(2 * RECORD_OVERHEAD)
        .min(record + pending + RECORD_OVERHEAD)
}

/// The least part of a large message that is worth a frame of its own.
const LEAST_PART: usize = 256;

/// The unread bytes have room for a whole record or handshake message, because neither can be
/// decrypted in pieces. The output need not have room for a whole record of the peer: messages are
/// cut into parts that fit the output.
pub(super) fn buffer_sizes(settings: &Settings) -> BufferSizes {
    BufferSizes {
        unread: (usize::from(settings.max_record()) + RECORD_HEAD).max(HELLO_LENGTH),
        output: RECORD_OVERHEAD + FRAME_HEAD + TOTAL + LEAST_PART,
    }
}

/// Writes the next frame of a message of which `sealed` bytes are sealed: the rest of it if that
/// fits, or as much as fits. Returns how many bytes of the body it has, or `None` if the output is
/// full.
#[inline]
pub(super) fn write_message<'m, C: Crypto>(
    crypto: &C,
    link: &mut Link<C::Aead>,
    id: u32,
    sealed: usize,
    body: &'m [u8],
    writer: &mut Writer<'_, 'm>,
) -> Result<Option<usize>, SealError> {
    if sealed == 0 && writer.frame_inline(kind::MESSAGE, id, &[], body) {
        return Ok(Some(body.len()));
    }
    write_part(crypto, link, id, sealed, body, writer)
}

/// `write_message` for a message that does not fit the open record as a whole.
#[cold]
fn write_part<'m, C: Crypto>(
    crypto: &C,
    link: &mut Link<C::Aead>,
    id: u32,
    sealed: usize,
    body: &'m [u8],
    writer: &mut Writer<'_, 'm>,
) -> Result<Option<usize>, SealError> {
    let rest = unsealed(sealed, body)?;
    // A message is cut to the size of a record. It is also cut to the size of the output, if that
    // has room for a part of `LEAST_PART` bytes: the output of a device may be smaller than the
    // records that its server reads.
    let output = writer.given().saturating_sub(RECORD_OVERHEAD);
    let limit = if output < FRAME_HEAD + TOTAL + LEAST_PART {
        writer.max()
    } else {
        writer.max().min(output)
    };
    let whole = sealed == 0 && FRAME_HEAD + body.len() <= limit;
    let head = if whole || sealed > 0 {
        FRAME_HEAD
    } else {
        FRAME_HEAD + TOTAL
    };
    let wanted = head
        + if whole {
            body.len()
        } else {
            rest.len().min(LEAST_PART).min(writer.max() - head)
        };
    if writer.room() < wanted && writer.is_open() {
        link.finish(crypto, writer).map_err(|_| ConnectionError::KeyExhausted)?;
    }
    let room = writer.room();
    let needed = if whole { wanted } else { head + 1 };
    if room < needed {
        if writer.finished() > 0 {
            return Ok(None);
        }
        return Err(OutputTooSmall {
            needed: needed + RECORD_OVERHEAD,
            given: writer.given(),
        }
        .into());
    }
    let (part, _) = rest.split_at(rest.len().min(room - head));
    let total = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let (kind, first) = match (whole, sealed) {
        (true, _) => (kind::MESSAGE, &[][..]),
        (false, 0) => (kind::BEGIN, &total[..]),
        (false, _) => (kind::PART, &[][..]),
    };
    if writer.frame(kind, id, first, part) {
        Ok(Some(part.len()))
    } else {
        Ok(None)
    }
}
