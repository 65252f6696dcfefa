//! A client and a server over an `embedded-io` stream, for code that waits where it is.
//!
//! The stream has to say whether it is ready ([`ReadReady`], [`WriteReady`]), as a protocol with deadlines cannot wait in a read that has none. It must not hold back what was written until it
//! is flushed.

use core::fmt;
use core::ops::Deref;

use embedded_io::{Read, ReadReady, Write, WriteReady};
use falco_core::{ClientWire, CloseReason, ConnectionError, Instant, PingId, Refusal, Role, ServerWire, Storage, Wire};

use crate::client::{Ask, ClientLine};
use crate::clock::Clock;
use crate::driver::drivers;
use crate::error::Error;
use crate::line::Line;
use crate::server::ServerLine;

/// Moves the bytes of a stream, and waits on a clock.
pub struct Pump<S, K> {
    stream: S,
    clock: K,
    /// The stream has no more bytes.
    ended: bool,
}

impl<S, K> fmt::Debug for Pump<S, K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl<S: Read + ReadReady + Write + WriteReady, K: Clock> Pump<S, K> {
    const fn new(stream: S, clock: K) -> Self {
        Self {
            stream,
            clock,
            ended: false,
        }
    }

    fn now(&self) -> Instant {
        self.clock.now()
    }

    /// Waits until bytes have come or gone, or it is time to do something else: `until`, or what is due on the line, which is done.
    fn wait<R: Role, H, I, O>(
        &mut self,
        line: &mut Line<R, H, I, O>,
        until: Option<Instant>,
    ) -> Result<(), Error<S::Error>>
    where
        H: Deref<Target: Wire<R>>,
        I: Storage,
        O: AsRef<[u8]> + AsMut<[u8]>,
    {
        loop {
            let now = self.clock.now();
            let (space, unsent) = line.buffers()?;
            if !unsent.is_empty() && self.stream.write_ready().map_err(Error::Io)? {
                let written = self.stream.write(unsent).map_err(Error::Io)?;
                line.sent(now, written);
                return Ok(());
            }
            if !space.is_empty() && !self.ended && self.stream.read_ready().map_err(Error::Io)? {
                let read = self.stream.read(space).map_err(Error::Io)?;
                line.filled(read);
                if read == 0 {
                    self.ended = true;
                    line.end_of_stream(now)?;
                }
                return Ok(());
            }
            let deadline = [line.poll_timeout(), until].into_iter().flatten().min();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return line.handle_timeout(now).map_err(Error::widen);
            }
            self.clock.rest(deadline);
        }
    }
}

drivers! {
    generics: [S: Read + ReadReady + Write + WriteReady, K: Clock],
    parts: [stream: S, clock: K],
    pump: Pump<S, K>,
    error: S::Error,
    words: [] [] FnMut,
    client: "A client over an `embedded-io` stream. One request at a time.\n\nSee the example `host` of this crate, which runs it over a TCP socket.",
    server: "A server's side of one connection over an `embedded-io` stream. One request at a time.\n\nSee the example `host` of this crate, which runs it over a TCP socket.",
}
