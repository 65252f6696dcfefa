//! A client and a server over an `embedded-io` stream, for code that waits where it is.
//!
//! The stream has to say whether it is ready ([`ReadReady`], [`WriteReady`]), as a protocol with
//! deadlines cannot wait in a read that has none. It is flushed when there is nothing else to do,
//! and before a handler begins; a flush that never returns would hold everything up.

use core::fmt;

use embedded_io::{Read, ReadReady, Write, WriteReady};
use falco_core::{
    ClientKeyRef, CloseReason, ConnectionError, Instant, KeyRef, PingId, Refusal, Role, ServerKeyRef, Storage,
};

use crate::client::ClientLine;
use crate::clock::Clock;
use crate::driver::drivers;
use crate::error::Error;
use crate::line::Line;
use crate::server::{Desk, ServerLine};

/// Moves the bytes of a stream, and waits on a clock. It is made by [`Client::new`] and
/// [`Server::new`].
pub struct Pump<S: embedded_io::ErrorType, K> {
    stream: S,
    clock: K,
    /// When the stream was looked at last. What had come by then is looked at as of then, however
    /// long that takes.
    looked: Instant,
    /// Bytes were written and not yet flushed.
    unflushed: bool,
    /// Why nothing can be written any more. It is told once what had come has been looked at: it
    /// may say more.
    broken: Option<Error<S::Error>>,
}

impl<S: embedded_io::ErrorType, K> fmt::Debug for Pump<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").finish_non_exhaustive()
    }
}

impl<S: Read + ReadReady + Write + WriteReady, K: Clock> Pump<S, K> {
    const fn new(stream: S, clock: K) -> Self {
        Self {
            stream,
            clock,
            looked: Instant::ZERO,
            unflushed: false,
            broken: None,
        }
    }

    fn into_parts(self) -> (S, K) {
        (self.stream, self.clock)
    }

    /// Whether everything that was written has gone out of the stream.
    const fn is_flushed(&self) -> bool {
        !self.unflushed
    }

    const fn looked(&self) -> Instant {
        self.looked
    }

    fn look(&mut self) -> Instant {
        self.looked = self.clock.now();
        self.looked
    }

    /// The handler has waited where it was.
    #[allow(
        clippy::unused_self,
        clippy::unnecessary_wraps,
        reason = "as the other kind of pump has it"
    )]
    fn meanwhile<T, H: ServerKeyRef, I, O>(&mut self, _: &mut Desk<H, I, O>, handled: T) -> Result<T, Error<S::Error>> {
        Ok(handled)
    }

    /// What was said goes out of the stream before a handler begins, which holds everything up.
    /// Says whether it may begin.
    fn lets_begin<H, I, O, M, A>(&mut self, line: &mut ServerLine<H, I, O, M, A>) -> bool
    where
        H: ServerKeyRef,
        I: Storage,
        O: AsRef<[u8]> + AsMut<[u8]>,
        M: Storage,
        A: AsRef<[u8]> + AsMut<[u8]>,
    {
        line.has_request() && self.flush_line(line.line_mut()) && self.broken.is_none()
    }

    /// The connection has ended, and the stream has its last words. Says how it has ended: with a
    /// last answer that stays in the stream not in order.
    fn finish<R: Role, H, I, O>(&mut self, line: &mut Line<R, H, I, O>, end: Error) -> Error<S::Error>
    where
        H: KeyRef<R>,
        I: Storage,
        O: AsRef<[u8]> + AsMut<[u8]>,
    {
        match (end, self.flush()) {
            (Error::Connection(ConnectionError::Closed), Err(lost)) if line.lose() => Error::Io(lost),
            (end, _) => end.widen(),
        }
    }

    /// Why nothing can be written any more, if that is still to be told.
    fn tell_broken<R: Role, H, I, O>(&mut self, line: &mut Line<R, H, I, O>) -> Result<(), Error<S::Error>>
    where
        H: KeyRef<R>,
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

    fn flush(&mut self) -> Result<(), S::Error> {
        if core::mem::take(&mut self.unflushed) {
            self.stream.flush()?;
        }
        Ok(())
    }

    /// Flushes the stream, and says whether that worked.
    fn flush_line<R: Role, H, I, O>(&mut self, line: &mut Line<R, H, I, O>) -> bool
    where
        H: KeyRef<R>,
        I: Storage,
        O: AsRef<[u8]> + AsMut<[u8]>,
    {
        let flushed = self.flush();
        if let Err(error) = flushed {
            self.broken = Some(Error::Io(error));
            line.abandon();
            return false;
        }
        true
    }

    /// Waits until bytes have come or gone, or it is time to do something else: `until`, or what is
    /// due on the line, which is done.
    fn wait<R: Role, H, I, O>(
        &mut self,
        line: &mut Line<R, H, I, O>,
        until: Option<Instant>,
    ) -> Result<(), Error<S::Error>>
    where
        H: KeyRef<R>,
        I: Storage,
        O: AsRef<[u8]> + AsMut<[u8]>,
    {
        loop {
            let now = self.look();
            let read = self.read(line)?;
            let mut wrote = self.write(line);
            if !wrote && self.unflushed && line.unsent().is_empty() {
                wrote = true;
                self.flush_line(line);
            }
            if !read {
                self.tell_broken(line)?;
            }
            let deadline = [line.poll_timeout(), until].into_iter().flatten().min();
            if read || wrote || deadline.is_some_and(|deadline| deadline <= now) {
                line.turn(now, read);
                return Ok(());
            }
            self.clock.rest(deadline);
        }
    }

    /// Reads what is there, and says whether something was: bytes, or the end of the stream.
    fn read<R: Role, H, I, O>(&mut self, line: &mut Line<R, H, I, O>) -> Result<bool, Error<S::Error>>
    where
        H: KeyRef<R>,
        I: Storage,
        O: AsRef<[u8]> + AsMut<[u8]>,
    {
        let space = line.space()?;
        if space.is_empty() {
            return Ok(false);
        }
        let stream = &mut self.stream;
        let read = stream
            .read_ready()
            .and_then(|ready| if ready { stream.read(space).map(Some) } else { Ok(None) });
        match read {
            Ok(None) => return Ok(false),
            Ok(Some(0)) => line.end_of_stream(),
            Ok(Some(count)) => line.filled(count),
            Err(error) => {
                line.end_of_stream();
                line.abandon();
                return Err(Error::Io(error));
            }
        }
        Ok(true)
    }

    /// Writes what can be written, and says whether something was.
    fn write<R: Role, H, I, O>(&mut self, line: &mut Line<R, H, I, O>) -> bool
    where
        H: KeyRef<R>,
        I: Storage,
        O: AsRef<[u8]> + AsMut<[u8]>,
    {
        let unsent = line.unsent();
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
        let broken = match written {
            Ok(None) => return false,
            Ok(Some(count @ 1..)) => {
                line.sent(self.clock.now(), count);
                self.unflushed = true;
                return true;
            }
            Ok(Some(0)) => Error::WriteZero,
            Err(error) => Error::Io(error),
        };
        line.abandon();
        self.unflushed = false;
        self.broken = Some(broken);
        false
    }
}

drivers! {
    generics: [S: Read + ReadReady + Write + WriteReady, K: Clock],
    parts: [stream: S, clock: K],
    pump: Pump<S, K>,
    error: S::Error,
    words: [] [] FnMut,
    client: [
        /// A client over an `embedded-io` stream. One request at a time.
        ///
        /// ```no_run
        /// use embedded_io::{Read, ReadReady, Write, WriteReady};
        /// use falco_embedded::falco_core::{Instant, Key, RustCrypto, Settings};
        /// use falco_embedded::rand_core::CryptoRng;
        /// use falco_embedded::{ClientLine, Error, NoiseClientKey, blocking};
        ///
        /// /// Sends a reading and waits for what the service says to it.
        /// fn report<S>(port: S, now: fn() -> Instant, trng: &mut impl CryptoRng, key: Key) -> Result<(), Error<S::Error>>
        /// where
        ///     S: Read + ReadReady + Write + WriteReady,
        /// {
        ///     let key = NoiseClientKey::new(key, b"", RustCrypto).expect("no context is not too long");
        ///     let settings = Settings::new().with_max_record(512).expect("that is large enough").with_max_message(1024);
        ///     let line = ClientLine::start(&key, &settings, now(), trng, [0; 514], [0; 514]).expect("the TRNG runs");
        ///     let mut client = blocking::Client::new(line, port, now);
        ///     let mut answer = [0; 1024];
        ///     let length = client.request(b"21.5", &mut answer)?;
        ///     assert_eq!(&answer[..length], b"thanks");
        ///     // Nothing to say for a minute.
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
        /// use falco_embedded::{Error, NoiseServerKey, ServerLine, blocking};
        ///
        /// /// Answers on a port until its client has closed.
        /// fn serve<S>(port: S, now: fn() -> Instant, trng: &mut impl CryptoRng, key: &NoiseServerKey<1>) -> Result<(), Error<S::Error>>
        /// where
        ///     S: Read + ReadReady + Write + WriteReady,
        /// {
        ///     let settings = Settings::new().with_max_record(512).expect("that is large enough").with_max_message(256);
        ///     let (buffers, bodies) = (([0; 514], [0; 514]), ([0; 256], [0; 256]));
        ///     let line = ServerLine::start(key, &settings, now(), trng, buffers, bodies).expect("the TRNG runs");
        ///     blocking::Server::new(line, port, now).serve(|request: &[u8], answer: &mut [u8]| match request {
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
        /// Handles requests, one after the other, until the connection ends. The handler is given a
        /// request and the memory for its answer, and says how many bytes the answer has, or why
        /// there is none. While it runs nothing else does: one that takes longer than a third of
        /// the lifetime is taken for death by the client.
    ],
}
