//! Open bodies at a client: requests that it writes, and answers that it reads.

use super::client::{ClientSession, Requests};
use super::layout::OPEN;
use super::link::{Link, OwnClose};
use super::streams::{OpenBody, flag, write_open};
use super::table::{self, Cancel, RequestSlot, RequestTable, State};
use super::writer::Writer;
use super::{Broken, mark, refusal_of};
use crate::crypto::{Crypto, NoiseCrypto};
use crate::error::{ConnectionError, Error, Misuse, RequestError, SealError};
use crate::message::{Refusal, RequestId};
use crate::outgoing::OutgoingRequest;

impl<T: RequestTable> Requests<T> {
    /// The total that begins an open body, if this side takes open answers.
    #[inline]
    pub(super) const fn takes_open(&self, total: u32) -> bool {
        total == OPEN && self.streams.window > 0
    }

    /// An open answer begins, with `first` bytes. Returns the mark.
    pub(super) fn begin_open_answer(&mut self, id: u32, first: u32) -> Result<u8, Broken> {
        let left = self.streams.window.checked_sub(first).ok_or(Broken)?;
        let waiting = table::find(&mut self.table, id).filter(|slot| slot.state == State::Waiting);
        let slot = waiting.ok_or(Broken)?;
        slot.state = State::Receiving;
        slot.set(flag::READS);
        slot.total = left;
        slot.touched = 0;
        Ok(mark::OPENED)
    }

    /// END of an answer. Returns the mark.
    pub(super) fn end_answer(&mut self, id: u32) -> Result<u8, Broken> {
        let slot = table::find(&mut self.table, id).ok_or(Broken)?;
        if !slot.has(flag::READS) || slot.state != State::Receiving {
            return Err(Broken);
        }
        self.complete(id);
        Ok(mark::LAST_PART)
    }

    /// CREDIT for a request's body. Returns the mark.
    pub(super) fn credit(&mut self, id: u32, body: &[u8]) -> Result<u8, Broken> {
        let bytes = u32::from_be_bytes(body.try_into().map_err(|_| Broken)?);
        if bytes == 0 || id > self.begun || self.streams.their_window == 0 {
            return Err(Broken);
        }
        let Some(slot) = table::find(&mut self.table, id) else {
            return Ok(mark::SKIP);
        };
        slot.set(flag::CREDITED);
        slot.add_credit(bytes)
    }

    /// The mark of the refusal of the request in `slot`. An open request has reached its handler
    /// once the server has given credit or begun an answer.
    pub(super) fn refused(slot: &RequestSlot, code: u8) -> u8 {
        let reached = slot.has(flag::CREDITED) || slot.state == State::Receiving;
        if slot.has(flag::BEGAN) && reached && refusal_of(code).is_unprocessed() {
            return mark::REFUSED_AFTER_ALL;
        }
        mark::REFUSED
    }

    /// The outcome of a request that the server did not complete before its CLOSE. If the server
    /// has given credit for it or begun an open answer, a handler has received it.
    pub(super) fn refusal_of_lost(&self, id: u32) -> Refusal {
        let slot = self.table.find(id).and_then(|place| self.table.get(place));
        if slot.is_some_and(|slot| slot.has(flag::CREDITED | flag::READS)) {
            Refusal::Failed
        } else {
            Refusal::NotProcessed
        }
    }

    /// Writes the next frames of an open request, of which `rest` is not sealed. `false` if the
    /// output is full.
    #[inline(never)]
    pub(super) fn write_open_request<'m, C: Crypto>(
        &mut self,
        crypto: &C,
        link: &mut Link<C::Aead>,
        message: &mut OutgoingRequest,
        rest: &'m [u8],
        writer: &mut Writer<'_, 'm>,
    ) -> Result<bool, SealError> {
        let begun = message.number() > 0;
        let (id, credit) = if begun {
            let slot = table::find(&mut self.table, message.number());
            let Some(slot) = slot.filter(|slot| slot.cancel == Cancel::No && slot.state != State::Lost) else {
                // The request has completed or was cancelled, so the rest of it is not sent.
                message.stop();
                return Ok(true);
            };
            (message.number(), slot.credit)
        } else {
            if link.own_close != OwnClose::None || link.their_close.is_some() {
                return Ok(true);
            }
            if self.streams.their_window == 0 || self.streams.max_open == 0 {
                // The settings of the server were not known when the request was created.
                message.fail(RequestError::NoOpenBodies);
                return Ok(true);
            }
            if self.table.len() >= usize::from(self.max_in_flight) || self.streams.open >= self.streams.max_open {
                return Ok(true);
            }
            let next = self.begun.checked_add(1).ok_or(ConnectionError::RequestIdsExhausted)?;
            (next, self.streams.their_window)
        };
        let open = OpenBody {
            id,
            begun,
            rest,
            credit,
            finished: message.is_finished(),
        };
        let Some(wrote) = write_open(crypto, link, open, writer)? else {
            return Ok(false);
        };
        if !begun {
            // The table has room, because `max_in_flight` is at most its capacity.
            let _ = self.table.push(RequestSlot {
                id,
                flags: flag::BEGAN | flag::WRITES,
                credit,
                ..RequestSlot::EMPTY
            });
            self.begun = id;
            self.streams.open += 1;
        }
        if let Some(slot) = table::find(&mut self.table, id) {
            let sent = u32::try_from(wrote.bytes).unwrap_or(u32::MAX);
            slot.credit = slot.credit.saturating_sub(sent);
            if wrote.ended {
                slot.clear(flag::WRITES);
            }
        }
        message.seal_open(id, wrote.bytes, wrote.ended);
        Ok(true)
    }
}

impl<T: RequestTable, C: NoiseCrypto> ClientSession<T, C> {
    pub(super) fn open_request_now(&mut self) -> Result<OutgoingRequest, Error> {
        self.open_for_new()?;
        if self.base.phase.link().is_some() && self.peer_takes() == (0, 0) {
            return Err(RequestError::NoOpenBodies.into());
        }
        Ok(OutgoingRequest::open(self.base.serial))
    }

    /// The server's window in bytes and its limit on open requests. Both are 0 if it takes none.
    pub(super) const fn peer_takes(&self) -> (u32, u16) {
        match (self.requests.streams.their_window, self.requests.streams.max_open) {
            (0, _) | (_, 0) => (0, 0),
            takes => takes,
        }
    }

    pub(super) fn give_credit(&mut self, id: RequestId, bytes: u32, waits: bool) -> Result<(), Error> {
        if let Some(end) = self.base.life.end() {
            return Err(end.into());
        }
        if !id.is_of(self.base.serial) {
            return Err(Misuse::Foreign.into());
        }
        if let Some(slot) = table::find(&mut self.requests.table, id.number()) {
            self.requests.streams.note_taken(slot, bytes, waits);
        }
        Ok(())
    }

    pub(super) fn sendable_of(&self, id: RequestId) -> u32 {
        let table = &self.requests.table;
        let slot = table.find(id.number()).and_then(|place| table.get(place));
        slot.filter(|slot| id.is_of(self.base.serial) && slot.has(flag::WRITES) && slot.cancel == Cancel::No)
            .map_or(0, |slot| slot.credit)
    }
}
