//! What both sides have in common when they write: a message's next frame, turns, and what a call
//! of `seal` comes to.

use super::layout::{FRAME_HEAD, HELLO_LENGTH, RECORD_HEAD, RECORD_OVERHEAD, TOTAL, kind};
use super::link::Link;
use super::writer::Writer;
use crate::crypto::Crypto;
use crate::error::{ConnectionError, OutputTooSmall, RequestError, SealError};
use crate::session::BufferSizes;
use crate::settings::Settings;

/// Gives each message its turn, until the output is full (`false`) or there is trouble with one,
/// which is returned.
#[inline]
pub(super) fn in_turn<M>(
    messages: impl Iterator<Item = M>,
    mut turn: impl FnMut(M) -> Result<bool, SealError>,
) -> Option<SealError> {
    for message in messages {
        match turn(message) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(trouble) => return Some(trouble),
        }
    }
    None
}

/// What came of writing nothing, of `given` bytes of output, where `owed` bytes of frames were to
/// go.
pub(super) fn of_nothing(trouble: Option<SealError>, owed: usize, given: usize) -> Result<usize, SealError> {
    match trouble {
        Some(trouble) => Err(trouble),
        None if owed > 0 => Err(OutputTooSmall {
            needed: RECORD_OVERHEAD + FRAME_HEAD + 8,
            given,
        }
        .into()),
        None => Ok(0),
    }
}

/// Of what came of writing, what concerns someone who has no messages: an end is told elsewhere.
pub(super) fn of_owed(wrote: Result<usize, SealError>) -> Result<usize, OutputTooSmall> {
    match wrote {
        Ok(written) => Ok(written),
        Err(SealError::OutputTooSmall(small)) => Err(small),
        Err(SealError::Connection(_) | SealError::NotWaiting(_) | SealError::Closing | SealError::Misuse(_)) => Ok(0),
    }
}

/// Whether a message of `length` bytes is within the limit.
#[inline]
pub(super) fn check_length(length: usize, limit: u32) -> Result<(), RequestError> {
    let (length, limit) = (u64::try_from(length).unwrap_or(u64::MAX), u64::from(limit));
    if length > limit {
        return Err(RequestError::TooLarge { length, limit });
    }
    Ok(())
}

/// Bytes of output with which a message of `length` bytes makes all the progress it can, where
/// `owed` bytes of frames go before it and the peer reads records of `max_record` bytes.
pub(super) fn seal_size(length: usize, owed: usize, max_record: u16) -> usize {
    let frame = length.saturating_add(FRAME_HEAD + TOTAL).saturating_add(owed);
    let record = usize::from(max_record) + RECORD_HEAD;
    // A record for what is owed, should it not fit beside a record full of the message.
    frame
        .saturating_add(2 * RECORD_OVERHEAD)
        .min(record + owed + RECORD_OVERHEAD)
}

/// The least of a large message that is worth a frame, where there is a choice.
const LEAST_PART: usize = 256;

/// A record is held whole before a byte of it is believed, and a handshake's message too. Messages
/// are cut to an output of this size, whatever the peer reads.
pub(super) fn buffer_sizes(settings: &Settings) -> BufferSizes {
    BufferSizes {
        unread: (usize::from(settings.max_record()) + RECORD_HEAD).max(HELLO_LENGTH),
        output: RECORD_OVERHEAD + FRAME_HEAD + TOTAL + LEAST_PART,
    }
}

/// Writes the next frame of a message of which `sealed` bytes have gone: all of it, where it fits a
/// record, or as much as fits. Says how many bytes of the body went; `None` where the output is
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
    if sealed == 0 && writer.frame(kind::MESSAGE, id, &[], body) {
        return Ok(Some(body.len()));
    }
    write_part(crypto, link, id, sealed, body, writer)
}

/// The same where a whole message does not fit the open record.
#[cold]
fn write_part<'m, C: Crypto>(
    crypto: &C,
    link: &mut Link<C::Aead>,
    id: u32,
    sealed: usize,
    body: &'m [u8],
    writer: &mut Writer<'_, 'm>,
) -> Result<Option<usize>, SealError> {
    let rest = body.get(sealed..).unwrap_or_default();
    // Cut where a record is the limit, and where an output large enough to be worth cutting for is:
    // a device has less room than its server reads.
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
