//! How a server processes the frames of a client. It checks all frames of a record first, then
//! returns them as events one at a time.

use super::base::mark_frames;
#[cfg(feature = "streams")]
use super::layout::OPEN;
use super::layout::{FrameHead, kind, split_total};
use super::link::{Link, close, reason_of};
use super::server::{Requests, ServerSession};
#[cfg(feature = "streams")]
use super::streams::flag;
use super::table::{self, Cancel, RequestSlot, RequestTable, State};
use super::{Broken, mark, millis};
use crate::crypto::{Aead, NoiseCrypto};
use crate::error::ConnectionError;
use crate::event::{Received, ServerEvent, ServerReceived, ServerWait};
use crate::life::GracePeriod;
use crate::message::RequestId;
use crate::time::{Instant, MaybeInstant, Span};
use crate::unread::Unread;

impl<A: Aead> Link<A> {
    /// Checks all frames of a record in order and applies them to `requests`. Overwrites the kind
    /// of each frame with a mark from which `next_event` knows which event to return.
    ///
    /// # Errors
    /// [`Broken`] if a frame breaks the rules. The caller then ends the connection, so that no
    /// frame of the record has a visible effect.
    #[inline]
    pub(super) fn check_client_record<T: RequestTable>(
        &mut self,
        requests: &mut Requests<T>,
        frames: &mut [u8],
        now: Instant,
    ) -> Result<(), Broken> {
        mark_frames(frames, |head, body| self.check_client_frame(requests, head, body, now))
    }

    #[inline]
    fn check_client_frame<T: RequestTable>(
        &mut self,
        requests: &mut Requests<T>,
        head: FrameHead,
        body: &[u8],
        now: Instant,
    ) -> Result<u8, Broken> {
        let length = u32::from(head.length);
        match (head.kind, head.id) {
            (kind::SKIPPED.., _) => Ok(mark::SKIP),
            (kind::PING, 0) if length == 8 => {
                self.queue_pong(body);
                requests.table.shrink();
                Ok(mark::PING)
            }
            (kind::PONG, 0) if length == 8 => Ok(mark::SKIP),
            (kind::CLOSE, id) if length == 1 && self.their_close.is_none() => {
                let code = body.first().copied().unwrap_or(close::DONE);
                self.their_close = Some((code, id));
                Ok(match code {
                    close::IDLE | close::PROTOCOL_ERROR => mark::ENDED,
                    _ => mark::CLOSING,
                })
            }
            (kind::MESSAGE, 1..) => {
                self.begin(requests, head.id)?;
                Ok(requests.admit(head.id, length, length, now))
            }
            (kind::BEGIN, 1..) => {
                let (total, part) = split_total(body).ok_or(Broken)?;
                let part = u32::try_from(part.len()).map_err(|_| Broken)?;
                if part > total {
                    return Err(Broken);
                }
                self.begin(requests, head.id)?;
                #[cfg(feature = "streams")]
                if total == OPEN {
                    return requests.admit_open(head.id, part);
                }
                Ok(match requests.admit(head.id, total, part, now) {
                    mark::WHOLE => mark::WHOLE_BEGUN,
                    other => other,
                })
            }
            (kind::PART, 1..) if length > 0 => requests.part(head.id, length, now),
            (kind::CANCEL, 1..) if length == 0 => Ok(requests.cancel(head.id)),
            #[cfg(feature = "streams")]
            (kind::END, 1..) if length == 0 => requests.end_request(head.id),
            #[cfg(feature = "streams")]
            (kind::CREDIT, 1..) => requests.credit(head.id, body),
            _ => Err(Broken),
        }
    }

    /// Checks that `id` may begin a new request, and records it.
    #[inline]
    fn begin<T: RequestTable>(&self, requests: &mut Requests<T>, id: u32) -> Result<(), Broken> {
        if id <= requests.begun || self.their_close.is_some() {
            return Err(Broken);
        }
        requests.begun = id;
        Ok(())
    }
}

impl<T: RequestTable> Requests<T> {
    /// Admits a request of which `received` of `total` bytes have arrived, if the limits allow it.
    /// Returns the mark for its frame: that of the event, of a refusal, or `SKIP` for a request
    /// after this side's CLOSE.
    #[inline]
    fn admit(&mut self, id: u32, total: u32, received: u32, now: Instant) -> u8 {
        if self.last.is_some() {
            return mark::SKIP;
        }
        if total > self.max_message {
            return mark::TOO_LARGE;
        }
        if self.table.len() >= usize::from(self.max_in_flight) || !self.has_room(received) {
            return mark::BUSY;
        }
        let state = if received == total {
            State::Waiting
        } else {
            State::Receiving
        };
        let slot = RequestSlot {
            id,
            total,
            received,
            touched: millis(now),
            state,
            ..RequestSlot::EMPTY
        };
        if !self.table.push(slot) {
            return mark::BUSY;
        }
        self.held += received;
        if state == State::Waiting {
            return mark::WHOLE;
        }
        if self.stale.is_none() {
            self.set_stale(now + self.lifetime);
        }
        mark::BEGIN
    }

    /// Whether `bytes` more bytes may be held. Call it before they are added.
    pub(super) fn has_room(&self, bytes: u32) -> bool {
        self.held.checked_add(bytes).is_some_and(|held| held <= self.max_held)
    }

    fn part(&mut self, id: u32, length: u32, now: Instant) -> Result<u8, Broken> {
        if id > self.begun {
            return Err(Broken);
        }
        let over = !self.has_room(length);
        let slot = table::find(&mut self.table, id);
        #[cfg(feature = "streams")]
        let slot = match slot {
            Some(slot) if slot.has(flag::READS) => return self.streams.part(slot, length),
            slot => slot,
        };
        let Some(slot) = slot.filter(|slot| slot.state == State::Receiving) else {
            return Ok(mark::SKIP);
        };
        let received = slot
            .received
            .checked_add(length)
            .filter(|received| *received <= slot.total)
            .ok_or(Broken)?;
        if over {
            self.complete(id);
            return Ok(mark::ABANDONED_BUSY);
        }
        slot.received = received;
        slot.touched = millis(now);
        self.held += length;
        if received < slot.total {
            return Ok(mark::PART);
        }
        slot.state = State::Waiting;
        Ok(mark::LAST_PART)
    }

    fn cancel(&mut self, id: u32) -> u8 {
        #[cfg(feature = "streams")]
        if let Some(mark) = self.cancel_open(id) {
            return mark;
        }
        let Some(slot) = table::find(&mut self.table, id) else {
            return mark::SKIP;
        };
        if slot.state == State::Receiving {
            self.complete(id);
            return mark::ABANDONED_CANCELLED;
        }
        if slot.state != State::Waiting || slot.cancel != Cancel::No {
            return mark::SKIP;
        }
        slot.cancel = Cancel::Done;
        mark::CANCELLED
    }

    /// Removes a request and releases its held bytes.
    pub(super) fn complete(&mut self, id: u32) {
        if let Some(place) = self.table.find(id) {
            self.complete_at(place);
        }
    }

    #[inline]
    pub(super) fn complete_at(&mut self, place: usize) {
        #[cfg(not(feature = "streams"))]
        let received = self.table.get(place).map_or(0, |slot| slot.received);
        #[cfg(feature = "streams")]
        let received = self.table.get_mut(place).map_or(0, |slot| {
            if slot.flags != 0 {
                self.lost -= u32::from(slot.is_cut());
                self.streams.complete(slot);
            }
            slot.received
        });
        self.held = self.held.saturating_sub(received);
        self.table.remove(place);
    }

    /// Restarts the stale timeout of all partially received requests at `now`.
    pub(super) fn touch(&mut self, now: Instant) {
        for slot in self.table.iter_mut() {
            // Of an open body it has another meaning.
            #[cfg(feature = "streams")]
            if slot.state != State::Receiving {
                continue;
            }
            slot.touched = millis(now);
        }
        if self.stale.is_some() {
            self.set_stale(now + self.lifetime);
        }
    }

    /// Sets the earliest time at which a partially received request can be stale.
    fn set_stale(&mut self, stale: impl Into<MaybeInstant>) {
        self.stale = stale.into();
        self.grace = GracePeriod::UNUSED;
    }

    /// Handles a late poll: moves the stale timeout, so that bytes that arrived before `now` are
    /// read first.
    pub(super) fn handle_late_poll(&mut self, now: Instant) {
        let late = |stale: Instant| (now + Span::TICK).span_since(stale);
        // The poll may be at most one lifetime late, as for the connection. The time since the last
        // bytes of a request has to fit in 32 bits.
        if let Some(late) = self.stale.get().filter(|stale| *stale <= now).map(late)
            && late <= self.lifetime
            && self.lifetime.as_millis() + late.as_millis() + 2_000 < u64::from(u32::MAX)
            && self.grace.take(late, self.lifetime)
        {
            self.stale = (now + Span::TICK).into();
        }
    }

    /// Gives up all partially received requests: the client has sent its CLOSE and ended the
    /// stream, so the rest of them will not arrive.
    pub(super) fn lose_half_received(&mut self) {
        for slot in self.table.iter_mut().filter(|slot| slot.state == State::Receiving) {
            slot.state = State::Lost;
            self.lost += 1;
        }
        self.table.note_lost(1);
        self.set_stale(None);
    }

    /// Gives up partially received requests of which nothing has arrived for one lifetime.
    pub(super) fn drop_stale(&mut self, now: Instant) {
        let Some(stale) = self.stale.get().filter(|stale| now >= *stale) else {
            return;
        };
        let late = now.as_millis().saturating_sub(stale.as_millis());
        let lifetime = self.lifetime.as_millis();
        let (mut left, mut first_lost): (Option<u64>, u32) = (None, u32::MAX);
        for slot in self.table.iter_mut().filter(|slot| slot.state == State::Receiving) {
            // At `stale`, no request has been silent for longer than one lifetime plus the lateness
            // that `handle_late_poll` allows. `handle_late_poll` checks that the sum fits in 32
            // bits, so the difference does not wrap, however late this call is.
            let silent = late.saturating_add(millis(stale).wrapping_sub(slot.touched).into());
            if silent >= lifetime {
                slot.state = State::Lost;
                self.lost += 1;
                first_lost = first_lost.min(slot.id);
            } else {
                left = Some(left.map_or(lifetime - silent, |least| least.min(lifetime - silent)));
            }
        }
        self.table.note_lost(first_lost);
        self.set_stale(left.map(|left| now + Span::from_millis(left)));
    }
}

impl<T: RequestTable, C: NoiseCrypto> ServerSession<T, C> {
    /// Returns the PING of the first record as `Established`.
    pub(super) fn report_established(
        &mut self,
        unread: Unread<'_, '_>,
    ) -> Result<ServerReceived<'static>, ConnectionError> {
        let consumed = self.base.phase.link_mut().and_then(|link| {
            let frame = link.next_frame(&unread, link.offset())?;
            link.consume(&frame);
            Some(frame.consumed)
        });
        unread.consume(consumed.ok_or_else(|| self.base.fail_misplaced())?);
        Ok(Received::Event(ServerEvent::Established))
    }

    /// Whether `next_event` has events to return: frames of an opened record, or requests that were
    /// given up.
    #[inline]
    pub(super) fn has_pending_event(&self) -> bool {
        self.requests.lost > 0 || self.base.phase.link().is_some_and(|link| link.opened > 0)
    }

    /// Returns the next event: of the next frame of the opened record, or of a request that was
    /// given up.
    #[inline]
    pub(super) fn next_event<'u>(&mut self, unread: Unread<'u, '_>) -> Result<ServerReceived<'u>, ConnectionError> {
        let Some(link) = self.base.phase.link_mut() else {
            return Ok(Received::Wait(ServerWait::TransmitFirst));
        };
        let (unread, start) = unread.into_parts();
        let mut skipped = 0;
        while link.opened > 0 {
            let Some(frame) = link.next_frame(unread, skipped + link.offset()) else {
                return Err(self.base.fail_misplaced());
            };
            let id = RequestId::new(self.base.serial, frame.head.id);
            let body = frame.body;
            // The request may have completed since its frames were checked.
            let gone = || self.requests.table.find(frame.head.id).is_none();
            let code = body.first().copied().unwrap_or(close::DONE);
            let event = match frame.head.kind {
                mark::PART | mark::LAST_PART | mark::CANCELLED if gone() => None,
                #[cfg(feature = "streams")]
                mark::CREDITED if gone() => None,
                #[cfg(feature = "streams")]
                mark::PART | mark::LAST_PART if self.requests.discards(frame.head.id) => None,
                #[cfg(feature = "streams")]
                mark::CREDITED => Some(ServerEvent::Credit { id }),
                mark::WHOLE => Some(ServerEvent::Request { id, body }),
                mark::WHOLE_BEGUN | mark::BEGIN => {
                    let Some((total, body)) = split_total(body) else {
                        return Err(self.base.fail_misplaced());
                    };
                    Some(if frame.head.kind == mark::BEGIN {
                        ServerEvent::Begin { id, total, body }
                    } else {
                        ServerEvent::Request { id, body }
                    })
                }
                #[cfg(feature = "streams")]
                mark::OPENED => {
                    let Some((_, body)) = split_total(body) else {
                        return Err(self.base.fail_misplaced());
                    };
                    Some(ServerEvent::Opened { id, body })
                }
                mark::PART => Some(ServerEvent::Part { id, body, last: false }),
                mark::LAST_PART => Some(ServerEvent::Part { id, body, last: true }),
                mark::CANCELLED => Some(ServerEvent::Cancelled { id }),
                mark::PING => Some(ServerEvent::Ping),
                mark::CLOSING => Some(ServerEvent::Closing {
                    reason: reason_of(code),
                }),
                mark::ENDED => {
                    link.opened = 0;
                    return Err(self.base.life.fail(super::ended(code)));
                }
                mark::BUSY | mark::TOO_LARGE | mark::ABANDONED_BUSY | mark::ABANDONED_CANCELLED => {
                    if !link.can_refuse() {
                        return Ok(if skipped > 0 {
                            *start += skipped;
                            Received::Skip
                        } else {
                            Received::Wait(ServerWait::TransmitFirst)
                        });
                    }
                    link.queue_refusal(frame.head.id, super::refusal_of_mark(frame.head.kind));
                    let abandoned = matches!(frame.head.kind, mark::ABANDONED_BUSY | mark::ABANDONED_CANCELLED);
                    abandoned.then_some(ServerEvent::Abandoned { id })
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
        Ok(self.next_lost().unwrap_or(Received::Wait(ServerWait::TransmitFirst)))
    }

    /// Returns the event of the next request that was given up, if there is one.
    pub(super) fn next_lost<'u>(&mut self) -> Option<ServerReceived<'u>> {
        if self.requests.lost == 0 {
            return None;
        }
        let link = self.base.phase.link_mut()?;
        let lost = self.requests.table.next_lost()?;
        #[cfg(feature = "streams")]
        if self.requests.take_cut(lost) {
            return Some(Received::Event(ServerEvent::Cancelled {
                id: RequestId::new(self.base.serial, lost),
            }));
        }
        if !link.can_refuse() {
            return Some(Received::Wait(ServerWait::TransmitFirst));
        }
        link.queue_refusal(lost, super::refusal::NOT_PROCESSED);
        self.requests.lost -= 1;
        self.requests.complete(lost);
        Some(Received::Event(ServerEvent::Abandoned {
            id: RequestId::new(self.base.serial, lost),
        }))
    }
}
