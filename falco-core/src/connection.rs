//! The machine: one side of one connection, on whichever wire its key is for. It decides nothing itself; the wires do.

use core::fmt;
use core::ops::Deref;
use core::time::Duration;

use rand_core::TryCryptoRng;

use crate::error::{ConnectionError, EntropyError, Error, LINGER, OutputTooSmall, ReplyError, SealError};
use crate::event::Received;
use crate::message::{CloseReason, Fate, KeyId, PingId, Refusal, RequestId, Status};
use crate::outgoing::{OutgoingAnswer, OutgoingRequest};
use crate::role::{ClientSide, Role, ServerSide};
use crate::session::{BufferSizes, Client as _, Keyed, Server as _, Session};
use crate::settings::Settings;
use crate::time::Instant;
use crate::wire::{ClientWire, ServerWire, Wire};

/// Room that [`Connection::poll_transmit`] is content with on every wire: a classic hello, the largest of the machines' own messages.
pub const TRANSMIT_SIZE: usize = crate::classic::HELLO_LENGTH;

/// A client's side of a connection. `H` is a handle on its key, such as `&ClassicKey<L>` or `Arc<ClassicKey<L>>`.
pub type ClientConnection<H> = Connection<ClientSide, H>;

/// A server's side of a connection. `H` is a handle on its key, such as `&ClassicKey<L>` or `Arc<ClassicKey<L>>`.
pub type ServerConnection<H> = Connection<ServerSide, H>;

/// One side of one connection: a plain value that does no I/O, reads no clock and allocates nothing.
///
/// Bytes and times go in, bytes and events come out; see the [crate's page](crate) for the loop that drives it.
///
/// A server cannot ask and a client cannot answer:
///
/// ```compile_fail,E0599
/// # use falco_core::{ClassicKey, ClientConnection, Ledger, RequestId};
/// fn respond<L: Ledger>(client: &mut ClientConnection<&ClassicKey<L>>, id: RequestId) {
///     client.answer(id, 0);
/// }
/// ```
pub struct Connection<R: Role, H: Deref<Target: Wire<R>>> {
    wire: H,
    session: <H::Target as Keyed<R>>::Session,
}

impl<R: Role, H: Deref<Target: Wire<R>>> Connection<R, H> {
    /// The state of a connection that begins now. Entropy is drawn here and nowhere else.
    ///
    /// A client owes its hello from here on. The handshake's deadline counts from `now`: the moment of connecting or accepting.
    ///
    /// # Errors
    /// [`EntropyError`] where the generator fails; then nothing is sent.
    pub fn new<G: TryCryptoRng + ?Sized>(
        key: H,
        settings: &Settings,
        now: Instant,
        rng: &mut G,
    ) -> Result<Self, EntropyError> {
        let session = key.start(settings, now, rng)?;
        Ok(Self { wire: key, session })
    }

    /// Looks at the unread bytes, takes at most one frame, decrypts it where it lies and says what happened.
    ///
    /// Call it until it answers with something other than an event or a skip; see [`Received`] for what to do then. The same bytes give the same
    /// events, however they were cut into reads. Unread bytes are the caller's: nothing of them is remembered here.
    ///
    /// # Errors
    /// What ended the connection, now or before.
    pub fn recv<'u>(
        &mut self,
        now: Instant,
        unread: &'u mut [u8],
    ) -> Result<Received<R::Event<'u>, R::Wait>, ConnectionError> {
        self.wire.recv(&mut self.session, now, unread)
    }

    /// The stream has no more bytes. `unread` is what [`recv`](Self::recv) has left of them.
    ///
    /// `Ok` means that the other direction still has something to do, which the next call of [`recv`](Self::recv) may tell of; the classic wire has no such end.
    ///
    /// # Errors
    /// What ended the connection, now or before.
    pub fn end_of_stream(&mut self, now: Instant, unread: &[u8]) -> Result<(), ConnectionError> {
        self.session.end_of_stream(now, unread)
    }

    /// Writes the next of the machine's own messages (hello, accept, ping) to the front of `out`, and says how long it is; 0 where none is owed.
    /// [`TRANSMIT_SIZE`] bytes are always enough.
    ///
    /// What it wrote has to go out, in this order, before anything that is written later. After the end of a connection too: what is owed then is
    /// its last word.
    ///
    /// # Errors
    /// [`OutputTooSmall`].
    pub fn poll_transmit(&mut self, now: Instant, out: &mut [u8]) -> Result<usize, OutputTooSmall> {
        self.wire.transmit(&mut self.session, now, out)
    }

    /// Seals messages, as many as may go and fit, straight from their bodies into `out`, and says how many bytes of it are to be sent.
    ///
    /// What the machine itself owes goes first. Each message comes with its whole body, whatever part of it was sealed before. A message that may
    /// not go now (the handshake is under way, too many requests are in flight, its turn has not come, it is done) is passed over. 0 bytes therefore mean that
    /// something has to be received first.
    ///
    /// # Errors
    /// Only where nothing was written and there was a message to send: what is wrong with the first
    /// message that could have gone, or with the output ([`seal_size`](Self::seal_size) tells how much
    /// of it is enough), or what ended the connection. Where something was written before the trouble,
    /// that is returned, and the trouble again at the next call.
    pub fn seal<'m, I>(&mut self, now: Instant, messages: I, out: &mut [u8]) -> Result<usize, SealError>
    where
        I: IntoIterator<Item = (&'m mut R::Outgoing, &'m [u8])>,
        R::Outgoing: 'm,
    {
        self.wire.seal(&mut self.session, now, messages, out)
    }

    /// Bytes of output with which a message of `length` bytes, and what is owed before it, make all the progress that one call of
    /// [`seal`](Self::seal) can.
    #[must_use]
    pub fn seal_size(&self, length: usize) -> usize {
        self.session.seal_size(length)
    }

    /// Says that the caller has stopped reading by its own choice, such as while too much waits to be written, or that it reads again. While it does not, the
    /// lifetime stands still, for one lifetime at the most: a peer that could not be heard is not taken for silent.
    pub fn set_reading(&mut self, now: Instant, reading: bool) {
        self.session.set_reading(now, reading);
    }

    /// Says that nobody looked at the stream for a while, so that what has come by `now` is still to be handed to [`recv`](Self::recv): call it before that, and before
    /// [`handle_timeout`](Self::handle_timeout). What ran out meanwhile, the lifetime, the wait for an answer to a ping or that for the rest of a request, is over just after `now` and not yet.
    ///
    /// Call it again where reading what had come takes longer than that: between two signs of life there is one respite, which begins up to a lifetime late, and has [`LINGER`] from there on, at
    /// most a third of the lifetime, and never more than that lifetime in all. The deadlines of a handshake and of a drain do not move.
    pub fn was_away(&mut self, now: Instant) {
        self.session.was_away(now);
    }

    /// Finishes what was begun, takes nothing new, then ends with [`ConnectionError::Closed`]. At once, if nothing is under way.
    pub fn close(&mut self, now: Instant, reason: CloseReason) {
        self.session.close(now, reason);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, if nothing else happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.session.poll_timeout()
    }

    /// Does what is due at `now`. Harmless early, late and often.
    ///
    /// Before a deadline is let pass, read what has already come.
    ///
    /// # Errors
    /// What ended the connection, now or before.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), ConnectionError> {
        self.session.handle_timeout(now)
    }

    /// Where the connection is in its life.
    #[must_use]
    pub fn status(&self) -> Status {
        self.session.status()
    }

    /// What ended the connection, if it has ended.
    #[must_use]
    pub fn end(&self) -> Option<ConnectionError> {
        self.session.end()
    }

    /// Requests that have begun and have not had their end.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.session.in_flight()
    }

    /// When a write that has made no progress since `since` is to be given up by whoever does the writing: after a lifetime, which on the noise wire is the smaller of what
    /// both sides have set; the last words of a connection that has ended after [`LINGER`]. Where a server has closed in the same [`seal`](Self::seal) in which it took the end of its last
    /// answer, that answer has a [`lifetime`](Self::lifetime) from there on.
    #[must_use]
    pub fn stalls_at(&self, since: Instant) -> Instant {
        match self.end() {
            Some(_) => since + LINGER,
            None => self.lifetime_from(since),
        }
    }

    /// When a [`lifetime`](Self::lifetime) is over that begins at `since`.
    #[must_use]
    pub fn lifetime_from(&self, since: Instant) -> Instant {
        since.after(self.session.lifetime_millis())
    }

    /// The lifetime that is in force: on the noise wire the smaller of what both sides have set, once they have told each other.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        Duration::from_millis(self.session.lifetime_millis())
    }

    /// The least memory with which a connection under these settings gets on, for callers whose buffers cannot grow.
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

impl<H: Deref<Target: ClientWire>> Connection<ClientSide, H> {
    /// A request with a body of `length` bytes, to be handed to [`seal`](Self::seal) with that body. Nothing is sent yet.
    ///
    /// # Errors
    /// [`RequestError::TooLarge`](crate::RequestError::TooLarge), [`Error::Closing`], or what ended the connection.
    pub fn request(&mut self, length: usize) -> Result<OutgoingRequest, Error> {
        self.session.request(length)
    }

    /// Owes the server a ping, which begins the lifetime anew once it is sent. Pings that are not yet sent become one.
    ///
    /// The classic wire has no answer to a ping.
    ///
    /// # Errors
    /// [`Error::Closing`] on the classic wire, or what ended the connection.
    pub fn ping(&mut self) -> Result<PingId, Error> {
        self.session.ping()
    }

    /// Says that the answer to a request is no longer wanted. The request keeps its place until its end comes: a refusal as cancelled, or the answer, if it was
    /// quicker. Of a request half sent, nothing more goes. On a request that has had its end it does nothing.
    ///
    /// The classic wire has no word for it: there the answer still comes, and is the caller's to drop.
    ///
    /// # Errors
    /// [`Misuse::Foreign`](crate::Misuse::Foreign), or what ended the connection.
    pub fn cancel(&mut self, id: RequestId) -> Result<(), Error> {
        self.session.cancel(id)
    }

    /// Whether the server answers pings: on the noise wire it does, on the classic wire there is no such answer.
    #[must_use]
    pub fn answers_pings(&self) -> bool {
        self.session.answers_pings()
    }

    /// Whether the server is known to have let this client in: on the noise wire once a record from
    /// it has been read, on the classic wire from the accept on. What the end of a connection means
    /// for its requests is told by [`fate`](Self::fate).
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.session.is_confirmed()
    }

    /// What may be said of a request that has begun and has had no end, once the connection is over.
    ///
    /// On the noise wire it was not processed where the [stream ended](Self::end_of_stream) before a
    /// byte had come after the welcome: a server answers the first PING before it hands a request to
    /// a handler. In every other case a handler may have seen it. So it may where the stream broke
    /// instead of ending, as that answer may be lost with it.
    ///
    /// An end of the stream is taken for the server's own. Nothing authenticates it: a proxy that
    /// ends the stream while the server goes on is not told apart.
    #[must_use]
    pub fn fate(&self) -> Fate {
        self.session.fate()
    }

    /// How many requests may be in flight at once: the smaller of both sides' limits, once the
    /// handshake is over.
    #[must_use]
    pub fn max_in_flight(&self) -> usize {
        self.session.max_in_flight()
    }

    /// The largest message that the server reads, in bytes; a server on the noise wire holds at
    /// least as many bytes of unfinished requests for each connection. Known once the handshake is
    /// over.
    #[must_use]
    pub fn peer_max_message(&self) -> u32 {
        self.session.peer_max_message()
    }
}

impl<H: Deref<Target: ServerWire>> Connection<ServerSide, H> {
    /// The answer to a request, with a body of `length` bytes, to be handed to [`seal`](Self::seal) with that body.
    ///
    /// Answers may be made in any order. On the classic wire they go in the order of the requests: hand all that are ready to `seal`, and it takes those
    /// whose turn it is.
    ///
    /// # Errors
    /// [`RequestError::TooLarge`](crate::RequestError::TooLarge): the request still waits for another answer, or to be refused;
    /// [`ReplyError::NotWaiting`], [`Misuse::Foreign`](crate::Misuse::Foreign), or what ended the connection.
    pub fn answer(&mut self, id: RequestId, length: usize) -> Result<OutgoingAnswer, ReplyError> {
        self.session.answer(id, length)
    }

    /// Ends a request without an answer. The classic wire cannot say so: the answers to the requests before it still go, then the connection ends with
    /// [`ConnectionError::HandlerFailed`], and requests after it are no longer waiting.
    ///
    /// # Errors
    /// [`ReplyError::TransmitFirst`], [`ReplyError::NotWaiting`], [`Misuse::Foreign`](crate::Misuse::Foreign), or what ended the connection.
    pub fn refuse(&mut self, id: RequestId, refusal: Refusal) -> Result<(), ReplyError> {
        self.session.refuse(id, refusal)
    }

    /// The id of the key that the client has, once it has proved that. The classic wire has one key and no ids.
    #[must_use]
    pub fn key_id(&self) -> Option<KeyId> {
        self.session.key_id()
    }
}

impl<R: Role, H: Deref<Target: Wire<R>>> fmt::Debug for Connection<R, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}
