//! How a client processes the frames of a server. It checks all frames of a record first, then
//! returns them as events one at a time.

use super::base::mark_frames;
use super::client::{ClientSession, Requests};
use super::layout::{FrameHead, kind, split_total};
use super::link::{Link, close, reason_of};
#[cfg(feature = "streams")]
use super::streams::flag;
use super::table::{self, Cancel, RequestTable, State};
use super::{Broken, mark};
use crate::crypto::{Aead, NoiseCrypto};
use crate::error::ConnectionError;
use crate::event::{ClientEvent, ClientReceived, ClientWait, Received};
use crate::message::{PingId, Refusal, RequestId};
use crate::unread::Unread;

impl<A: Aead> Link<A> {
    /// Checks all frames of a record in order and applies them to `requests`. Replaces the kind of
    /// each frame by a mark from which `next_event` knows which event to return.
    ///
    /// If a frame breaks the rules, the connection ends, and the effects of the frames before it
    /// are never visible.
    #[inline]
    pub(super) fn check_server_record<T: RequestTable>(
        &mut self,
        requests: &mut Requests<T>,
        frames: &mut [u8],
    ) -> Result<(), Broken> {
        mark_frames(frames, |head, body| self.check_server_frame(requests, head, body))
    }

    #[inline]
    fn check_server_frame<T: RequestTable>(
        &mut self,
        requests: &mut Requests<T>,
        head: FrameHead,
        body: &[u8],
    ) -> Result<u8, Broken> {
        let length = u32::from(head.length);
        match (head.kind, head.id) {
            (kind::SKIPPED.., _) => Ok(mark::SKIP),
            (kind::PING, 0) if length == 8 => {
                self.queue_pong(body);
                Ok(mark::SKIP)
            }
            (kind::PONG, 0) if length == 8 => {
                requests.table.shrink();
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
                let (total, part) = split_total(body).ok_or(Broken)?;
                let part = u32::try_from(part.len()).map_err(|_| Broken)?;
                #[cfg(feature = "streams")]
                if requests.takes_open(total) {
                    return requests.begin_open_answer(id, part);
                }
                Ok(match requests.answer(id, total, part)? {
                    mark::WHOLE => mark::WHOLE_BEGUN,
                    other => other,
                })
            }
            (kind::PART, id @ 1..) if length > 0 => requests.part(id, length),
            (kind::REFUSE, id @ 1..) if length == 1 => {
                let slot = table::find(&mut requests.table, id)
                    .filter(|slot| slot.state != State::Lost)
                    .ok_or(Broken)?;
                #[cfg(feature = "streams")]
                let refused = Requests::<T>::refused(slot, body.first().copied().unwrap_or_default());
                #[cfg(not(feature = "streams"))]
                let (_, refused) = (slot, mark::REFUSED);
                requests.complete(id);
                Ok(refused)
            }
            #[cfg(feature = "streams")]
            (kind::END, id @ 1..) if length == 0 => requests.end_answer(id),
            #[cfg(feature = "streams")]
            (kind::CREDIT, id @ 1..) => requests.credit(id, body),
            _ => Err(Broken),
        }
    }
}

impl<T: RequestTable> Requests<T> {
    #[inline]
    fn answer(&mut self, id: u32, total: u32, received: u32) -> Result<u8, Broken> {
        if total > self.max_message || received > total {
            return Err(Broken);
        }
        let place = self.table.find(id).ok_or(Broken)?;
        let waiting = self
            .table
            .get_mut(place)
            .filter(|slot| slot.state == State::Waiting)
            .ok_or(Broken)?;
        if received == total {
            self.complete_at(place);
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
        #[cfg(feature = "streams")]
        if slot.has(flag::READS) {
            return self.streams.part(slot, length);
        }
        slot.received = slot
            .received
            .checked_add(length)
            .filter(|received| *received <= slot.total)
            .ok_or(Broken)?;
        if slot.received < slot.total {
            return Ok(mark::PART);
        }
        self.complete(id);
        Ok(mark::LAST_PART)
    }

    /// Removes a request that has completed.
    pub(super) fn complete(&mut self, id: u32) {
        if let Some(place) = self.table.find(id) {
            self.complete_at(place);
        }
    }

    #[inline]
    fn complete_at(&mut self, place: usize) {
        #[cfg(feature = "streams")]
        if let Some(slot) = self.table.get_mut(place)
            && slot.flags != 0
        {
            self.streams.complete(slot);
        }
        if self.table.get(place).is_some_and(|slot| slot.cancel == Cancel::Pending) {
            self.cancels -= 1;
        }
        self.table.remove(place);
    }

    /// The server has closed and will not process requests after `last`.
    fn lose_after(&mut self, last: u32) {
        for slot in self.table.iter_mut().filter(|slot| slot.id > last) {
            if slot.cancel == Cancel::Pending {
                slot.cancel = Cancel::Done;
                self.cancels -= 1;
            }
            #[cfg(feature = "streams")]
            self.streams.forget_credit(slot);
            slot.state = State::Lost;
            self.lost += 1;
        }
        self.table.note_lost(last);
    }
}

impl<T: RequestTable, C: NoiseCrypto> ClientSession<T, C> {
    /// Whether `next_event` has events to return: frames of an opened record, or requests that the
    /// server will not process.
    #[inline]
    pub(super) fn has_pending_event(&self) -> bool {
        self.requests.lost > 0 || self.ending.is_some() || self.base.phase.link().is_some_and(|link| link.opened > 0)
    }

    /// Returns the next event: of the next frame of the opened record, or of a request that the
    /// server will not process.
    #[inline]
    pub(super) fn next_event<'u>(&mut self, unread: Unread<'u, '_>) -> Result<ClientReceived<'u>, ConnectionError> {
        let Some(link) = self.base.phase.link_mut() else {
            return Ok(Received::Wait(ClientWait::TransmitFirst));
        };
        let (unread, start) = unread.into_parts();
        let mut skipped = 0;
        while link.opened > 0 {
            let Some(frame) = link.next_frame(unread, skipped + link.offset()) else {
                return Err(self.base.fail_misplaced());
            };
            let id = RequestId::new(self.base.serial, frame.head.id);
            let body = frame.body;
            let code = body.first().copied().unwrap_or(0);
            let event = match frame.head.kind {
                mark::WHOLE => Some(ClientEvent::Answer { id, body }),
                mark::WHOLE_BEGUN | mark::BEGIN => {
                    let Some((total, body)) = split_total(body) else {
                        return Err(self.base.fail_misplaced());
                    };
                    Some(if frame.head.kind == mark::BEGIN {
                        ClientEvent::Begin { id, total, body }
                    } else {
                        ClientEvent::Answer { id, body }
                    })
                }
                #[cfg(feature = "streams")]
                mark::OPENED => {
                    let Some((_, body)) = split_total(body) else {
                        return Err(self.base.fail_misplaced());
                    };
                    Some(ClientEvent::Opened { id, body })
                }
                mark::PART => Some(ClientEvent::Part { id, body, last: false }),
                mark::LAST_PART => Some(ClientEvent::Part { id, body, last: true }),
                #[cfg(feature = "streams")]
                mark::CREDITED => Some(ClientEvent::Credit { id }),
                #[cfg(feature = "streams")]
                mark::REFUSED_AFTER_ALL => Some(ClientEvent::Refused {
                    id,
                    refusal: Refusal::Failed,
                }),
                mark::REFUSED => Some(ClientEvent::Refused {
                    id,
                    refusal: super::refusal_of(code),
                }),
                mark::PONG => body
                    .first_chunk()
                    .and_then(|bytes| link.ping_of(*bytes))
                    .map(|ping| ClientEvent::Pong { ping: PingId(ping) }),
                mark::CLOSING => Some(ClientEvent::Closing {
                    reason: reason_of(code),
                }),
                mark::ENDED => {
                    link.opened = 0;
                    self.ending = Some(code);
                    break;
                }
                _ => None,
            };
            link.consume(&frame);
            if let Some(event) = event {
                *start += frame.consumed;
                return Ok(Received::Event(event));
            }
            skipped = frame.consumed;
        }
        if skipped > 0 {
            *start += skipped;
            return Ok(Received::Skip);
        }
        self.next_lost()
    }

    /// Returns the event of the next request that the server will not process. If there is none and
    /// the server has ended the connection, returns the end.
    fn next_lost<'u>(&mut self) -> Result<ClientReceived<'u>, ConnectionError> {
        let lost = (self.requests.lost > 0).then(|| self.requests.table.next_lost());
        let Some(lost) = lost.flatten() else {
            return match self.ending {
                Some(code) => Err(self.base.fail(super::ended(code))),
                None => Ok(Received::Wait(ClientWait::TransmitFirst)),
            };
        };
        self.requests.lost -= 1;
        #[cfg(feature = "streams")]
        let refusal = self.requests.refusal_of_lost(lost);
        #[cfg(not(feature = "streams"))]
        let refusal = Refusal::NotProcessed;
        self.requests.complete(lost);
        Ok(Received::Event(ClientEvent::Refused {
            id: RequestId::new(self.base.serial, lost),
            refusal,
        }))
    }
}
