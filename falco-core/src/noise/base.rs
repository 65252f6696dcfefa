//! What both sides of the noise wire remember besides their requests: the life, the link, what each
//! side accepts.

use super::Broken;
use super::layout::{Accepts, FRAME_HEAD, FrameHead};
use super::link::{Link, OwnClose, close};
use super::writer::Writer;
use crate::crypto::{Aead, Crypto};
use crate::error::{ConnectionError, SealError};
use crate::life::Life;
use crate::message::Status;
use crate::time::{Instant, Span};

/// The two phases of a connection, of which one takes the place of the other.
pub(super) enum Phase<H, A> {
    /// What this side needs to make the keys of the connection.
    Handshake(H),
    Transport(Link<A>),
}

impl<H, A> Phase<H, A> {
    #[inline]
    pub(super) const fn link(&self) -> Option<&Link<A>> {
        match self {
            Self::Handshake(_) => None,
            Self::Transport(link) => Some(link),
        }
    }

    #[inline]
    pub(super) const fn link_mut(&mut self) -> Option<&mut Link<A>> {
        match self {
            Self::Handshake(_) => None,
            Self::Transport(link) => Some(link),
        }
    }
}

pub(super) struct Base<H, A> {
    pub(super) life: Life,
    pub(super) phase: Phase<H, A>,
    /// The PING that shows that the welcome could be read has gone, or has come: the connection is
    /// established.
    pub(super) proved: bool,
    pub(super) ours: Accepts,
    pub(super) theirs: Accepts,
    pub(super) serial: u32,
    /// When a drain that nothing ends is over.
    drain: Option<Instant>,
    /// Requests that were in flight before a record that broke the rules: it had no effect on them.
    in_flight: Option<u16>,
}

impl<H, A: Aead> Base<H, A> {
    pub(super) fn new(handshake: H, life: Life, ours: Accepts, theirs: Accepts, serial: u32) -> Self {
        Self {
            life,
            phase: Phase::Handshake(handshake),
            proved: false,
            ours,
            theirs,
            serial,
            drain: None,
            in_flight: None,
        }
    }

    /// What the peer accepts is known.
    pub(super) fn agree(&mut self, theirs: Accepts) {
        self.theirs = theirs;
        self.life
            .set_lifetime(Span::from_millis(theirs.lifetime.min(self.ours.lifetime).into()));
    }

    /// The longest message that this side sends: none over its own limit, whatever the peer reads.
    #[inline]
    pub(super) fn send_limit(&self) -> u32 {
        self.theirs.max_message.min(self.ours.max_message)
    }

    /// Ends the connection without a word.
    pub(super) fn fail(&mut self, end: ConnectionError) -> ConnectionError {
        if let Some(link) = self.phase.link_mut() {
            link.own_close = OwnClose::None;
        }
        self.life.fail(end)
    }

    /// Ends the connection because the unread bytes are not those that were opened: the caller has
    /// dropped more than was said, or something else.
    #[cold]
    pub(super) fn lose_place(&mut self) -> ConnectionError {
        if let Some(link) = self.phase.link_mut() {
            link.opened = 0;
        }
        self.life.fail(ConnectionError::Tampered)
    }

    /// Ends the connection because a frame breaks the rules, and owes the peer a CLOSE that says
    /// so. `last` is the last number that was begun before its record, `in_flight` how many
    /// requests were in flight then.
    pub(super) fn break_off(&mut self, last: u32, in_flight: usize) -> ConnectionError {
        self.in_flight = Some(u16::try_from(in_flight).unwrap_or(u16::MAX));
        if let Some(link) = self.phase.link_mut() {
            link.owe_close(close::PROTOCOL_ERROR, last);
            link.opened = 0;
        }
        self.life.fail(ConnectionError::Protocol)
    }

    /// Notes the time; a lifetime that has run out is said to the peer, with the last request
    /// begun.
    #[inline]
    pub(super) fn check(&mut self, now: Instant, last: u32) -> Result<(), ConnectionError> {
        let before = self.life.end();
        let mut checked = self.life.check(now);
        if checked.is_ok() && self.drain.is_some_and(|drain| self.life.latest() >= drain) {
            checked = Err(self.life.fail(ConnectionError::Expired));
        }
        if let (None, Err(ConnectionError::Expired), Some(link)) = (before, checked, self.phase.link_mut()) {
            link.owe_close(close::IDLE, last);
        }
        checked
    }

    /// After its end a connection says its CLOSE, if one is owed, and nothing else. Says how many
    /// bytes that takes; `end` if none.
    #[cold]
    pub(super) fn write_last<C: Crypto<Aead = A>>(
        &mut self,
        crypto: &C,
        end: ConnectionError,
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let Some(link) = self.phase.link_mut().filter(|_| self.proved) else {
            return Err(end.into());
        };
        let mut writer = Writer::new(out, link.their_max_record);
        link.write_close(&mut writer);
        if !link.finish_last(crypto, &mut writer) {
            return Err(self.fail(ConnectionError::KeyExhausted).into());
        }
        match writer.finished() {
            0 => Err(end.into()),
            written => Ok(written),
        }
    }

    /// Whether a CLOSE was sent, is owed, or has come: nothing more begins.
    #[inline]
    pub(super) fn is_closing(&self) -> bool {
        self.phase
            .link()
            .is_some_and(|link| link.own_close != OwnClose::None || link.their_close.is_some())
    }

    /// How many requests are in flight, of which the table now has `slots`.
    pub(super) fn in_flight(&self, slots: usize) -> usize {
        self.in_flight.map_or(slots, usize::from)
    }

    /// Whether a CLOSE of either side has gone over the wire.
    pub(super) fn close_has_gone(&self) -> bool {
        self.phase
            .link()
            .is_some_and(|link| link.close_sent() || link.their_close.is_some())
    }

    /// Where a connection is whose handshake is over if `established`.
    pub(super) fn status(&self, established: bool) -> Status {
        match (self.life.end(), established) {
            (Some(_), _) => Status::Ended,
            (None, false) => Status::Handshaking,
            (None, true) if self.is_closing() => Status::Draining,
            (None, true) => Status::Established,
        }
    }

    /// From here on there is a bound to the drain.
    #[inline]
    pub(super) fn start_drain(&mut self) {
        if self.is_closing() && self.drain.is_none() {
            self.drain = Some(self.life.latest() + self.life.lifetime());
        }
    }

    /// The earliest of all deadlines, one of which is the caller's.
    pub(super) fn deadline(&self, other: Option<Instant>) -> Option<Instant> {
        let all = [self.life.deadline(), self.drain, other];
        all.into_iter().flatten().min().filter(|_| self.life.end().is_none())
    }
}

/// Has `judge` look at each frame in order, and puts the mark that it gives in the place of the
/// frame's kind.
#[inline]
pub(super) fn mark_frames(
    mut frames: &mut [u8],
    mut judge: impl FnMut(FrameHead, &[u8]) -> Result<u8, Broken>,
) -> Result<(), Broken> {
    while !frames.is_empty() {
        let (head, body) = FrameHead::read(frames).ok_or(Broken)?;
        let (mark, length) = (judge(head, body)?, FRAME_HEAD + body.len());
        let (frame, rest) = frames.split_at_mut_checked(length).ok_or(Broken)?;
        if let Some(kind) = frame.first_mut() {
            *kind = mark;
        }
        frames = rest;
    }
    Ok(())
}
