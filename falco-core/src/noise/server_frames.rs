//! What the frames of a client do to a server: judged a record at a time, told a frame at a time.

use super::base::mark_frames;
use super::layout::{FrameHead, TOTAL, kind};
use super::link::{Link, close, reason_of};
use super::server::{Requests, ServerSession};
use super::table::{self, Cancel, RequestSlot, RequestTable, State};
use super::{Broken, mark, millis};
use crate::crypto::{Aead, NoiseCrypto};
use crate::error::ConnectionError;
use crate::event::{Received, ServerEvent, ServerReceived, ServerWait};
use crate::life::GracePeriod;
use crate::message::RequestId;
use crate::time::{Instant, Span};

impl<A: Aead> Link<A> {
    /// Judges all frames of a record in order and lets them take effect on `requests`. Each frame's
    /// kind is replaced by a mark: what is to be told of it.
    ///
    /// Where a frame breaks the rules the connection is over, so that what the frames before it did
    /// shows nowhere.
    #[inline]
    pub(super) fn judge_client_record<T: RequestTable>(
        &mut self,
        requests: &mut Requests<T>,
        frames: &mut [u8],
        now: Instant,
    ) -> Result<(), Broken> {
        mark_frames(frames, |head, body| self.judge_client_frame(requests, head, body, now))
    }

    #[inline]
    fn judge_client_frame<T: RequestTable>(
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
                self.owe_pong(body);
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
                let (total, part) = body.split_first_chunk::<TOTAL>().ok_or(Broken)?;
                let (total, part) = (
                    u32::from_be_bytes(*total),
                    u32::try_from(part.len()).map_err(|_| Broken)?,
                );
                if part > total {
                    return Err(Broken);
                }
                self.begin(requests, head.id)?;
                Ok(match requests.admit(head.id, total, part, now) {
                    mark::WHOLE => mark::WHOLE_BEGUN,
                    other => other,
                })
            }
            (kind::PART, 1..) if length > 0 => requests.part(head.id, length, now),
            (kind::CANCEL, 1..) if length == 0 => Ok(requests.cancel(head.id)),
            _ => Err(Broken),
        }
    }

    /// Whether a request of this number may begin.
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
    /// Takes a request of which `received` of `total` bytes have come, or marks why not.
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
            cancel: Cancel::No,
        };
        if !self.table.push(slot) {
            return mark::BUSY;
        }
        self.held += received;
        if state == State::Waiting {
            return mark::WHOLE;
        }
        if self.stale.is_none() {
            self.look_at(Some(now + self.lifetime));
        }
        mark::BEGIN
    }

    /// Whether so many bytes more can be held. Whoever adds them has asked.
    fn has_room(&self, bytes: u32) -> bool {
        self.held.checked_add(bytes).is_some_and(|held| held <= self.max_held)
    }

    fn part(&mut self, id: u32, length: u32, now: Instant) -> Result<u8, Broken> {
        if id > self.begun {
            return Err(Broken);
        }
        let over = !self.has_room(length);
        let Some(slot) = table::find(&mut self.table, id).filter(|slot| slot.state == State::Receiving) else {
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

    /// Removes a request that has completed.
    pub(super) fn complete(&mut self, id: u32) {
        if let Some(place) = self.table.find(id) {
            self.complete_at(place);
        }
    }

    #[inline]
    pub(super) fn complete_at(&mut self, place: usize) {
        let received = self.table.get(place).map_or(0, |slot| slot.received);
        self.held = self.held.saturating_sub(received);
        self.table.remove(place);
    }

    /// Counts the silence of all that is half received from `now`.
    pub(super) fn touch(&mut self, now: Instant) {
        for slot in self.table.iter_mut() {
            slot.touched = millis(now);
        }
        self.look_at(self.stale.map(|_| now + self.lifetime));
    }

    /// When what is half received is to be looked at.
    fn look_at(&mut self, stale: Option<Instant>) {
        self.stale = stale;
        self.grace = GracePeriod::UNUSED;
    }

    /// What had come by `now` is taken before anything counts as stale.
    pub(super) fn handle_late_poll(&mut self, now: Instant) {
        let late = |stale: Instant| (now + Span::TICK).span_since(stale);
        // For longer than a lifetime nothing is kept, as the connection is not; and the silence of
        // each request is told in 32 bits.
        if let Some(late) = self.stale.filter(|stale| *stale <= now).map(late)
            && late <= self.lifetime
            && self.lifetime.as_millis() + late.as_millis() + 2_000 < u64::from(u32::MAX)
            && self.grace.take(late, self.lifetime)
        {
            self.stale = Some(now + Span::TICK);
        }
    }

    /// Gives up requests that are half received: the stream has ended in order, and what is missing
    /// of them never comes.
    pub(super) fn lose_half_received(&mut self) {
        for slot in self.table.iter_mut().filter(|slot| slot.state == State::Receiving) {
            slot.state = State::Lost;
            self.lost += 1;
        }
        self.table.note_lost(1);
        self.look_at(None);
    }

    /// Gives up requests of which nothing has come for a lifetime.
    pub(super) fn drop_stale(&mut self, now: Instant) {
        let Some(stale) = self.stale.filter(|stale| now >= *stale) else {
            return;
        };
        let late = now.as_millis().saturating_sub(stale.as_millis());
        let lifetime = self.lifetime.as_millis();
        let (mut left, mut first_lost): (Option<u64>, u32) = (None, u32::MAX);
        for slot in self.table.iter_mut().filter(|slot| slot.state == State::Receiving) {
            // The first of them is due at `stale`, so that up to there no time is longer than 32
            // bits can tell, however late this is.
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
        self.look_at(left.map(|left| now + Span::from_millis(left)));
    }
}

impl<T: RequestTable, C: NoiseCrypto> ServerSession<T, C> {
    /// The first record's PING: its frame is told as the establishment.
    pub(super) fn tell_established(&mut self, unread: &[u8]) -> Result<ServerReceived<'static>, ConnectionError> {
        let consumed = self.base.phase.link_mut().and_then(|link| {
            let told = link.next_frame(unread, link.at())?;
            link.tell(&told);
            Some(told.consumed)
        });
        Ok(Received::Event {
            consumed: consumed.ok_or_else(|| self.base.lose_place())?,
            event: ServerEvent::Established,
        })
    }

    /// Whether something has taken effect that has not been told.
    #[inline]
    pub(super) fn has_more_to_tell(&self) -> bool {
        self.requests.lost > 0 || self.base.phase.link().is_some_and(|link| link.opened > 0)
    }

    /// Tells the next thing that has taken effect: a request given up, or the next frame of the
    /// opened record.
    #[inline]
    pub(super) fn tell<'u>(&mut self, unread: &'u [u8]) -> Result<ServerReceived<'u>, ConnectionError> {
        let Some(link) = self.base.phase.link_mut() else {
            return Ok(Received::Wait(ServerWait::TransmitFirst));
        };
        let mut skipped = 0;
        while link.opened > 0 {
            let Some(told) = link.next_frame(unread, skipped + link.at()) else {
                return Err(self.base.lose_place());
            };
            let id = RequestId::new(self.base.serial, told.head.id);
            let body = told.body;
            // A request half told may have completed since its frames were judged.
            let gone = || self.requests.table.find(told.head.id).is_none();
            let code = body.first().copied().unwrap_or(close::DONE);
            let event = match told.head.kind {
                mark::PART | mark::LAST_PART | mark::CANCELLED if gone() => None,
                mark::WHOLE => Some(ServerEvent::Request { id, body }),
                mark::WHOLE_BEGUN | mark::BEGIN => {
                    let Some((total, body)) = body.split_first_chunk::<TOTAL>() else {
                        return Err(self.base.lose_place());
                    };
                    Some(if told.head.kind == mark::BEGIN {
                        let total = u32::from_be_bytes(*total);
                        ServerEvent::Begin { id, total, body }
                    } else {
                        ServerEvent::Request { id, body }
                    })
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
                            Received::Skip { consumed: skipped }
                        } else {
                            Received::Wait(ServerWait::TransmitFirst)
                        });
                    }
                    link.owe_refusal(told.head.id, super::refusal_of_mark(told.head.kind));
                    let abandoned = matches!(told.head.kind, mark::ABANDONED_BUSY | mark::ABANDONED_CANCELLED);
                    abandoned.then_some(ServerEvent::Abandoned { id })
                }
                _ => None,
            };
            link.tell(&told);
            if let Some(event) = event {
                return Ok(Received::Event {
                    consumed: told.consumed,
                    event,
                });
            }
            skipped = told.consumed;
        }
        if skipped > 0 {
            return Ok(Received::Skip { consumed: skipped });
        }
        Ok(self.tell_lost().unwrap_or(Received::Wait(ServerWait::TransmitFirst)))
    }

    /// Tells of a request that was given up because nothing more of it came, if there is one.
    pub(super) fn tell_lost<'u>(&mut self) -> Option<ServerReceived<'u>> {
        if self.requests.lost == 0 {
            return None;
        }
        let link = self.base.phase.link_mut()?;
        let lost = self.requests.table.next_lost()?;
        if !link.can_refuse() {
            return Some(Received::Wait(ServerWait::TransmitFirst));
        }
        link.owe_refusal(lost, super::refusal::NOT_PROCESSED);
        self.requests.lost -= 1;
        self.requests.complete(lost);
        Some(Received::Event {
            consumed: 0,
            event: ServerEvent::Abandoned {
                id: RequestId::new(self.base.serial, lost),
            },
        })
    }
}
