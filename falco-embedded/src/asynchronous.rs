//! A client and a server over `embedded-io-async` streams, for code that is polled: Embassy, or any
//! other executor.
//!
//! A stream comes as its two halves, as a client reads while it writes. A future of theirs that is
//! dropped must have taken no byte, which holds for the buffered serial ports and the sockets of
//! Embassy. What was written is flushed when nothing more waits to be.
//!
//! A future of this module may be dropped at any point: all state is in the client and the server.
//! A request whose future was dropped is cancelled by the next call, and its answer is nobody's. A
//! request whose handler was dropped is refused as failed by the next [`serve`](Server::serve), and
//! not given to another.

use core::fmt;
use core::future::{Future, pending, poll_fn};
use core::pin::pin;
use core::task::Poll;

use embedded_io_async::{Read, Write};
use falco_core::{
    ClientKeyRef, CloseReason, ConnectionError, Instant, KeyRef, PingId, Refusal, Role, ServerKeyRef, Storage,
};

use crate::client::ClientLine;
use crate::clock::Timer;
use crate::driver::drivers;
use crate::error::Error;
use crate::line::Line;
use crate::server::{Desk, ServerLine};

/// Reads and writes in a row that need no waiting, before other tasks have their turn.
const TURN: u8 = 32;

/// Moves the bytes of a stream's halves, and waits on a timer. It is made by [`Client::new`] and
/// [`Server::new`].
pub struct Pump<R: embedded_io::ErrorType, W, T> {
    reader: R,
    writer: W,
    timer: T,
    /// When the stream was looked at last. What had come by then is looked at as of then, however
    /// long that takes.
    looked: Instant,
    /// Bytes were written and not yet flushed.
    unflushed: bool,
    /// A handler has been let begin.
    greeted: bool,
    /// How often bytes were moved since another task had its turn.
    moved: u8,
    /// Why nothing can be written any more. It is told once what had come has been looked at: it
    /// may say more.
    broken: Option<Error<R::Error>>,
}

impl<R: embedded_io::ErrorType, W, T> fmt::Debug for Pump<R, W, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").finish_non_exhaustive()
    }
}

/// What came of one wait.
struct Moved<E> {
    read: Option<Result<usize, E>>,
    /// Nothing stands for a flush.
    wrote: Option<Result<Option<usize>, E>>,
}

impl<R: Read, W: Write<Error = R::Error>, T: Timer> Pump<R, W, T> {
    const fn new(reader: R, writer: W, timer: T) -> Self {
        Self {
            reader,
            writer,
            timer,
            looked: Instant::ZERO,
            unflushed: false,
            greeted: false,
            moved: 0,
            broken: None,
        }
    }

    fn into_parts(self) -> (R, W, T) {
        (self.reader, self.writer, self.timer)
    }

    /// Whether everything that was written has gone out of the stream.
    const fn is_flushed(&self) -> bool {
        !self.unflushed
    }

    /// The answer to the client's first ping goes out of the stream before the first handler
    /// begins: a client that sees the stream end without having heard anything relies on that no
    /// handler ran. Later nothing is stuck in the stream while a handler works: it is flushed
    /// meanwhile.
    fn lets_begin<H, I, O, M, A>(&mut self, line: &mut ServerLine<H, I, O, M, A>) -> bool
    where
        H: ServerKeyRef,
        I: Storage,
        O: AsRef<[u8]> + AsMut<[u8]>,
        M: Storage,
        A: AsRef<[u8]> + AsMut<[u8]>,
    {
        if !self.greeted {
            // A flush that failed, or an end, is found by the next step.
            self.greeted = self.is_flushed() && self.broken.is_none() && line.has_request();
        }
        self.greeted
    }

    const fn looked(&self) -> Instant {
        self.looked
    }

    fn look(&mut self) -> Instant {
        self.looked = self.timer.now();
        self.looked
    }

    /// Goes on with the line while a handler works.
    async fn meanwhile<Work: Future, H, I, O>(
        &mut self,
        desk: &mut Desk<H, I, O>,
        work: Work,
    ) -> Result<Work::Output, Error<R::Error>>
    where
        H: ServerKeyRef,
        I: Storage,
        O: AsRef<[u8]> + AsMut<[u8]>,
    {
        let mut work = pin!(work);
        loop {
            let stepped = desk.step(self.looked);
            let more = match stepped {
                Ok(more) => more,
                Err(end) => return Err(self.finish(desk.line_mut(), end).await),
            };
            let mut wait = pin!(async {
                if more {
                    return Ok(());
                }
                self.wait(desk.line_mut(), None).await
            });
            let done = poll_fn(|context| {
                if let Poll::Ready(done) = work.as_mut().poll(context) {
                    return Poll::Ready(Ok(Some(done)));
                }
                wait.as_mut().poll(context).map_ok(|()| None)
            });
            if let Some(done) = done.await? {
                return Ok(done);
            }
        }
    }

    /// The connection has ended, and the stream has its last words: they are given as long to go
    /// out as an end may take. Says how it has ended: with a last answer that stays in the stream
    /// not in order.
    async fn finish<Side: Role, H, I, O>(&mut self, line: &mut Line<Side, H, I, O>, end: Error) -> Error<R::Error>
    where
        H: KeyRef<Side>,
        I: Storage,
        O: AsRef<[u8]> + AsMut<[u8]>,
    {
        if !self.unflushed || self.broken.is_some() {
            return end.widen();
        }
        let until = line.flushes_until(self.timer.now());
        let mut flush = pin!(self.writer.flush());
        let mut late = pin!(self.timer.sleep_until(until));
        let flushed = poll_fn(|context| {
            if let Poll::Ready(flushed) = flush.as_mut().poll(context) {
                return Poll::Ready(flushed.map_err(Error::Io));
            }
            late.as_mut().poll(context).map(|()| Err(Error::Stalled))
        });
        let flushed = flushed.await;
        // What has not gone by now does not.
        self.unflushed = false;
        match (end, flushed) {
            (Error::Connection(ConnectionError::Closed), Err(lost)) if line.lose() => lost,
            (end, _) => end.widen(),
        }
    }

    /// Why nothing can be written any more, if that is still to be told.
    fn tell_broken<Side: Role, H, I, O>(&mut self, line: &mut Line<Side, H, I, O>) -> Result<(), Error<R::Error>>
    where
        H: KeyRef<Side>,
        I: Storage,
        O: AsRef<[u8]> + AsMut<[u8]>,
    {
        match self.broken.take() {
            Some(broken) => {
                line.end_of_stream();
                Err(broken)
            }
            None => Ok(()),
        }
    }

    /// Waits until bytes have come or gone, or it is time to do something else: `until`, or what is
    /// due on the line, which is done.
    async fn wait<Side: Role, H, I, O>(
        &mut self,
        line: &mut Line<Side, H, I, O>,
        until: Option<Instant>,
    ) -> Result<(), Error<R::Error>>
    where
        H: KeyRef<Side>,
        I: Storage,
        O: AsRef<[u8]> + AsMut<[u8]>,
    {
        let deadline = [line.poll_timeout(), until].into_iter().flatten().min();
        // What has come before the stream broke is all there is to wait for.
        let deadline = if self.broken.is_some() {
            Some(self.timer.now())
        } else {
            deadline
        };
        let (space, unsent) = line.buffers()?;
        let Moved { read, wrote } = self.transfer(space, unsent, deadline).await;
        let now = self.look();
        // The bytes that were read count first: a stream whose other half is broken may have said
        // why.
        let came = match read {
            None => false,
            Some(Ok(0)) => {
                line.end_of_stream();
                true
            }
            Some(Ok(count)) => {
                line.filled(count);
                true
            }
            Some(Err(error)) => {
                line.end_of_stream();
                line.abandon();
                return Err(Error::Io(error));
            }
        };
        let broken = match wrote {
            None => None,
            Some(Ok(None)) => {
                self.unflushed = false;
                None
            }
            Some(Ok(Some(count @ 1..))) => {
                self.unflushed = true;
                line.sent(now, count);
                None
            }
            Some(Ok(Some(0))) => Some(Error::WriteZero),
            Some(Err(error)) => Some(Error::Io(error)),
        };
        if broken.is_some() {
            line.abandon();
            self.unflushed = false;
            self.broken = broken;
        } else if !came {
            self.tell_broken(line)?;
        }
        line.turn(now, came);
        Ok(())
    }

    /// Reads and writes what can be, or waits until something can or the deadline is there.
    async fn transfer(&mut self, space: &mut [u8], unsent: &[u8], deadline: Option<Instant>) -> Moved<R::Error> {
        let (reads, writes) = (!space.is_empty(), !unsent.is_empty());
        let (to, flushes, moved) = (&mut self.writer, self.unflushed, &mut self.moved);
        let mut reading = pin!(when(reads, self.reader.read(space)));
        let mut writing = pin!(async {
            if writes {
                to.write(unsent).await.map(Some)
            } else if flushes {
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
            // A peer that sends without a pause does not keep other tasks from running.
            if *moved >= TURN {
                *moved = 0;
                context.waker().wake_by_ref();
                return Poll::Pending;
            }
            // What is ready together is taken together: a future that is done and dropped would
            // have lost its bytes.
            let read = ready(reading.as_mut().poll(context));
            let wrote = ready(writing.as_mut().poll(context));
            let idle = read.is_none() && wrote.is_none();
            if idle && sleep.as_mut().poll(context).is_pending() {
                *moved = 0;
                return Poll::Pending;
            }
            *moved += 1;
            Poll::Ready(Moved { read, wrote })
        })
        .await
    }
}

/// What `future` gives, if it is wanted; nothing ever, if not.
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
    pump: Pump<R, W, T>,
    error: R::Error,
    words: [async] [.await] AsyncFnMut,
    client: [
        /// A client over the halves of an `embedded-io-async` stream. One request at a time.
        ///
        /// ```no_run
        /// use embedded_io_async::{Read, Write};
        /// use falco_embedded::falco_core::{Key, RustCrypto, Settings};
        /// use falco_embedded::rand_core::CryptoRng;
        /// use falco_embedded::{ClientLine, Error, NoiseClientKey, Timer, asynchronous};
        ///
        /// /// Sends a reading and waits for what the service says to it.
        /// async fn report<R, W, T>(reader: R, writer: W, timer: T, trng: &mut impl CryptoRng, key: Key) -> Result<(), Error<R::Error>>
        /// where
        ///     R: Read,
        ///     W: Write<Error = R::Error>,
        ///     T: Timer + Copy,
        /// {
        ///     let key = NoiseClientKey::new(key, b"", RustCrypto).expect("no context is not too long");
        ///     let settings = Settings::new().with_max_record(512).expect("that is large enough").with_max_message(1024);
        ///     let line = ClientLine::start(&key, &settings, timer.now(), trng, [0; 514], [0; 514]).expect("the TRNG runs");
        ///     let mut client = asynchronous::Client::new(line, reader, writer, timer);
        ///     let mut answer = [0; 1024];
        ///     let length = client.request(b"21.5", &mut answer).await?;
        ///     assert_eq!(&answer[..length], b"thanks");
        ///     // Nothing to say for a minute.
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
        /// use falco_embedded::{Error, NoiseServerKey, ServerLine, Timer, asynchronous};
        ///
        /// /// Answers on a port until its client has closed.
        /// async fn serve<R, W, T>(reader: R, writer: W, timer: T, trng: &mut impl CryptoRng, key: &NoiseServerKey<1>) -> Result<(), Error<R::Error>>
        /// where
        ///     R: Read,
        ///     W: Write<Error = R::Error>,
        ///     T: Timer,
        /// {
        ///     let settings = Settings::new().with_max_record(512).expect("that is large enough").with_max_message(256);
        ///     let (buffers, bodies) = (([0; 514], [0; 514]), ([0; 256], [0; 256]));
        ///     let line = ServerLine::start(key, &settings, timer.now(), trng, buffers, bodies).expect("the TRNG runs");
        ///     let mut server = asynchronous::Server::new(line, reader, writer, timer);
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
        /// Handles requests, one after the other, until the connection ends. The handler is given a
        /// request and the memory for its answer, and says how many bytes the answer has, or why
        /// there is none. It may take as long as it likes: the connection is kept meanwhile. Where
        /// the connection ends first, it is dropped.
    ],
}
