//! A client and a server over `embedded-io-async` streams, for Embassy and other executors.
//!
//! A stream is given as its two halves, because a client reads while it writes. Dropping the future
//! of a half before it is ready must not lose bytes. The buffered serial ports and the sockets of
//! Embassy guarantee that. Writes are flushed when nothing more is pending.
//!
//! You may drop a future of this module at any point: all state is in the client and the server.
//! The next call cancels the request whose future was dropped, and its answer is discarded. If the
//! future of [`serve`](Server::serve) is dropped while a handler runs, the next call refuses that
//! request as failed, or as cancelled if the client has cancelled it, and does not handle it again.

use core::fmt;
use core::future::{Future, pending, poll_fn};
use core::pin::pin;
use core::task::Poll;

use embedded_io_async::{Read, Write};
use falco_core::{ClientKeyRef, CloseReason, Instant, KeyRef, PingId, Refusal, Role, ServerKeyRef};

use crate::buffers::Buffers;
use crate::client::BufferedClient;
use crate::clock::Timer;
use crate::connection::BufferedConnection;
use crate::driver::drivers;
use crate::error::Error;
use crate::server::{BufferedServer, Incoming};
#[cfg(feature = "streams")]
use crate::{client::PendingSubscription, subscription::subscriptions};

/// After this many transfers without waiting, other tasks get a turn.
const TURN: u8 = 32;

/// The halves of a stream, and a timer. [`Client::new`] and [`Server::new`] create it.
pub struct Transport<R: embedded_io::ErrorType, W, T> {
    reader: R,
    writer: W,
    timer: T,
    /// When the stream was last polled, or the current call began. Bytes that had arrived by then
    /// are processed with this time as `now`, however long processing takes.
    polled_at: Instant,
    /// How often bytes were moved since other tasks last had their turn.
    moved: u8,
    /// The error of a write, after which nothing can be written any more. It is returned only after
    /// the bytes that had arrived are processed, because they may contain the actual reason, such
    /// as a CLOSE.
    write_error: Option<Error<R::Error>>,
}

impl<R: embedded_io::ErrorType, W, T> fmt::Debug for Transport<R, W, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").finish_non_exhaustive()
    }
}

/// The result of one wait.
struct Transferred<E> {
    read: Option<Result<usize, E>>,
    /// `None` in the result means a flush.
    wrote: Option<Result<Option<usize>, E>>,
}

impl<R: Read, W: Write<Error = R::Error>, T: Timer> Transport<R, W, T> {
    const fn new(reader: R, writer: W, timer: T) -> Self {
        Self {
            reader,
            writer,
            timer,
            polled_at: Instant::ZERO,
            moved: 0,
            write_error: None,
        }
    }

    fn into_parts(self) -> (R, W, T) {
        (self.reader, self.writer, self.timer)
    }

    /// Whether a handler may begin now. The connection is driven while it runs.
    #[allow(clippy::unused_self, reason = "the blocking transport flushes the stream here")]
    const fn may_begin_handler<H: ServerKeyRef, B: Buffers, M: Buffers>(&self, _: &BufferedServer<H, B, M>) -> bool {
        true
    }

    const fn polled_at(&self) -> Instant {
        self.polled_at
    }

    fn poll_clock(&mut self) -> Instant {
        self.polled_at = self.timer.now();
        self.polled_at
    }

    /// Drives the connection while a handler runs.
    async fn run_handler<F: Future, H: ServerKeyRef, B: Buffers>(
        &mut self,
        incoming: &mut Incoming<H, B>,
        handler: F,
    ) -> Result<F::Output, Error<R::Error>> {
        let mut handler = pin!(handler);
        loop {
            let stepped = incoming.step(self.polled_at);
            let more = match stepped {
                Ok(more) => more,
                Err(end) => return Err(end.widen()),
            };
            let mut wait = pin!(async {
                if more {
                    return Ok(());
                }
                self.wait(incoming.connection_mut(), None).await
            });
            let done = poll_fn(|context| {
                if let Poll::Ready(done) = handler.as_mut().poll(context) {
                    return Poll::Ready(Ok(Some(done)));
                }
                wait.as_mut().poll(context).map_ok(|()| None)
            });
            if let Some(done) = done.await? {
                return Ok(done);
            }
        }
    }

    /// Returns the error of a write that failed, once.
    fn take_write_error<Side: Role, H: KeyRef<Side>, B: Buffers>(
        &mut self,
        connection: &mut BufferedConnection<Side, H, B>,
    ) -> Result<(), Error<R::Error>> {
        match self.write_error.take() {
            Some(error) => {
                connection.end_of_stream();
                Err(error)
            }
            None => Ok(()),
        }
    }

    /// Waits until bytes were moved, until `until`, or until the connection's deadline. Then
    /// handles the deadlines that have passed.
    async fn wait<Side: Role, H: KeyRef<Side>, B: Buffers>(
        &mut self,
        connection: &mut BufferedConnection<Side, H, B>,
        until: Option<Instant>,
    ) -> Result<(), Error<R::Error>> {
        let deadline = [connection.poll_timeout(), until].into_iter().flatten().min();
        // After a write error, only what has already arrived is read.
        let deadline = if self.write_error.is_some() {
            Some(self.timer.now())
        } else {
            deadline
        };
        let unflushed = connection.is_unflushed();
        let (space, unsent) = connection.buffers()?;
        let Transferred { read, wrote } = self.transfer(space, unsent, unflushed, deadline).await;
        let now = self.poll_clock();
        // Bytes that were read are processed before a write error is returned: they may contain its
        // reason.
        let received = match read {
            None => false,
            Some(Ok(0)) => {
                connection.end_of_stream();
                true
            }
            Some(Ok(count)) => {
                connection.filled(count);
                true
            }
            Some(Err(error)) => {
                connection.end_of_stream();
                connection.output_failed();
                return Err(Error::Io(error));
            }
        };
        let write_error = match wrote {
            None => None,
            Some(Ok(None)) => {
                connection.flushed();
                None
            }
            Some(Ok(Some(count @ 1..))) => {
                connection.wrote(now, count);
                None
            }
            Some(Ok(Some(0))) => Some(Error::WriteZero),
            Some(Err(error)) => Some(Error::Io(error)),
        };
        if write_error.is_some() {
            connection.output_failed();
            self.write_error = write_error;
        } else if !received {
            self.take_write_error(connection)?;
        }
        // What has arrived is processed before a deadline applies.
        if !received {
            connection.handle_timeout(now);
        }
        Ok(())
    }

    /// Reads and writes what is possible, or waits until something is, or until the deadline.
    async fn transfer(
        &mut self,
        space: &mut [u8],
        unsent: &[u8],
        unflushed: bool,
        deadline: Option<Instant>,
    ) -> Transferred<R::Error> {
        let (reads, writes) = (!space.is_empty(), !unsent.is_empty());
        let (to, moved) = (&mut self.writer, &mut self.moved);
        let mut reading = pin!(when(reads, self.reader.read(space)));
        let mut writing = pin!(async {
            if writes {
                to.write(unsent).await.map(Some)
            } else if unflushed {
                to.flush().await.map(|()| None)
            } else {
                pending().await
            }
        });
        let mut sleep = pin!(async {
            match deadline {
                Some(at) => self.timer.sleep_until(at).await,
                None => pending().await,
            }
        });
        poll_fn(|context| {
            // If the peer sends without a pause, other tasks must still run.
            if *moved >= TURN {
                *moved = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            // Both are polled, and both results are used: dropping a result would lose its bytes.
            let read = ready(reading.as_mut().poll(context));
            let wrote = ready(writing.as_mut().poll(context));
            let idle = read.is_none() && wrote.is_none();
            if idle && sleep.as_mut().poll(context).is_pending() {
                *moved = 0;
                return Poll::Pending;
            }
            *moved += 1;
            Poll::Ready(Transferred { read, wrote })
        })
        .await
    }
}

/// Waits for `future` if it is `wanted`. Otherwise never completes.
async fn when<F: Future>(wanted: bool, future: F) -> F::Output {
    if wanted { future.await } else { pending().await }
}

fn ready<T>(poll: Poll<T>) -> Option<T> {
    match poll {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

drivers! {
    generics: [R: Read, W: Write<Error = R::Error>, T: Timer],
    parts: [reader: R, writer: W, timer: T],
    transport: Transport<R, W, T>,
    error: R::Error,
    words: [async] [.await] AsyncFnMut,
    client: [
        /// A client over the halves of an `embedded-io-async` stream. One request at a time.
        ///
        /// ```no_run
        /// use embedded_io_async::{Read, Write};
        /// use falco_embedded::falco_core::{Key, RustCrypto, Settings};
        /// use falco_embedded::rand_core::CryptoRng;
        /// use falco_embedded::{BufferedClient, Error, NoiseClientKey, Timer, asynchronous};
        ///
        /// /// Sends a reading, waits for the answer, and keeps the connection alive for a minute.
        /// async fn report<R, W, T>(
        ///     reader: R,
        ///     writer: W,
        ///     timer: T,
        ///     trng: &mut impl CryptoRng,
        ///     key: Key,
        /// ) -> Result<(), Error<R::Error>>
        /// where
        ///     R: Read,
        ///     W: Write<Error = R::Error>,
        ///     T: Timer + Copy,
        /// {
        ///     let key = NoiseClientKey::new(key, b"", RustCrypto).expect("the context is short");
        ///     let settings = Settings::new().with_max_record(512).expect("64 or more");
        ///     let settings = settings.with_max_message(1024);
        ///     let (now, buffers) = (timer.now(), ([0; 514], [0; 514]));
        ///     let buffered = BufferedClient::start(&key, &settings, now, trng, buffers)
        ///         .expect("the buffers are large enough and the TRNG works");
        ///     let mut client = asynchronous::Client::new(buffered, reader, writer, timer);
        ///     let mut answer = [0; 1024];
        ///     let length = client.request(b"21.5", &mut answer).await?;
        ///     assert_eq!(&answer[..length], b"thanks");
        ///     client.idle(timer.now() + core::time::Duration::from_secs(60)).await?;
        ///     client.close().await
        /// }
        /// ```
        ///
        /// The examples `embassy` and `host` of this crate run it.
    ],
    server: [
        /// A server's side of one connection over the halves of an `embedded-io-async` stream. One
        /// request at a time.
        ///
        /// ```no_run
        /// use embedded_io_async::{Read, Write};
        /// use falco_embedded::falco_core::{Refusal, RustCrypto, Settings};
        /// use falco_embedded::rand_core::CryptoRng;
        /// use falco_embedded::{Error, NoiseServerKey, BufferedServer, Timer, asynchronous};
        ///
        /// /// Serves one connection until it ends.
        /// async fn serve<R, W, T>(
        ///     reader: R,
        ///     writer: W,
        ///     timer: T,
        ///     trng: &mut impl CryptoRng,
        ///     key: &NoiseServerKey<1>,
        /// ) -> Result<(), Error<R::Error>>
        /// where
        ///     R: Read,
        ///     W: Write<Error = R::Error>,
        ///     T: Timer,
        /// {
        ///     let settings = Settings::new().with_max_record(512).expect("64 or more");
        ///     let settings = settings.with_max_message(256);
        ///     let (buffers, bodies) = (([0; 514], [0; 514]), ([0; 256], [0; 256]));
        ///     let now = timer.now();
        ///     let buffered = BufferedServer::start(key, &settings, now, trng, buffers, bodies)
        ///         .expect("the buffers are large enough and the TRNG works");
        ///     let mut server = asynchronous::Server::new(buffered, reader, writer, timer);
        ///     server.serve(async |request: &[u8], answer: &mut [u8]| match request {
        ///         b"temperature" => {
        ///             answer[..4].copy_from_slice(b"21.5");
        ///             Ok(4)
        ///         }
        ///         _ => Err(Refusal::Failed),
        ///     })
        ///     .await
        /// }
        /// ```
        ///
        /// The examples `embassy` and `host` of this crate run it.
    ],
    serve: [
        /// Handles one request after the other until the connection ends. The handler receives a
        /// request and the memory for its answer, and returns the length of the answer, or a
        /// refusal. It may take any time: the connection is kept alive meanwhile. If the connection
        /// ends first, the handler is dropped.
    ],
}

#[cfg(feature = "streams")]
subscriptions! {
    generics: [R: Read, W: Write<Error = R::Error>, T: Timer],
    transport: Transport<R, W, T>,
    error: R::Error,
    words: [async] [.await],
    subscription: [
        /// An answer that is read in pieces. [`Client::subscribe`] creates it.
        ///
        /// ```no_run
        /// use embedded_io_async::{Read, Write};
        /// use falco_embedded::{Error, NoiseClientKey, Timer, asynchronous};
        ///
        /// type Buffers = ([u8; 514], [u8; 514]);
        /// type Transport<R, W, T> = asynchronous::Transport<R, W, T>;
        /// type Client<'k, T> = asynchronous::Client<T, &'k NoiseClientKey, Buffers>;
        ///
        /// /// Carries out what a service sends, until it sends no more. The settings of the
        /// /// connection were made `with_streams(1, 0)`, for a window of 1 KiB.
        /// async fn obey<R, W, T>(
        ///     client: &mut Client<'_, Transport<R, W, T>>,
        ///     mut carry_out: impl FnMut(&[u8]),
        /// ) -> Result<(), Error<R::Error>>
        /// where
        ///     R: Read,
        ///     W: Write<Error = R::Error>,
        ///     T: Timer,
        /// {
        ///     let mut memory = [0; 1024];
        ///     let mut calls = client.subscribe(b"device 7", &mut memory).await?;
        ///     while let Some(piece) = calls.next().await? {
        ///         carry_out(piece);
        ///     }
        ///     Ok(())
        /// }
        /// ```
        ///
        /// A future of [`next`](Self::next) that is dropped before it is ready loses nothing.
    ],
}
