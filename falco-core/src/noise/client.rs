//! The client side of a connection on the noise wire: the handshake and deadlines. `client_frames`
//! processes received frames, `client_write` writes output.

use core::fmt;

use rand_core::TryCryptoRng;
use zeroize::Zeroizing;

use super::base::{Base, Drawn, Phase};
use super::handshake::Initiator;
use super::key::NoiseClient;
use super::layout::{Accepts, FIRST_RECORD, HELLO_LENGTH, WELCOME_LENGTH};
use super::link::{Link, OwnClose, Record, code_of};
use super::record::Direction;
#[cfg(feature = "streams")]
use super::streams::Streams;
use super::table::RequestTable;
use super::write::{self, pending_only};
use crate::crypto::NoiseCrypto;
#[cfg(feature = "streams")]
use crate::error::Error;
use crate::error::{ConnectionError, EntropyError, OutputTooSmall, SealError};
use crate::event::{ClientEvent, ClientReceived, ClientWait, Received};
use crate::life::{GracePeriod, Life};
#[cfg(feature = "streams")]
use crate::message::RequestId;
use crate::message::{CloseReason, Status};
use crate::outgoing::OutgoingRequest;
use crate::role::ClientSide;
use crate::session::{BufferSizes, Keyed, Session};
use crate::settings::Settings;
use crate::time::{Instant, Span};
use crate::unread::Unread;
use crate::wipe::with_stack_wiped;

/// The state of one connection. [`ClientConnection`](crate::ClientConnection) drives it.
#[allow(unnameable_types, reason = "a session has no name outside of this crate")]
pub struct ClientSession<T: RequestTable, C: NoiseCrypto> {
    pub(super) base: Base<Handshake<C::PrivateKey>, C::Aead>,
    pub(super) requests: Requests<T>,
    keep_alive: KeepAlive,
    /// The eight bytes of the first PING.
    first_ping: u64,
    /// The code with which the server ended the connection. The end is returned after the events of
    /// the requests that it affects.
    pub(super) ending: Option<u8>,
    /// The stream ended inside a record.
    pub(super) cut: bool,
}

/// The requests in flight.
pub(super) struct Requests<T: RequestTable> {
    pub(super) table: T,
    /// The last request that has begun.
    pub(super) begun: u32,
    pub(super) max_in_flight: u16,
    /// The largest answer that this side reads.
    pub(super) max_message: u32,
    /// Requests in the state `Lost`, whose event is pending.
    pub(super) lost: u32,
    /// Requests with a pending CANCEL.
    pub(super) cancels: usize,
    #[cfg(feature = "streams")]
    pub(super) streams: Streams<T::Due>,
}

pub(super) enum Handshake<K> {
    /// The hello is pending. It uses this ephemeral key.
    Hello(Zeroizing<[u8; 32]>),
    /// The hello was sent, and the welcome has not arrived.
    Welcome(Initiator<K>),
}

/// The state of keep-alive, which prevents the connection from expiring and detects a dead peer.
struct KeepAlive {
    on: bool,
    sent: Instant,
    received: Instant,
    /// Keep-alive has queued the pending PING, to find out whether the peer is alive.
    asked: bool,
    /// When the PING of keep-alive was sealed, if nothing has arrived since.
    pinged: Option<Instant>,
    /// The grace period of the wait for its answer.
    grace: GracePeriod,
}

impl<T: RequestTable, C: NoiseCrypto> ClientSession<T, C> {
    fn check(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.base.check(now, self.requests.begun)
    }

    /// The next deadline of keep-alive. It is the time to send a PING: a third of the lifetime
    /// after a record was last sent or last received, whichever was earlier. If a PING was sent and
    /// nothing has arrived since, it is the time at which the peer counts as dead: a third of the
    /// lifetime after that PING. Output that the stream has accepted while requests are queued
    /// counts as received. `None` while a PING is pending, and while the caller has paused reading.
    fn keep_alive_due(&self) -> Option<Instant> {
        let keep_alive = &self.keep_alive;
        let pending = self.base.phase.link().is_none_or(|link| link.ping_pending);
        if !keep_alive.on || pending || self.base.life.is_paused() || !self.is_established() {
            return None;
        }
        let from = keep_alive.pinged.unwrap_or(keep_alive.sent.min(keep_alive.received));
        Some(from + self.base.life.lifetime().third())
    }

    /// Whether the welcome has arrived. For the server, the connection is established only once the
    /// first PING arrives.
    pub(super) const fn is_established(&self) -> bool {
        self.base.phase.link().is_some()
    }

    fn recv_welcome<X: AsRef<[u8]>>(
        &mut self,
        client: &NoiseClient<T, C, X>,
        mut unread: Unread<'_, '_>,
    ) -> Result<ClientReceived<'static>, ConnectionError> {
        let Some(welcome) = unread.first_chunk_mut::<WELCOME_LENGTH>() else {
            return Ok(Received::NeedMore { total: WELCOME_LENGTH });
        };
        let Phase::Handshake(Handshake::Welcome(initiator)) = &mut self.base.phase else {
            return Err(self.base.life.fail(ConnectionError::Refused));
        };
        let read = initiator.read(&client.crypto, welcome);
        let read = read
            .ok()
            .and_then(|(settings, outcome)| Some((Accepts::decode(settings, true)?, outcome)));
        let Some((theirs, outcome)) = read else {
            return Err(self.base.life.fail(ConnectionError::Refused));
        };
        let direction = |key: &[u8; 32]| Direction::new(&client.crypto, key, client.rekey_period);
        let (send, recv) = (direction(&outcome.from_client), direction(&outcome.from_server));
        self.base.agree(theirs);
        let mut link = Link::new(
            send,
            recv,
            outcome.hash,
            self.base.theirs.max_record,
            self.base.ours.max_record,
        );
        link.set_first_ping(self.first_ping);
        link.queue_ping();
        self.base.phase = Phase::Transport(link);
        self.base.life.restart();
        self.requests.max_in_flight = theirs.max_in_flight.min(self.requests.max_in_flight);
        #[cfg(feature = "streams")]
        {
            self.requests.streams.their_window = u32::from(theirs.window) << 10;
            self.requests.streams.max_open = theirs.max_open.min(self.requests.streams.max_open);
        }
        self.note_received();
        self.keep_alive.sent = self.base.life.latest();
        unread.consume(WELCOME_LENGTH);
        Ok(Received::Event(ClientEvent::Established))
    }

    #[inline]
    fn note_received(&mut self) {
        self.keep_alive.received = self.base.life.latest();
        self.keep_alive.asked = false;
        self.keep_alive.pinged = None;
        self.keep_alive.grace = GracePeriod::UNUSED;
    }

    /// Notes that a record was sealed. If it contains the PING of keep-alive, the wait for the
    /// answer starts now.
    pub(super) fn note_sent(&mut self) {
        let now = self.base.life.latest();
        self.keep_alive.sent = now;
        let gone = || self.base.phase.link().is_some_and(|link| !link.ping_pending);
        if self.keep_alive.asked && gone() {
            self.keep_alive.asked = false;
            self.keep_alive.pinged = Some(now);
        }
    }

    /// Decrypts the next record, checks it as a whole and applies it to the requests. `next_event`
    /// then returns its events.
    #[inline]
    fn recv_record(&mut self, crypto: &C, unread: &mut [u8]) -> Result<Option<usize>, ConnectionError> {
        let Some(link) = self.base.phase.link_mut() else {
            return Err(self.base.life.fail(ConnectionError::Protocol));
        };
        let total = match link.record(unread, None) {
            Ok(Record::Short(total)) => return Ok(Some(total)),
            Ok(Record::Whole(total)) => total,
            Err(end) => return Err(self.base.fail(end)),
        };
        let Ok(frames) = link.open(crypto, unread, total) else {
            return Err(self.base.fail(ConnectionError::Tampered));
        };
        let before = self.requests.table.len();
        if link.check_server_record(&mut self.requests, frames).is_err() {
            return Err(self.base.fail_protocol(self.requests.begun, before));
        }
        self.base.life.restart();
        self.base.start_drain();
        self.note_received();
        Ok(None)
    }

    /// Ends the connection if the server has closed and no request is in flight.
    #[inline]
    fn end_if_drained(&mut self) {
        if let Some(link) = self.base.phase.link()
            && link.their_close.is_some()
            && link.opened == 0
            && self.requests.table.len() == 0
        {
            self.base.fail(ConnectionError::Closed);
        }
    }
}

impl<T: RequestTable, C: NoiseCrypto, X: AsRef<[u8]>> Keyed<ClientSide> for NoiseClient<T, C, X> {
    type Session = ClientSession<T, C>;

    fn start<G: TryCryptoRng + ?Sized>(
        &self,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
    ) -> Result<Self::Session, EntropyError> {
        let Drawn {
            ephemeral,
            serial,
            first_ping,
        } = Drawn::from(rng, Drawn::CLIENT)?;
        let accepts = Accepts::of(settings, false);
        // Until the welcome arrives, only this side's own limit counts.
        let theirs = Accepts {
            max_message: u32::MAX,
            ..accepts
        };
        Ok(ClientSession {
            base: Base::new(
                Handshake::Hello(ephemeral),
                Life::new(now, settings),
                accepts,
                theirs,
                serial,
            ),
            requests: Requests {
                table: T::empty(),
                #[cfg(feature = "testing")]
                begun: self.requests_begun,
                #[cfg(not(feature = "testing"))]
                begun: 0,
                #[cfg(not(feature = "streams"))]
                max_in_flight: settings.max_in_flight().min(T::capacity()),
                #[cfg(feature = "streams")]
                max_in_flight: settings.max_in_flight().min(T::capacity()),
                max_message: accepts.max_message,
                lost: 0,
                cancels: 0,
                #[cfg(feature = "streams")]
                streams: Streams::new(settings.window(), settings.max_windows()),
            },
            keep_alive: KeepAlive {
                on: settings.keep_alive(),
                sent: now,
                received: now,
                asked: false,
                pinged: None,
                grace: GracePeriod::UNUSED,
            },
            ending: None,
            cut: false,
            first_ping,
        })
    }

    fn recv<'u>(
        &self,
        session: &mut Self::Session,
        now: Instant,
        mut unread: Unread<'u, '_>,
    ) -> Result<ClientReceived<'u>, ConnectionError> {
        if let Some(end) = session.base.life.end() {
            return Err(end);
        }
        // Pending events are returned before the deadline is checked.
        if session.has_pending_event() {
            let event = session.next_event(unread);
            session.end_if_drained();
            return event;
        }
        session.end_if_drained();
        session.check(now)?;
        match session.base.phase {
            Phase::Handshake(Handshake::Hello(_)) => Ok(Received::Wait(ClientWait::TransmitFirst)),
            Phase::Handshake(Handshake::Welcome(_)) => with_stack_wiped(|| session.recv_welcome(self, unread)),
            Phase::Transport(_) => {
                if let Some(total) = session.recv_record(&self.crypto, &mut unread)? {
                    return Ok(Received::NeedMore { total });
                }
                let event = session.next_event(unread);
                session.end_if_drained();
                event
            }
        }
    }

    fn transmit(&self, session: &mut Self::Session, now: Instant, out: &mut [u8]) -> Result<usize, OutputTooSmall> {
        let _ = session.check(now);
        pending_only(session.write(self, core::iter::empty(), out))
    }

    fn seal<'m, I>(
        &self,
        session: &mut Self::Session,
        now: Instant,
        messages: I,
        out: &mut [u8],
    ) -> Result<usize, SealError>
    where
        I: IntoIterator<Item = (&'m mut OutgoingRequest, &'m [u8])>,
    {
        let _ = session.check(now);
        session.write(self, messages.into_iter(), out)
    }

    fn buffer_sizes(settings: &Settings) -> BufferSizes {
        write::buffer_sizes(settings)
    }
}

impl<T: RequestTable, C: NoiseCrypto> Session for ClientSession<T, C> {
    fn end_of_stream(&mut self, now: Instant, unread: &[u8]) -> Result<(), ConnectionError> {
        self.check(now)?;
        if !self.is_established() {
            return Err(self.base.fail(ConnectionError::Refused));
        }
        self.cut = !unread.is_empty();
        let orderly = self.base.close_has_gone() && unread.is_empty() && self.requests.table.len() == 0;
        Err(self.base.fail(if orderly {
            ConnectionError::Closed
        } else {
            ConnectionError::Truncated
        }))
    }

    fn seal_size(&self, length: usize) -> usize {
        let pending = usize::from(FIRST_RECORD);
        let pending = self
            .base
            .phase
            .link()
            .map_or(pending, |link| pending + link.pending_size())
            + self.requests.pending_size();
        write::seal_size(length, pending, self.base.theirs.max_record).max(HELLO_LENGTH)
    }

    #[cfg(feature = "alloc")]
    fn has_pending(&self) -> bool {
        let pending = |link: &Link<_>| link.pending_size() + self.requests.pending_size() > 0;
        self.base.phase.link().is_none_or(pending)
    }

    fn set_reading(&mut self, now: Instant, reading: bool) {
        if self.check(now).is_ok() {
            let paused = self.base.life.is_paused();
            self.base.life.set_reading(reading);
            if paused && reading {
                // Nothing was read during the pause, so the peer gets the full time to answer.
                let now = self.base.life.latest();
                self.keep_alive.received = now;
                self.keep_alive.pinged = self.keep_alive.pinged.map(|_| now);
                self.keep_alive.grace = GracePeriod::UNUSED;
            }
        }
    }

    /// What is queued behind the output that was taken may be far more than what the link carries
    /// until a PONG is due.
    fn note_taken(&mut self, now: Instant) {
        if self.check(now).is_ok() && self.is_established() {
            self.base.life.note_taken();
            self.note_received();
        }
    }

    #[cfg(feature = "alloc")]
    fn shrink(&mut self) {
        self.requests.table.shrink();
    }

    fn handle_late_poll(&mut self, now: Instant) {
        self.base.life.handle_late_poll(now);
        let lifetime = self.base.life.lifetime();
        let KeepAlive { pinged, grace, .. } = &mut self.keep_alive;
        if let Some(pinged) = pinged
            && *pinged + lifetime.third() <= now
        {
            let late = (now + Span::TICK).span_since(*pinged + lifetime.third());
            if grace.take(late, lifetime) {
                *pinged = *pinged + late;
            }
        }
    }

    fn close(&mut self, now: Instant, reason: CloseReason) {
        if self.check(now).is_err() {
            return;
        }
        let Some(link) = self.base.phase.link_mut() else {
            self.base.fail(ConnectionError::Closed);
            return;
        };
        if link.own_close == OwnClose::None {
            link.queue_close(code_of(reason), self.requests.begun);
            self.base.start_drain();
        }
    }

    // Not inlined on a device, to save flash.
    #[cfg_attr(target_os = "none", inline(never))]
    fn poll_timeout(&self) -> Option<Instant> {
        self.base.deadline(self.keep_alive_due().into())
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.check(now)?;
        let now = self.base.life.latest();
        if self.keep_alive_due().is_some_and(|due| now >= due) {
            if self.keep_alive.pinged.is_some() {
                return Err(self.base.fail(ConnectionError::PeerDead));
            }
            self.keep_alive.asked = true;
            if let Some(link) = self.base.phase.link_mut() {
                link.queue_ping();
            }
        }
        Ok(())
    }

    fn status(&self) -> Status {
        self.base.status(self.is_established())
    }

    fn was_established(&self) -> bool {
        self.is_established()
    }

    fn end(&self) -> Option<ConnectionError> {
        self.base.life.end()
    }

    fn in_flight(&self) -> usize {
        self.base.in_flight(self.requests.table.len())
    }

    fn lifetime_millis(&self) -> u64 {
        self.base.life.lifetime().as_millis()
    }

    fn channel_binding(&self) -> Option<&[u8; 32]> {
        self.base.channel_binding()
    }

    #[cfg(feature = "streams")]
    fn credit(&mut self, id: RequestId, bytes: u32, waits: bool) -> Result<(), Error> {
        self.give_credit(id, bytes, waits)
    }

    #[cfg(feature = "streams")]
    fn sendable(&self, id: RequestId) -> u32 {
        self.sendable_of(id)
    }

    #[cfg(feature = "streams")]
    fn peer_window(&self) -> u32 {
        self.requests.streams.their_window
    }

    #[cfg(feature = "streams")]
    fn window(&self) -> u32 {
        self.requests.streams.window
    }
}

impl<T: RequestTable, C: NoiseCrypto> fmt::Debug for ClientSession<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut session = f.debug_struct("ClientSession");
        session
            .field("life", &self.base.life)
            .field("begun", &self.requests.begun)
            .finish_non_exhaustive()
    }
}
