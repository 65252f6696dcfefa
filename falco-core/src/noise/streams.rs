//! The rules for open bodies that client and server have in common: windows, credit, and the frames
//! of a body that this side writes.
//!
//! For an open body that this side reads, a slot of the table has these meanings. `total` is how
//! much the peer may still send. `touched` is how much the caller or handler has taken and for
//! which no CREDIT was sealed. The rest of the window has arrived and is not taken. So at most one
//! window is in memory.

use super::Broken;
use super::layout::{FRAME_HEAD, OPEN, RECORD_OVERHEAD, TOTAL, kind};
use super::link::Link;
use super::mark;
use super::table::{Cancel, Due, RequestSlot, RequestTable};
use super::writer::Writer;
use crate::crypto::Crypto;
use crate::error::{ConnectionError, OutputTooSmall, SealError};

/// Bits of `RequestSlot::flags`.
pub(super) mod flag {
    /// The body that this side reads is open: its BEGIN has arrived and its END has not.
    pub(in crate::noise) const READS: u8 = 1;
    /// The body that this side writes is open: its BEGIN is sealed and its END is not.
    pub(in crate::noise) const WRITES: u8 = 1 << 1;
    /// The request's own body began open, so that the request counts against `max open`.
    pub(in crate::noise) const BEGAN: u8 = 1 << 2;
    /// A CREDIT is pending.
    pub(in crate::noise) const PENDING: u8 = 1 << 3;
    /// The other side has given credit for the request (client), or this side has (server). From
    /// then on no refusal can say that the request was not processed.
    pub(in crate::noise) const CREDITED: u8 = 1 << 4;
    /// Server: the rest of the request's body is dropped.
    pub(in crate::noise) const DISCARDS: u8 = 1 << 5;
    /// Server: the stream ended before the END of the request, and the event is pending.
    pub(in crate::noise) const CUT: u8 = 1 << 6;
}

/// The largest credit that a writer may have.
const MAX_CREDIT: u32 = (1 << 31) - 1;
/// A part of an open body is put at the end of a record only if this many of its bytes fit, or all
/// that may be sent.
const LEAST_PART: usize = 256;

/// What the open bodies of a connection share.
pub(super) struct Streams<D> {
    /// Bytes of the window that this side gives to each open body. 0: it takes none.
    pub(super) window: u32,
    /// Bytes of the window that the peer gives. 0: it takes no open bodies.
    pub(super) their_window: u32,
    /// How many requests that began open the server holds at once.
    pub(super) max_open: u16,
    /// How many of them are in flight.
    pub(super) open: u16,
    /// Server: the client's stream has ended, so that no credit comes any more.
    pub(super) ended: bool,
    /// How many CREDITs are pending.
    pending: u16,
    /// The requests with a pending CREDIT, except those for which a fixed list has no room.
    due: D,
}

impl RequestSlot {
    #[inline]
    pub(super) const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    #[inline]
    pub(super) const fn set(&mut self, flag: u8) {
        self.flags |= flag;
    }

    #[inline]
    pub(super) const fn clear(&mut self, flag: u8) {
        self.flags &= !flag;
    }

    #[inline]
    pub(super) const fn is_cut(&self) -> bool {
        self.has(flag::CUT)
    }

    /// Adds credit that the peer gave for the body that this side writes. Returns the mark.
    pub(super) fn add_credit(&mut self, bytes: u32) -> Result<u8, Broken> {
        if !self.has(flag::WRITES) {
            return Ok(mark::SKIP);
        }
        let sum = self.credit.checked_add(bytes).filter(|sum| *sum <= MAX_CREDIT);
        self.credit = sum.ok_or(Broken)?;
        Ok(mark::CREDITED)
    }
}

impl<D: Due> Streams<D> {
    pub(super) fn new(window: u32, max_open: u16) -> Self {
        Self {
            window,
            their_window: 0,
            max_open,
            open: 0,
            ended: false,
            pending: 0,
            due: D::default(),
        }
    }

    /// Counts `received` bytes against the window of the open body that `slot` reads.
    #[inline]
    pub(super) fn part(&mut self, slot: &mut RequestSlot, received: u32) -> Result<u8, Broken> {
        slot.total = slot.total.checked_sub(received).ok_or(Broken)?;
        if slot.has(flag::DISCARDS) {
            self.note_taken(slot, received, false);
            return Ok(mark::SKIP);
        }
        Ok(mark::PART)
    }

    /// The END of the body that `slot` reads. Returns the mark.
    pub(super) fn end(&mut self, slot: &mut RequestSlot) -> u8 {
        let reports = !slot.has(flag::DISCARDS);
        self.stop_reading(slot);
        if reports { mark::LAST_PART } else { mark::SKIP }
    }

    /// No more of the body that `slot` reads arrives, or the body is dropped: no CREDIT is due.
    pub(super) fn stop_reading(&mut self, slot: &mut RequestSlot) {
        slot.clear(flag::READS);
        self.forget_credit(slot);
    }

    /// Drops a pending CREDIT.
    pub(super) fn forget_credit(&mut self, slot: &mut RequestSlot) {
        if slot.has(flag::PENDING) {
            slot.clear(flag::PENDING);
            self.pending = self.pending.saturating_sub(1);
            if self.pending == 0 {
                self.due.clear();
            }
        }
    }

    /// Counts `bytes` of the body that `slot` reads as taken, up to what has arrived. A CREDIT is
    /// due once half a window was taken, or at once if the caller or handler `waits` for more.
    pub(super) fn note_taken(&mut self, slot: &mut RequestSlot, bytes: u32, waits: bool) {
        if !slot.has(flag::READS) || slot.cancel != Cancel::No {
            return;
        }
        let held = self.window.saturating_sub(slot.total).saturating_sub(slot.touched);
        slot.touched += bytes.min(held);
        let due = slot.touched >= self.window / 2 || (waits && slot.touched > 0);
        if due && !slot.has(flag::PENDING) {
            slot.set(flag::PENDING);
            self.pending += 1;
            self.due.note(slot.id);
        }
    }

    /// Drops the rest of the request's open body: what has arrived counts as taken, and so does
    /// what still arrives. Its END may have been judged already, and its event not returned.
    pub(super) fn discard(&mut self, slot: &mut RequestSlot) {
        if slot.has(flag::BEGAN) {
            slot.set(flag::DISCARDS);
            self.note_taken(slot, u32::MAX, false);
        }
    }

    /// A request that has flags has completed.
    #[cold]
    pub(super) fn complete(&mut self, slot: &mut RequestSlot) {
        self.forget_credit(slot);
        self.open -= u16::from(slot.has(flag::BEGAN));
        slot.flags = 0;
    }

    /// Whether a CREDIT is pending.
    #[inline]
    pub(super) const fn is_pending(&self) -> bool {
        self.pending > 0
    }

    /// Bytes that pending CREDITs take.
    #[inline]
    pub(super) fn pending_size(&self) -> usize {
        usize::from(self.pending) * (FRAME_HEAD + 4)
    }

    /// Writes pending CREDITs.
    #[inline]
    pub(super) fn write_credits<T: RequestTable<Due = D>>(&mut self, table: &mut T, writer: &mut Writer<'_, '_>) {
        if self.pending > 0 {
            self.write_all_credits(table, writer);
        }
    }

    #[cold]
    fn write_all_credits<T: RequestTable<Due = D>>(&mut self, table: &mut T, writer: &mut Writer<'_, '_>) {
        let Self { due, pending, .. } = self;
        let all = due.each(|id| super::table::find(table, id).is_none_or(|slot| write_credit(slot, pending, writer)));
        if !all || *pending == 0 {
            return;
        }
        // Requests for which the list had no room.
        for slot in table.iter_mut() {
            if !write_credit(slot, pending, writer) || *pending == 0 {
                return;
            }
        }
    }
}

/// Writes the CREDIT of `slot`, if it has a pending one, and counts it in the window at once.
/// Returns whether there was room.
fn write_credit(slot: &mut RequestSlot, pending: &mut u16, writer: &mut Writer<'_, '_>) -> bool {
    if !slot.has(flag::PENDING) {
        return true;
    }
    if !writer.frame(kind::CREDIT, slot.id, &slot.touched.to_be_bytes(), &[]) {
        return false;
    }
    slot.total += core::mem::take(&mut slot.touched);
    slot.set(flag::CREDITED);
    slot.clear(flag::PENDING);
    *pending = pending.saturating_sub(1);
    true
}

/// What `write_open` wrote.
pub(super) struct Wrote {
    /// Bytes of the body.
    pub(super) bytes: usize,
    /// Whether there was a frame.
    pub(super) any: bool,
    /// Whether END was among the frames.
    pub(super) ended: bool,
}

/// An open body to write: what of it is not sealed yet, and how much of that may be sent.
#[derive(Clone, Copy)]
pub(super) struct OpenBody<'m> {
    pub(super) id: u32,
    /// Whether its BEGIN is sealed.
    pub(super) begun: bool,
    pub(super) rest: &'m [u8],
    pub(super) credit: u32,
    /// Whether `rest` is the end of the body.
    pub(super) finished: bool,
}

/// Writes the next frames of an open body: its BEGIN or a PART with as much as the credit allows
/// and fits, and its END behind the last of it. `None` if the output is full.
pub(super) fn write_open<'m, C: Crypto>(
    crypto: &C,
    link: &mut Link<C::Aead>,
    body: OpenBody<'m>,
    writer: &mut Writer<'_, 'm>,
) -> Result<Option<Wrote>, SealError> {
    let credit = usize::try_from(body.credit).unwrap_or(usize::MAX);
    let sendable = body.rest.len().min(credit);
    let mut wrote = Wrote {
        bytes: 0,
        any: false,
        ended: false,
    };
    if !body.begun || sendable > 0 {
        let begin = OPEN.to_be_bytes();
        let (kind, first) = if body.begun {
            (kind::PART, &[][..])
        } else {
            (kind::BEGIN, &begin[..])
        };
        let head = FRAME_HEAD + first.len();
        let least = head + sendable.min(LEAST_PART).min(writer.max() - FRAME_HEAD - TOTAL);
        if !make_room(crypto, link, least, head + sendable.min(1), writer)? {
            return Ok(None);
        }
        let (part, _) = body.rest.split_at(sendable.min(writer.room() - head));
        if !writer.frame(kind, body.id, first, part) {
            return Ok(None);
        }
        wrote.bytes = part.len();
        wrote.any = true;
    }
    if body.finished && wrote.bytes == body.rest.len() {
        let has_room = match make_room(crypto, link, FRAME_HEAD, FRAME_HEAD, writer) {
            // The next call writes it.
            Err(SealError::OutputTooSmall(_)) if wrote.any => false,
            other => other?,
        };
        wrote.ended = has_room && writer.frame(kind::END, body.id, &[], &[]);
        if !wrote.ended && !wrote.any {
            return Ok(None);
        }
        wrote.any = true;
    }
    Ok(Some(wrote))
}

/// Finishes the open record if less than `wanted` bytes fit it. Returns whether `needed` bytes fit
/// then.
fn make_room<C: Crypto>(
    crypto: &C,
    link: &mut Link<C::Aead>,
    wanted: usize,
    needed: usize,
    writer: &mut Writer<'_, '_>,
) -> Result<bool, SealError> {
    if writer.room() < wanted && writer.is_open() {
        link.finish(crypto, writer).map_err(|_| ConnectionError::KeyExhausted)?;
    }
    if writer.room() >= needed {
        return Ok(true);
    }
    if writer.finished() > 0 {
        return Ok(false);
    }
    Err(OutputTooSmall {
        needed: needed + RECORD_OVERHEAD,
        given: writer.given(),
    }
    .into())
}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::*;

    /// A body may end before its CREDIT is sealed, for each of many requests of a connection.
    #[test]
    fn credits_that_are_dropped_take_no_memory() {
        let mut streams = Streams::<alloc::vec::Vec<u32>>::new(1_000, 10);
        for id in 1..=1_000 {
            let mut slot = RequestSlot {
                id,
                total: 999,
                flags: flag::READS,
                ..RequestSlot::EMPTY
            };
            streams.note_taken(&mut slot, 1, true);
            assert!(streams.is_pending());
            streams.stop_reading(&mut slot);
            assert!(!streams.is_pending() && streams.due.is_empty(), "{id}");
        }
    }
}
