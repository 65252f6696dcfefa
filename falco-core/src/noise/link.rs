//! What both sides of a noise connection have in common once the handshake is done: opening
//! records, pings, the close, what is owed.

use super::layout::{FRAME_HEAD, FrameHead, LEAST_RECORD, RECORD_HEAD, kind};
use super::record::Direction;
use super::writer::Writer;
use crate::crypto::{Aead, AeadError, Crypto, TAG_LENGTH};
use crate::error::ConnectionError;
use crate::message::CloseReason;

/// Codes of CLOSE.
pub(super) mod close {
    pub(in crate::noise) const DONE: u8 = 0;
    pub(in crate::noise) const IDLE: u8 = 1;
    pub(in crate::noise) const SHUTTING_DOWN: u8 = 2;
    pub(in crate::noise) const KEY_RETIRED: u8 = 3;
    pub(in crate::noise) const PROTOCOL_ERROR: u8 = 4;
}

/// REFUSEs that may be owed at once for requests that hold no slot; with more, reading stops until
/// they are taken.
pub(super) const REFUSALS: usize = 8;

/// How far one's own CLOSE has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnClose {
    None,
    Owed { code: u8, last: u32 },
    Sent { last: u32 },
}

/// The two directions with everything that is not a request.
pub(super) struct Link<A> {
    send: Direction<A>,
    recv: Direction<A>,
    /// The largest record that the peer reads, and that is read.
    pub(super) their_max_record: u16,
    our_max_record: u16,
    /// Bytes of frames that were opened and judged and have not been told: they stand in the unread
    /// bytes behind `head`, with a tag behind them.
    pub(super) opened: usize,
    /// Bytes of the record's length before them, as long as it has not been consumed.
    head: usize,
    pub(super) own_close: OwnClose,
    /// The reason and last id of the peer's CLOSE.
    pub(super) their_close: Option<(u8, u32)>,
    pong: Option<[u8; 8]>,
    /// The eight bytes of the first ping, drawn at random; the next ones count up.
    first_ping: u64,
    /// How many pings were asked for.
    pings: u64,
    pub(super) ping_owed: bool,
    /// REFUSEs that are owed: ids, and their codes apart, as pairs would take three bytes more
    /// each.
    refusals: ([u32; REFUSALS], [u8; REFUSALS]),
    refused: usize,
    /// A record could not be sealed. What it held is lost, so nothing may follow it.
    exhausted: bool,
}

/// One frame of the opened record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told<'u> {
    pub(super) head: FrameHead,
    pub(super) body: &'u [u8],
    /// What is consumed with it.
    pub(super) consumed: usize,
}

/// A record's place and what is needed for it.
pub(super) enum Record {
    Short(usize),
    Whole(usize),
}

impl<A: Aead> Link<A> {
    pub(super) fn new(send: Direction<A>, recv: Direction<A>, theirs: u16, ours: u16) -> Self {
        Self {
            send,
            recv,
            their_max_record: theirs,
            our_max_record: ours,
            opened: 0,
            head: 0,
            own_close: OwnClose::None,
            their_close: None,
            pong: None,
            first_ping: 0,
            pings: 0,
            ping_owed: false,
            refusals: ([0; REFUSALS], [0; REFUSALS]),
            refused: 0,
            exhausted: false,
        }
    }

    /// Judges the length at the front of `unread`; `longest` is the longest that may come now.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) fn record(&self, unread: &[u8], longest: Option<u16>) -> Result<Record, ConnectionError> {
        let Some(length) = unread.first_chunk::<RECORD_HEAD>() else {
            return Ok(Record::Short(RECORD_HEAD));
        };
        let (length, max) = (u16::from_be_bytes(*length), longest.unwrap_or(self.our_max_record));
        if length < LEAST_RECORD || length > max {
            return Err(ConnectionError::FrameLength {
                length: length.into(),
                min: LEAST_RECORD.into(),
                max: max.into(),
            });
        }
        let total = RECORD_HEAD + usize::from(length);
        Ok(if unread.len() < total {
            Record::Short(total)
        } else {
            Record::Whole(total)
        })
    }

    /// Opens the record of `total` bytes at the front of `unread`, and lends its frames.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) fn open<'u, C: Crypto<Aead = A>>(
        &mut self,
        crypto: &C,
        unread: &'u mut [u8],
        total: usize,
    ) -> Result<&'u mut [u8], AeadError> {
        let sealed = unread.get_mut(RECORD_HEAD..total).ok_or(AeadError::new())?;
        let (text, tag) = sealed.split_last_chunk_mut::<TAG_LENGTH>().ok_or(AeadError::new())?;
        self.recv.open(crypto, text, tag)?;
        self.opened = text.len();
        self.head = RECORD_HEAD;
        Ok(text)
    }

    /// Whether a record of the peer's has been opened.
    pub(super) const fn has_opened(&self) -> bool {
        self.recv.has_begun()
    }

    /// Whether a record has been sealed.
    pub(super) const fn has_sealed(&self) -> bool {
        self.send.has_begun()
    }

    /// Where in the unread bytes the next frame of the opened record begins.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) const fn at(&self) -> usize {
        self.head
    }

    /// The next frame of the opened record, which begins at `at` in `unread`. It is not counted as
    /// told yet.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) fn next_frame<'u>(&self, unread: &'u [u8], at: usize) -> Option<Told<'u>> {
        let frames = unread.get(at..at + self.opened)?;
        let (head, body) = FrameHead::read(frames)?;
        let length = FRAME_HEAD + body.len();
        let last = length == self.opened;
        let consumed = at + length + if last { TAG_LENGTH } else { 0 };
        Some(Told { head, body, consumed })
    }

    /// Counts a frame as told; what is consumed with it is consumed.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) fn tell(&mut self, told: &Told<'_>) {
        self.opened = self.opened.saturating_sub(FRAME_HEAD + usize::from(told.head.length));
        self.head = 0;
    }

    /// Pings begin with these eight bytes.
    pub(super) fn set_first_ping(&mut self, first: u64) {
        self.first_ping = first;
    }

    /// Owes a ping, unless one is owed, and says which that is.
    pub(super) fn owe_ping(&mut self) -> u64 {
        if !self.ping_owed {
            self.pings = self.pings.saturating_add(1);
            self.ping_owed = true;
        }
        self.pings
    }

    fn ping_bytes(&self) -> [u8; 8] {
        self.first_ping.wrapping_add(self.pings.saturating_sub(1)).to_be_bytes()
    }

    /// Which of the pings that have gone these eight bytes are of.
    pub(super) fn ping_of(&self, bytes: [u8; 8]) -> Option<u64> {
        let number = u64::from_be_bytes(bytes).wrapping_sub(self.first_ping).wrapping_add(1);
        let sent = self.pings - u64::from(self.ping_owed);
        (1..=sent).contains(&number).then_some(number)
    }

    pub(super) fn owe_pong(&mut self, bytes: &[u8]) {
        // The latest PING is the one to answer.
        self.pong = bytes.first_chunk().copied().or(self.pong);
    }

    /// Whether a REFUSE could be owed besides those that are.
    pub(super) const fn can_refuse(&self) -> bool {
        self.refused < REFUSALS
    }

    pub(super) fn owe_refusal(&mut self, id: u32, code: u8) {
        let (ids, codes) = &mut self.refusals;
        if let (Some(place), Some(reason)) = (ids.get_mut(self.refused), codes.get_mut(self.refused)) {
            *place = id;
            *reason = code;
            self.refused += 1;
        }
    }

    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) const fn owes_refusals(&self) -> bool {
        self.refused > 0
    }

    /// Nobody sends a second CLOSE for any reason.
    pub(super) fn owe_close(&mut self, code: u8, last: u32) {
        match self.own_close {
            OwnClose::None => self.own_close = OwnClose::Owed { code, last },
            // The end at once goes before a drain that has not been announced yet.
            OwnClose::Owed { .. } if code == close::PROTOCOL_ERROR || code == close::IDLE => {
                self.own_close = OwnClose::Owed { code, last };
            }
            OwnClose::Owed { .. } | OwnClose::Sent { .. } => {}
        }
    }

    pub(super) const fn close_sent(&self) -> bool {
        matches!(self.own_close, OwnClose::Sent { .. })
    }

    /// Writes the frames that go before any message: PONG, REFUSE, PING. They are no longer owed
    /// once written.
    pub(super) fn write_owed(&mut self, writer: &mut Writer<'_, '_>) {
        if let Some(bytes) = self.pong
            && writer.frame(kind::PONG, 0, &bytes, &[])
        {
            self.pong = None;
        }
        if self.refused > 0 {
            self.write_refusals(writer);
        }
        self.write_ping(writer);
    }

    pub(super) fn write_ping(&mut self, writer: &mut Writer<'_, '_>) {
        if self.ping_owed && writer.frame(kind::PING, 0, &self.ping_bytes(), &[]) {
            self.ping_owed = false;
        }
    }

    fn write_refusals(&mut self, writer: &mut Writer<'_, '_>) {
        let mut written = 0;
        let (ids, codes) = self.refusals;
        for (id, code) in ids.into_iter().zip(codes).take(self.refused) {
            if !writer.frame(kind::REFUSE, id, &[code], &[]) {
                break;
            }
            written += 1;
        }
        move_up(&mut self.refusals.0, written);
        move_up(&mut self.refusals.1, written);
        self.refused -= written;
    }

    pub(super) fn write_close(&mut self, writer: &mut Writer<'_, '_>) {
        if let OwnClose::Owed { code, last } = self.own_close
            && writer.frame(kind::CLOSE, last, &[code], &[])
        {
            self.own_close = OwnClose::Sent { last };
        }
    }

    /// Seals the open record, and says whether every record up to now could be sealed.
    pub(super) fn finish_last<C: Crypto<Aead = A>>(&mut self, crypto: &C, writer: &mut Writer<'_, '_>) -> bool {
        self.finish(crypto, writer).is_ok() && !self.exhausted
    }

    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) fn finish<C: Crypto<Aead = A>>(
        &mut self,
        crypto: &C,
        writer: &mut Writer<'_, '_>,
    ) -> Result<(), AeadError> {
        let finished = writer.finish(crypto, &mut self.send);
        self.exhausted |= finished.is_err();
        finished
    }

    /// Bytes of frames that are owed at the most.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) fn owed(&self) -> usize {
        let fifteen = usize::from(self.pong.is_some()) + usize::from(self.ping_owed);
        let close = usize::from(matches!(self.own_close, OwnClose::Owed { .. }));
        fifteen * (FRAME_HEAD + 8) + (self.refused + close) * (FRAME_HEAD + 1)
    }
}

/// The code of a reason, and the reason of a code; an unknown code reads as 0.
pub(super) const fn code_of(reason: CloseReason) -> u8 {
    match reason {
        CloseReason::Done => close::DONE,
        CloseReason::ShuttingDown => close::SHUTTING_DOWN,
        CloseReason::KeyRetired => close::KEY_RETIRED,
    }
}

pub(super) const fn reason_of(code: u8) -> CloseReason {
    match code {
        close::SHUTTING_DOWN => CloseReason::ShuttingDown,
        close::KEY_RETIRED => CloseReason::KeyRetired,
        _ => CloseReason::Done,
    }
}

/// Drops the first `count`, the others keeping their order.
fn move_up<T: Copy>(places: &mut [T; REFUSALS], count: usize) {
    let before = *places;
    for (place, value) in places.iter_mut().zip(before.iter().skip(count)) {
        *place = *value;
    }
}
