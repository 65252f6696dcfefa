//! What client and server share after the handshake: records, pings, the CLOSE, pending output.

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

/// How many REFUSEs may be pending at once. With more, nothing is read until they are sealed.
pub(super) const REFUSALS: usize = 8;

/// The state of this side's CLOSE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnClose {
    None,
    Pending { code: u8, last: u32 },
    Sent { last: u32 },
}

/// Both directions, and everything that is not a request.
#[expect(clippy::struct_excessive_bools, reason = "each is independent of the others")]
pub(super) struct Link<A> {
    send: Direction<A>,
    recv: Direction<A>,
    /// The handshake hash.
    pub(super) hash: [u8; 32],
    /// The largest record that the peer reads, and the largest that this side reads.
    pub(super) their_max_record: u16,
    our_max_record: u16,
    /// Bytes of frames that are decrypted and checked, and whose events are not returned yet. They
    /// are in the unread bytes, behind the length field while it is there, and a tag follows them.
    pub(super) opened: u16,
    /// Whether the length field is still in front of these frames: the first frame is not consumed.
    at_head: bool,
    pub(super) own_close: OwnClose,
    /// The code and the last id of the peer's CLOSE.
    pub(super) their_close: Option<(u8, u32)>,
    pong: Option<[u8; 8]>,
    /// The eight bytes of the first PING, which are random. Each later one adds 1.
    first_ping: u64,
    /// The number of PINGs so far, including one that is pending.
    pings: u64,
    pub(super) ping_pending: bool,
    /// Whether the client's first PING is sealed (client) or has arrived (server). The PING proves
    /// that the client could read the welcome.
    pub(super) first_ping_done: bool,
    /// Pending REFUSEs: their ids and their codes, in two arrays. In an array of pairs, each would
    /// take three bytes more.
    refusals: ([u32; REFUSALS], [u8; REFUSALS]),
    refused: u8,
    /// A record could not be sealed. Its frames are lost, so nothing may follow them.
    exhausted: bool,
}

/// A frame of the opened record.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenedFrame<'u> {
    pub(super) head: FrameHead,
    pub(super) body: &'u [u8],
    /// Unread bytes that are consumed with it.
    pub(super) consumed: usize,
}

/// Whether a whole record has arrived, and its total length.
pub(super) enum Record {
    Short(usize),
    Whole(usize),
}

impl<A: Aead> Link<A> {
    pub(super) fn new(send: Direction<A>, recv: Direction<A>, hash: [u8; 32], theirs: u16, ours: u16) -> Self {
        Self {
            send,
            recv,
            hash,
            their_max_record: theirs,
            our_max_record: ours,
            opened: 0,
            at_head: false,
            own_close: OwnClose::None,
            their_close: None,
            pong: None,
            first_ping: 0,
            pings: 0,
            ping_pending: false,
            first_ping_done: false,
            refusals: ([0; REFUSALS], [0; REFUSALS]),
            refused: 0,
            exhausted: false,
        }
    }

    /// Checks the length at the front of `unread`. `longest` replaces this side's limit.
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

    /// Decrypts the record of `total` bytes at the front of `unread`, and returns its frames.
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
        // The length field has 16 bits, too.
        self.opened = u16::try_from(text.len()).map_err(|_| AeadError::new())?;
        self.at_head = true;
        Ok(text)
    }

    /// Whether a record of the peer was decrypted.
    pub(super) const fn has_opened(&self) -> bool {
        self.recv.has_begun()
    }

    /// Whether a record was sealed.
    pub(super) const fn has_sealed(&self) -> bool {
        self.send.has_begun()
    }

    /// Where the next frame of the opened record starts in the unread bytes.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) const fn offset(&self) -> usize {
        if self.at_head { RECORD_HEAD } else { 0 }
    }

    /// The frame of the opened record that starts at `at` in `unread`. It is not consumed yet.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) fn next_frame<'u>(&self, unread: &'u [u8], at: usize) -> Option<OpenedFrame<'u>> {
        // With the tag, so that no more is consumed than there is.
        let rest = unread.get(at..at + usize::from(self.opened) + TAG_LENGTH)?;
        let (frames, _) = rest.split_last_chunk::<TAG_LENGTH>()?;
        let (head, body) = FrameHead::read(frames)?;
        let length = FRAME_HEAD + body.len();
        let last = length == usize::from(self.opened);
        let consumed = at + length + if last { TAG_LENGTH } else { 0 };
        Some(OpenedFrame { head, body, consumed })
    }

    /// Consumes a frame.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) fn consume(&mut self, frame: &OpenedFrame<'_>) {
        let length = FRAME_HEAD + usize::from(frame.head.length);
        // It is part of the opened record, so it is no longer than that.
        self.opened = self.opened.saturating_sub(u16::try_from(length).unwrap_or(u16::MAX));
        self.at_head = false;
    }

    /// Sets the eight bytes of the first PING.
    pub(super) fn set_first_ping(&mut self, first: u64) {
        self.first_ping = first;
    }

    /// Queues a PING, unless one is pending, and returns its number.
    pub(super) fn queue_ping(&mut self) -> u64 {
        if !self.ping_pending {
            self.pings = self.pings.saturating_add(1);
            self.ping_pending = true;
        }
        self.pings
    }

    fn ping_bytes(&self) -> [u8; 8] {
        self.first_ping.wrapping_add(self.pings.saturating_sub(1)).to_be_bytes()
    }

    /// The number of the sent PING that has these eight bytes.
    pub(super) fn ping_of(&self, bytes: [u8; 8]) -> Option<u64> {
        let number = u64::from_be_bytes(bytes).wrapping_sub(self.first_ping).wrapping_add(1);
        let sent = self.pings - u64::from(self.ping_pending);
        (1..=sent).contains(&number).then_some(number)
    }

    pub(super) fn queue_pong(&mut self, bytes: &[u8]) {
        // Only the latest PING is answered.
        self.pong = bytes.first_chunk().copied().or(self.pong);
    }

    /// Whether there is room for another pending REFUSE.
    pub(super) fn can_refuse(&self) -> bool {
        usize::from(self.refused) < REFUSALS
    }

    pub(super) fn queue_refusal(&mut self, id: u32, code: u8) {
        let (ids, codes) = &mut self.refusals;
        let place = usize::from(self.refused);
        if let (Some(place), Some(reason)) = (ids.get_mut(place), codes.get_mut(place)) {
            *place = id;
            *reason = code;
            self.refused += 1;
        }
    }

    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) const fn has_refusals(&self) -> bool {
        self.refused > 0
    }

    /// Queues a CLOSE. A side sends at most one.
    pub(super) fn queue_close(&mut self, code: u8, last: u32) {
        match self.own_close {
            OwnClose::None => self.own_close = OwnClose::Pending { code, last },
            // An immediate end replaces a drain that is not sealed yet.
            OwnClose::Pending { .. } if code == close::PROTOCOL_ERROR || code == close::IDLE => {
                self.own_close = OwnClose::Pending { code, last };
            }
            OwnClose::Pending { .. } | OwnClose::Sent { .. } => {}
        }
    }

    pub(super) const fn close_sent(&self) -> bool {
        matches!(self.own_close, OwnClose::Sent { .. })
    }

    /// Writes pending PONG, REFUSE and PING, which go before any message.
    pub(super) fn write_pending(&mut self, writer: &mut Writer<'_, '_>) {
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
        if self.ping_pending && writer.frame(kind::PING, 0, &self.ping_bytes(), &[]) {
            self.ping_pending = false;
        }
    }

    fn write_refusals(&mut self, writer: &mut Writer<'_, '_>) {
        let mut written = 0;
        let (ids, codes) = self.refusals;
        for (id, code) in ids.into_iter().zip(codes).take(self.refused.into()) {
            if !writer.frame(kind::REFUSE, id, &[code], &[]) {
                break;
            }
            written += 1;
        }
        move_up(&mut self.refusals.0, written.into());
        move_up(&mut self.refusals.1, written.into());
        self.refused -= written;
    }

    pub(super) fn write_close(&mut self, writer: &mut Writer<'_, '_>) {
        if let OwnClose::Pending { code, last } = self.own_close
            && writer.frame(kind::CLOSE, last, &[code], &[])
        {
            self.own_close = OwnClose::Sent { last };
        }
    }

    /// Seals the open record, and returns whether all records up to now could be sealed.
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

    /// Whether a frame is pending that goes before any message.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) fn is_pending(&self) -> bool {
        let close = matches!(self.own_close, OwnClose::Pending { .. });
        self.ping_pending || self.pong.is_some() || self.refused > 0 || close
    }

    /// The most bytes that pending frames take.
    #[cfg_attr(not(target_os = "none"), inline)]
    pub(super) fn pending_size(&self) -> usize {
        let ping_frames = usize::from(self.pong.is_some()) + usize::from(self.ping_pending);
        let close = usize::from(matches!(self.own_close, OwnClose::Pending { .. }));
        ping_frames * (FRAME_HEAD + 8) + (usize::from(self.refused) + close) * (FRAME_HEAD + 1)
    }
}

/// The code of a reason.
pub(super) const fn code_of(reason: CloseReason) -> u8 {
    match reason {
        CloseReason::Done => close::DONE,
        CloseReason::ShuttingDown => close::SHUTTING_DOWN,
        CloseReason::KeyRetired => close::KEY_RETIRED,
    }
}

/// The reason of a code. An unknown code means `Done`.
pub(super) const fn reason_of(code: u8) -> CloseReason {
    match code {
        close::SHUTTING_DOWN => CloseReason::ShuttingDown,
        close::KEY_RETIRED => CloseReason::KeyRetired,
        _ => CloseReason::Done,
    }
}

/// Drops the first `count` items and moves the others to the front.
fn move_up<T: Copy>(places: &mut [T; REFUSALS], count: usize) {
    let before = *places;
    for (place, value) in places.iter_mut().zip(before.iter().skip(count)) {
        *place = *value;
    }
}
