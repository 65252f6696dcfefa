//! A client and a server over an `embedded-io` stream, for code that blocks.
//!
//! The stream must implement [`ReadReady`] and [`WriteReady`]: the protocol has deadlines, so a
//! driver must not block in a read without one. The stream is flushed when there is nothing else to
//! do, and before a handler begins. A flush that never returns blocks the connection.

use core::fmt;

use embedded_io::{Read, ReadReady, Write, WriteReady};
use falco_core::{ClientKeyRef, CloseReason, Instant, KeyRef, PingId, Refusal, Role, ServerKeyRef};

use crate::buffers::Buffers;
use crate::client::BufferedClient;
use crate::clock::Clock;
use crate::connection::BufferedConnection;
use crate::driver::drivers;
use crate::error::Error;
use crate::server::{BufferedServer, Incoming};
#[cfg(feature = "streams")]
use crate::{client::PendingSubscription, subscription::subscriptions};

/// A stream, and a clock. [`Client::new`] and [`Server::new`] create it.
pub struct Transport<S: embedded_io::ErrorType, K> {
    stream: S,
    clock: K,
    /// When the stream was last polled, or the current call began. Bytes that had arrived by then
    /// are processed with this time as `now`, however long processing takes.
    polled_at: Instant,
    /// For the request whose handler waits to begin: whether the stream still has to accept output
    /// that was pending when the request arrived. `None` if no handler waits.
    handler_is_behind: Option<bool>,
    /// The error of a write, after which nothing can be written any more. It is returned only after
    /// the bytes that had arrived are processed, because they may contain the actual reason, such
    /// as a CLOSE.
    write_error: Option<Error<S::Error>>,
}

impl<S: embedded_io::ErrorType, K> fmt::Debug for Transport<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

impl<S: Read + ReadReady + Write + WriteReady, K: Clock> Transport<S, K> {
    const fn new(stream: S, clock: K) -> Self {
        Self {
            stream,
            clock,
            polled_at: Instant::ZERO,
            handler_is_behind: None,
            write_error: None,
        }
    }

    fn into_parts(self) -> (S, K) {
        (self.stream, self.clock)
    }

    const fn polled_at(&self) -> Instant {
        self.polled_at
    }

    fn poll_clock(&mut self) -> Instant {
        self.polled_at = self.clock.now();
        self.polled_at
    }

    /// The handler has already run, because it blocks.
    #[allow(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "the async transport drives the connection here"
    )]
    fn run_handler<T, H: ServerKeyRef, B: Buffers>(
        &mut self,
        _: &mut Incoming<H, B>,
        handled: T,
    ) -> Result<T, Error<S::Error>> {
        Ok(handled)
    }

    /// Whether the handler of a request may begin: once the stream has accepted the output that was
    /// pending when the request arrived, and has flushed it. Nothing is written while it blocks.
    fn may_begin_handler<H: ServerKeyRef, B: Buffers, M: Buffers>(
        &mut self,
        server: &mut BufferedServer<H, B, M>,
    ) -> bool {
        if !server.has_request() {
            return false;
        }
        let behind = *self
            .handler_is_behind
            .get_or_insert(!server.connection().unsent().is_empty());
        let begins = !behind && self.flush(server.connection_mut());
        if begins {
            self.handler_is_behind = None;
        }
        begins
    }

    /// Returns the error of a write that failed, once.
    fn take_write_error<R: Role, H: KeyRef<R>, B: Buffers>(
        &mut self,
        connection: &mut BufferedConnection<R, H, B>,
    ) -> Result<(), Error<S::Error>> {
        match self.write_error.take() {
            Some(error) => {
                connection.end_of_stream();
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// Flushes the stream. Returns whether writing and flushing have not failed.
    fn flush<R: Role, H: KeyRef<R>, B: Buffers>(&mut self, connection: &mut BufferedConnection<R, H, B>) -> bool {
        if connection.is_unflushed() {
            match self.stream.flush() {
                Ok(()) => connection.flushed(),
                Err(error) => {
                    self.write_error = Some(Error::Io(error));
                    connection.output_failed();
                }
            }
        }
        self.write_error.is_none()
    }

    /// Waits until bytes were moved, until `until`, or until the connection's deadline. Then
    /// handles the deadlines that have passed.
    fn wait<R: Role, H: KeyRef<R>, B: Buffers>(
        &mut self,
        connection: &mut BufferedConnection<R, H, B>,
        until: Option<Instant>,
    ) -> Result<(), Error<S::Error>> {
        loop {
            let now = self.poll_clock();
            let read = self.read(connection)?;
            let mut wrote = self.write(connection);
            if connection.unsent().is_empty() && self.handler_is_behind.is_some() {
                self.handler_is_behind = Some(false);
            }
            if !wrote && connection.is_unflushed() && connection.unsent().is_empty() {
                wrote = true;
                self.flush(connection);
            }
            if !read {
                self.take_write_error(connection)?;
            }
            let deadline = [connection.poll_timeout(), until].into_iter().flatten().min();
            if read || wrote || deadline.is_some_and(|deadline| deadline <= now) {
                // What has arrived is processed before a deadline applies.
                if !read {
                    connection.handle_timeout(now);
                }
                return Ok(());
            }
            self.clock.rest(deadline);
        }
    }

    /// Reads what has arrived. Returns whether there was something: bytes, or the end of the
    /// stream.
    fn read<R: Role, H: KeyRef<R>, B: Buffers>(
        &mut self,
        connection: &mut BufferedConnection<R, H, B>,
    ) -> Result<bool, Error<S::Error>> {
        let space = connection.space()?;
        if space.is_empty() {
            return Ok(false);
        }
        let stream = &mut self.stream;
        let read = stream
            .read_ready()
            .and_then(|ready| if ready { stream.read(space).map(Some) } else { Ok(None) });
        match read {
            Ok(None) => return Ok(false),
            Ok(Some(0)) => connection.end_of_stream(),
            Ok(Some(count)) => connection.filled(count),
            Err(error) => {
                connection.end_of_stream();
                connection.output_failed();
                return Err(Error::Io(error));
            }
        }
        Ok(true)
    }

    /// Writes as much as the stream accepts. Returns whether it accepted something.
    fn write<R: Role, H: KeyRef<R>, B: Buffers>(&mut self, connection: &mut BufferedConnection<R, H, B>) -> bool {
        let unsent = connection.unsent();
        if unsent.is_empty() {
            return false;
        }
        let stream = &mut self.stream;
        let written = stream.write_ready().and_then(|ready| {
            if ready {
                stream.write(unsent).map(Some)
            } else {
                Ok(None)
            }
        });
        let write_error = match written {
            Ok(None) => return false,
            Ok(Some(count @ 1..)) => {
                connection.wrote(self.clock.now(), count);
                return true;
            }
            Ok(Some(0)) => Error::WriteZero,
            Err(error) => Error::Io(error),
        };
        connection.output_failed();
        self.write_error = Some(write_error);
        false
    }
}

drivers! {
    generics: [S: Read + ReadReady + Write + WriteReady, K: Clock],
    parts: [stream: S, clock: K],
    transport: Transport<S, K>,
    error: S::Error,
    words: [] [] FnMut,
    client: [
        /// A client over an `embedded-io` stream. One request at a time.
        ///
        /// ```no_run
        /// use embedded_io::{Read, ReadReady, Write, WriteReady};
        /// use falco_embedded::falco_core::{Instant, Key, RustCrypto, Settings};
        /// use falco_embedded::rand_core::CryptoRng;
        /// use falco_embedded::{BufferedClient, Error, NoiseClientKey, blocking};
        ///
        /// /// Sends a reading, waits for the answer, and keeps the connection alive for a minute.
        /// fn report<S>(
        ///     port: S,
        ///     now: fn() -> Instant,
        ///     trng: &mut impl CryptoRng,
        ///     key: Key,
        /// ) -> Result<(), Error<S::Error>>
        /// where
        ///     S: Read + ReadReady + Write + WriteReady,
        /// {
        ///     let key = NoiseClientKey::new(key, b"", RustCrypto).expect("the context is short");
        ///     let settings = Settings::new().with_max_record(512).expect("64 or more");
        ///     let settings = settings.with_max_message(1024);
        ///     let (start, buffers) = (now(), ([0; 514], [0; 514]));
        ///     let buffered = BufferedClient::start(&key, &settings, start, trng, buffers)
        ///         .expect("the buffers are large enough and the TRNG works");
        ///     let mut client = blocking::Client::new(buffered, port, now);
        ///     let mut answer = [0; 1024];
        ///     let length = client.request(b"21.5", &mut answer)?;
        ///     assert_eq!(&answer[..length], b"thanks");
        ///     client.idle(now() + core::time::Duration::from_secs(60))?;
        ///     client.close()
        /// }
        /// ```
        ///
        /// The example `host` of this crate runs it over a TCP socket.
    ],
    server: [
        /// A server's side of one connection over an `embedded-io` stream. One request at a time.
        ///
        /// ```no_run
        /// use embedded_io::{Read, ReadReady, Write, WriteReady};
        /// use falco_embedded::falco_core::{Instant, Refusal, RustCrypto, Settings};
        /// use falco_embedded::rand_core::CryptoRng;
        /// use falco_embedded::{Error, NoiseServerKey, BufferedServer, blocking};
        ///
        /// /// Serves one connection until it ends.
        /// fn serve<S>(
        ///     port: S,
        ///     now: fn() -> Instant,
        ///     trng: &mut impl CryptoRng,
        ///     key: &NoiseServerKey<1>,
        /// ) -> Result<(), Error<S::Error>>
        /// where
        ///     S: Read + ReadReady + Write + WriteReady,
        /// {
        ///     let settings = Settings::new().with_max_record(512).expect("64 or more");
        ///     let settings = settings.with_max_message(256);
        ///     let (buffers, bodies) = (([0; 514], [0; 514]), ([0; 256], [0; 256]));
        ///     let buffered = BufferedServer::start(key, &settings, now(), trng, buffers, bodies)
        ///         .expect("the buffers are large enough and the TRNG works");
        ///     let mut server = blocking::Server::new(buffered, port, now);
        ///     server.serve(|request: &[u8], answer: &mut [u8]| match request {
        ///         b"temperature" => {
        ///             answer[..4].copy_from_slice(b"21.5");
        ///             Ok(4)
        ///         }
        ///         _ => Err(Refusal::Failed),
        ///     })
        /// }
        /// ```
        ///
        /// The example `host` of this crate runs it over a TCP socket.
    ],
    serve: [
        /// Handles one request after the other until the connection ends. The handler receives a
        /// request and the memory for its answer, and returns the length of the answer, or a
        /// refusal. Nothing else happens while it runs. If it takes longer than a third of the
        /// lifetime, the client may consider the server dead.
    ],
}

#[cfg(feature = "streams")]
subscriptions! {
    generics: [S: Read + ReadReady + Write + WriteReady, K: Clock],
    transport: Transport<S, K>,
    error: S::Error,
    words: [] [],
    subscription: [
        /// An answer that is read in pieces. [`Client::subscribe`] creates it.
        ///
        /// ```no_run
        /// use embedded_io::{Read, ReadReady, Write, WriteReady};
        /// use falco_embedded::{Clock, Error, NoiseClientKey, blocking};
        ///
        /// type Buffers = ([u8; 514], [u8; 514]);
        /// type Transport<S, K> = blocking::Transport<S, K>;
        /// type Client<'k, T> = blocking::Client<T, &'k NoiseClientKey, Buffers>;
        ///
        /// /// Carries out what a service sends, until it sends no more. The settings of the
        /// /// connection were made `with_streams(1, 0)`, for a window of 1 KiB.
        /// fn obey<S, K>(
        ///     client: &mut Client<'_, Transport<S, K>>,
        ///     mut carry_out: impl FnMut(&[u8]),
        /// ) -> Result<(), Error<S::Error>>
        /// where
        ///     S: Read + ReadReady + Write + WriteReady,
        ///     K: Clock,
        /// {
        ///     let mut memory = [0; 1024];
        ///     let mut calls = client.subscribe(b"device 7", &mut memory)?;
        ///     while let Some(piece) = calls.next()? {
        ///         carry_out(piece);
        ///     }
        ///     Ok(())
        /// }
        /// ```
    ],
}
