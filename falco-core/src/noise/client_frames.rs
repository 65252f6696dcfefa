//! What the frames of a server do to a client: judged a record at a time, told a frame at a time; and the frames of requests.

use super::base::mark_frames;
use super::client::{ClientSession, Requests};
use super::layout::{FrameHead, TOTAL, kind};
use super::link::{Link, OwnClose, close, reason_of};
use super::table::{self, Cancel, RequestSlot, RequestTable, State};
use super::writer::Writer;
use super::{Broken, mark};
use crate::crypto::{Aead, Crypto, NoiseCrypto};
use crate::error::{ConnectionError, Error, RequestError};
use crate::event::{ClientEvent, Received};
use crate::message::{PingId, Refusal, RequestId};
use crate::outgoing::OutgoingRequest;

impl<A: Aead> Link<A> {
    /// Judges all frames of a record in order and lets them take effect on `requests`. Each frame's kind is replaced by a mark: what is to be told of it.
    ///
    /// Where a frame breaks the rules the connection is over, so that what the frames before it did shows nowhere.
    pub(super) fn judge_server_record<T: RequestTable>(
        &mut self,
        requests: &mut Requests<T>,
        frames: &mut [u8],
    ) -> Result<(), Broken> {
        mark_frames(frames, |head, body| self.judge_server_frame(requests, head, body))
    }

    fn judge_server_frame<T: RequestTable>(
        &mut self,
        requests: &mut Requests<T>,
        head: FrameHead,
        body: &[u8],
    ) -> Result<u8, Broken> {
        let length = u32::from(head.length);
        match (head.kind, head.id) {
            (kind::SKIPPED.., _) => Ok(mark::SKIP),
            (kind::PING, 0) if length == 8 => {
                self.owe_pong(body);
                Ok(mark::SKIP)
            }
            (kind::PONG, 0) if length == 8 => {
                let ping = body.first_chunk().and_then(|bytes| self.ping_of(*bytes));
                Ok(if ping.is_some() { mark::PONG } else { mark::SKIP })
            }
            (kind::CLOSE, last) if length == 1 && self.their_close.is_none() && last <= requests.begun => {
                let code = body.first().copied().unwrap_or(close::DONE);
                self.their_close = Some((code, last));
                requests.lose_after(last);
                let at_once = matches!(code, close::IDLE | close::PROTOCOL_ERROR);
                Ok(if at_once { mark::ENDED } else { mark::CLOSING })
            }
            (kind::MESSAGE, id @ 1..) => requests.answer(id, length, length),
            (kind::BEGIN, id @ 1..) => {
                let (total, part) = body.split_first_chunk::<TOTAL>().ok_or(Broken)?;
                let part = u32::try_from(part.len()).map_err(|_| Broken)?;
                Ok(match requests.answer(id, u32::from_be_bytes(*total), part)? {
                    mark::WHOLE => mark::WHOLE_BEGUN,
                    other => other,
                })
            }
            (kind::PART, id @ 1..) if length > 0 => requests.part(id, length),
            (kind::REFUSE, id @ 1..) if length == 1 => {
                table::find(&mut requests.table, id)
                    .filter(|slot| slot.state != State::Lost)
                    .ok_or(Broken)?;
                requests.end(id);
                Ok(mark::REFUSED)
            }
            _ => Err(Broken),
        }
    }
}

impl<T: RequestTable> Requests<T> {
    fn answer(&mut self, id: u32, total: u32, received: u32) -> Result<u8, Broken> {
        if total > self.max_message || received > total {
            return Err(Broken);
        }
        let waiting = table::find(&mut self.table, id)
            .filter(|slot| slot.state == State::Waiting)
            .ok_or(Broken)?;
        if received == total {
            self.end(id);
            return Ok(mark::WHOLE);
        }
        waiting.state = State::Receiving;
        waiting.total = total;
        waiting.received = received;
        Ok(mark::BEGIN)
    }

    fn part(&mut self, id: u32, length: u32) -> Result<u8, Broken> {
        let slot = table::find(&mut self.table, id)
            .filter(|slot| slot.state == State::Receiving)
            .ok_or(Broken)?;
        slot.received = slot
            .received
            .checked_add(length)
            .filter(|received| *received <= slot.total)
            .ok_or(Broken)?;
        if slot.received < slot.total {
            return Ok(mark::PART);
        }
        self.end(id);
        Ok(mark::LAST_PART)
    }

    /// A request has had its end.
    fn end(&mut self, id: u32) {
        if table::find(&mut self.table, id).is_some_and(|slot| slot.cancel == Cancel::Owed) {
            self.cancels -= 1;
        }
        table::end(&mut self.table, id);
    }

    /// The server has closed: requests after `last` were not processed.
    fn lose_after(&mut self, last: u32) {
        for slot in self.table.slots_mut().iter_mut().filter(|slot| slot.id > last) {
            if slot.cancel == Cancel::Owed {
                slot.cancel = Cancel::Told;
                self.cancels -= 1;
            }
            slot.state = State::Lost;
            self.lost += 1;
        }
    }

    pub(super) fn write_cancels(&mut self, writer: &mut Writer<'_, '_>) {
        if self.cancels == 0 {
            return;
        }
        for slot in self
            .table
            .slots_mut()
            .iter_mut()
            .filter(|slot| slot.cancel == Cancel::Owed)
        {
            if !writer.frame(kind::CANCEL, slot.id, &[], &[]) {
                return;
            }
            slot.cancel = Cancel::Told;
            self.cancels -= 1;
        }
    }

    /// Writes the next frame of a request, beginning a record where the open one is full. `false`: the output is full.
    pub(super) fn write_request<'m, C: Crypto>(
        &mut self,
        crypto: &C,
        link: &mut Link<C::Aead>,
        (serial, max_message): (u32, u32),
        message: &mut OutgoingRequest,
        body: &'m [u8],
        writer: &mut Writer<'_, 'm>,
    ) -> Result<bool, Error> {
        if message.is_done() {
            return Ok(true);
        }
        message.check(serial, body)?;
        let begun = message.number() > 0;
        let id = if begun {
            message.number()
        } else {
            self.begun.checked_add(1).ok_or(ConnectionError::NumbersExhausted)?
        };
        if begun {
            let slot = table::find(&mut self.table, id);
            if slot.is_none_or(|slot| slot.cancel != Cancel::No || slot.state == State::Lost) {
                // Its end has come, or was asked for: the rest of it is not wanted.
                message.stop();
                return Ok(true);
            }
        } else {
            if link.own_close != OwnClose::None || link.their_close.is_some() {
                // Nothing new begins: it was not processed.
                return Ok(true);
            }
            let (length, limit) = (u64::try_from(body.len()).unwrap_or(u64::MAX), u64::from(max_message));
            if length > limit {
                // The limit was not known when the request was made.
                message.fail(RequestError::TooLarge { length, limit });
                return Ok(true);
            }
            if self.table.slots().len() >= self.max_in_flight {
                return Ok(true);
            }
        }
        let Some(sealed) = super::write_message(crypto, link, id, message.sealed(), body, writer)? else {
            return Ok(false);
        };
        if !begun {
            // There is room: the limit in flight is at most what the table holds.
            let _ = self.table.push(RequestSlot {
                id,
                ..RequestSlot::EMPTY
            });
            self.begun = id;
        }
        message.seal_part(id, sealed);
        Ok(true)
    }
}

impl<T: RequestTable, C: NoiseCrypto> ClientSession<T, C> {
    /// Tells the next thing that has taken effect: the next frame of the opened record, or a request that the server will not process.
    pub(super) fn tell(&mut self, unread: &[u8]) -> Option<Result<Received<ClientEvent>, ConnectionError>> {
        let link = self.base.link.as_mut()?;
        let mut skipped = 0;
        while link.opened > 0 {
            let Some(told) = link.next_frame(unread, skipped + link.at()) else {
                // The caller has dropped bytes that it was not told to drop.
                link.opened = 0;
                return Some(Err(self.base.life.fail(ConnectionError::Tampered)));
            };
            let id = RequestId::new(self.base.serial, told.head.id);
            let body = told.body..told.body + usize::from(told.head.length);
            let code = || unread.get(told.body).copied().unwrap_or(0);
            let event = match told.head.kind {
                mark::WHOLE => Some(ClientEvent::Answer { id, body }),
                mark::WHOLE_BEGUN => Some(ClientEvent::Answer {
                    id,
                    body: body.start + TOTAL..body.end,
                }),
                mark::BEGIN => {
                    let total = unread
                        .get(body.start..)
                        .and_then(<[u8]>::first_chunk)
                        .copied()
                        .unwrap_or_default();
                    let body = body.start + TOTAL..body.end;
                    Some(ClientEvent::Begin {
                        id,
                        total: u32::from_be_bytes(total),
                        body,
                    })
                }
                mark::PART => Some(ClientEvent::Part { id, body, last: false }),
                mark::LAST_PART => Some(ClientEvent::Part { id, body, last: true }),
                mark::REFUSED => Some(ClientEvent::Refused {
                    id,
                    refusal: super::refusal_of(code()),
                }),
                mark::PONG => {
                    let bytes = unread.get(told.body..).and_then(<[u8]>::first_chunk).copied();
                    bytes
                        .and_then(|bytes| link.ping_of(bytes))
                        .map(|ping| ClientEvent::Pong { ping: PingId(ping) })
                }
                mark::CLOSING => Some(ClientEvent::Closing {
                    reason: reason_of(code()),
                }),
                mark::ENDED => {
                    link.opened = 0;
                    self.ending = Some(super::ended(code()));
                    break;
                }
                _ => None,
            };
            link.tell(&told);
            if let Some(event) = event {
                return Some(Ok(Received::Event {
                    consumed: told.consumed,
                    event,
                }));
            }
            skipped = told.consumed;
        }
        if skipped > 0 {
            return Some(Ok(Received::Skip { consumed: skipped }));
        }
        if self.requests.lost == 0 {
            return self.ending.map(|ending| Err(self.base.fail(ending)));
        }
        let lost = self
            .requests
            .table
            .slots()
            .iter()
            .find(|slot| slot.state == State::Lost)?
            .id;
        self.requests.lost -= 1;
        table::end(&mut self.requests.table, lost);
        let id = RequestId::new(self.base.serial, lost);
        Some(Ok(Received::Event {
            consumed: 0,
            event: ClientEvent::Refused {
                id,
                refusal: Refusal::NotProcessed,
            },
        }))
    }
}
