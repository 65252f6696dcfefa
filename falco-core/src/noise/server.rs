//! The server side of a connection on the noise wire: the handshake and deadlines. `server_frames`
//! processes received frames, `server_write` writes output, and `server_calls` has the calls that
//! answer or refuse a request.

use core::fmt;

use rand_core::TryCryptoRng;
use zeroize::Zeroizing;

use super::base::{Base, Drawn, Phase};
use super::handshake::{Outcome, Responder};
use super::key::{NoiseServer, Ring, prologue};
use super::layout::{Accepts, CLEAR, FIRST_RECORD, FRAME_HEAD, HELLO_LENGTH, WELCOME_LENGTH, WIRE, kind};
use super::link::{Link, OwnClose, Record, code_of};
#[cfg(feature = "streams")]
use super::streams::Streams;
use super::table::RequestTable;
use super::write::{self, pending_only};
use crate::crypto::{Crypto, NoiseCrypto};
#[cfg(feature = "streams")]
use crate::error::Error;
use crate::error::{ConnectionError, EntropyError, OutputTooSmall, SealError};
use crate::event::{Received, ServerReceived, ServerWait};
use crate::life::{GracePeriod, Life};
#[cfg(feature = "streams")]
use crate::message::RequestId;
use crate::message::{CloseReason, KeyId, Status};
use crate::outgoing::OutgoingAnswer;
use crate::role::ServerSide;
use crate::session::{BufferSizes, Keyed, Session};
use crate::settings::Settings;
use crate::time::{Instant, MaybeInstant, Span};
use crate::unread::Unread;
use crate::wipe::with_stack_wiped;

/// The state of one connection. [`ServerConnection`](crate::ServerConnection) drives it.
#[allow(unnameable_types, reason = "a session has no name outside of this crate")]
pub struct ServerSession<T: RequestTable, C: Crypto> {
    pub(super) base: Base<Handshake, C::Aead>,
    pub(super) key_id: Option<KeyId>,
    pub(super) requests: Requests<T>,
}

/// The requests of a connection, and their limits.
pub(super) struct Requests<T: RequestTable> {
    pub(super) table: T,
    /// The last request that has begun, admitted or not.
    pub(super) begun: u32,
    pub(super) max_message: u32,
    pub(super) max_in_flight: u16,
    pub(super) max_held: u32,
    /// Bytes of requests in flight that have arrived.
    pub(super) held: u32,
    /// The last request before this side's CLOSE. Later ones are skipped.
    pub(super) last: Option<u32>,
    /// The earliest time at which a partially received request can be stale.
    pub(super) stale: MaybeInstant,
    /// The grace period of `stale`.
    pub(super) grace: GracePeriod,
    /// Requests in the state `Lost`, whose event is pending.
    pub(super) lost: u32,
    pub(super) lifetime: Span,
    #[cfg(feature = "streams")]
    pub(super) streams: Streams<T::Due>,
}

pub(super) enum Handshake {
    /// The hello has not arrived. This is the private half of the ephemeral key.
    Hello(Zeroizing<[u8; 32]>),
    Welcome(Welcome),
}

/// A pending welcome, and the keys that follow it.
pub(super) struct Welcome {
    pub(super) bytes: [u8; WELCOME_LENGTH],
    pub(super) keys: Outcome,
}

impl<T: RequestTable, C: NoiseCrypto> ServerSession<T, C> {
    fn check(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.base.check(now, self.requests.begun)
    }

    fn recv_hello<R: Ring, X: AsRef<[u8]>>(
        &mut self,
        server: &NoiseServer<T, R, C, X>,
        mut unread: Unread<'_, '_>,
    ) -> Result<ServerReceived<'static>, ConnectionError> {
        let [wire, version] = WIRE;
        for (found, expected) in unread.iter().zip([wire, version]) {
            if *found != expected {
                return Err(self.base.fail(match unread.first() {
                    Some(&first) if first != wire => ConnectionError::UnknownWire { first },
                    _ => ConnectionError::UnknownVersion { found: *found },
                }));
            }
        }
        let Some(hello) = unread.first_chunk_mut::<HELLO_LENGTH>() else {
            return Ok(Received::NeedMore { total: HELLO_LENGTH });
        };
        let accepted = self.accept(server, hello);
        let Some(welcome) = accepted else {
            return Err(self.base.fail(ConnectionError::Unauthenticated));
        };
        self.base.phase = Phase::Handshake(Handshake::Welcome(welcome));
        unread.consume(HELLO_LENGTH);
        Ok(Received::Skip)
    }

    /// Reads the hello and writes the welcome. An unknown key id takes the same code path as a
    /// wrong key, and has the same result.
    fn accept<R: Ring, X: AsRef<[u8]>>(
        &mut self,
        server: &NoiseServer<T, R, C, X>,
        hello: &mut [u8; HELLO_LENGTH],
    ) -> Option<Welcome> {
        let (clear, message) = hello.split_first_chunk_mut::<CLEAR>()?;
        let id = KeyId::from_bytes(*clear.last_chunk()?);
        let mut psk = Zeroizing::new([0; 32]);
        let known = server.ring.select(id, &mut psk);
        let length = server.context_length();
        let prologue = prologue(clear, &length, server.context.as_ref());
        let (settings, responder) = Responder::read(&server.crypto, prologue, &psk, message).ok()?;
        let theirs = Accepts::decode(settings, false).filter(|_| known)?;
        let mut bytes = [0; WELCOME_LENGTH];
        let ours = self.base.ours;
        // The ephemeral key is used once and dropped with its phase: together with the shared key
        // it would decrypt recorded traffic.
        let Phase::Handshake(Handshake::Hello(ephemeral)) = &self.base.phase else {
            return None;
        };
        let keys = responder
            .write(&server.crypto, ephemeral, &ours.encode(), &mut bytes)
            .ok()?;
        self.base.agree(theirs);
        self.requests.lifetime = self.base.life.lifetime();
        #[cfg(feature = "streams")]
        {
            self.requests.streams.their_window = u32::from(theirs.window) << 10;
        }
        self.key_id = Some(id);
        Some(Welcome { bytes, keys })
    }

    /// Decrypts the next record, checks it as a whole and applies it to the requests. `next_event`
    /// then returns its events.
    #[inline]
    fn recv_record(&mut self, crypto: &C, unread: &mut [u8]) -> Result<Option<usize>, ConnectionError> {
        let first = !self.is_established();
        let Some(link) = self.base.phase.link_mut() else {
            return Err(self.base.life.fail(ConnectionError::Protocol));
        };
        let total = match link.record(unread, first.then_some(FIRST_RECORD)) {
            Ok(Record::Short(total)) => return Ok(Some(total)),
            Ok(Record::Whole(total)) => total,
            Err(end) => return Err(self.base.fail(end)),
        };
        let Ok(frames) = link.open(crypto, unread, total) else {
            return Err(self.base.fail(ConnectionError::Tampered));
        };
        if first {
            // It must be one PING. Anything else ends the connection without a CLOSE.
            let (&[found, a, b, c, d, ..], true) = (&*frames, frames.len() == FRAME_HEAD + 8) else {
                return Err(self.base.fail(ConnectionError::Protocol));
            };
            if found != kind::PING || [a, b, c, d] != [0; 4] {
                return Err(self.base.fail(ConnectionError::Protocol));
            }
        }
        let (last, in_flight) = (self.requests.begun, self.requests.table.len());
        let now = self.base.life.latest();
        if link.check_client_record(&mut self.requests, frames, now).is_err() {
            return Err(self.base.fail_protocol(last, in_flight));
        }
        self.base.life.restart();
        self.base.start_drain();
        Ok(None)
    }

    pub(super) const fn is_established(&self) -> bool {
        self.base.is_first_ping_done()
    }

    /// Gives up requests of which nothing has arrived for a lifetime, unless the caller has paused
    /// reading.
    fn drop_stale(&mut self) {
        if !self.base.life.is_paused() {
            self.requests.drop_stale(self.base.life.latest());
        }
    }

    /// Whether the connection is closing and all requests have completed.
    #[inline]
    pub(super) fn is_drained(&self) -> bool {
        self.base.phase.link().is_some_and(|link| {
            self.base.is_closing() && self.requests.table.len() == 0 && !link.has_refusals() && link.opened == 0
        })
    }
}

impl<T: RequestTable, R: Ring, C: NoiseCrypto, X: AsRef<[u8]>> Keyed<ServerSide> for NoiseServer<T, R, C, X> {
    type Session = ServerSession<T, C>;

    fn start<G: TryCryptoRng + ?Sized>(
        &self,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
    ) -> Result<Self::Session, EntropyError> {
        let Drawn { ephemeral, serial, .. } = Drawn::from(rng, Drawn::SERVER)?;
        let accepts = Accepts::of(settings, true).with_room_for(T::capacity());
        Ok(ServerSession {
            base: Base::new(
                Handshake::Hello(ephemeral),
                Life::new(now, settings),
                accepts,
                accepts,
                serial,
            ),
            key_id: None,
            requests: Requests {
                table: T::empty(),
                begun: 0,
                max_message: accepts.max_message,
                max_in_flight: accepts.max_in_flight,
                max_held: settings.max_held(),
                held: 0,
                last: None,
                stale: MaybeInstant::NONE,
                grace: GracePeriod::UNUSED,
                lost: 0,
                lifetime: Span::of(settings.lifetime()),
                #[cfg(feature = "streams")]
                streams: Streams::new(settings.window(), settings.max_open()),
            },
        })
    }

    fn recv<'u>(
        &self,
        session: &mut Self::Session,
        now: Instant,
        mut unread: Unread<'u, '_>,
    ) -> Result<ServerReceived<'u>, ConnectionError> {
        if let Some(end) = session.base.life.end() {
            return Err(end);
        }
        // Pending events are returned before the deadline is checked.
        if session.has_pending_event() {
            return session.next_event(unread);
        }
        session.check(now)?;
        session.drop_stale();
        if let Some(lost) = session.next_lost() {
            return Ok(lost);
        }
        match session.base.phase {
            Phase::Handshake(Handshake::Hello(_)) => with_stack_wiped(|| session.recv_hello(self, unread)),
            Phase::Handshake(Handshake::Welcome(_)) => Ok(Received::Wait(ServerWait::TransmitFirst)),
            // The answer to the first PING is sealed before a request is read. So a client whose
            // stream ends before any record arrives knows that no handler has run.
            Phase::Transport(ref link) if link.first_ping_done && !link.has_sealed() => {
                Ok(Received::Wait(ServerWait::TransmitFirst))
            }
            Phase::Transport(_) => {
                if let Some(total) = session.recv_record(&self.crypto, &mut unread)? {
                    return Ok(Received::NeedMore { total });
                }
                if let Some(link) = session.base.phase.link_mut().filter(|link| !link.first_ping_done) {
                    link.first_ping_done = true;
                    return session.report_established(unread);
                }
                session.next_event(unread)
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
        I: IntoIterator<Item = (&'m mut OutgoingAnswer, &'m [u8])>,
    {
        let _ = session.check(now);
        session.write(self, messages.into_iter(), out)
    }

    fn buffer_sizes(settings: &Settings) -> BufferSizes {
        write::buffer_sizes(settings)
    }
}

impl<T: RequestTable, C: NoiseCrypto> Session for ServerSession<T, C> {
    fn end_of_stream(&mut self, now: Instant, unread: &[u8]) -> Result<(), ConnectionError> {
        self.check(now)?;
        let closed = self.base.close_has_gone();
        Err(self.base.fail(match (unread.is_empty(), self.is_established()) {
            // Requests that the handler has are still answered: the client only shut down its
            // sending half.
            (true, true) if closed => {
                self.requests.lose_half_received();
                #[cfg(feature = "streams")]
                self.requests.cut_open();
                return Ok(());
            }
            (true, false) => ConnectionError::ClosedByPeer,
            _ => ConnectionError::Truncated,
        }))
    }

    fn seal_size(&self, length: usize) -> usize {
        let pending = self.base.phase.link().map_or(0, Link::pending_size);
        #[cfg(feature = "streams")]
        let pending = pending + self.requests.streams.pending_size();
        write::seal_size(length, pending, self.base.theirs.max_record).max(WELCOME_LENGTH)
    }

    #[cfg(feature = "alloc")]
    fn has_pending(&self) -> bool {
        #[cfg(feature = "streams")]
        if self.requests.streams.pending_size() > 0 {
            return true;
        }
        self.base.phase.link().is_none_or(|link| link.pending_size() > 0)
    }

    fn set_reading(&mut self, now: Instant, reading: bool) {
        if self.check(now).is_ok() {
            let paused = self.base.life.is_paused();
            self.base.life.set_reading(reading);
            if paused && reading {
                // Nothing was read until now, so each partially received request has its full time.
                self.requests.touch(self.base.life.latest());
            }
        }
    }

    fn note_taken(&mut self, now: Instant) {
        if self.check(now).is_ok() {
            self.base.life.note_taken();
        }
    }

    #[cfg(feature = "alloc")]
    fn shrink(&mut self) {
        self.requests.table.shrink();
    }

    fn handle_late_poll(&mut self, now: Instant) {
        self.base.life.handle_late_poll(now);
        self.requests.handle_late_poll(now);
    }

    fn close(&mut self, now: Instant, reason: CloseReason) {
        if self.check(now).is_err() {
            return;
        }
        let established = self.is_established();
        let Some(link) = self.base.phase.link_mut().filter(|_| established) else {
            self.base.fail(ConnectionError::Closed);
            return;
        };
        if link.own_close == OwnClose::None {
            link.queue_close(code_of(reason), self.requests.begun);
            self.requests.last = Some(self.requests.begun);
            self.base.start_drain();
        }
    }

    // Not inlined on a device, to save flash.
    #[cfg_attr(target_os = "none", inline(never))]
    fn poll_timeout(&self) -> Option<Instant> {
        self.base.deadline(if self.base.life.is_paused() {
            MaybeInstant::NONE
        } else {
            self.requests.stale
        })
    }

    fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.check(now)?;
        self.drop_stale();
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
        // Before its first PING the client may be a replay.
        self.base.channel_binding().filter(|_| self.base.is_first_ping_done())
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

impl<T: RequestTable, C: Crypto> fmt::Debug for ServerSession<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut session = f.debug_struct("ServerSession");
        session
            .field("life", &self.base.life)
            .field("key_id", &self.key_id)
            .field("begun", &self.requests.begun);
        session.finish_non_exhaustive()
    }
}
