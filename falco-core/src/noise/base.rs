//! The state of a connection that client and server share, apart from its requests.

use rand_core::TryCryptoRng;
use zeroize::Zeroizing;

use super::Broken;
use super::layout::{Accepts, FRAME_HEAD, FrameHead};
use super::link::{Link, OwnClose, close};
use super::writer::Writer;
use crate::crypto::{Aead, Crypto};
use crate::error::{ConnectionError, EntropyError, SealError};
use crate::life::Life;
use crate::message::Status;
use crate::time::{Instant, MaybeInstant, Span};

/// Bytes of a record for each millisecond of the lifetime, at most. So a link of 16,000 bytes per
/// second carries four records within a lifetime. This is necessary because only a whole record
/// restarts the reader's idle timeout. From a lifetime of 16.4 s on, this allows all records.
const RECORD_PER_MILLI: u32 = 4;

/// The two phases of a connection. The second replaces the first.
pub(super) enum Phase<H, A> {
    /// What this side needs to derive the keys of the connection.
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

/// The random numbers of a connection.
pub(super) struct Drawn {
    /// The private half of the ephemeral key.
    pub(super) ephemeral: Zeroizing<[u8; 32]>,
    pub(super) serial: u32,
    /// The eight bytes of a client's first PING.
    pub(super) first_ping: u64,
}

impl Drawn {
    /// Random bytes of a client.
    pub(super) const CLIENT: usize = 44;
    /// Random bytes of a server: those of a client without the eight of a PING.
    pub(super) const SERVER: usize = 36;

    /// Draws `count` bytes in one call, because each call of a system's generator is a system call.
    pub(super) fn from<G: TryCryptoRng + ?Sized>(rng: &mut G, count: usize) -> Result<Self, EntropyError> {
        let mut bytes = Zeroizing::new([0; Self::CLIENT]);
        rng.try_fill_bytes(bytes.get_mut(..count).unwrap_or_default())
            .map_err(|_| EntropyError::new())?;
        let (ephemeral, rest) = bytes.split_first_chunk().ok_or(EntropyError::new())?;
        let (serial, rest) = rest.split_first_chunk().ok_or(EntropyError::new())?;
        let first_ping = rest.first_chunk().ok_or(EntropyError::new())?;
        Ok(Self {
            ephemeral: Zeroizing::new(*ephemeral),
            serial: u32::from_be_bytes(*serial),
            first_ping: u64::from_be_bytes(*first_ping),
        })
    }
}

pub(super) struct Base<H, A> {
    pub(super) life: Life,
    pub(super) phase: Phase<H, A>,
    pub(super) ours: Accepts,
    pub(super) theirs: Accepts,
    pub(super) serial: u32,
    /// When a drain ends at the latest.
    drain: MaybeInstant,
    /// Requests in flight before the record that ended the connection with a protocol error. That
    /// record had no effect on them.
    in_flight: Option<u16>,
}

impl<H, A: Aead> Base<H, A> {
    pub(super) fn new(handshake: H, life: Life, ours: Accepts, theirs: Accepts, serial: u32) -> Self {
        Self {
            life,
            phase: Phase::Handshake(handshake),
            ours,
            theirs,
            serial,
            drain: MaybeInstant::NONE,
            in_flight: None,
        }
    }

    /// Whether the first PING is sealed (client) or has arrived (server).
    pub(super) const fn is_first_ping_done(&self) -> bool {
        match self.phase.link() {
            Some(link) => link.first_ping_done,
            None => false,
        }
    }

    /// The handshake hash, once the handshake messages are exchanged.
    pub(super) const fn channel_binding(&self) -> Option<&[u8; 32]> {
        match self.phase.link() {
            Some(link) => Some(&link.hash),
            None => None,
        }
    }

    /// Notes what the peer accepts, and how long a record to it may be.
    pub(super) fn agree(&mut self, theirs: Accepts) {
        let lifetime = theirs.lifetime.min(self.ours.lifetime);
        let max_record = u16::try_from(lifetime.saturating_mul(RECORD_PER_MILLI)).unwrap_or(u16::MAX);
        self.theirs = Accepts {
            max_record: theirs.max_record.min(max_record),
            ..theirs
        };
        self.life.set_lifetime(Span::from_millis(lifetime.into()));
    }

    /// The longest message that this side sends: the smaller limit of both sides.
    #[inline]
    pub(super) fn send_limit(&self) -> u32 {
        self.theirs.max_message.min(self.ours.max_message)
    }

    /// Ends the connection without a CLOSE.
    pub(super) fn fail(&mut self, end: ConnectionError) -> ConnectionError {
        if let Some(link) = self.phase.link_mut() {
            link.own_close = OwnClose::None;
        }
        self.life.fail(end)
    }

    /// Ends the connection because the unread bytes are not the frames that were opened: the caller
    /// has passed other bytes than the last call left unread.
    #[cold]
    pub(super) fn fail_misplaced(&mut self) -> ConnectionError {
        if let Some(link) = self.phase.link_mut() {
            link.opened = 0;
        }
        self.life.fail(ConnectionError::Tampered)
    }

    /// Ends the connection with a CLOSE because a frame breaks the rules. `last` is the last
    /// request that had begun before its record, `in_flight` how many requests were in flight then.
    pub(super) fn fail_protocol(&mut self, last: u32, in_flight: usize) -> ConnectionError {
        self.in_flight = Some(u16::try_from(in_flight).unwrap_or(u16::MAX));
        if let Some(link) = self.phase.link_mut() {
            link.queue_close(close::PROTOCOL_ERROR, last);
            link.opened = 0;
        }
        self.life.fail(ConnectionError::Protocol)
    }

    /// Notes the time. If the lifetime has run out, queues a CLOSE with the last request that has
    /// begun.
    #[inline]
    pub(super) fn check(&mut self, now: Instant, last: u32) -> Result<(), ConnectionError> {
        let before = self.life.end();
        let mut checked = self.life.check(now);
        if checked.is_ok() && self.drain.get().is_some_and(|drain| self.life.latest() >= drain) {
            checked = Err(self.life.fail(ConnectionError::Expired));
        }
        if let (None, Err(ConnectionError::Expired), Some(link)) = (before, checked, self.phase.link_mut()) {
            link.queue_close(close::IDLE, last);
        }
        checked
    }

    /// Writes a pending CLOSE, which is all that a connection sends after its end. Returns its
    /// length, or `end` if there is none.
    #[cold]
    pub(super) fn write_pending_close<C: Crypto<Aead = A>>(
        &mut self,
        crypto: &C,
        end: ConnectionError,
        out: &mut [u8],
    ) -> Result<usize, SealError> {
        let Some(link) = self.phase.link_mut().filter(|link| link.first_ping_done) else {
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

    /// Whether a CLOSE is pending, was sent or has arrived. If so, no more requests begin.
    #[inline]
    pub(super) fn is_closing(&self) -> bool {
        self.phase
            .link()
            .is_some_and(|link| link.own_close != OwnClose::None || link.their_close.is_some())
    }

    /// How many requests are in flight: `slots`, the number in the table, or after a protocol error
    /// the number before it.
    pub(super) fn in_flight(&self, slots: usize) -> usize {
        self.in_flight.map_or(slots, usize::from)
    }

    /// Whether a CLOSE was sent or has arrived.
    pub(super) fn close_has_gone(&self) -> bool {
        self.phase
            .link()
            .is_some_and(|link| link.close_sent() || link.their_close.is_some())
    }

    /// The state of the connection. `established` is whether its handshake is complete.
    pub(super) fn status(&self, established: bool) -> Status {
        match (self.life.end(), established) {
            (Some(_), _) => Status::Ended,
            (None, false) => Status::Handshaking,
            (None, true) if self.is_closing() => Status::Draining,
            (None, true) => Status::Established,
        }
    }

    /// Starts the time limit of a drain.
    #[inline]
    pub(super) fn start_drain(&mut self) {
        if self.is_closing() && self.drain.is_none() {
            self.drain = (self.life.latest() + self.life.lifetime()).into();
        }
    }

    /// The earliest deadline, `other` included.
    pub(super) fn deadline(&self, other: MaybeInstant) -> Option<Instant> {
        if self.life.end().is_some() {
            return None;
        }
        self.life.deadline().min(self.drain).min(other).get()
    }
}

/// Passes each frame to `judge`, in order, and replaces its kind by the mark that `judge` returns.
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
