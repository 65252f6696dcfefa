//! Writes records of frames into the caller's output. The last body of a record is not copied: the
//! cipher reads it from the caller's memory. The bodies before it are copied to the output.

use super::layout::{FRAME_HEAD, FrameHead, RECORD_HEAD, RECORD_OVERHEAD};
use super::record::Direction;
use crate::crypto::{Aead, AeadError, Crypto, TAG_LENGTH};

pub(super) struct Writer<'o, 'b> {
    out: &'o mut [u8],
    /// Bytes of finished records at the front of `out`.
    finished: usize,
    /// Bytes of frames in the open record, without `tail`.
    open: usize,
    /// The body of the last frame of the open record, which is not copied.
    tail: &'b [u8],
    /// The most bytes of frames in one record that the peer accepts.
    max: usize,
}

impl<'o, 'b> Writer<'o, 'b> {
    /// `max_record` is the largest record length that the peer announced.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) fn new(out: &'o mut [u8], max_record: u16) -> Self {
        let max = usize::from(max_record).saturating_sub(TAG_LENGTH);
        Self {
            out,
            finished: 0,
            open: 0,
            tail: &[],
            max,
        }
    }

    /// The most bytes of frames in one record.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) const fn max(&self) -> usize {
        self.max
    }

    /// The length of the output.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) const fn given(&self) -> usize {
        self.out.len()
    }

    /// Whether the open record has a frame.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) const fn is_open(&self) -> bool {
        self.open > 0
    }

    /// Bytes of the finished records.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) const fn finished(&self) -> usize {
        self.finished
    }

    /// How many bytes a further frame of the open record may have.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) fn room(&self) -> usize {
        let space = self.out.len().saturating_sub(self.finished + RECORD_OVERHEAD);
        self.max.min(space).saturating_sub(self.open + self.tail.len())
    }

    /// Adds a frame whose body has two pieces, of which the first is short. Returns whether there
    /// was room.
    #[must_use]
    #[cfg_attr(not(target_os = "none"), inline(never))]
    pub(super) fn frame(&mut self, kind: u8, id: u32, first: &[u8], body: &'b [u8]) -> bool {
        self.frame_inline(kind, id, first, body)
    }

    /// As [`frame`](Self::frame), for the one frame that each message has.
    #[must_use]
    #[cfg_attr(not(target_os = "none"), inline(always))]
    #[cfg_attr(
        not(target_os = "none"),
        expect(clippy::inline_always, reason = "a short message takes fewer instructions")
    )]
    pub(super) fn frame_inline(&mut self, kind: u8, id: u32, first: &[u8], body: &'b [u8]) -> bool {
        let length = first.len() + body.len();
        let Ok(announced) = u16::try_from(length) else {
            return false;
        };
        if self.room() < FRAME_HEAD + length {
            return false;
        }
        let (start, tail) = (self.finished + RECORD_HEAD + self.open, core::mem::take(&mut self.tail));
        let head = FrameHead {
            kind,
            id,
            length: announced,
        }
        .write();
        // There is room for all three, as checked above.
        let place = self.out.get_mut(start..).unwrap_or_default();
        if put(place, tail)
            .and_then(|place| put(place, &head))
            .and_then(|place| put(place, first))
            .is_none()
        {
            return false;
        }
        self.open += tail.len() + FRAME_HEAD + first.len();
        self.tail = body;
        true
    }

    /// Seals the open record, if it has a frame.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) fn finish<C: Crypto>(&mut self, crypto: &C, send: &mut Direction<C::Aead>) -> Result<(), AeadError>
    where
        C::Aead: Aead,
    {
        if !self.is_open() {
            return Ok(());
        }
        let tail = core::mem::take(&mut self.tail);
        let plain = core::mem::take(&mut self.open) + tail.len();
        let record = self.out.get_mut(self.finished..).ok_or(AeadError::new())?;
        let (length, rest) = record.split_first_chunk_mut::<RECORD_HEAD>().ok_or(AeadError::new())?;
        let text = rest.get_mut(..plain + TAG_LENGTH).ok_or(AeadError::new())?;
        *length = u16::try_from(plain + TAG_LENGTH)
            .map_err(|_| AeadError::new())?
            .to_be_bytes();
        send.seal(crypto, text, tail)?;
        self.finished += RECORD_OVERHEAD + plain;
        Ok(())
    }
}

/// Copies `piece` to the front of `place`, if there is room, and returns the rest of `place`.
#[cfg_attr(not(target_os = "none"), inline)]
fn put<'p>(place: &'p mut [u8], piece: &[u8]) -> Option<&'p mut [u8]> {
    if piece.is_empty() {
        return Some(place);
    }
    let (to, rest) = place.split_at_mut_checked(piece.len())?;
    to.copy_from_slice(piece);
    Some(rest)
}
