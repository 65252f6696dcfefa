//! A client and a server over `embedded-io-async` streams, for code that is polled: Embassy, or any other executor.
//!
//! A stream comes as its two halves, as a client reads while it writes. A future of theirs that is dropped must have taken no byte, which holds for the buffered serial ports and the
//! sockets of Embassy; and they must not hold back what was written until they are flushed.
//!
//! A future of this module may be dropped at any point: all state is in the client and the server. A request whose future was dropped is cancelled by the next one, and its answer is
//! nobody's.

use core::fmt;
use core::future::{Future, pending, poll_fn};
use core::ops::Deref;
use core::pin::pin;
use core::task::Poll;

use embedded_io_async::{Read, Write};
use falco_core::{ClientWire, CloseReason, ConnectionError, Instant, PingId, Refusal, Role, ServerWire, Storage, Wire};

use crate::client::{Ask, ClientLine};
use crate::clock::Timer;
use crate::driver::drivers;
use crate::error::Error;
use crate::line::Line;
use crate::server::ServerLine;

/// Moves the bytes of a stream's halves, and waits on a timer.
pub struct Pump<R, W, T> {
    reader: R,
    writer: W,
    timer: T,
    /// The stream has no more bytes.
    ended: bool,
}

impl<R, W, T> fmt::Debug for Pump<R, W, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump")
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

impl<R: Read, W: Write<Error = R::Error>, T: Timer> Pump<R, W, T> {
    const fn new(reader: R, writer: W, timer: T) -> Self {
        Self {
            reader,
            writer,
            timer,
            ended: false,
        }
    }

    fn now(&self) -> Instant {
        self.timer.now()
    }

    /// Waits until bytes have come or gone, or it is time to do something else: `until`, or what is due on the line, which is done.
    async fn wait<Side: Role, H, I, O>(
        &mut self,
        line: &mut Line<Side, H, I, O>,
        until: Option<Instant>,
    ) -> Result<(), Error<R::Error>>
    where
        H: Deref<Target: Wire<Side>>,
        I: Storage,
        O: AsRef<[u8]> + AsMut<[u8]>,
    {
        let deadline = [line.poll_timeout(), until].into_iter().flatten().min();
        let (space, unsent) = line.buffers()?;
        let reads = !space.is_empty() && !self.ended;
        let (read, written, late) = {
            let mut read = pin!(when(reads, self.reader.read(space)));
            let mut write = pin!(when(!unsent.is_empty(), self.writer.write(unsent)));
            let mut sleep = pin!(async {
                match deadline {
                    Some(at) => self.timer.sleep_until(at).await,
                    None => pending().await,
                }
            });
            poll_fn(|context| {
                // What is ready together is taken together: a future that is done and dropped would have lost its bytes.
                let read = ready(read.as_mut().poll(context));
                let written = ready(write.as_mut().poll(context));
                let late = read.is_none() && written.is_none() && sleep.as_mut().poll(context).is_ready();
                if read.is_none() && written.is_none() && !late {
                    return Poll::Pending;
                }
                Poll::Ready((read, written, late))
            })
            .await
        };
        let now = self.timer.now();
        if let Some(written) = written {
            line.sent(now, written.map_err(Error::Io)?);
        }
        if let Some(read) = read {
            let read = read.map_err(Error::Io)?;
            line.filled(read);
            if read == 0 {
                self.ended = true;
                line.end_of_stream(now)?;
            }
        }
        if late {
            line.handle_timeout(now).map_err(Error::widen)?;
        }
        Ok(())
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
    client: "A client over the halves of an `embedded-io-async` stream. One request at a time.\n\nSee the example `host` of this crate, which runs it over a TCP socket.",
    server: "A server's side of one connection over the halves of an `embedded-io-async` stream. One request at a time.\n\nSee the example `host` of this crate, which runs it over a TCP socket.",
}
