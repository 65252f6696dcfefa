//! The state machine for one side of a connection. It forwards each call to the wire of its key.

use core::fmt;
use core::time::Duration;

use rand_core::TryCryptoRng;

use crate::ending::Ending;
use crate::error::{ConnectionError, EntropyError, Error, LINGER_SPAN, OutputTooSmall, ReplyError, SealError};
use crate::event::Received;
use crate::message::{CloseReason, Fate, KeyId, PingId, Refusal, RequestId, Status};
use crate::outgoing::{OutgoingAnswer, OutgoingRequest};
use crate::role::{ClientSide, Role, ServerSide};
use crate::session::{BufferSizes, Client as _, Keyed, Server as _, Session};
use crate::settings::Settings;
use crate::time::Instant;
use crate::unread::Unread;
use crate::wire::{ClientKeyRef, KeyRef, ServerKeyRef};

#[cfg(feature = "streams")]
mod streams;

impl BufferSizes {
    /// An output size, in bytes, that is always enough for [`Connection::poll_transmit`]: the size
    /// of a classic hello, which is the largest pending output of either wire.
    pub const TRANSMIT: usize = crate::classic::HELLO_LENGTH;
}

/// The client side of a connection. `H` is a reference to its key, such as `&NoiseClient<..>` or
/// `Arc<NoiseClient<..>>`.
pub type ClientConnection<H> = Connection<ClientSide, H>;

/// The server side of a connection. `H` is a reference to its key, such as `&NoiseServer<..>` or
/// `Arc<NoiseServer<..>>`.
pub type ServerConnection<H> = Connection<ServerSide, H>;

/// One side of one connection. It does no I/O, reads no clock and allocates nothing.
///
/// You pass in bytes and times, and get back bytes to send and events. The [crate's page](crate)
/// has the loop that drives it.
///
/// A server cannot send requests, and a client cannot answer them:
///
/// ```compile_fail,E0599
/// # use falco_core::{ClassicKey, ClientConnection, ReplayCache, RequestId};
/// fn respond<L: ReplayCache>(client: &mut ClientConnection<&ClassicKey<L>>, id: RequestId) {
///     client.answer(id, 0);
/// }
/// ```
pub struct Connection<R: Role, H: KeyRef<R>> {
    wire: H,
    session: <H::Target as Keyed<R>>::Session,
}

impl<R: Role, H: KeyRef<R>> Connection<R, H> {
    /// Starts a connection. This is the only place where entropy is used.
    ///
    /// A client's hello is then pending output. The handshake timeout starts at `now`, so create
    /// the connection when the stream is connected or accepted.
    ///
    /// # Errors
    /// [`EntropyError`] if the generator fails. Then nothing is sent.
    pub fn new<G: TryCryptoRng + ?Sized>(
        key: H,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
    ) -> Result<Self, EntropyError> {
        let session = key.start(settings, now, rng)?;
        Ok(Self { wire: key, session })
    }

    /// Processes the unread bytes up to the next event and returns that event, or what has to
    /// happen first. Decrypts in place.
    ///
    /// Call it until it returns something other than an event or a skip; see [`Received`]. The
    /// events depend on the bytes alone, and not on how they were split into reads. The unread
    /// bytes stay with the caller: the connection keeps no copy.
    ///
    /// # Errors
    /// What ended the connection, now or before.
    pub fn recv<'u>(
        &mut self,
        now: Instant,
        unread: Unread<'u, '_>,
    ) -> Result<Received<R::Event<'u>, R::Wait>, ConnectionError> {
        self.wire.recv(&mut self.session, now, unread)
    }

    /// Reports that the stream has no more bytes. `unread` is what [`recv`](Self::recv) left of
    /// them.
    ///
    /// `Ok` means that the connection can still send, and the next call of [`recv`](Self::recv) may
    /// return an event. The classic wire never returns `Ok`.
    ///
    /// # Errors
    /// What ended the connection, now or before.
    pub fn end_of_stream(&mut self, now: Instant, unread: &[u8]) -> Result<(), ConnectionError> {
        self.session.end_of_stream(now, unread)
    }

    /// Writes pending output to the front of `out`: the handshake, PING, PONG, CANCEL, REFUSE,
    /// CREDIT, CLOSE. Returns how many bytes to send, or 0 if nothing is pending.
    /// [`BufferSizes::TRANSMIT`] bytes are always enough.
    ///
    /// Send these bytes before anything that is written later, even after the connection has ended:
    /// they may be its CLOSE.
    ///
    /// # Errors
    /// [`OutputTooSmall`].
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Result<usize, OutputTooSmall> {
        self.wire.transmit(&mut self.session, now, out)
    }

    /// Encrypts as many of `messages` as may be sent now and fit, from their bodies into `out`.
    /// Returns how many bytes of `out` to send.
    ///
    /// Pending output is written first. Pass each message with its whole body, even if a part of it
    /// was sealed before. Messages that cannot be sent now are skipped: during the handshake, over
    /// the in-flight limit, before their turn, or when sealed completely. If the result is 0, call
    /// [`recv`](Self::recv) before you try again.
    ///
    /// # Errors
    /// If nothing was written although there was a message to send: what is wrong with the first
    /// message that could have been sent, or with the output ([`seal_size`](Self::seal_size) says
    /// how much is enough), or what ended the connection. If something was written before the
    /// error, the length is returned, and the error at the next call.
    pub fn seal<'m, I>(&mut self, now: Instant, messages: I, out: &mut [u8]) -> Result<usize, SealError>
    where
        I: IntoIterator<Item = (&'m mut R::Outgoing, &'m [u8])>,
        R::Outgoing: 'm,
    {
        self.wire.seal(&mut self.session, now, messages, out)
    }

    /// An output size, in bytes, with which one call of [`seal`](Self::seal) seals as much as
    /// possible of a message of `length` bytes, after the pending output.
    #[must_use]
    pub fn seal_size(&self, length: usize) -> usize {
        self.session.seal_size(length)
    }

    /// Reports that the caller stopped reading on purpose, for example because too much output is
    /// pending, or that it reads again. Meanwhile the lifetime is paused, for at most one lifetime,
    /// because bytes of the peer may have arrived that were not read.
    pub fn set_reading(&mut self, now: Instant, reading: bool) {
        self.session.set_reading(now, reading);
    }

    /// Reports a late poll: the stream was not polled for a while, and bytes that arrived before
    /// `now` are still to be passed to [`recv`](Self::recv). Call it before `recv` and before
    /// [`handle_timeout`](Self::handle_timeout). Deadlines that have passed move to 1 ms after
    /// `now`: the lifetime, the wait for a PONG and the wait for the rest of a request.
    ///
    /// If reading takes longer than that, call it again. Between two restarts of the lifetime there
    /// is one grace period: the first late poll may be up to one lifetime late, and all later ones
    /// together up to [`LINGER`](crate::Settings::LINGER), or a third of the lifetime if that is
    /// less. A deadline moves by at most one lifetime in total. The deadlines of a handshake and of
    /// a drain do not move.
    pub fn handle_late_poll(&mut self, now: Instant) {
        self.session.handle_late_poll(now);
    }

    /// Completes the requests that have begun, accepts no new ones, and then ends with
    /// [`ConnectionError::Closed`]; at once if nothing is in flight.
    pub fn close(&mut self, now: Instant, reason: CloseReason) {
        self.session.close(now, reason);
    }

    /// When to call [`handle_timeout`](Self::handle_timeout), if nothing else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.session.poll_timeout()
    }

    /// Handles the deadlines that have passed at `now`. Calling it early, late or often does no
    /// harm.
    ///
    /// Read what has already arrived before a deadline passes.
    ///
    /// # Errors
    /// What ended the connection, now or before.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.session.handle_timeout(now)
    }

    /// The state of the connection.
    #[must_use]
    pub fn status(&self) -> Status {
        self.session.status()
    }

    /// What ended the connection, if it has ended.
    #[must_use]
    pub fn end(&self) -> Option<ConnectionError> {
        self.session.end()
    }

    /// How to end the stream of a connection that has ended at `since`. `with_answer` says whether
    /// bytes that the stream has not accepted may contain a server's answer, as for
    /// [`write_deadline`](Self::write_deadline). `None` while the connection has not ended.
    #[must_use]
    pub fn ending(&self, since: Instant, with_answer: bool) -> Option<Ending> {
        self.end().map(|end| self.ending_after(end, since, with_answer))
    }

    /// How the stream ends after `end`. The peer has until the
    /// [write deadline](Self::write_deadline) from `since` to accept the last bytes.
    pub(crate) fn ending_after(&self, end: ConnectionError, since: Instant, with_answer: bool) -> Ending {
        let until = self.deadline_after(Some(end), since, with_answer);
        Ending::new(end, self.was_established(), until)
    }

    /// Whether the handshake has completed and the connection has not ended.
    #[inline]
    #[must_use]
    pub fn is_established(&self) -> bool {
        matches!(self.status(), Status::Established | Status::Draining)
    }

    /// Whether the handshake has completed. This stays so after the end.
    pub(crate) fn was_established(&self) -> bool {
        self.session.was_established()
    }

    /// How many requests are in flight: begun and not completed.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.session.in_flight()
    }

    /// The write deadline of a write that has made no progress since `since`. It is one
    /// [`lifetime`](Self::lifetime) later or, if the connection has ended,
    /// [`LINGER`](crate::Settings::LINGER) later.
    #[must_use]
    pub fn stalls_at(&self, since: Instant) -> Instant {
        self.write_deadline(since, false)
    }

    /// As [`stalls_at`](Self::stalls_at), for bytes that may contain a server's answer
    /// (`with_answer`). Those have a full [`lifetime`](Self::lifetime) even after the connection
    /// has ended with [`ConnectionError::Closed`] or [`ConnectionError::HandlerFailed`].
    ///
    /// After the connection has ended, pass the time of its end as `since`, even if the write makes
    /// progress.
    ///
    /// ```
    /// use core::time::Duration;
    /// use falco_core::{ClassicKey, CloseReason, FixedReplayCache, Instant, Key};
    /// use falco_core::{ServerConnection, Settings};
    ///
    /// # let mut rng = falco_core::testing::CountingRng::new(1);
    /// let cache = FixedReplayCache::<32>::new(&mut rng)?;
    /// let key = ClassicKey::new(Key::from_bytes([7; 32])?, cache);
    /// let (settings, now) = (Settings::new(), Instant::ZERO);
    /// let mut server = ServerConnection::new(&key, &settings, now, &mut rng)?;
    /// let lifetime = now + Duration::from_secs(60);
    /// assert_eq!(server.write_deadline(now, false), lifetime);
    /// assert_eq!(server.write_deadline(now, true), lifetime);
    /// server.close(now, CloseReason::Done);
    /// assert_eq!(server.write_deadline(now, false), now + Settings::LINGER);
    /// assert_eq!(server.write_deadline(now, true), lifetime);
    /// # Ok::<(), Box<dyn core::error::Error>>(())
    /// ```
    #[must_use]
    pub fn write_deadline(&self, since: Instant, with_answer: bool) -> Instant {
        self.deadline_after(self.end(), since, with_answer)
    }

    /// Whether there may be pending output.
    #[cfg(feature = "alloc")]
    pub(crate) fn has_pending(&self) -> bool {
        self.session.has_pending()
    }

    /// The stream has taken all output, and messages are queued behind it.
    #[cfg(feature = "alloc")]
    pub(crate) fn note_taken(&mut self, now: Instant) {
        self.session.note_taken(now);
    }

    /// Releases memory that is not needed while no request is in flight.
    #[cfg(feature = "alloc")]
    pub(crate) fn shrink(&mut self) {
        self.session.shrink();
    }

    /// The write deadline of a connection that has ended with `end`, or that is open if `end` is
    /// `None`.
    pub(crate) fn deadline_after(&self, end: Option<ConnectionError>, since: Instant, with_answer: bool) -> Instant {
        since.after(self.write_limit(end, with_answer))
    }

    /// How many milliseconds a write may make no progress.
    pub(crate) fn write_limit(&self, end: Option<ConnectionError>, with_answer: bool) -> u64 {
        let has_lifetime = match end {
            None => true,
            Some(ConnectionError::Closed | ConnectionError::HandlerFailed) => with_answer,
            Some(_) => false,
        };
        if has_lifetime {
            self.session.lifetime_millis()
        } else {
            LINGER_SPAN.as_millis()
        }
    }

    /// The lifetime (idle timeout) in force. On the noise wire, after the handshake, it is the
    /// smaller of both sides' values.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        Duration::from_millis(self.session.lifetime_millis())
    }

    /// A value that is the same on both sides of this connection and different for every other one:
    /// the handshake hash (Noise specification, revision 34, section 11.2). It is not secret. An
    /// application that authenticates its users above the shared key can include it in what they
    /// sign, so that nobody can relay the signature over another connection.
    ///
    /// `None` before the connection is established, and on the classic wire.
    #[must_use]
    pub fn channel_binding(&self) -> Option<&[u8; 32]> {
        self.session.channel_binding()
    }

    /// The smallest buffers with which a connection under these settings works, for callers whose
    /// buffers cannot grow.
    ///
    /// ```
    /// use falco_core::noise::{FixedTable, NoiseClient};
    /// use falco_core::{ClientConnection, RustCrypto, Settings};
    ///
    /// type Device<'k> = ClientConnection<&'k NoiseClient<FixedTable<1>, RustCrypto>>;
    ///
    /// let settings = Settings::new().with_max_record(512)?;
    /// let sizes = Device::buffer_sizes(&settings);
    /// assert_eq!((sizes.unread, sizes.output), (514, 285));
    /// # Ok::<(), falco_core::SettingsError>(())
    /// ```
    #[must_use]
    pub fn buffer_sizes(settings: &Settings) -> BufferSizes {
        H::Target::buffer_sizes(settings)
    }
}

impl<H: ClientKeyRef> Connection<ClientSide, H> {
    /// Creates a request with a body of `length` bytes. Pass it to [`seal`](Self::seal) with that
    /// body; nothing is sent yet.
    ///
    /// # Errors
    /// [`RequestError::TooLarge`](crate::RequestError::TooLarge), [`Error::Closing`], or what ended
    /// the connection.
    pub fn request(&mut self, length: usize) -> Result<OutgoingRequest, Error> {
        self.session.request(length)
    }

    /// Queues a ping. On the classic wire the lifetime restarts when the ping is sent, on the noise
    /// wire when the PONG arrives. Pings that are not sent yet are combined.
    ///
    /// The classic wire has no answer to a ping.
    ///
    /// # Errors
    /// [`Error::Closing`] on the classic wire, or what ended the connection.
    pub fn ping(&mut self) -> Result<PingId, Error> {
        self.session.ping()
    }

    /// Cancels a request: its answer is no longer wanted. The request stays in flight until the
    /// server refuses it as cancelled, or answers it because it was already done. If only a part of
    /// it was sent, the rest is not sent. For a completed request this does nothing.
    ///
    /// The classic wire cannot cancel. There the answer still arrives, and the caller drops it.
    ///
    /// # Errors
    /// [`Misuse::Foreign`](crate::Misuse::Foreign), or what ended the connection.
    pub fn cancel(&mut self, id: RequestId) -> Result<(), Error> {
        self.session.cancel(id)
    }

    /// Whether the server answers pings. It does on the noise wire; the classic wire has no PONG.
    #[must_use]
    pub fn answers_pings(&self) -> bool {
        self.session.answers_pings()
    }

    /// Whether the client knows that the server has accepted it: on the noise wire after the first
    /// record from the server, on the classic wire after the accept. See [`fate`](Self::fate) for
    /// what that means for requests when the connection ends.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.session.is_confirmed()
    }

    /// Whether this side has closed the connection: the caller, or the connection itself because it
    /// has no request ids left.
    #[cfg(feature = "alloc")]
    pub(crate) fn has_closed(&self) -> bool {
        self.session.has_closed()
    }

    /// The fate of a request that has begun and not completed, once the connection has ended.
    ///
    /// On the noise wire it is *not processed* if the [stream ended](Self::end_of_stream) before
    /// any byte arrived after the welcome: a server answers the first PING before it passes a
    /// request to a handler. In every other case a handler may have processed the request. That
    /// includes a stream that failed with an error instead of ending, because the PONG may be lost.
    ///
    /// This assumes that the server ended the stream. The end of a stream is not authenticated: a
    /// proxy may end the stream while the server keeps running.
    #[must_use]
    pub fn fate(&self) -> Fate {
        self.session.fate()
    }

    /// The fate of a request that has not completed, once the connection has ended.
    ///
    /// `sealed_whole` says whether the whole request was sealed. For an open request it says
    /// whether the first frame was, because the handler runs from then on. If not, the request was
    /// not processed. `broken` says whether a read or a write of the stream has failed. Then bytes
    /// of the server may be lost, and the request may have been processed. Otherwise the result is
    /// that of [`fate`](Self::fate).
    #[must_use]
    pub fn fate_of(&self, sealed_whole: bool, broken: bool) -> Fate {
        match (sealed_whole, broken) {
            (false, _) => Fate::NotProcessed,
            (true, true) => Fate::MaybeProcessed,
            (true, false) => self.fate(),
        }
    }

    /// The in-flight limit. On the noise wire, after the handshake, it is the smaller of both
    /// sides' limits; on the classic wire it is this side's.
    #[must_use]
    pub fn max_in_flight(&self) -> usize {
        self.session.max_in_flight()
    }

    /// The largest message that the server accepts, in bytes, known after the handshake. A server
    /// on the noise wire also accepts at least this many held bytes per connection. On the classic
    /// wire the server's limit is not known, and this is the client's own.
    #[must_use]
    pub fn peer_max_message(&self) -> u32 {
        self.session.peer_max_message()
    }
}

impl<H: ServerKeyRef> Connection<ServerSide, H> {
    /// Creates the answer to a request, with a body of `length` bytes. Pass it to
    /// [`seal`](Self::seal) with that body.
    ///
    /// Answers may be created in any order. The classic wire sends them in the order of the
    /// requests: pass all that are ready to `seal`, which skips those whose turn has not come.
    ///
    /// # Errors
    /// [`RequestError::TooLarge`](crate::RequestError::TooLarge): the request is still open, for
    /// another answer or a refusal. [`ReplyError::NotWaiting`],
    /// [`Misuse::Foreign`](crate::Misuse::Foreign), or what ended the connection.
    pub fn answer(&mut self, id: RequestId, length: usize) -> Result<OutgoingAnswer, ReplyError> {
        self.session.answer(id, length)
    }

    /// Completes a request without an answer. The classic wire cannot refuse: there the answers to
    /// earlier requests are sent, then the connection ends with [`ConnectionError::HandlerFailed`],
    /// and later requests are no longer open.
    ///
    /// # Errors
    /// [`ReplyError::TransmitFirst`], [`ReplyError::NotWaiting`],
    /// [`Misuse::Foreign`](crate::Misuse::Foreign), or what ended the connection.
    pub fn refuse(&mut self, id: RequestId, refusal: Refusal) -> Result<(), ReplyError> {
        self.session.refuse(id, refusal)
    }

    /// Whether the wire can refuse a single request, so that the connection stays open.
    #[cfg(feature = "alloc")]
    pub(crate) fn refuses(&self) -> bool {
        self.session.refuses()
    }

    /// The id of the client's key, once the client has proved that it has it. The classic wire has
    /// one key and no ids.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.session.key_id()
    }
}

impl<R: Role, H: KeyRef<R>> fmt::Debug for Connection<R, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}
