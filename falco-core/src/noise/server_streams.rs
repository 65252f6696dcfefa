//! Open bodies at a server: requests that it reads, and answers that it writes.

use super::link::Link;
use super::refusal;
use super::server::{Requests, ServerSession};
use super::streams::{OpenBody, flag, write_open};
use super::table::{self, Cancel, RequestSlot, RequestTable, State};
use super::writer::Writer;
use super::{Broken, mark};
use crate::crypto::{Crypto, NoiseCrypto};
use crate::error::{Error, Misuse, ReplyError, RequestError, SealError};
use crate::message::{Refusal, RequestId};
use crate::outgoing::OutgoingAnswer;

impl<T: RequestTable> Requests<T> {
    /// Whether this side takes open requests.
    pub(super) const fn takes_open(&self) -> bool {
        self.streams.window > 0 && self.streams.max_open > 0
    }

    /// Admits an open request of which `first` bytes have arrived, if the limits allow it. Returns
    /// the mark for its frame, as `admit` does.
    pub(super) fn admit_open(&mut self, id: u32, first: u32) -> Result<u8, Broken> {
        let takes = self.takes_open();
        let left = self.streams.window.checked_sub(first);
        if takes && left.is_none() {
            return Err(Broken);
        }
        if self.last.is_some() {
            return Ok(mark::SKIP);
        }
        let Some(left) = left.filter(|_| takes) else {
            return Ok(mark::TOO_LARGE);
        };
        let window = self.streams.window;
        let full = self.table.len() >= usize::from(self.max_in_flight) || self.streams.open >= self.streams.max_open;
        if full || !self.has_room(window) {
            return Ok(mark::BUSY);
        }
        let slot = RequestSlot {
            id,
            total: left,
            received: window,
            flags: flag::READS | flag::BEGAN,
            ..RequestSlot::EMPTY
        };
        if !self.table.push(slot) {
            return Ok(mark::BUSY);
        }
        self.held += window;
        self.streams.open += 1;
        Ok(mark::OPENED)
    }

    /// Whether the rest of the body of the request `id` is dropped.
    pub(super) fn discards(&self, id: u32) -> bool {
        let slot = self.table.find(id).and_then(|place| self.table.get(place));
        slot.is_some_and(|slot| slot.has(flag::DISCARDS))
    }

    /// END of a request. Returns the mark.
    pub(super) fn end_request(&mut self, id: u32) -> Result<u8, Broken> {
        if id > self.begun || !self.takes_open() {
            return Err(Broken);
        }
        match table::find(&mut self.table, id) {
            Some(slot) if slot.has(flag::READS) => Ok(self.streams.end(slot)),
            // Its length was given.
            Some(slot) if slot.state == State::Receiving => Err(Broken),
            _ => Ok(mark::SKIP),
        }
    }

    /// CREDIT for an answer's body. Returns the mark.
    pub(super) fn credit(&mut self, id: u32, body: &[u8]) -> Result<u8, Broken> {
        let bytes = u32::from_be_bytes(body.try_into().map_err(|_| Broken)?);
        if bytes == 0 || id > self.begun || self.streams.their_window == 0 {
            return Err(Broken);
        }
        table::find(&mut self.table, id).map_or(Ok(mark::SKIP), |slot| slot.add_credit(bytes))
    }

    /// CANCEL of a request with an open body. Returns the mark.
    pub(super) fn cancel_open(&mut self, id: u32) -> Option<u8> {
        let slot = table::find(&mut self.table, id)?;
        if !slot.has(flag::READS | flag::WRITES) {
            return None;
        }
        if slot.cancel != Cancel::No {
            return Some(mark::SKIP);
        }
        slot.cancel = Cancel::Done;
        self.streams.stop_reading(slot);
        Some(mark::CANCELLED)
    }

    /// The client's stream has ended: request bodies that are still open are cut off, and no more
    /// credit comes.
    pub(super) fn cut_open(&mut self) {
        self.streams.ended = true;
        for slot in self.table.iter_mut().filter(|slot| slot.has(flag::READS)) {
            self.streams.stop_reading(slot);
            slot.cancel = Cancel::Done;
            slot.set(flag::CUT);
            self.lost += 1;
        }
        self.table.note_lost(1);
    }

    /// Whether the lost request `id` is one whose body was cut off. Its event is then due.
    pub(super) fn take_cut(&mut self, id: u32) -> bool {
        let Some(slot) = table::find(&mut self.table, id).filter(|slot| slot.is_cut()) else {
            return false;
        };
        slot.clear(flag::CUT);
        self.lost -= 1;
        true
    }

    /// Writes the next frames of an open answer, of which `rest` is not sealed. `false` if the
    /// output is full.
    #[inline(never)]
    pub(super) fn write_open_answer<'m, C: Crypto>(
        &mut self,
        crypto: &C,
        link: &mut Link<C::Aead>,
        message: &mut OutgoingAnswer,
        rest: &'m [u8],
        writer: &mut Writer<'_, 'm>,
    ) -> Result<bool, SealError> {
        let (id, begun) = (message.id(), message.has_begun());
        let expected = if begun { State::Answering } else { State::Waiting };
        let Some(slot) = table::find(&mut self.table, id.number()).filter(|slot| slot.state == expected) else {
            return Err(SealError::NotWaiting(id));
        };
        let credit = if begun { slot.credit } else { self.streams.their_window };
        if self.streams.ended && credit == 0 && !rest.is_empty() {
            // The credit that it needs will not come.
            if link.can_refuse() {
                link.queue_refusal(id.number(), refusal::CANCELLED);
                self.complete(id.number());
                message.cut();
            }
            return Ok(true);
        }
        let open = OpenBody {
            id: id.number(),
            begun,
            rest,
            credit,
            finished: message.is_finished(),
        };
        let Some(wrote) = write_open(crypto, link, open, writer)? else {
            return Ok(false);
        };
        if wrote.any {
            let sent = u32::try_from(wrote.bytes).unwrap_or(u32::MAX);
            slot.state = State::Answering;
            slot.credit = credit.saturating_sub(sent);
            slot.set(flag::WRITES);
            message.seal_open(wrote.bytes, wrote.ended);
        }
        if wrote.ended {
            self.complete(id.number());
        }
        Ok(true)
    }
}

impl<T: RequestTable, C: NoiseCrypto> ServerSession<T, C> {
    pub(super) fn open_answer_now(&mut self, id: RequestId) -> Result<OutgoingAnswer, ReplyError> {
        if self.waiting(id)? != State::Waiting {
            return Err(ReplyError::NotWaiting(id));
        }
        if self.requests.streams.their_window == 0 {
            return Err(RequestError::NoOpenBodies.into());
        }
        Ok(OutgoingAnswer::open(id))
    }

    /// The refusal that the client receives for `refusal` of an open request. Once this side has
    /// given credit or begun an answer, it does not say that the request was not processed.
    pub(super) fn refusal_of_open(&self, id: RequestId, refusal: Refusal) -> Refusal {
        let table = &self.requests.table;
        let slot = table.find(id.number()).and_then(|place| table.get(place));
        let reached = slot
            .is_some_and(|slot| slot.has(flag::BEGAN) && (slot.has(flag::CREDITED) || slot.state == State::Answering));
        refusal.of_reached(reached)
    }

    fn slot_of(&mut self, id: RequestId) -> Result<Option<&mut RequestSlot>, Error> {
        if let Some(end) = self.base.life.end() {
            return Err(end.into());
        }
        if !id.is_of(self.base.serial) {
            return Err(Misuse::Foreign.into());
        }
        Ok(table::find(&mut self.requests.table, id.number()))
    }

    pub(super) fn give_credit(&mut self, id: RequestId, bytes: u32, waits: bool) -> Result<(), Error> {
        self.slot_of(id)?;
        if let Some(slot) = table::find(&mut self.requests.table, id.number()) {
            self.requests.streams.note_taken(slot, bytes, waits);
        }
        Ok(())
    }

    pub(super) fn discard_body(&mut self, id: RequestId) -> Result<(), Error> {
        self.slot_of(id)?;
        if let Some(slot) = table::find(&mut self.requests.table, id.number()) {
            self.requests.streams.discard(slot);
        }
        Ok(())
    }

    pub(super) fn sendable_of(&self, id: RequestId) -> u32 {
        let table = &self.requests.table;
        let slot = table.find(id.number()).and_then(|place| table.get(place));
        let Some(slot) = slot.filter(|_| id.is_of(self.base.serial)) else {
            return 0;
        };
        if slot.has(flag::WRITES) {
            slot.credit
        } else if slot.state == State::Waiting {
            self.requests.streams.their_window
        } else {
            0
        }
    }
}
